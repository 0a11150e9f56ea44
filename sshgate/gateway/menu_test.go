package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/console"
	"github.com/sshgate/sshgate/sshgate/console/picker"
	gossh "golang.org/x/crypto/ssh"
)

// fakeConsole answers as a test says.
type fakeConsole struct {
	run  func(ctx context.Context, who console.Caller, line string, out console.Output) int
	pick func(ctx context.Context, who console.Caller, term picker.Terminal) (sshgate.Target, []byte, int)
}

func (f *fakeConsole) RunLine(ctx context.Context, who console.Caller, line string, out console.Output) int {
	return f.run(ctx, who, line, out)
}

func (f *fakeConsole) Pick(ctx context.Context, who console.Caller, term picker.Terminal) (sshgate.Target, []byte, int) {
	return f.pick(ctx, who, term)
}

// newMenuBench is a bench with a console, and a client that names no origin.
func newMenuBench(t *testing.T, f *fakeConsole) (*bench, *gossh.Client) {
	t.Helper()
	b := newBench(t, func(cfg *Config) { cfg.Console = f })
	key := newSigner(t)
	b.bind(key, time.Now())
	client, err := b.dial("alice", gossh.PublicKeys(key))
	if err != nil {
		t.Fatal(err)
	}
	return b, client
}

// TestConsoleCommand pins, as for origins, that nothing of a short command is lost.
func TestConsoleCommand(t *testing.T) {
	var lines sync.Map
	_, client := newMenuBench(t, &fakeConsole{run: func(_ context.Context, who console.Caller, line string, out console.Output) int {
		if who.Identity.Key() != alice.Key() || who.Key == "" || !who.Addr.IsLoopback() || who.Connection == "" || who.Local {
			t.Errorf("it is %+v", who)
		}
		lines.Store(line, true)
		fmt.Fprint(out.Stdout, "out")
		fmt.Fprint(out.Stderr, "err")
		return 3
	}})
	defer client.Close()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				if err := oneCommand(client); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	err = s.Shell() // without a terminal
	if err == nil {
		err = s.Wait()
	}
	var exit *gossh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("the shell ended with %v", err)
	}
	for _, want := range []string{"x", ""} {
		if _, ok := lines.Load(want); !ok {
			t.Errorf("%q was not run", want)
		}
	}
	s, err = client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestSubsystem("sftp"); err != nil {
		t.Errorf("a subsystem is refused before its user reads why: %v", err)
	}
}

