package gateway

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// keyboard is a terminal at which text is typed.
type keyboard struct {
	io.Reader
	shown strings.Builder
}

func (k *keyboard) Write(p []byte) (int, error) { return k.shown.Write(p) }

func TestReadPurpose(t *testing.T) {
	for name, test := range map[string]struct {
		typed, want, shows string
		left               string // for the session
	}{
		"plain":              {"ticket 4711\rls\r", "ticket 4711", "? ticket 4711\r\n", "ls\r"},
		"line feed":          {"ticket 4711\n", "ticket 4711", "", ""},
		"backspaces":         {"\x7f\x7ftickez\x7ft 4711\r", "ticket 4711", "tickez\b \bt 4711", ""},
		"starting over":      {"nonsense\x15ticket 4711\r", "ticket 4711", "", ""},
		"cursor keys":        {"\x1b[D\x1b[1;5Dticket\x1bOA 4711\x1bx\r", "ticket 4711", "? ticket 4711\r\n", ""},
		"other alphabets":    {"Prüfung für 会議室\r", "Prüfung für 会議室", "", ""},
		"bytes that are not": {"ticket\xff\xfe 4711\r", "ticket 4711", "ticket\a", ""},
		"control characters": {"ticket\x00\x07\x1f 4711\r", "ticket 4711", "? ticket 4711\r\n", ""},
		"too short at first": {"x\r          \rticket 4711\r", "ticket 4711", "say it in 10 to 500 characters\r\n", ""},
		"too short for good": {"x\rx\rx\rticket 4711\r", "", "", "ticket 4711\r"},
		"too long":           {strings.Repeat("a", 501) + "\r", strings.Repeat("a", 500), "\a", ""},
		"given up":           {"ticket 4711\x03", "", "", ""},
		"end of file":        {"\x04ticket 4711\r", "", "", "ticket 4711\r"},
		"gone":               {"ticket 4711", "", "", ""},
	} {
		in := strings.NewReader(test.typed)
		k := &keyboard{Reader: in}
		got, err := readPurpose(k, "Why? ")
		if got != test.want || (err == nil) != (test.want != "") || !strings.Contains(k.shown.String(), test.shows) {
			t.Errorf("%s: %q, %v; the terminal shows %q", name, got, err, k.shown.String())
		}
		if left, _ := io.ReadAll(in); string(left) != test.left {
			t.Errorf("%s: %q is left for the session", name, left)
		}
	}
}

func FuzzReadPurpose(f *testing.F) {
	f.Add("ticket 4711\r")
	f.Add("\x1b[1;5Dpr\xc3\xbcfung \x7f\r")
	f.Fuzz(func(t *testing.T, typed string) {
		k := &keyboard{Reader: strings.NewReader(typed)}
		purpose, err := readPurpose(k, "")
		if again, invalid := purposeOf(purpose); err == nil && (invalid != nil || again != purpose) {
			t.Errorf("%q was taken", purpose)
		}
		if shown := k.shown.String(); strings.ContainsAny(shown, "\x1b\x00") {
			t.Errorf("the terminal got %q", shown)
		}
	})
}

// asking starts a gateway whose one rule asks what it is for.
func asking(t *testing.T, channels *sshgate.Channels) *bench {
	return limited(t, channels, func(r *sshgate.Rule) { r.Purpose = true })
}

var aPty = ptyRequest{Term: "xterm", Columns: 80, Rows: 24}

// shellOn opens a shell on a terminal and returns when it was granted.
func shellOn(t *testing.T, client *gossh.Client) (gossh.Channel, <-chan *gossh.Request) {
	t.Helper()
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range []struct {
		kind    string
		payload []byte
	}{{"pty-req", gossh.Marshal(aPty)}, {requestShell, nil}} {
		if ok, err := ch.SendRequest(req.kind, true, req.payload); err != nil || !ok {
			t.Fatalf("%s was answered %v, %v", req.kind, ok, err)
		}
	}
	return ch, requests
}

