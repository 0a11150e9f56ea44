package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const consolePolicy = `
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
    - name: others
      hosts: [web2]
      rules:
        - name: alice
          action: allow
          include: [{email: alice@example.com}]
          logins: [nobody, LOGIN]
    - name: away
      hosts: [away1]
      rules:
        - name: alice
          action: allow
          include: [{email: alice@example.com}]
          logins: [LOGIN]
`

// newConsoleStack is a stack with several origins, of which web1 and web2 are the
// same machine.
func newConsoleStack(t *testing.T, change func(*stackOptions)) *stack {
	t.Helper()
	o := stackOptions{hostnames: []string{"web2", "hidden1"}, policy: consolePolicy}
	if change != nil {
		change(&o)
	}
	s := prepareStack(t, o)
	s.sshd = startSSHD(t, s.path("sshd"), s.path("user_ca.pub"), freePort(t), o.sshd)
	s.sshgated("connector-cert", "--config", s.path("gateway.yaml"), "--name", "rack1", "--hostname", "web1", "--hostname", "web2", "--hostname", "hidden1", "--out", s.path("connector"))
	config := fmt.Sprintf("gateway: 127.0.0.1:%d\nserver_name: gate.test\ngateway_ca_file: gateway-ca.crt\norigins:\n", s.tlsPort)
	for _, name := range []string{"web1", "web2", "hidden1"} {
		config += fmt.Sprintf("  - name: %s\n    url: ssh://127.0.0.1:%d\n", name, s.sshd.port)
	}
	write(t, s.path("connector/connector.yaml"), config)
	s.startGateway()
	s.startConnector()
	s.waitForOrigins(3)
	return s
}

// gate returns an ssh to the gateway itself.
func (c *client) gate(command string, options ...string) result {
	c.t.Helper()
	return run1(c.t, c.ssh(append(append([]string{"-o", "User=alice"}, options...), "gate", command)...))
}

// lines are the objects that a command printed.
func lines(t testing.TB, out string) (list []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, object)
	}
	return list
}

func TestConsoleCommands(t *testing.T) {
	t.Parallel()
	s := newConsoleStack(t, nil)
	c := s.signedIn(t)
	for _, test := range []struct {
		command string
		code    int
		stdout  string // a regular expression
		stderr  string
	}{
		{"whoami", 0, `(?s)you are +alice@example\.com\n.*key +SHA256:`, `^$`},
		{"ls", 0, `(?s)ORIGIN.*web1 +online +` + s.login + ` .*web2 +online +nobody ` + s.login, `Go there with: ssh -p \d+ LOGIN\+ORIGIN@gate`},
		{"keys", 0, `SHA256:\S+ .*this connection's`, `^$`},
		{"sessions", 0, `^SESSION .*\n$`, `^$`},
		{"explain web1", 0, `session +yes +` + s.login, `^$`},
		{"explain hidden1", 1, `^$`, `there is no origin "hidden1" that you may reach`},
		{"explain nowhere", 1, `^$`, `there is no origin "nowhere" that you may reach`},
		{"help", 0, `whoami .*\n`, `^$`},
		{"help keys", 0, `revoke FINGERPRINT`, `^$`},
		{"ls --help", 0, `--json`, `^$`},
		{"sessions --all", 3, `^$`, `only administrators`},
		{"kill c-1", 3, `^$`, `only administrators`},
		{"users", 3, `^$`, `only administrators`},
		{"revoke bob@example.com", 3, `^$`, `only administrators`},
		{"connectors", 3, `^$`, `only administrators`},
		{"tokens --json", 3, `^$`, `only administrators`},
		{"events --follow", 3, `^$`, `only administrators`},
		{"no-such-command", 2, `^$`, `there is no command "no-such-command" here`},
		{"whoami --nonsense", 2, `^$`, `unknown flag`},
		{"ls 'a", 2, `^$`, `cannot be read`},
		{"cat /etc/passwd; id", 2, `^$`, `there is no command "cat"`},
		{"scp -f /etc/passwd", 2, `^$`, `there is no command "scp"`},
		{"\x1b[31m\x07", 2, `^$`, `^[ -~]*\n$`},
		{strings.Repeat("a ", 5000), 2, `^$`, `longer than`},
	} {
		r := c.gate(test.command)
		if r.code != test.code || !regexp.MustCompile(test.stdout).MatchString(r.stdout) || !regexp.MustCompile(test.stderr).MatchString(r.stderr) {
			t.Errorf("%.60q: exit %d, want %d\nstdout: %s\nstderr: %s", test.command, r.code, test.code, r.stdout, r.stderr)
		}
	}
	for command, rows := range map[string]int{"whoami": 1, "ls": 2, "keys": 1, "sessions": 0, "explain web2": 1, "help": 7} {
		r := c.gate(command + " --json")
		if got := lines(t, r.stdout); r.code != 0 || len(got) != rows || r.stderr != "" {
			t.Errorf("%s --json: exit %d, %d rows, want %d: %s%s", command, r.code, len(got), rows, r.stdout, r.stderr)
		}
	}
	// Neither a shell without a terminal nor an empty command is a mistake.
	for _, options := range [][]string{{"-T"}, {"-T", "-o", "SetEnv=NO_COLOR=1"}} {
		r := run1(t, c.ssh(append(options, "alice@gate")...))
		if r.code != 0 || !strings.Contains(r.stdout, "web1") || strings.Contains(r.stdout, "hidden1") {
			t.Errorf("ssh %v: %+v", options, r)
		}
	}
	// With a terminal, lines end as it needs it.
	if r := c.gate("whoami", "-tt"); r.code != 0 || !strings.Contains(r.stdout, "alice@example.com\r\n") {
		t.Errorf("with a terminal: %+v", r)
	}
	if r := run1(t, c.command("sftp", "-F", c.config, "-o", "User=alice", "-b", "/dev/null", "gate")); r.code == 0 || !strings.Contains(r.stderr, "name an origin: ssh") {
		t.Errorf("sftp: %+v", r)
	}
}