// TestConsoleEndsWithItsClient: when the channel is closed, and at a Ctrl-C where
// there is a terminal.
func TestConsoleEndsWithItsClient(t *testing.T) {
	running := make(chan struct{})
	ended := make(chan error)
	_, client := newMenuBench(t, &fakeConsole{run: func(ctx context.Context, _ console.Caller, _ string, _ console.Output) int {
		running <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return 0
	}})
	defer client.Close()
	for _, pty := range []bool{false, true} {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		in, err := s.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if pty {
			if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Start("events --follow"); err != nil {
			t.Fatal(err)
		}
		<-running
		if pty {
			_, _ = in.Write([]byte("a\x03"))
			if cause := <-ended; !errors.Is(cause, errInterrupted) {
				t.Errorf("it ended since %v", cause)
			}
			var exit *gossh.ExitError
			if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 130 {
				t.Errorf("the session ended with %v", err)
			}
			continue
		}
		s.Close()
		if cause := <-ended; !errors.Is(cause, errClientGone) {
			t.Errorf("it ended since %v", cause)
		}
	}
}

// heard collects what a session says on both its streams.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// played is what an origin saw of a session.
type played struct {
	requests []string
	input    string
}

// play is an origin that reads a line and exits with 7, unless it refuses to start.
func play(seen chan<- played, refuse bool) func(gossh.NewChannel) {
	return func(nc gossh.NewChannel) {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		defer ch.Close()
		var p played
		for req := range requests {
			text := req.Type
			switch req.Type {
			case requestPTY:
				var pty ptyRequest
				_ = gossh.Unmarshal(req.Payload, &pty)
				text += fmt.Sprintf(" %s %dx%d %q", pty.Term, pty.Columns, pty.Rows, pty.Modes)
			case requestEnv:
				var e struct{ Name, Value string }
				_ = gossh.Unmarshal(req.Payload, &e)
				text += " " + e.Name + "=" + e.Value
			}
			p.requests = append(p.requests, text)
			starts := startsCommand(req)
			_ = req.Reply(!starts || !refuse, nil)
			if starts && refuse {
				continue
			}
			if starts {
				buf := make([]byte, 100)
				for !strings.Contains(p.input, "\n") {
					n, err := ch.Read(buf)
					p.input += string(buf[:n])
					if err != nil {
						break
					}
				}
				fmt.Fprint(ch, "done")
				sendExit(ch, 7)
				break
			}
		}
		seen <- p
	}
}

// pickSession opens a session with a terminal that is resized while it picks.
func pickSession(t *testing.T, client *gossh.Client, picking <-chan struct{}, picked chan<- struct{}) (*gossh.Session, io.WriteCloser, *heard) {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &heard{}
	s.Stdout, s.Stderr = out, out
	_ = s.Setenv("LANG", "C")
	_ = s.Setenv("NO_COLOR", "1")
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{gossh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	<-picking
	if err := s.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	close(picked)
	return s, in, out
}

func TestPickedSession(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		picking, picked := make(chan struct{}), make(chan struct{})
		b, client := newMenuBench(t, &fakeConsole{pick: func(ctx context.Context, _ console.Caller, term picker.Terminal) (sshgate.Target, []byte, int) {
			if term.Type != "xterm" || term.Size != (picker.Size{Width: 80, Height: 24}) || !slices.Equal(term.Env, []string{"NO_COLOR=1"}) {
				t.Errorf("the terminal is %+v", term)
			}
			close(picking)
			if size := <-term.Resize; size != (picker.Size{Width: 132, Height: 50}) {
				t.Errorf("resized to %v", size)
			}
			<-picked
			buf := make([]byte, 100)
			n, err := term.In.Read(ctx, buf)
			if err != nil || string(buf[:n]) != "\rwho" {
				t.Errorf("typed %q, %v", buf[:n], err)
			}
			// A read that nobody waits for any longer.
			soon, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			if _, err := term.In.Read(soon, buf[n:]); err == nil {
				t.Error("something was typed")
			}
			return sshgate.Target{Login: "deploy", Origin: "web1"}, buf[1:n], 0
		}})
		seen := make(chan played, 1)
		wait := b.serveOrigin(play(seen, refuse))
		s, in, out := pickSession(t, client, picking, picked)
		_, _ = in.Write([]byte("\rwho"))
		b.event(sshgate.EventSessionStart)
		_, _ = in.Write([]byte("ami\n"))
		err := s.Wait()
		var exit *gossh.ExitError
		want := 7
		if refuse {
			want = exitLost
		}
		if !errors.As(err, &exit) || exit.ExitStatus() != want {
			t.Errorf("the session ended with %v, want %d", err, want)
		}
		p := <-seen
		requests := []string{"env LANG=C", "env NO_COLOR=1", `pty-req xterm 132x50 "5\x00\x00\x00\x00\x00"`, "shell"}
		if !slices.Equal(p.requests, requests) {
			t.Errorf("the origin was asked for %q, want %q", p.requests, requests)
		}
		switch {
		case refuse && !strings.Contains(out.String(), "web1 refused the session (request r-"):
			t.Errorf("the user reads %q", out)
		case !refuse && (p.input != "whoami\n" || !strings.HasSuffix(out.String(), "done")):
			t.Errorf("the origin read %q, the user %q", p.input, out)
		}
		if decision := b.event(sshgate.EventDecision); !decision.Allowed || decision.Origin != "web1" || decision.Login != "deploy" {
			t.Errorf("decided %+v", decision)
		}
		// The connection goes on, without the origin's.
		wait()
		if _, _, err := client.SendRequest(requestKeepalive, true, nil); err != nil {
			t.Errorf("the connection has ended: %v", err)
		}
		if sessions := b.server.Sessions(); len(sessions) != 0 {
			t.Errorf("there are %v", sessions)
		}
		client.Close()
	}
}

// TestPickedTargetIsDecided: that it was picked counts for nothing.
func TestPickedTargetIsDecided(t *testing.T) {
	target := sshgate.Target{Login: "root", Origin: "web1"}
	b, client := newMenuBench(t, &fakeConsole{pick: func(context.Context, console.Caller, picker.Terminal) (sshgate.Target, []byte, int) {
		return target, nil, 0
	}})
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out heard
	s.Stdout, s.Stderr = &out, &out
	if err := errors.Join(s.RequestPty("xterm", 24, 80, nil), s.Shell()); err != nil {
		t.Fatal(err)
	}
	var exit *gossh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != exitLost || !strings.Contains(out.String(), `there is no origin "web1" that you may reach`) {
		t.Errorf("the session ended with %v: %q", err, &out)
	}
	if decision := b.event(sshgate.EventDecision); decision.Allowed {
		t.Errorf("decided %+v", decision)
	}
}

// TestPickerLeft ends with its status, on dumb terminals with the list, and when the
// gateway shuts down with a word.
func TestPickerLeft(t *testing.T) {
	picking := make(chan struct{}, 1)
	b, client := newMenuBench(t, &fakeConsole{
		run: func(_ context.Context, _ console.Caller, line string, out console.Output) int {
			fmt.Fprintf(out.Stdout, "list %q\n", line)
			return 0
		},
		pick: func(ctx context.Context, _ console.Caller, term picker.Terminal) (sshgate.Target, []byte, int) {
			if term.Type == "vt100" {
				return sshgate.Target{}, nil, console.ExitLeft
			}
			picking <- struct{}{}
			<-ctx.Done()
			return sshgate.Target{}, nil, console.ExitFailed
		},
	})
	defer client.Close()
	shell := func(term string) (*gossh.Session, *heard) {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out := &heard{}
		s.Stdout, s.Stderr = out, out
		if err := errors.Join(s.RequestPty(term, 24, 80, nil), s.Shell()); err != nil {
			t.Fatal(err)
		}
		return s, out
	}
	s, out := shell("vt100")
	var exit *gossh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 130 {
		t.Errorf("the session ended with %v: %q", err, out)
	}
	s, out = shell("dumb")
	if err := s.Wait(); err != nil || out.String() != "list \"\"\r\n" {
		t.Errorf("the session ended with %v: %q", err, out)
	}
	s, out = shell("xterm")
	<-picking
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = b.server.Shutdown(ctx)
	}()
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != exitLost || !strings.Contains(out.String(), "the gateway is shutting down") {
		t.Errorf("the session ended with %v: %q", err, out)
	}
}

