package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// jumpStack has an origin on which alice has an account of her own: the client
// of the test proves its key there, end to end.
func jumpStack(t *testing.T, o stackOptions) (*stack, *client) {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "authorized_keys")
	if o.policy == "" {
		o.policy = strings.Replace(defaultPolicy, "logins: [LOGIN]", "logins: [LOGIN]\n          end_to_end: true", 1)
	}
	o.sshd = "TrustedUserCAKeys none\nAuthorizedKeysFile " + keys
	s := newStack(t, o)
	c := s.newClient(t)
	public, err := os.ReadFile(c.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	write(t, keys, string(public))
	c.knowOrigin("web1", s.sshd.dir)
	return s, c
}

// knowOrigin writes the origin's host keys to known_hosts, as the origin's
// administrator would hand them out, and configures the jump.
func (c *client) knowOrigin(name, dir string) {
	c.t.Helper()
	known, err := os.ReadFile(filepath.Join(c.home, "known_hosts"))
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(known)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		key, err := os.ReadFile(filepath.Join(dir, "host_"+kind+".pub"))
		if err != nil {
			c.t.Fatal(err)
		}
		text += name + " " + string(key)
	}
	write(c.t, filepath.Join(c.home, "known_hosts"), text)
	config, err := os.ReadFile(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	// The jump host's user is a person's own name, not a target.
	write(c.t, c.config, fmt.Sprintf(`
Host jump
  HostName 127.0.0.1
  Port %d
  User alice
Host web1 WEB1 web1. nowhere 127.0.0.1
  User %s
  ProxyJump jump
  HostKeyAlias web1
Host *
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s/known_hosts
  StrictHostKeyChecking yes
%s`, c.sshPort, c.login, c.key, c.home, config))
}

func TestJumpSignsInAndIsEndToEnd(t *testing.T) {
	t.Parallel()
	s, c := jumpStack(t, stackOptions{})
	r := c.signInWith(c.ssh("web1", "echo hello; exit 7"), alice, approveAs(alice))
	if r.stdout != "hello\n" || r.code != 7 || !strings.Contains(r.stderr, "Signed in as alice@example.com") {
		t.Fatalf("first: %+v", r)
	}
	r = run1(t, c.ssh("-o", "BatchMode=yes", "web1", "echo again"))
	if r.stdout != "again\n" || r.stderr != "" {
		t.Errorf("second: %+v", r)
	}
	// The key that sshd took is the client's own, not one of the gateway's.
	fingerprint := strings.Fields(must(t, c.command("ssh-keygen", "-l", "-f", c.key)))[1]
	if !strings.Contains(s.sshd.out.String(), "Accepted publickey for "+s.login+" from 127.0.0.1 port") || !strings.Contains(s.sshd.out.String(), fingerprint) {
		t.Errorf("sshd did not see the client's key:\n%s", tail(s.sshd.out.String(), 2000))
	}
	for _, name := range []string{"WEB1", "web1."} {
		must(t, c.ssh("-o", "BatchMode=yes", name, "true"))
	}
	if !strings.Contains(s.gateway.out.String(), `"channel":"end-to-end"`) {
		t.Error("the log names no end-to-end connection")
	}
}

func TestJumpCarriesTools(t *testing.T) {
	t.Parallel()
	s, c := jumpStack(t, stackOptions{})
	c.signInWith(c.ssh("web1", "true"), alice, approveAs(alice))
	source := c.file("file", 40*mib)
	must(t, c.command("scp", "-q", "-F", c.config, source, "web1:"+source+".there"))
	must(t, c.command("cmp", source, source+".there"))
	bare := filepath.Join(c.home, "repo.git")
	must(t, c.command("git", "init", "-q", "--bare", "-b", "main", bare))
	must(t, c.command("git", "clone", "-q", "web1:"+bare, filepath.Join(c.home, "work")))
	must(t, c.command("git", "clone", "-q", "ssh://web1"+bare, filepath.Join(c.home, "work2")))
	if _, err := exec.LookPath("rsync"); err == nil {
		dir := c.tree("dir", 50)
		must(t, c.command("rsync", "-a", "-e", "ssh -F "+c.config, dir+"/", "web1:"+dir+".copy/"))
		must(t, c.command("diff", "-r", dir, dir+".copy"))
	}
	// ssh -W, and ProxyCommand with it.
	r := run1(t, c.ssh("-o", "BatchMode=yes", "-o", "ProxyJump=none", "-o", "ProxyCommand=ssh -F "+c.config+" -o BatchMode=yes -W %h:%p jump", "web1", "echo by -W"))
	if r.stdout != "by -W\n" {
		t.Errorf("ProxyCommand: %+v", r)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if got := must(t, c.ssh("-o", "BatchMode=yes", "web1", fmt.Sprint("echo ", i))); got != fmt.Sprintln(i) {
				t.Errorf("parallel %d printed %q", i, got)
			}
		})
	}
	all.Wait()
	_ = s
}

