package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// client is a person's machine: a key of their own and an ssh configuration in
// which the gateway is called "gate".
type client struct {
	*stack
	t      testing.TB
	home   string
	config string
	key    string
}

// newClient returns a machine that has never signed in.
func (s *stack) newClient(t testing.TB) *client {
	t.Helper()
	home := t.TempDir()
	c := &client{stack: s, t: t, home: home, config: filepath.Join(home, "ssh_config"), key: filepath.Join(home, "id")}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", c.key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	var known strings.Builder
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		// The gateway keeps its private host keys; ssh-keygen -y gives the public.
		out, err := exec.Command("ssh-keygen", "-y", "-f", s.path("data/hostkeys/ssh_host_"+kind+"_key")).Output()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&known, "[127.0.0.1]:%d %s", s.sshPort, out)
	}
	write(t, filepath.Join(home, "known_hosts"), known.String())
	write(t, c.config, fmt.Sprintf(`
Host gate
  HostName 127.0.0.1
  Port %d
  User %s+web1
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s/known_hosts
  StrictHostKeyChecking yes
  ServerAliveInterval 15
`, s.sshPort, s.login, c.key, home))
	return c
}

// signedIn returns a machine on which alice has signed in.
func (s *stack) signedIn(t testing.TB) *client {
	t.Helper()
	c := s.newClient(t)
	c.signIn(alice)
	return c
}

// command returns a client program of this machine, bounded in time.
func (c *client) command(name string, args ...string) *exec.Cmd {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	c.t.Cleanup(cancel)
	args = c.place.command(append([]string{name}, args...)...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "SSH_AUTH_SOCK=", "DISPLAY=", "SSH_ASKPASS=",
		"GIT_SSH_COMMAND=ssh -F "+c.config, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	cmd.Dir = c.home
	return cmd
}

// ssh returns an ssh to the gateway; args follow the configuration.
func (c *client) ssh(args ...string) *exec.Cmd {
	c.t.Helper()
	return c.command("ssh", append([]string{"-F", c.config}, args...)...)
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// run runs the command to its end.
func run1(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs the command and fails the test unless it exits with 0.
func must(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	r := run1(t, cmd)
	if r.code != 0 {
		t.Fatalf("%v: exit %d\nstdout: %s\nstderr: %s", cmd.Args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// signInURL is the address with the code that a sign-in shows.
var signInURL = regexp.MustCompile(`http://\S+/device\?user_code=\S+`)

// signInWith runs a command that has to sign in first, and signs in as email
// when the address appears on its standard error. It returns all that the
// command printed there.
func (c *client) signInWith(cmd *exec.Cmd, email string, answer func(context.Context, string) error) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stdout bytes.Buffer
	stderr := newOutput()
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	url, err := stderr.wait(ctx, signInURL.FindString)
	if err == nil {
		err = answer(ctx, url)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		c.t.Fatalf("signing in as %s: %v\nstderr: %s", email, err, stderr)
	}
	_ = cmd.Wait() // the exit code is in the result
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func approveAs(email string) func(context.Context, string) error {
	return approveBy(http.DefaultClient, email)
}

func approveBy(browser *http.Client, email string) func(context.Context, string) error {
	return func(ctx context.Context, url string) error {
		return approve.Approve(ctx, browser, url, email, password)
	}
}

// signIn signs in on this machine, so that its key is remembered.
func (c *client) signIn(email string) {
	c.t.Helper()
	r := c.signInWith(c.ssh("gate", "true"), email, approveBy(c.place.browser(), email))
	if email == alice && r.code != 0 {
		c.t.Fatalf("ssh after the sign-in: exit %d\n%s", r.code, r.stderr)
	}
}
