package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// helperStack is a stack whose origin takes the client's own key or a
// certificate of the gateway, and whose connector publishes an echo service
// beside sshd.
type helperStack struct {
	*stack
	keys    string // the origin's authorized_keys
	echo    int    // the port of the echo service, published
	hidden  int    // that of one that is published, and that no rule allows
	reached atomic.Int32
}

const helperPolicy = `
policy:
  session_duration: 1h
  applications:
    - name: servers
      hosts: [web1]
      rules:
        - name: alice
          action: allow
          include: [{email: alice@example.com}]
          logins: [LOGIN]
          end_to_end: true
          ports: [ECHO]
        - name: backup
          action: service
          include: [{service_token: backup}]
          logins: [LOGIN]
          end_to_end: true
          ports: [ECHO]
`

func newHelperStack(t *testing.T, more string) *helperStack {
	t.Helper()
	h := &helperStack{keys: filepath.Join(t.TempDir(), "authorized_keys")}
	h.echo = serveTCP(t, func(conn *net.TCPConn) {
		h.reached.Add(1)
		buffered := bufio.NewReader(conn)
		if start, _ := buffered.Peek(4); string(start) == "GET " {
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nby http")
			return
		}
		all, _ := io.ReadAll(buffered) // answers when the client has half-closed
		_, _ = conn.Write(append([]byte("got "), all...))
	})
	h.hidden = serveTCP(t, func(*net.TCPConn) { h.reached.Add(1) })
	write(t, h.keys, "")
	h.stack = newStack(t, stackOptions{
		sshd:     "AuthorizedKeysFile " + h.keys,
		policy:   strings.ReplaceAll(helperPolicy, "ECHO", fmt.Sprint(h.echo)),
		origins:  more,
		services: fmt.Sprintf("  - name: web1\n    url: tcp://127.0.0.1:%d\n  - name: web1\n    url: tcp://127.0.0.1:%d\n", h.echo, h.hidden),
	})
	return h
}