// TestTooManyPick get the list.
func TestTooManyPick(t *testing.T) {
	picking := make(chan struct{})
	_, client := newMenuBench(t, &fakeConsole{
		run: func(_ context.Context, _ console.Caller, _ string, out console.Output) int {
			fmt.Fprint(out.Stdout, "list")
			return 0
		},
		pick: func(ctx context.Context, _ console.Caller, _ picker.Terminal) (sshgate.Target, []byte, int) {
			picking <- struct{}{}
			<-ctx.Done()
			return sshgate.Target{}, nil, console.ExitLeft
		},
	})
	defer client.Close()
	shell := func() (*gossh.Session, *heard) {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out := &heard{}
		s.Stdout = out
		if err := errors.Join(s.RequestPty("xterm", 24, 80, nil), s.Shell()); err != nil {
			t.Fatal(err)
		}
		return s, out
	}
	var first *gossh.Session
	for range maxPickingOfConn {
		first, _ = shell()
		<-picking
	}
	s, out := shell()
	if err := s.Wait(); err != nil || out.String() != "list" {
		t.Errorf("one more ended with %v: %q", err, out)
	}
	first.Close()
	_ = first.Wait() // it was closed
	for {            // until the place is free
		s, _ = shell()
		done := make(chan error, 1)
		go func() { done <- s.Wait() }()
		select {
		case <-picking:
			return
		case <-done:
		}
	}
}

// TestConsoleRequestFlood bounds what a client can have kept.
func TestConsoleRequestFlood(t *testing.T) {
	_, client := newMenuBench(t, &fakeConsole{})
	ch, _, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		if _, err := ch.SendRequest(requestEnv, false, gossh.Marshal(struct{ Name, Value string }{"A", strings.Repeat("x", 1000)})); err != nil {
			return
		}
	}
	if err := client.Wait(); err == nil {
		t.Error("the client was not cut off")
	}
}
