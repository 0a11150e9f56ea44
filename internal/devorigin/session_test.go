//go:build unix

package devorigin_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"

	"github.com/sshgate/sshgate/internal/devorigin"
)

func newSession(t *testing.T, client *gossh.Client) *gossh.Session {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// run runs a command and returns its output.
func run(t *testing.T, client *gossh.Client, command string) string {
	t.Helper()
	out, err := newSession(t, client).Output(command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return string(out)
}

// wantExit checks how a command ended.
func wantExit(t *testing.T, err error, status int) {
	t.Helper()
	var exit *gossh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != status {
		t.Errorf("got %v, want exit status %d", err, status)
	}
}

func TestCommand(t *testing.T) {
	t.Setenv("SSHGATE_TEST_SECRET", "secret")
	o := startOrigin(t)
	client := o.dial(t)

	s := newSession(t, client)
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr = &stdout, &stderr
	wantExit(t, s.Run("pwd; echo problem >&2; exit 3"), 3)
	if stdout.String() != o.dir+"\n" || stderr.String() != "problem\n" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}

	env := run(t, client, "env")
	for _, want := range []string{"HOME=", "USER=", "SHELL=", "PATH=", "SSH_CONNECTION=127.0.0.1 ", "SSH_CLIENT=127.0.0.1 "} {
		if !strings.Contains("\n"+env, "\n"+want) {
			t.Errorf("the environment has no %s:\n%s", want, env)
		}
	}
	if strings.Contains(env, "SSHGATE_TEST_SECRET") {
		t.Error("a variable of the gateway's process leaks into sessions")
	}
}

func TestEnv(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	for name, ok := range map[string]bool{
		"LANG": true, "LC_ALL": true, "LC_X=Y": false, "LD_PRELOAD": false, "PATH": false, "": false, "LANGUAGE": false,
	} {
		if err := s.Setenv(name, "de_DE.UTF-8"); (err == nil) != ok {
			t.Errorf("variable %q: %v, want accepted: %v", name, err, ok)
		}
	}
	if err := s.Setenv("LC_TIME", strings.Repeat("x", 5000)); err == nil {
		t.Error("a variable of 5000 bytes was accepted")
	}
	out, err := s.Output(`echo "$LANG $LC_ALL $LANGUAGE"`)
	if err != nil || string(out) != "de_DE.UTF-8 de_DE.UTF-8 \n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// TestHalfClose sends data, closes its side, and still gets all of it back.
func TestHalfClose(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	data := make([]byte, 8<<20) // four windows
	rand.Read(data)
	s.Stdin = bytes.NewReader(data)
	out, err := s.Output("cat; echo problem >&2; exit 0")
	if err != nil || sha256.Sum256(out) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back of %d, %v", len(out), len(data), err)
	}
}

// TestEarlyExit ends the command while the client still sends.
func TestEarlyExit(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	stdin, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	wantExit(t, s.Run("exit 7"), 7)
}

// TestFastCommands runs many short commands: none may lose its reply, output or
// exit status to the closing of the channel.
func TestFastCommands(t *testing.T) {
	client := startOrigin(t).dial(t)
	for i := range 60 {
		if out := run(t, client, "echo "+strconv.Itoa(i)); out != strconv.Itoa(i)+"\n" {
			t.Fatalf("command %d: %q", i, out)
		}
	}
}

func TestExitSignal(t *testing.T) {
	client := startOrigin(t).dial(t)
	for _, test := range []struct{ signal, name string }{{"TERM", "TERM"}, {"KILL", "KILL"}, {"BUS", "SIG@openssh.com"}} {
		err := newSession(t, client).Run("kill -" + test.signal + " $$")
		var exit *gossh.ExitError
		if !errors.As(err, &exit) || exit.Signal() != test.name {
			t.Errorf("%s: got %v, want signal %s", test.signal, err, test.name)
		}
	}
}

// TestSignal sends a signal to a command, and to what that has started.
func TestSignal(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	stdout, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(`trap 'echo got it; exit 5' USR1; sleep 1000 & echo ready; wait`); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	for _, signal := range []gossh.Signal{"NONSENSE", gossh.SIGUSR1} {
		if err := s.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "got it\n" {
		t.Errorf("got %q, %v", rest, err)
	}
	wantExit(t, s.Wait(), 5)
}

func TestShellWithoutTerminal(t *testing.T) {
	client := startOrigin(t, func(cfg *devorigin.Config) { cfg.Motd = "Welcome" }).dial(t)
	s := newSession(t, client)
	s.Stdin = strings.NewReader("echo one\nexit 4\n")
	var out bytes.Buffer
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	wantExit(t, s.Wait(), 4)
	if out.String() != "one\n" {
		t.Errorf("got %q: a program reads this, so nothing may be added", out.String())
	}
}

func TestRefusedRequests(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	for _, request := range []string{"x11-req", "auth-agent-req@openssh.com", "x", "exec", "subsystem", "pty-req", "env"} {
		if ok, err := s.SendRequest(request, true, nil); ok || err != nil {
			t.Errorf("%s without a payload: %v, %v, want a refusal", request, ok, err)
		}
	}
	if err := s.RequestSubsystem("netconf"); err == nil {
		t.Error("an unknown subsystem was started")
	}
	if out, err := s.Output("echo works"); err != nil || string(out) != "works\n" { // in the same session
		t.Errorf("got %q, %v", out, err)
	}
}

// terminalOutput runs a command on a terminal of 80x24 with the modes.
func terminalOutput(t *testing.T, client *gossh.Client, modes gossh.TerminalModes, input, command string) string {
	t.Helper()
	s := newSession(t, client)
	if err := s.RequestPty("vt220", 24, 80, modes); err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader(input)
	out, err := s.Output(command)
	if err != nil {
		t.Fatalf("%s: %v, output %q", command, err, out)
	}
	return string(out)
}

func TestTerminal(t *testing.T) {
	client := startOrigin(t).dial(t)
	out := terminalOutput(t, client, nil, "", `tty; stty size; echo $TERM; echo $SSH_TTY; [ -t 2 ] && echo stderr too`)
	lines := strings.Split(strings.TrimSpace(out), "\r\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[0], "/dev/") || lines[1] != "24 80" || lines[2] != "vt220" ||
		lines[3] != lines[0] || lines[4] != "stderr too" {
		t.Errorf("got %q", lines)
	}
}

func TestTerminalModes(t *testing.T) {
	client := startOrigin(t).dial(t)
	const show = `stty -a | tr -s ' ;' '\n\n' | grep -xE -e '-?(echo|icanon|isig|ixon|iutf8|onlcr|opost)' | sort | tr '\n' ' '`
	on := terminalOutput(t, client, gossh.TerminalModes{gossh.ECHO: 1, gossh.IXON: 1, gossh.IUTF8: 1, gossh.ONLCR: 1}, "", show)
	off := terminalOutput(t, client, gossh.TerminalModes{gossh.ECHO: 0, gossh.IXON: 0, gossh.IUTF8: 0, gossh.ONLCR: 0}, "", show)
	// sort ignores the hyphen in some locales and not in others.
	for _, flag := range []string{"echo", "ixon", "iutf8", "onlcr"} {
		if !strings.Contains(" "+on, " "+flag+" ") || !strings.Contains(" "+off, " -"+flag+" ") {
			t.Errorf("%s: switched on %q, switched off %q", flag, on, off)
		}
	}
	if !strings.Contains(" "+off, " icanon ") {
		t.Errorf("a mode that was not named has changed: %q", off)
	}
	chars := terminalOutput(t, client, gossh.TerminalModes{gossh.VERASE: 8, gossh.VINTR: 255}, "", `stty -a`)
	if !strings.Contains(chars, "erase = ^H;") || !strings.Contains(chars, "intr = <undef>;") {
		t.Errorf("control characters: %q", chars)
	}
}

// TestTerminalInterrupt types ^C, which the terminal turns into a signal.
func TestTerminalInterrupt(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	if err := s.RequestPty("vt220", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	stdin, _ := s.StdinPipe()
	stdout, _ := s.StdoutPipe()
	if err := s.Start(`trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done`); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := stdin.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	wantExit(t, s.Wait(), 9)
}

func TestWindowChange(t *testing.T) {
	client := startOrigin(t).dial(t)
	s := newSession(t, client)
	if err := s.RequestPty("vt220", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	stdin, _ := s.StdinPipe()
	stdout, _ := s.StdoutPipe()
	if err := s.Start(`trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done`); err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if err := s.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "50 132\r\n" {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestShellOnTerminal(t *testing.T) {
	client := startOrigin(t, func(cfg *devorigin.Config) { cfg.Motd = "Welcome\nto the demo\n" }).dial(t)
	s := newSession(t, client)
	if err := s.RequestPty("vt220", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s.Stdout, s.Stdin = &out, strings.NewReader("echo $((40+2)) $0\nexit 6\n")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	wantExit(t, s.Wait(), 6)
	if !strings.HasPrefix(out.String(), "Welcome\r\nto the demo\r\n") || !strings.Contains(out.String(), "42 /bin/sh\r\n") {
		t.Errorf("got %q", out.String())
	}
}

func TestTerminalNeedsPermission(t *testing.T) {
	o := startOrigin(t)
	client, err := o.dialAs("demo", o.login(t, func(c *gossh.Certificate) { c.Extensions = nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := newSession(t, client).RequestPty("vt220", 24, 80, nil); err == nil {
		t.Error("a terminal without permit-pty")
	}
	if out := run(t, client, "echo works"); out != "works\n" {
		t.Errorf("got %q", out)
	}
}

// TestBackgroundJobOnTerminal leaves a job behind that keeps the terminal open:
// the session must end all the same, with all its output.
func TestBackgroundJobOnTerminal(t *testing.T) {
	client := startOrigin(t).dial(t)
	out := terminalOutput(t, client, gossh.TerminalModes{gossh.ONLCR: 0}, "",
		`trap '' HUP; sleep 1000 & echo $!; head -c 100000 /dev/zero | tr '\0' x`)
	pid, data, _ := strings.Cut(out, "\n")
	kill(t, pid)
	if len(data) != 100000 {
		t.Errorf("got %d bytes of output, want 100000", len(data))
	}
}

func kill(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil || n < 2 {
		t.Fatalf("not a process id: %q", pid)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Errorf("process %d: %v", n, err)
	}
}

// wantGone waits until the process has ended.
func wantGone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") { // a zombie is for init to collect
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("process %s is still there: %s", pid, stat)
			kill(t, pid)
			return
		}
	}
}

// TestDisconnectEndsProcesses drops the connection, closes only the channel, or
// stops the server, under a command and what it has started.
func TestDisconnectEndsProcesses(t *testing.T) {
	const polite = `sleep 1000 & echo $$ $!; wait`
	const stubborn = `trap '' HUP; (trap '' HUP; sleep 1000) & echo $$ $!; while :; do wait; done`
	for _, command := range []struct{ name, text string }{{"polite", polite}, {"ignoring SIGHUP", stubborn}} {
		for _, terminal := range []bool{false, true} {
			for _, end := range []string{"connection", "channel", "server"} {
				t.Run(fmt.Sprintf("%s, terminal %v, %s", command.name, terminal, end), func(t *testing.T) {
					t.Parallel() // they mostly wait
					o := startOrigin(t)
					client := o.dial(t)
					s := newSession(t, client)
					if terminal {
						if err := s.RequestPty("vt220", 24, 80, nil); err != nil {
							t.Fatal(err)
						}
					}
					stdin, _ := s.StdinPipe()
					defer stdin.Close()
					stdout, _ := s.StdoutPipe()
					if err := s.Start(command.text); err != nil {
						t.Fatal(err)
					}
					line, err := bufio.NewReader(stdout).ReadString('\n')
					if err != nil {
						t.Fatal(err)
					}
					switch end {
					case "connection":
						client.Close()
					case "channel":
						s.Close()
					case "server":
						o.stop()
						if err := <-o.served; err != nil {
							t.Errorf("Serve: %v, want nil", err)
						}
					}
					for _, pid := range strings.Fields(line) {
						wantGone(t, pid)
					}
				})
			}
		}
	}
}

func TestSFTP(t *testing.T) {
	o := startOrigin(t)
	client, err := sftp.NewClient(o.dial(t))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	data := make([]byte, 3<<20)
	rand.Read(data)
	f, err := client.Create("upload.bin") // a relative name
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if stored, err := os.ReadFile(filepath.Join(o.dir, "upload.bin")); err != nil || !bytes.Equal(stored, data) {
		t.Errorf("%d bytes arrived of %d, %v", len(stored), len(data), err)
	}
	entries, err := client.ReadDir(".")
	if err != nil || len(entries) != 1 || entries[0].Name() != "upload.bin" {
		t.Errorf("got %v, %v", entries, err)
	}
	if _, err := client.Stat("missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

func TestSFTPExitStatus(t *testing.T) {
	client := startOrigin(t).dial(t)
	for input, want := range map[string]uint32{"": 0, "\x00\x00\x00\x05\xff\x00\x00\x00\x00": 1} {
		ch, requests, err := client.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := ch.SendRequest("subsystem", true, gossh.Marshal(struct{ Name string }{"sftp"})); !ok || err != nil {
			t.Fatalf("sftp: %v, %v", ok, err)
		}
		_, err = io.WriteString(ch, input)
		if err := errors.Join(err, ch.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		var exit struct{ Status uint32 }
		for req := range requests {
			if req.Type == "exit-status" {
				if err := gossh.Unmarshal(req.Payload, &exit); err != nil {
					t.Error(err)
				}
				break
			}
		}
		if exit.Status != want {
			t.Errorf("after %q: exit status %d, want %d", input, exit.Status, want)
		}
		ch.Close()
	}
}