// TestJumpReachesNothingElse tries to use the gateway as a way into its network.
func TestJumpReachesNothingElse(t *testing.T) {
	t.Parallel()
	s, c := jumpStack(t, stackOptions{})
	c.signInWith(c.ssh("web1", "true"), alice, approveAs(alice))
	l, err := net.Listen("tcp", "127.0.0.1:0") // must never be reached
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var reached sync.WaitGroup
	reached.Go(func() {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
			t.Error("the gateway connected to an address that a client named")
		}
	})
	for _, target := range []string{
		l.Addr().String(), "localhost:" + fmt.Sprint(l.Addr().(*net.TCPAddr).Port), "[::1]:22", "127.0.0.1:22",
		fmt.Sprintf("web1:%d", s.sshd.port), "web1:23", "nowhere:22", "x.web1:22", "web1.example.com:22", "bad_host!:22",
	} {
		r := run1(t, c.ssh("-o", "BatchMode=yes", "-W", target, "jump"))
		if r.code != 255 || r.stdout != "" || !strings.Contains(r.stderr, "that you may reach") {
			t.Errorf("%s: %+v", target, r)
		}
	}
	l.Close()
	reached.Wait()
}

func TestEndToEndIsForbiddenUnlessARuleAllowsIt(t *testing.T) {
	t.Parallel()
	_, c := jumpStack(t, stackOptions{policy: defaultPolicy})
	r := c.signInWith(c.ssh("web1", "true"), alice, approveAs(alice))
	if r.code != 255 || !strings.Contains(r.stderr, "that you may reach") {
		t.Errorf("%+v", r)
	}
}

// TestJumpNoticesSwappedHostKey: the client checks the origin's key itself.
func TestJumpNoticesSwappedHostKey(t *testing.T) {
	t.Parallel()
	s, c := jumpStack(t, stackOptions{})
	c.signInWith(c.ssh("web1", "true"), alice, approveAs(alice))
	s.sshd.stop(syscall.SIGKILL)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		_ = os.Remove(filepath.Join(s.sshd.dir, "host_"+kind))
		_ = os.Remove(filepath.Join(s.sshd.dir, "host_"+kind+".pub"))
	}
	s.sshd = startSSHD(t, s.path("sshd"), s.path("user_ca.pub"), s.sshd.port, "")
	r := run1(t, c.ssh("-o", "BatchMode=yes", "web1", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "REMOTE HOST IDENTIFICATION HAS CHANGED") {
		t.Errorf("%+v", r)
	}
}

func TestJumpOverALostTunnel(t *testing.T) {
	t.Parallel()
	s, c := jumpStack(t, stackOptions{})
	c.signInWith(c.ssh("web1", "true"), alice, approveAs(alice))
	cmd := c.ssh("web1", "echo up; exec sleep 300")
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.wait(t.Context(), func(s string) string { return s }); err != nil {
		t.Fatal(err)
	}
	s.connector.stop(syscall.SIGKILL)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 255 {
		t.Errorf("exit %d, want 255\n%s", code, stderr)
	}
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "web1", "true")); r.code != 255 || !strings.Contains(r.stderr, "web1 is offline") {
		t.Errorf("without a connector: %+v", r)
	}
}
