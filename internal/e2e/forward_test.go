package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// background runs an ssh that forwards, until the test ends.
func (c *client) background(args ...string) *proc {
	c.t.Helper()
	p := start(c.t, "ssh", append([]string{"-F", c.config, "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes"}, args...)...)
	return p
}

// webServer serves a text that is larger than any window.
func webServer(t testing.TB) (url, text string) {
	t.Helper()
	text = strings.Repeat("0123456789abcdef", 4*mib/16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), text
}

func get(address string) (string, error) { return httpGet("http://" + address) }

func TestLocalForward(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	address, text := webServer(t)
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.background("-N", "-L", local+":"+address, "gate")
	eventually(t, "the forward is up", 10*time.Second, func() error {
		_, err := get(local)
		return err
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if got, err := get(local); err != nil || got != text {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
}

func TestRefusedForwardCarriesTheOriginsReason(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := c.background("-N", "-L", fmt.Sprintf("%s:127.0.0.1:%d", local, freePort(t)), "gate")
	eventually(t, "the refusal is shown", 10*time.Second, func() error {
		_, _ = get(local)
		if !strings.Contains(p.out.String(), "open failed: connect failed: Connection refused") {
			return fmt.Errorf("ssh printed: %s", p.out)
		}
		return nil
	})
}

// TestForwardHalfClose sends all, closes, and only then reads the answer.
func TestForwardHalfClose(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	defer server.Wait()
	defer l.Close()
	server.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server.Go(func() {
				defer conn.Close()
				n, _ := io.Copy(io.Discard, conn) // until the client closes its half
				fmt.Fprintf(conn, "got %d", n)
			})
		}
	})
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.background("-N", "-L", local+":"+l.Addr().String(), "gate")
	eventually(t, "the half-closed connection is answered", 15*time.Second, func() error {
		conn, err := net.Dial("tcp", local)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(conn, newStream(3*mib)); err != nil {
			return err
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn)
		if want := fmt.Sprintf("got %d", 3*mib); string(answer) != want {
			return fmt.Errorf("answer %q, %v, want %q", answer, err, want)
		}
		return nil
	})
}