func TestPurposeIsAskedAtATerminal(t *testing.T) {
	b := asking(t, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	ch, requests := shellOn(t, client)
	shown := make([]byte, len("\r\nWhy do you need web1? (it goes on record): "))
	if _, err := io.ReadFull(ch, shown); err != nil || string(shown) != "\r\nWhy do you need web1? (it goes on record): " {
		t.Fatalf("the terminal shows %q, %v", shown, err)
	}
	if got := w.all(); len(got) > 0 || w.cert != nil {
		t.Errorf("the origin saw %q before the answer", got)
	}
	fmt.Fprint(ch, "ticket 4711\rls\r")
	_ = ch.CloseWrite()
	out, _ := io.ReadAll(ch)
	if !strings.HasPrefix(string(out), "ticket 4711\r\n") || !strings.HasSuffix(string(out), requestShell) {
		t.Errorf("the terminal shows %q", out)
	}
	for range requests {
	}
	ch.Close()
	// It is not asked again on this connection.
	if out, errs, exit := outcome(t, client, requestExec, text{"uptime"}); exit != 0 || out != "exec uptime" {
		t.Errorf("%q, %q, %d", out, errs, exit)
	}
	client.Close()
	wait()
	if got := w.all(); !slices.Equal(got, []string{"pty-req", requestShell, "exec uptime"}) {
		t.Errorf("the origin saw %q", got)
	}
	if w.input.String() != "ls\r" {
		t.Errorf("the origin got %q", &w.input)
	}
	decisions := 0
	for _, e := range b.events.Events() {
		switch e.Kind {
		case sshgate.EventDecision, sshgate.EventSessionStart, sshgate.EventSessionEnd:
			if e.Purpose != "ticket 4711" {
				t.Errorf("%+v", e)
			}
			if e.Kind == sshgate.EventDecision {
				decisions++
			}
		}
	}
	if decisions != 2 {
		t.Errorf("%d decisions are on record", decisions)
	}
}

func TestPurposeIsNotSaid(t *testing.T) {
	b := asking(t, nil)
	client := b.signedIn()
	ch, requests := shellOn(t, client)
	fmt.Fprint(ch, "\x03")
	_, _ = io.ReadAll(ch)
	errs, _ := io.ReadAll(ch.Stderr())
	if !strings.Contains(string(errs), "you did not say what you need web1 for (request r-") {
		t.Errorf("the user reads %q", errs)
	}
	for range requests {
	}
	ch.Close()
	for _, request := range []string{requestExec, requestSubsystem} {
		if _, errs, exit := outcome(t, client, request, text{"sftp"}); exit != exitRefused || !strings.Contains(errs, purposeVariable) {
			t.Errorf("%s: %q, %d", request, errs, exit)
		}
	}
	_, _, err := client.OpenChannel(typeDirectTCP, gossh.Marshal(directTCP{Host: "db1", Port: 80}))
	if err == nil || !strings.Contains(err.Error(), "in a session of this connection first") {
		t.Errorf("a forward: %v", err)
	}
	client.Close()
	for _, e := range b.events.Events() {
		if e.Kind == sshgate.EventDecision && (e.Allowed || e.Reason == "") {
			t.Errorf("%+v", e)
		}
	}
}

func TestPurposeOfAVariable(t *testing.T) {
	b := asking(t, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	for _, value := range []string{"short", "ticket 4711"} {
		want := map[string]int{"short": exitRefused}[value]
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Setenv(purposeVariable, value); err != nil {
			t.Error(err)
		}
		err = s.Run("uptime")
		var exit *gossh.ExitError
		if want == 0 && err != nil || want != 0 && (!errors.As(err, &exit) || exit.ExitStatus() != want) {
			t.Errorf("%s: %v", value, err)
		}
	}
	// What is said once it runs comes too late for the record.
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	env := gossh.Marshal(struct{ Name, Value string }{purposeVariable, "something harmless"})
	_, _ = ch.SendRequest(requestExec, true, gossh.Marshal(text{"uptime"}))
	if ok, err := ch.SendRequest("env", true, env); ok || err != nil {
		t.Errorf("a purpose after the fact was answered %v, %v", ok, err)
	}
	_ = ch.CloseWrite()
	_, _ = io.ReadAll(ch)
	for range requests {
	}
	ch.Close()
	client.Close()
	wait()
	for _, e := range b.events.Events() {
		if e.Purpose == "something harmless" {
			t.Errorf("%+v", e)
		}
	}
	if got := w.all(); !slices.Equal(got, []string{"exec uptime", "exec uptime"}) {
		t.Errorf("the origin saw %q", got)
	}
}

// TestPurposeOfAnotherRule: the session opens by one rule, and the shell in it
// wants to know.
func TestPurposeOfAnotherRule(t *testing.T) {
	policy := allow(t, "web1", alice.Email, "deploy")
	rules := &policy.Applications[0].Rules
	more := (*rules)[0]
	more.Name, more.Purpose, more.Channels = "why", true, &sshgate.Channels{Shell: true}
	(*rules)[0].Channels = &sshgate.Channels{Exec: []sshgate.CommandPattern{"uptime"}}
	*rules = append(*rules, more)
	b := newBench(t, func(cfg *Config) { cfg.Policy = func() *sshgate.Policy { return policy } })
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	if _, errs, exit := outcome(t, client, requestExec, text{"uptime"}); exit != 0 {
		t.Errorf("%q, %d", errs, exit)
	}
	ch, requests := shellOn(t, client)
	fmt.Fprint(ch, "ticket 4711\r")
	_ = ch.CloseWrite()
	out, _ := io.ReadAll(ch)
	if !strings.Contains(string(out), "Why do you need web1?") || !strings.HasSuffix(string(out), requestShell) {
		t.Errorf("the terminal shows %q", out)
	}
	for range requests {
	}
	ch.Close()
	client.Close()
	wait()
}

func TestPurposeInTime(t *testing.T) {
	b := asking(t, nil)
	c := newConn(b.server, dialTCP(t, b.address))
	defer c.close(errClientGone)
	silent, typist := io.Pipe()
	defer typist.Close()
	_, err := c.askPurpose(silentChannel{Reader: silent}, "web1", 10*time.Millisecond)
	if !errors.Is(err, errNotSaid) {
		t.Errorf("got %v", err)
	}
}

// silentChannel is a terminal at which nobody types.
type silentChannel struct {
	gossh.Channel
	io.Reader
}

func (s silentChannel) Read(p []byte) (int, error)  { return s.Reader.Read(p) }
func (s silentChannel) Write(p []byte) (int, error) { return len(p), nil }