// serveTCP serves each connection in a goroutine until the test ends, and
// returns the port.
func serveTCP(t *testing.T, serve func(*net.TCPConn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

// helperClient is a machine with sshgate on it.
type helperClient struct {
	*client
	stack *helperStack
}

// newHelper returns a machine whose key the origin has.
func (h *helperStack) newHelper(t *testing.T) *helperClient {
	t.Helper()
	c := &helperClient{client: h.newClient(t), stack: h}
	public, err := os.ReadFile(c.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(h.keys, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(public); err != nil {
		t.Fatal(err)
	}
	return c
}

// env has what an administrator would put into everybody's profile.
func (c *helperClient) env() []string {
	return []string{
		fmt.Sprintf("SSHGATE_GATEWAY=127.0.0.1:%d", c.tlsPort), "SSHGATE_CA_FILE=" + c.path("connector/gateway-ca.crt"),
		"SSHGATE_CONFIG_DIR=" + filepath.Join(c.home, "sshgate config"), "SSHGATE_KEYRING=off",
		"PATH=" + filepath.Dir(sshgateBin) + ":" + os.Getenv("PATH"),
	}
}

// run returns a program of this machine with that environment.
func (c *helperClient) run(name string, args ...string) *exec.Cmd {
	cmd := c.command(name, args...)
	cmd.Env = append(cmd.Env, c.env()...)
	return cmd
}

func (c *helperClient) access(args ...string) *exec.Cmd {
	return c.run(sshgateBin, append([]string{"access"}, args...)...)
}

// login signs in with the helper.
func (c *helperClient) login(email string) {
	c.t.Helper()
	if r := c.signInWith(c.access("login", "--no-browser"), email, approveAs(email)); r.code != 0 {
		c.t.Fatalf("access login: %+v", r)
	}
}

// configure makes ssh use what ssh-config prints.
func (c *helperClient) configure(args ...string) {
	c.t.Helper()
	block := must(c.t, c.access(append([]string{"ssh-config", "--hostname", "web1"}, args...)...))
	write(c.t, c.config, block+fmt.Sprintf(`
Host *
  User %s
  IdentityFile %s
  IdentitiesOnly yes
  StrictHostKeyChecking yes
`, c.stack.login, c.key))
}

// hssh is ssh with the helper's environment.
func (c *helperClient) hssh(args ...string) *exec.Cmd {
	return c.run("ssh", append([]string{"-F", c.config}, args...)...)
}

func TestAccessSSH(t *testing.T) {
	t.Parallel()
	need(t, "git", "rsync", "sftp", "tar")
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	c.login(alice)
	c.configure()
	begin := len(h.events(t, "login.start"))
	r := run1(t, c.hssh("web1", "echo hello; exit 7"))
	if r.stdout != "hello\n" || r.code != 7 || r.stderr != "" {
		t.Fatalf("ssh: %+v", r)
	}
	source := c.file("file", 40*mib)
	must(t, c.run("scp", "-q", "-F", c.config, source, "web1:"+source+".there"))
	must(t, c.command("cmp", source, source+".there"))
	dir := c.tree("dir", 50)
	must(t, c.run("rsync", "-a", "-e", "ssh -F "+c.config, dir+"/", "web1:"+dir+".copy/"))
	must(t, c.command("diff", "-r", dir, dir+".copy"))
	must(t, c.run("sh", "-c", fmt.Sprintf("tar -C %s -c . | ssh -F %s web1 'mkdir %s.tar && tar -C %s.tar -x'", dir, c.config, dir, dir)))
	must(t, c.command("diff", "-r", dir, dir+".tar"))
	must(t, c.run("sftp", "-q", "-F", c.config, "-b", write(t, filepath.Join(c.home, "batch"), "get "+source+" back\n"), "web1"))
	must(t, c.command("cmp", source, "back"))
	bare := filepath.Join(c.home, "repo.git")
	must(t, c.command("git", "init", "-q", "--bare", "-b", "main", bare))
	for i, url := range []string{"web1:" + bare, "ssh://web1" + bare} {
		must(t, c.run("git", "clone", "-q", url, fmt.Sprintf("clone%d", i)))
	}
	if got := len(h.events(t, "login.start")); got != begin {
		t.Errorf("%d sign-ins were offered after the first", got-begin)
	}
	if ends := h.events(t, "session.end"); len(ends) == 0 || ends[0]["channel"] != "end-to-end" || ends[0]["identity"] != alice || ends[0]["bytes_in"] == nil {
		t.Errorf("session.end: %v", ends)
	}
	// The origin saw the client's own key.
	if fingerprint := strings.Fields(must(t, c.command("ssh-keygen", "-l", "-f", c.key)))[1]; !strings.Contains(h.sshd.out.String(), fingerprint) {
		t.Error("sshd did not see the client's key")
	}
}

// TestAccessSignsInWhenNeeded is the first use, of ssh itself.
func TestAccessSignsInWhenNeeded(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	cmd := c.run("ssh", "-F", c.config, "-o", "StrictHostKeyChecking=no", "-o", "IdentityFile="+c.key,
		"-o", "ProxyCommand=sshgate access ssh --no-browser --hostname %h", h.login+"@web1", "echo in")
	if r := c.signInWith(cmd, alice, approveAs(alice)); r.code != 0 || r.stdout != "in\n" {
		t.Fatalf("%+v", r)
	}
	c.configure()
	if r := run1(t, c.hssh("-o", "BatchMode=yes", "web1", "echo again")); r.stdout != "again\n" || r.stderr != "" {
		t.Errorf("the second: %+v", r)
	}
	must(t, c.access("logout"))
	if r := run1(t, c.access("token", "--no-login")); r.code != 4 || r.stdout != "" {
		t.Errorf("after the logout: %+v", r)
	}
}

// TestAccessShortLivedCert: the origin has no key of the client at all.
func TestAccessShortLivedCert(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	write(t, h.keys, "")
	c.login(alice)
	c.configure("--short-lived-cert")
	for range 2 {
		if r := run1(t, c.hssh("-o", "BatchMode=yes", "web1", "echo by certificate")); r.stdout != "by certificate\n" {
			t.Fatalf("%+v", r)
		}
	}
	if log := h.sshd.out.String(); !strings.Contains(log, "identity=alice@example.com") || !strings.Contains(log, "ED25519-CERT") {
		t.Errorf("sshd's log has no certificate of alice:\n%s", tail(log, 2000))
	}
	if r := run1(t, c.access("ssh-gen", "--hostname", "web1", "--login", "daemon")); r.code != 3 {
		t.Errorf("a certificate for a login that no rule has: %+v", r)
	}
}

// TestAccessRefusesBeforeTheOrigin: nothing that is not allowed reaches it.
func TestAccessRefusesBeforeTheOrigin(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c, other := h.newHelper(t), h.newHelper(t)
	c.login(alice)
	other.login(bob)
	for _, test := range []struct {
		c    *helperClient
		host string
	}{
		{other, "web1"}, {other, fmt.Sprintf("web1:%d", h.echo)}, {c, fmt.Sprintf("web1:%d", h.hidden)},
		{c, "web1:23"}, {c, "nowhere"}, {c, "127.0.0.1"}, {c, fmt.Sprintf("127.0.0.1:%d", h.echo)}, {c, "localhost"},
	} {
		r := run1(t, test.c.access("ssh", "--hostname", test.host))
		if r.code != 3 || r.stdout != "" || !strings.Contains(r.stderr, "request r-") {
			t.Errorf("%s: %+v", test.host, r)
		}
	}
	if n := h.reached.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
	if strings.Contains(h.sshd.out.String(), "Accepted publickey") {
		t.Error("sshd let somebody in")
	}
}

// TestAccessTCP reaches a service that is not SSH, in modes B and C.
func TestAccessTCP(t *testing.T) {
	t.Parallel()
	need(t, "curl", "ncat", "socat")
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	c.login(alice)
	echo := fmt.Sprintf("web1:%d", h.echo)
	pipe := c.access("ssh", "--hostname", echo)
	pipe.Stdin = strings.NewReader("a question")
	if got := must(t, pipe); got != "got a question" {
		t.Errorf("access ssh printed %q", got)
	}
	listen := freePort(t)
	tcp := start(t, "env", append(c.env(), sshgateBin, "access", "tcp", "--hostname", echo, "--url", fmt.Sprintf("localhost:%d", listen))...)
	if _, err := tcp.out.wait(t.Context(), func(s string) string { return s }); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", listen))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "question %d", i)
			_ = conn.(*net.TCPConn).CloseWrite()
			var answer bytes.Buffer
			if _, err := answer.ReadFrom(conn); err != nil || answer.String() != fmt.Sprintf("got question %d", i) {
				t.Errorf("%d: %q, %v", i, &answer, err)
			}
		})
	}
	all.Wait()
	// Mode B: the key signs in at the gateway's SSH server, once.
	write(t, c.config, fmt.Sprintf("Host jump\n  HostName 127.0.0.1\n  Port %d\n  User alice\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s/known_hosts\n", h.sshPort, c.key, c.home))
	jump := c.ssh("-W", echo, "jump")
	jump.Stdin = strings.NewReader("by ssh -W")
	if r := c.signInWith(jump, alice, approveAs(alice)); r.stdout != "got by ssh -W" {
		t.Errorf("ssh -W: %+v", r)
	}
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "-W", fmt.Sprintf("web1:%d", h.hidden), "jump")); r.code != 255 || !strings.Contains(r.stderr, "that you may reach") {
		t.Errorf("ssh -W to a port that no rule allows: %+v", r)
	}
}

