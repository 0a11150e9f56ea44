package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp/approve"
)

func TestFirstSSHSignsInAndSecondAsksNothing(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).newClient(t)
	r := c.signInWith(c.ssh("gate", "echo hello; exit 7"), alice, approveAs(alice))
	if r.stdout != "hello\n" || r.code != 7 {
		t.Errorf("first ssh: stdout %q, exit %d, stderr:\n%s", r.stdout, r.code, r.stderr)
	}
	for _, want := range []string{"To reach web1", "shows this code", "Signed in as alice@example.com", "remembered for"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("the first ssh did not say %q:\n%s", want, r.stderr)
		}
	}
	for _, extra := range [][]string{nil, {"-o", "BatchMode=yes"}} {
		r = run1(t, c.ssh(append(extra, "gate", "echo again")...))
		if r.stdout != "again\n" || r.stderr != "" || r.code != 0 {
			t.Errorf("second ssh %v: %+v", extra, r)
		}
	}
}

func TestDeniedSignIn(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).newClient(t)
	begin := time.Now()
	r := c.signInWith(c.ssh("gate", "true"), alice, func(ctx context.Context, url string) error {
		return approve.Deny(ctx, nil, url, alice, password)
	})
	if r.code != 255 || !strings.Contains(r.stderr, "sshgate: the sign-in was denied at the provider") {
		t.Errorf("exit %d:\n%s", r.code, r.stderr)
	}
	if n := len(signInURL.FindAllString(r.stderr, -1)); n != 1 {
		t.Errorf("ssh was offered %d sign-ins after the denial, want 1:\n%s", n, r.stderr)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the denial took %s to arrive", took)
	}
}

func TestBatchModeIsToldHowToSignIn(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).newClient(t)
	r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "this key is not signed in") ||
		!strings.Contains(r.stderr, fmt.Sprintf("ssh -p %d %s+web1@gate", c.sshPort, c.login)) {
		t.Errorf("exit %d:\n%s", r.code, r.stderr)
	}
}

func TestClientThatLeavesEndsItsSignIn(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.newClient(t)
	cmd := c.ssh("gate", "true")
	stderr := newOutput()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	url, err := stderr.wait(ctx, signInURL.FindString)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.metric("sshgate_logins_pending"); err != nil || got != 1 {
		t.Errorf("while waiting: %v pending sign-ins (%v), want 1", got, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the sign-in is given up", 5*time.Second, func() error {
		if got, err := s.metric("sshgate_logins_pending"); err != nil || got != 0 {
			return fmt.Errorf("%v pending sign-ins (%v)", got, err)
		}
		return nil
	})
	// Whoever approves it now approves nothing: the key stays unknown.
	_ = approve.Approve(ctx, nil, url, alice, password)
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true")); r.code != 255 {
		t.Errorf("a sign-in that nobody waited for let the key in: %+v", r)
	}
}

func TestFiftyParallelSSHShareOneSignIn(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).newClient(t)
	const n = 50
	var mu sync.Mutex
	urls := map[string]bool{}
	var approveOnce sync.Once
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			cmd := c.ssh("gate", fmt.Sprintf("echo %d", i))
			stdout, stderr := newOutput(), newOutput()
			cmd.Stdout, cmd.Stderr = stdout, stderr
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var waiting sync.WaitGroup
			waiting.Go(func() {
				url, err := stderr.wait(ctx, signInURL.FindString)
				if err != nil {
					return // came late: its key was remembered by then
				}
				mu.Lock()
				urls[url] = true
				mu.Unlock()
				approveOnce.Do(func() {
					if err := approve.Approve(ctx, nil, url, alice, password); err != nil {
						t.Error(err)
					}
				})
			})
			if err := cmd.Wait(); err != nil || stdout.String() != fmt.Sprintf("%d\n", i) {
				t.Errorf("ssh %d: %v, printed %q\n%s", i, err, stdout, stderr)
			}
			cancel()
			waiting.Wait()
		})
	}
	all.Wait()
	if len(urls) != 1 {
		t.Errorf("%d sign-ins were offered, want one: %v", len(urls), urls)
	}
}