func TestConsoleLogout(t *testing.T) {
	t.Parallel()
	s := newConsoleStack(t, nil)
	c, other := s.signedIn(t), s.signedIn(t)
	key := func(c *client) string { return lines(t, c.gate("whoami --json").stdout)[0]["key"].(string) }
	mine, theirs := key(c), key(other)
	if r := c.gate("keys --json"); len(lines(t, r.stdout)) != 2 {
		t.Errorf("keys: %+v", r)
	}
	if r := c.gate("keys revoke " + theirs); r.code != 0 || !strings.Contains(r.stdout, theirs) {
		t.Errorf("keys revoke: %+v", r)
	}
	if r := other.gate("whoami", "-o", "BatchMode=yes"); r.code != 255 || !strings.Contains(r.stderr, "not signed in") {
		t.Errorf("a key that was revoked: %+v", r)
	}
	if r := c.gate("keys revoke " + theirs); r.code != 1 {
		t.Errorf("keys revoke, once more: %+v", r)
	}
	// A connection that is open has no more to say.
	master := c.master()
	if r := c.gate("logout --json"); r.code != 0 || !strings.Contains(r.stdout, mine) {
		t.Errorf("logout: %+v", r)
	}
	_ = c.ssh("-S", master, "-O", "exit", "gate").Run()
	if r := c.gate("whoami", "-o", "BatchMode=yes"); r.code != 255 {
		t.Errorf("after logout: %+v", r)
	}
	events := s.gateway.out.String()
	for _, want := range []string{`"detail":"keys revoke ` + theirs + `","allowed":true`, `"detail":"logout --json","allowed":true`} {
		if !strings.Contains(events, want) {
			t.Errorf("no event has %s", want)
		}
	}
}

// screen is a terminal with ssh in it.
type screen struct {
	*client
	socket string
}

// terminal runs ssh to the gateway, with further options, in a terminal of that
// size. When ssh ends, the screen says with which exit code.
func (c *client) terminal(width, height int, options string) *screen {
	c.t.Helper()
	need(c.t, "tmux")
	s := &screen{client: c, socket: filepath.Join(c.t.TempDir(), "tmux")}
	s.tmux("new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height),
		"ssh -F "+c.config+" "+options+" alice@gate; echo exit=$?; sleep 1000")
	c.t.Cleanup(func() { _ = c.command("tmux", "-S", s.socket, "kill-server").Run() })
	return s
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	return must(s.t, s.command("tmux", append([]string{"-S", s.socket, "-f", "/dev/null"}, args...)...))
}

func (s *screen) keys(keys ...string) { s.tmux(append([]string{"send-keys"}, keys...)...) }

// shows waits until the screen matches the regular expression, and returns it.
func (s *screen) shows(want string) (text string) {
	s.t.Helper()
	match := regexp.MustCompile(want)
	eventually(s.t, "the terminal shows "+want, 20*time.Second, func() error {
		if text = s.tmux("capture-pane", "-p"); !match.MatchString(text) {
			return fmt.Errorf("it shows:\n%s", text)
		}
		return nil
	})
	return text
}