// TestHundredHelpersOneSignIn starts them all before anybody has signed in.
func TestHundredHelpersOneSignIn(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stderr := newOutput()
	var all sync.WaitGroup
	for i := range 100 {
		cmd := c.access("ssh", "--no-browser", "--hostname", fmt.Sprintf("web1:%d", h.echo))
		cmd.Stdin, cmd.Stderr = strings.NewReader(fmt.Sprint(i)), stderr
		var stdout bytes.Buffer
		cmd.Stdout = &stdout
		all.Go(func() {
			if err := cmd.Run(); err != nil || stdout.String() != fmt.Sprint("got ", i) {
				t.Errorf("%d: %q, %v", i, &stdout, err)
			}
		})
	}
	url, err := stderr.wait(ctx, signInURL.FindString)
	if err == nil {
		err = approveAs(alice)(ctx, url)
	}
	if err != nil {
		t.Error(err)
		cancel()
	}
	all.Wait()
	if n := len(h.events(t, "login.start")); n != 1 {
		t.Errorf("%d sign-ins, want 1", n)
	}
}

// TestKilledHelperBlocksNobody kills the one that shows the sign-in.
func TestKilledHelperBlocksNobody(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	first := start(t, "env", append(c.env(), "HOME="+c.home, sshgateBin, "access", "login", "--no-browser")...)
	if _, err := first.out.wait(t.Context(), signInURL.FindString); err != nil {
		t.Fatal(err)
	}
	first.stop(syscall.SIGKILL)
	begin := time.Now()
	c.login(alice)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the next sign-in took %s", took)
	}
}