func TestExitCodesAndSignals(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	for command, want := range map[string]int{
		"true":            0,
		"exit 1":          1,
		"exit 42":         42,
		"exit 255":        255,
		"kill -TERM $$":   255, // ssh's answer to an exit signal
		"no-such-command": 127,
	} {
		if r := run1(t, c.ssh("gate", command)); r.code != want {
			t.Errorf("%q: exit %d, want %d (stderr %q)", command, r.code, want, r.stderr)
		}
	}
	r := run1(t, c.ssh("-v", "gate", "kill -TERM $$"))
	if !strings.Contains(r.stderr, "exit-signal") {
		t.Errorf("the exit signal did not arrive:\n%s", r.stderr)
	}
	r = run1(t, c.ssh("gate", "echo out; echo err >&2"))
	if r.stdout != "out\n" || r.stderr != "err\n" {
		t.Errorf("the streams are mixed: %+v", r)
	}
}

// TestShortCommandsLoseNothing pins the order of reply, output, exit status and
// close, in which a naive relay fails about one in seventy.
func TestShortCommandsLoseNothing(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	master := c.master()
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 100 {
				want := fmt.Sprintf("%d-%d", worker, i)
				r := run1(t, c.ssh("-S", master, "gate", "printf "+want+"; exit 3"))
				if r.stdout != want || r.code != 3 {
					t.Errorf("run %s: %+v", want, r)
					return
				}
			}
		})
	}
	all.Wait()
}

// master starts a ControlMaster and returns its socket.
func (c *client) master() string {
	c.t.Helper()
	socket := filepath.Join(c.home, "master")
	must(c.t, c.ssh("-M", "-S", socket, "-o", "ControlPersist=60", "-f", "-N", "gate"))
	c.t.Cleanup(func() { _ = c.ssh("-S", socket, "-O", "exit", "gate").Run() })
	return socket
}

func TestControlMasterWithEightSessions(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	socket := c.master()
	barrier := filepath.Join(c.home, "barrier")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			// All eight are open at once before any may end.
			script := fmt.Sprintf("touch %[1]s.%[2]d; n=0; while [ $(ls %[1]s.* | wc -l) -lt 8 ]; do sleep 0.05; n=$((n+1)); [ $n -lt 600 ] || exit 9; done; echo %[2]d", barrier, i)
			r := run1(t, c.ssh("-S", socket, "gate", script))
			if r.stdout != fmt.Sprintf("%d\n", i) || r.code != 0 {
				t.Errorf("session %d: %+v", i, r)
			}
		})
	}
	all.Wait()
}