func TestPicker(t *testing.T) {
	t.Parallel()
	need(t, "tmux")
	s := newConsoleStack(t, func(o *stackOptions) { o.sshd = "" })
	c := s.signedIn(t)
	// What was used last comes first.
	if r := run1(t, c.ssh("-l", s.login+"+web2", "gate", "true")); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	t.Run("80x24", func(t *testing.T) {
		c := *c
		c.t = t
		term := c.terminal(80, 24, "")
		text := term.shows(`(?m)^> web2 .*(?:\n.*)*web1 `)
		if strings.Contains(text, "hidden1") || !strings.Contains(text, "signed in as alice@example.com") {
			t.Errorf("it shows:\n%s", text)
		}
		term.keys("w", "e", "b")
		term.shows(`Where to\? /web`)
		term.keys("2")
		term.shows(`(?m)1 of 1$`)
		term.keys("Enter")
		term.shows(`As whom on web2\?\n> ` + s.login + `\n  nobody`)
		// What is typed behind the choice is the shell's.
		term.keys("Enter", "echo early-$((40+2))", "Enter")
		term.shows(`early-42`)
		term.keys("stty size; echo $TERM; tty | cut -c1-8", "Enter")
		term.shows(`24 80\n(screen|tmux)\S*\n/dev/pts`)
		term.tmux("resize-window", "-x", "100", "-y", "30")
		term.keys("stty size", "Enter")
		term.shows(`30 100`)
		term.keys("exit 7", "Enter")
		term.shows(`exit=7`)
	})
	t.Run("200x60", func(t *testing.T) {
		c := *c
		c.t = t
		term := c.terminal(200, 60, "-o SetEnv=SG_TEST=carried")
		term.shows(`> web2`)
		term.tmux("resize-window", "-x", "90", "-y", "20")
		term.keys("Down")
		term.shows(`> web1`)
		term.keys("Enter")
		term.keys("stty size; echo $SG_TEST", "Enter") // the size of the time of the choice
		term.shows(`20 90\ncarried`)
		term.keys("exit", "Enter")
		term.shows(`exit=0`)
	})
	t.Run("20x5", func(t *testing.T) {
		c := *c
		c.t = t
		term := c.terminal(20, 5, "")
		term.shows(`> web`)
		term.keys("C-c")
		term.shows(`exit=130`)
	})
	t.Run("leaving", func(t *testing.T) {
		for _, key := range []string{"q", "Escape"} {
			c := *c
			c.t = t
			term := c.terminal(80, 24, "")
			term.shows(`> web2`)
			term.keys(key)
			term.shows(`exit=130`)
		}
	})
	t.Run("several on one connection", func(t *testing.T) {
		c := *c
		c.t = t
		socket := filepath.Join(c.home, "menu")
		must(t, c.ssh("-M", "-S", socket, "-o", "ControlPersist=60", "-f", "-N", "alice@gate"))
		defer func() { _ = c.ssh("-S", socket, "-O", "exit", "alice@gate").Run() }()
		one, two := c.terminal(80, 24, "-S "+socket), c.terminal(80, 24, "-S "+socket)
		one.shows(`> web2`)
		two.shows(`> web2`)
		one.keys("w", "e", "b", "1", "Enter")
		one.keys("echo one-$((1+1))", "Enter")
		one.shows(`one-2`)
		two.keys("w", "e", "b", "2", "Enter", "Enter")
		two.keys("echo two-$((1+1))", "Enter")
		two.shows(`two-2`)
		r := run1(t, c.ssh("-S", socket, "alice@gate", "sessions --json"))
		origins := map[any]bool{}
		for _, row := range lines(t, r.stdout) {
			origins[row["origin"]] = true
		}
		if !origins["web1"] || !origins["web2"] {
			t.Errorf("sessions: %+v", r)
		}
		one.keys("exit 3", "Enter")
		one.shows(`exit=3`)
		two.keys("echo still-$((1+1))", "Enter")
		two.shows(`still-2`)
	})
	t.Run("dumb", func(t *testing.T) {
		cmd := c.ssh("-tt", "alice@gate")
		cmd.Env = append(cmd.Env, "TERM=dumb")
		r := run1(t, cmd)
		if r.code != 0 || !strings.Contains(r.stdout, "web1") || strings.Contains(r.stdout, "\x1b") {
			t.Errorf("%+v", r)
		}
	})
	decisions := regexp.MustCompile(`"kind":"session.start"[^\n]*"origin":"web2","login":"` + s.login)
	if !decisions.MatchString(s.gateway.out.String()) {
		t.Error("the session that was picked is not on record")
	}
}

// TestPickerOffline picks an origin whose connector has gone, and sees the gateway
// go while it picks.
func TestPickerOffline(t *testing.T) {
	t.Parallel()
	need(t, "tmux")
	s := newConsoleStack(t, nil)
	c := s.signedIn(t)
	s.connector.stop(syscall.SIGTERM)
	s.waitForTunnels(0)
	term := c.terminal(120, 24, "")
	term.shows(`> web1 .*\(offline\)`)
	term.keys("Enter")
	term.shows(`web1 is offline: no connector publishes it right now \(request r-\w+\)`)
	term.shows(`exit=255`)
	term = c.terminal(120, 24, "")
	term.shows(`> web1`)
	s.gateway.stop(syscall.SIGTERM)
	term.shows(`the gateway is shutting down`)
	term.shows(`exit=255`)
}