// TestAccessNoticesSwappedHostKey: the gateway, or whoever is behind it, can not
// stand in for the origin.
func TestAccessNoticesSwappedHostKey(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	c.login(alice)
	c.configure()
	must(t, c.hssh("web1", "true"))
	h.sshd.stop(syscall.SIGKILL)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		_ = os.Remove(filepath.Join(h.sshd.dir, "host_"+kind))
		_ = os.Remove(filepath.Join(h.sshd.dir, "host_"+kind+".pub"))
	}
	h.stack.sshd = startSSHD(t, h.path("sshd"), h.path("user_ca.pub"), h.sshd.port, "AuthorizedKeysFile "+h.keys)
	r := run1(t, c.hssh("-o", "BatchMode=yes", "web1", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "HOST IDENTIFICATION HAS CHANGED") && !strings.Contains(r.stderr, "host key of web1 has changed") {
		t.Errorf("%+v", r)
	}
}

// TestAccessOverALostTunnel never ends well.
func TestAccessOverALostTunnel(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	c.login(alice)
	c.configure()
	cmd := c.hssh("web1", "echo up; exec sleep 300")
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.wait(t.Context(), func(s string) string { return s }); err != nil {
		t.Fatal(err)
	}
	h.connector.stop(syscall.SIGKILL)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 255 || !strings.Contains(stderr.String(), "sshgate: ") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	if r := run1(t, c.access("ssh", "--hostname", "web1")); r.code != 5 || !strings.Contains(r.stderr, "offline") {
		t.Errorf("without a connector: %+v", r)
	}
}

// TestTokenInTheSystemsKeyring has a real keyring on a real bus.
func TestTokenInTheSystemsKeyring(t *testing.T) {
	t.Parallel()
	need(t, "dbus-run-session", "dbus-send", "gnome-keyring-daemon")
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	// The bus would start another keyring, a locked one, for whoever asks before
	// this one is there.
	const unlocked = `printf pw | gnome-keyring-daemon --unlock --components=secrets >/dev/null
until dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner string:org.freedesktop.secrets | grep -q 'boolean true'
do sleep 0.05; done
exec sshgate access `
	session := func(args string) *exec.Cmd {
		cmd := c.run("dbus-run-session", "--", "sh", "-c", unlocked+args)
		for i, v := range cmd.Env {
			if v == "SSHGATE_KEYRING=off" {
				cmd.Env[i] = "SSHGATE_KEYRING="
			}
		}
		return cmd
	}
	if r := c.signInWith(session("login --no-browser"), alice, approveAs(alice)); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if files, _ := filepath.Glob(filepath.Join(c.home, "sshgate config", "*", "token.json")); len(files) > 0 {
		t.Errorf("the token is in %v", files)
	}
	if r := run1(t, session("token --no-login")); r.code != 0 || !strings.HasPrefix(r.stdout, "sga_") {
		t.Errorf("from the keyring: %+v", r)
	}
	if r := run1(t, session("logout")); r.code != 0 || !strings.Contains(r.stdout, "signed out") {
		t.Errorf("logout: %+v", r)
	}
	if r := run1(t, session("token --no-login")); r.code != 4 {
		t.Errorf("after the logout: %+v", r)
	}
}