func TestEarlyInputIsKept(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	cmd := c.ssh("gate", "sleep 0.5; cat")
	cmd.Stdin = strings.NewReader("early\n")
	if got := must(t, cmd); got != "early\n" {
		t.Errorf("cat printed %q", got)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	cmd := c.ssh("-o", "SendEnv=SG_TEST", "gate", "echo $SG_TEST")
	cmd.Env = append(cmd.Env, "SG_TEST=a value")
	if got := must(t, cmd); got != "a value\n" {
		t.Errorf("printed %q", got)
	}
}

func TestUnknownAndForbiddenOriginsAnswerAlike(t *testing.T) {
	t.Parallel()
	s := sharedStack(t)
	c := s.newClient(t)
	c.signIn(bob) // whom no rule allows
	answer := func(target string) string {
		r := run1(t, c.ssh("-l", target, "gate", "true"))
		if r.code != 255 {
			t.Errorf("%s: exit %d", target, r.code)
		}
		id := regexp.MustCompile(`\(request (r-\w{10})\)`)
		if !id.MatchString(r.stderr) {
			t.Errorf("%s: no request id in:\n%s", target, r.stderr)
		}
		return strings.NewReplacer("web1", "X", "nowhere", "X").Replace(id.ReplaceAllString(r.stderr, ""))
	}
	forbidden, unknown := answer(s.login+"+web1"), answer(s.login+"+nowhere")
	if forbidden != unknown {
		t.Errorf("the answers differ:\n%s\n%s", forbidden, unknown)
	}
	c = s.signedIn(t)
	if r := run1(t, c.ssh("-l", "nobody+web1", "gate", "true")); r.code != 255 || !strings.Contains(r.stderr, "no origin") {
		t.Errorf("a login that no rule allows: %+v", r)
	}
}

func TestSeparators(t *testing.T) {
	t.Parallel()
	s := sharedStack(t)
	c := s.signedIn(t)
	for _, args := range [][]string{
		{s.login + "+web1@gate"},
		{s.login + "@web1@gate"},
		{s.login + "~web1@gate"},
		{"+web1@gate"}, // the policy's default login
		{"-l", s.login + ":web1", "gate"},
		{"-l", s.login + "%web1", "gate"},
		{"-l", s.login + " web1", "gate"},
		{"-l", s.login + "+WEB1.", "gate"},
		{"ssh://" + s.login + "+web1@gate"},
	} {
		if got := must(t, c.ssh(append(args, "whoami")...)); got != s.login+"\n" {
			t.Errorf("%v: printed %q", args, got)
		}
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	need(t, "tmux")
	c := sharedStack(t).signedIn(t)
	socket := filepath.Join(c.home, "tmux")
	tmux := func(args ...string) string {
		return must(t, c.command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, args...)...))
	}
	tmux("new-session", "-d", "-x", "100", "-y", "30", "ssh -F "+c.config+" -t gate 'stty -echo; PS1=; exec bash --norc --noprofile'")
	t.Cleanup(func() { _ = c.command("tmux", "-S", socket, "kill-server").Run() })
	shows := func(want string) {
		t.Helper()
		eventually(t, "the terminal shows "+want, 20*time.Second, func() error {
			if screen := tmux("capture-pane", "-p"); !strings.Contains(screen, want) {
				return fmt.Errorf("it shows:\n%s", screen)
			}
			return nil
		})
	}
	tmux("send-keys", "echo size:$(stty size | tr ' ' x); tty | sed s/dev/is/", "Enter")
	shows("size:30x100")
	shows("/is/pts/")
	tmux("resize-window", "-x", "120", "-y", "40")
	tmux("send-keys", "echo size:$(stty size | tr ' ' x)", "Enter")
	shows("size:40x120")
	// Ctrl-C reaches the foreground process as an interrupt.
	tmux("send-keys", "sleep 4321", "Enter")
	eventually(t, "sleep runs", 10*time.Second, func() error {
		return c.command("pgrep", "-f", "^sleep 4321$").Run()
	})
	tmux("send-keys", "C-c")
	tmux("send-keys", "echo status:$?", "Enter")
	shows("status:130")
	// The terminal's modes of the client are the origin's.
	tmux("send-keys", "stty -a | grep -o 'intr = ^.'", "Enter")
	shows("intr = ^C")
}

func TestBadTargetIsExplained(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).newClient(t)
	r := run1(t, c.ssh("-l", "bad/web1", "gate", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "use LOGIN+ORIGIN") {
		t.Errorf("exit %d:\n%s", r.code, r.stderr)
	}
}

func TestHostKeysOfEveryKind(t *testing.T) {
	t.Parallel()
	s := sharedStack(t)
	c := s.signedIn(t)
	for _, algorithm := range []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"} {
		must(t, c.ssh("-o", "HostKeyAlgorithms="+algorithm, "gate", "true"))
	}
	if r := run1(t, c.ssh("-o", "HostKeyAlgorithms=ssh-rsa", "gate", "true")); r.code != 255 {
		t.Errorf("the gateway signs with SHA-1: %+v", r)
	}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		info, err := os.Stat(s.path("data/hostkeys/ssh_host_" + kind + "_key"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("host key %s: mode %v, %v", kind, info.Mode(), err)
		}
	}
}

// TestInputThatEndsAtOnce: ssh sends EOF right behind the command. Passed on
// before it, sshd would leave the command's input open for good.
func TestInputThatEndsAtOnce(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	for range 5 {
		if got := must(t, c.ssh("-o", "BatchMode=yes", "gate", "timeout 10 cat; echo $?")); got != "0\n" {
			t.Fatalf("cat ended with %q", got)
		}
	}
}