func TestRemoteForward(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	address, text := webServer(t)
	remote := freePort(t)
	c.background("-N", "-R", fmt.Sprintf("127.0.0.1:%d:%s", remote, address), "gate")
	eventually(t, "the remote forward carries", 15*time.Second, func() error {
		got, err := get(fmt.Sprintf("127.0.0.1:%d", remote))
		if err == nil && got != text {
			err = fmt.Errorf("got %d bytes", len(got))
		}
		return err
	})
	// Port 0: the origin's sshd chooses, and its choice comes back.
	p := c.background("-N", "-R", "0:"+address, "gate")
	var port int
	eventually(t, "a port is allocated", 10*time.Second, func() error {
		_, err := fmt.Sscanf(strings.TrimSpace(p.out.String()), "Allocated port %d", &port)
		return err
	})
	if got, err := get(fmt.Sprintf("127.0.0.1:%d", port)); err != nil || got != text {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestDynamicForward(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	c := sharedStack(t).signedIn(t)
	address, text := webServer(t)
	socks := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.background("-N", "-D", socks, "gate")
	eventually(t, "the proxy carries", 15*time.Second, func() error {
		out, err := c.command("curl", "-sS", "--noproxy", "", "--socks5-hostname", socks, "http://"+address).Output()
		if err == nil && string(out) != text {
			err = fmt.Errorf("got %d bytes", len(out))
		}
		return err
	})
}

func TestUnixSocketForwards(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	c := sharedStack(t).signedIn(t)
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	l, err := net.Listen("unix", there)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "by a socket")
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	for _, flag := range []string{"-L", "-R"} {
		here := filepath.Join(dir, "here"+flag)
		c.background("-N", flag, here+":"+there, "gate")
		eventually(t, flag+" of a unix socket carries", 15*time.Second, func() error {
			out, err := c.command("curl", "-sS", "--unix-socket", here, "http://x/").Output()
			if err == nil && string(out) != "by a socket" {
				err = fmt.Errorf("got %q", out)
			}
			return err
		})
	}
}

// startAgent runs an ssh-agent that holds the key.
func (c *client) startAgent(key string) (socket string) {
	c.t.Helper()
	socket = filepath.Join(c.home, "agent")
	start(c.t, "ssh-agent", "-D", "-a", socket)
	eventually(c.t, "the agent takes the key", 10*time.Second, func() error {
		cmd := c.command("ssh-add", "-q", key)
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
		return cmd.Run()
	})
	return socket
}

func TestAgentForwarding(t *testing.T) {
	t.Parallel()
	need(t, "ssh-agent", "ssh-add")
	c := sharedStack(t).signedIn(t)
	socket := c.startAgent(c.key)
	cmd := c.ssh("-A", "gate", "for i in 1 2 3 4 5 6 7 8; do ssh-add -l & done; wait")
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
	if got := must(t, cmd); strings.Count(got, "(ED25519)") != 8 {
		t.Errorf("eight ssh-add at once printed:\n%s", got)
	}
	// Without -A the origin gets at nothing.
	cmd = c.ssh("gate", "ssh-add -l")
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
	if r := run1(t, cmd); r.code == 0 {
		t.Errorf("the agent is there without -A: %s", r.stdout)
	}
}

func TestX11Forwarding(t *testing.T) {
	t.Parallel()
	need(t, "xauth", "socat", "perl")
	c := sharedStack(t).signedIn(t)
	// A stand-in for an X server: it reads the set-up of whatever connects, and
	// answers.
	number := 4000 + os.Getpid()%1000
	display := fmt.Sprintf("127.0.0.1:%d", number)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 6000+number))
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	defer server.Wait()
	defer l.Close()
	server.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(conn, make([]byte, 48)); err == nil {
				_, _ = io.WriteString(conn, "x11-answer")
			}
			conn.Close()
		}
	})
	authority := filepath.Join(c.home, ".Xauthority")
	must(t, c.command("xauth", "-f", authority, "add", display, "MIT-MAGIC-COOKIE-1", strings.Repeat("ab", 16)))
	// The origin's DISPLAY is localhost:N.0; a connection there must come out here.
	// ssh checks the cookie of what connects, so this sends an X11 set-up with
	// the one that xauth holds for the origin's display.
	script := `n=${DISPLAY#*:}; n=${n%.*}; cookie=
for try in 1 2 3 4 5 6 7 8 9 10; do # the file is locked while another session uses it
  cookie=$(xauth list $DISPLAY | awk '{print $3}' | head -1)
  [ -n "$cookie" ] && break; sleep 0.5
done
[ -n "$cookie" ] || { echo "no cookie for $DISPLAY" >&2; exit 9; }
{ printf 'l\0\13\0\0\0\22\0\20\0\0\0MIT-MAGIC-COOKIE-1\0\0'; perl -e 'print pack "H*", shift' $cookie; sleep 1; } | socat - TCP:127.0.0.1:$((6000+n))`
	cmd := c.ssh("-Y", "gate", script)
	cmd.Env = append(cmd.Env, "DISPLAY="+display, "XAUTHORITY="+authority)
	if r := run1(t, cmd); !strings.Contains(r.stdout, "x11-answer") {
		t.Errorf("the X11 channel carried nothing: %+v", r)
	}
}

// TestSessionRefusalOfTheOrigin passes on sshd's own reason.
func TestSessionRefusalOfTheOrigin(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{sshd: "MaxSessions 1"})
	c := s.signedIn(t)
	socket := c.master()
	hold := c.ssh("-S", socket, "gate", "echo up; cat")
	stdin, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := newOutput()
	hold.Stdout = out
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first session is open", 10*time.Second, func() error {
		if out.String() == "" {
			return fmt.Errorf("no output yet")
		}
		return nil
	})
	r := run1(t, c.ssh("-v", "-S", socket, "-o", "ControlMaster=no", "gate", "true"))
	if !strings.Contains(r.stderr, "Session open refused by peer") {
		t.Errorf("the second session: exit %d\n%s", r.code, r.stderr)
	}
	stdin.Close()
	if err := hold.Wait(); err != nil {
		t.Errorf("the first session was disturbed: %v", err)
	}
}

func TestKeepalives(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{sshd: "ClientAliveInterval 1\nClientAliveCountMax 2"})
	c := s.signedIn(t)
	if got := must(t, c.ssh("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "gate", "sleep 6; echo alive")); got != "alive\n" {
		t.Errorf("printed %q", got)
	}
}
