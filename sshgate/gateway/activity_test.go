package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pkg/sftp"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// limited starts a gateway whose one rule has these limits.
func limited(t *testing.T, channels *sshgate.Channels, change func(*sshgate.Rule)) *bench {
	t.Helper()
	policy := allow(t, "web1", alice.Email, "deploy")
	rule := &policy.Applications[0].Rules[0]
	rule.Channels = channels
	if change != nil {
		change(rule)
	}
	return newBench(t, func(cfg *Config) { cfg.Policy = func() *sshgate.Policy { return policy } })
}

// witness plays a sshd that notes what it is asked for.
type witness struct {
	t  *testing.T
	mu sync.Mutex
	// seen are the requests, "exec uptime" and the like, and the channels other
	// than sessions.
	seen  []string
	cert  *gossh.Certificate
	input bytes.Buffer
}

func (w *witness) note(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, s)
}

func (w *witness) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// serve takes the gateway's connection. Commands print their own line and end
// with 0; a command that begins with "missing" is refused.
func (w *witness) serve(b *bench) (wait func()) {
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			return // the test ended
		}
		defer nc.Close()
		cfg := &gossh.ServerConfig{PublicKeyCallback: func(_ gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
			w.cert = key.(*gossh.Certificate)
			return nil, nil
		}}
		cfg.AddHostKey(b.hostKey)
		_, channels, requests, err := gossh.NewServerConn(nc, cfg)
		if err != nil {
			w.t.Error(err)
			return
		}
		all.Go(func() {
			for req := range requests {
				w.note(req.Type)
				_ = req.Reply(true, nil)
			}
		})
		for ch := range channels {
			all.Go(func() { w.channel(ch) })
		}
	})
	return all.Wait
}

func (w *witness) channel(nc gossh.NewChannel) {
	if nc.ChannelType() != typeSession {
		w.note(nc.ChannelType())
		_ = nc.Reject(gossh.ConnectionFailed, "the witness opens nothing")
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		w.t.Error(err)
		return
	}
	defer ch.Close()
	for req := range requests {
		line := describeStart(req)
		w.note(line)
		if strings.Contains(line, "missing") {
			_ = req.Reply(false, nil)
			continue
		}
		_ = req.Reply(true, nil)
		if startsCommand(req) {
			input, _ := io.ReadAll(ch)
			w.mu.Lock()
			w.input.Write(input)
			w.mu.Unlock()
			fmt.Fprint(ch, line)
			sendExit(ch, 0)
			return
		}
	}
}

func pattern(t *testing.T, s string) sshgate.DestinationPattern {
	t.Helper()
	p, err := sshgate.ParseDestinationPattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outcome starts something in a new session and returns how that ended.
func outcome(t *testing.T, client *gossh.Client, request string, payload any) (stdout, stderr string, exit int) {
	t.Helper()
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	var data []byte
	if payload != nil {
		data = gossh.Marshal(payload)
	}
	if ok, err := ch.SendRequest(request, true, data); err != nil || !ok {
		t.Fatalf("%s was answered %v, %v", request, ok, err)
	}
	_ = ch.CloseWrite()
	var out, errs []byte
	var readers sync.WaitGroup
	readers.Go(func() { out, _ = io.ReadAll(ch) })
	readers.Go(func() { errs, _ = io.ReadAll(ch.Stderr()) })
	readers.Wait()
	exit = -1
	for req := range requests {
		var m struct{ Status uint32 }
		if req.Type == requestExitStatus && gossh.Unmarshal(req.Payload, &m) == nil {
			exit = int(m.Status)
		}
	}
	return string(out), string(errs), exit
}

type text struct{ Text string }

func TestWhatMayRun(t *testing.T) {
	b := limited(t, &sshgate.Channels{
		Exec: []sshgate.CommandPattern{"uptime", "echo *"}, SCP: sshgate.Transfer{Read: true},
		Git: sshgate.GitAccess{Read: []sshgate.PathPattern{"team/*"}}, Subsystems: []string{"netconf"},
	}, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	for _, test := range []struct {
		request, text string
		refused       string // what the user may not
	}{
		{requestExec, "uptime", ""},
		{requestExec, "echo a b", ""},
		{requestExec, "scp -f /etc/motd", ""},
		{requestExec, "git-upload-pack 'team/app.git'", ""},
		{requestSubsystem, "netconf", ""},
		{requestShell, "", "open a shell on web1"},
		{requestExec, "", "run this command"},
		{requestExec, "id", "run this command"},
		{requestExec, "uptime\nid", "run this command"},
		{requestExec, "uptime\x00id", "run this command"},
		{requestExec, " uptime", "run this command"},
		{requestExec, "echo $(id)", "run this command"},
		{requestExec, "echo a;id", "run this command"},
		{requestExec, "scp -t /etc/motd", "copy files to web1"},
		{requestExec, "scp -f /etc/motd -t /etc", "run this command"},
		{requestExec, "scp -f $(id)", "run this command"},
		{requestExec, "git-receive-pack 'team/app.git'", "push to this repository"},
		{requestExec, "git-upload-pack 'other/app.git'", "read this repository"},
		{requestExec, "git-upload-pack 'team/../other/app.git'", "read this repository"},
		{requestExec, "git-upload-pack 'team/app.git'; id", "run this command"},
		{requestExec, "git-lfs-authenticate team/app.git download", "run this command"},
		{requestSubsystem, "sftp", "use sftp"},
		{requestSubsystem, "sftp ", "use this subsystem"},
		{requestSubsystem, "netconf\x00", "use this subsystem"},
	} {
		w.check(client, test.request, test.text, test.refused)
	}
	client.Close()
	wait()
	if _, has := w.cert.Extensions["permit-pty"]; !has || len(w.cert.Extensions) != 1 {
		t.Errorf("the certificate's extensions are %v", w.cert.Extensions)
	}
	for _, e := range b.events.Events() {
		if e.Kind == sshgate.EventDecision && !e.Allowed && (e.Detail == "" || e.Activity == "" || e.Request == "") {
			t.Errorf("a refusal is recorded as %+v", e)
		}
	}
}

// check starts something and looks at what the user and the origin get to see.
// refused is what the user may not, empty where they may.
func (w *witness) check(client *gossh.Client, request, line, refused string) {
	w.t.Helper()
	var payload any
	if request != requestShell {
		payload = text{line}
	}
	before := len(w.all())
	out, errs, exit := outcome(w.t, client, request, payload)
	now := w.all()
	if refused == "" {
		if want := request + " " + line; exit != 0 || out != want || now[len(now)-1] != want {
			w.t.Errorf("%s %q: %q, %q, exit %d", request, line, out, errs, exit)
		}
		return
	}
	if exit != exitRefused || out != "" || !strings.Contains(errs, "sshgate: you may not "+refused) || !strings.Contains(errs, "(request r-") {
		w.t.Errorf("%s %q: %q, %q, exit %d", request, line, out, errs, exit)
	}
	if len(now) != before {
		w.t.Errorf("%s %q: the origin saw %q", request, line, now[before:])
	}
}

// TestMalformedStartsAreRefused: what the gateway cannot read it does not pass on.
func TestMalformedStartsAreRefused(t *testing.T) {
	b := newBench(t, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	if _, errs, exit := outcome(t, client, requestExec, struct{ A, B string }{"uptime", "more"}); exit != exitRefused || !strings.Contains(errs, "malformed") {
		t.Errorf("%q, exit %d", errs, exit)
	}
	client.Close()
	wait()
	if got := w.all(); len(got) != 0 {
		t.Errorf("the origin saw %q", got)
	}
	if got := w.cert.Extensions; len(got) != 5 {
		t.Errorf("the certificate's extensions are %v", got)
	}
}

// TestNothingFollowsARefusal sends one request after the other without waiting.
func TestNothingFollowsARefusal(t *testing.T) {
	b := limited(t, &sshgate.Channels{Exec: []sshgate.CommandPattern{"uptime", "missing"}, SFTP: sshgate.Transfer{Read: true}, Agent: true, X11: true}, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	for _, lines := range [][]string{{"id", "uptime"}, {"missing", "id", "uptime"}} {
		ch, requests, err := client.OpenChannel(typeSession, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			_, _ = ch.SendRequest(requestExec, false, gossh.Marshal(text{line}))
		}
		for _, request := range []string{requestShell, requestAgent, requestX11, "pty-req"} {
			_, _ = ch.SendRequest(request, false, nil)
		}
		_, _ = ch.SendRequest("env", false, gossh.Marshal(struct{ Name, Value string }{"A", "b"}))
		_, _ = io.ReadAll(ch)
		for range requests {
		}
		ch.Close()
	}
	// One command a session, allowed or not.
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, _ = ch.SendRequest(requestExec, false, gossh.Marshal(text{"uptime"}))
	}
	_ = ch.CloseWrite()
	_, _ = io.ReadAll(ch)
	for range requests {
	}
	ch.Close()
	client.Close()
	wait()
	if got := w.all(); !slices.Equal(got, []string{"exec missing", "exec uptime"}) {
		t.Errorf("the origin saw %q", got)
	}
}

func TestWhatMayBeLent(t *testing.T) {
	for _, agent := range []bool{false, true} {
		b := limited(t, &sshgate.Channels{Shell: true, Agent: agent}, nil)
		w := &witness{t: t}
		wait := w.serve(b)
		client := b.signedIn()
		ch, _, err := client.OpenChannel(typeSession, nil)
		if err != nil {
			t.Fatal(err)
		}
		for request, want := range map[string]bool{requestAgent: agent, requestX11: false, "start@vendor.example": false, "pty-req": true} {
			if ok, err := ch.SendRequest(request, true, nil); err != nil || ok != want {
				t.Errorf("agent %v: %s was answered %v, %v", agent, request, ok, err)
			}
		}
		if ok, err := ch.SendRequest(requestShell, true, nil); err != nil || !ok {
			t.Errorf("the shell was answered %v, %v", ok, err)
		}
		client.Close()
		wait()
		got := w.all()
		slices.Sort(got)
		want := []string{"pty-req", requestShell}
		if agent {
			want = []string{requestAgent, "pty-req", requestShell}
		}
		if !slices.Equal(got, want) {
			t.Errorf("agent %v: the origin saw %q", agent, got)
		}
		_, has := w.cert.Extensions["permit-agent-forwarding"]
		if _, x11 := w.cert.Extensions["permit-X11-forwarding"]; has != agent || x11 {
			t.Errorf("agent %v: the certificate's extensions are %v", agent, w.cert.Extensions)
		}
	}
}

func TestWhereMayBeForwardedTo(t *testing.T) {
	b := limited(t, &sshgate.Channels{
		Forward: []sshgate.DestinationPattern{pattern(t, "db1:5432"), pattern(t, "10.0.0.0/8:80"), pattern(t, "[2001:db8::/32]:443")},
		Unix:    []sshgate.PathPattern{"/run/app/*"},
	}, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	for destination, allowed := range map[string]bool{
		"db1:5432": true, "DB1.:5432": true, "10.1.2.3:80": true, "2001:db8::1:443": true, "2001:DB8:0::1:443": true, "::ffff:10.1.2.3:80": true,
		"db1:22": false, "db1\x00.example:5432": false, "db1.:22": false, "xdb1:5432": false, "10.1.2.3:81": false, "0xa.1.2.3:80": false,
		"167838211:80": false, "10.1:80": false, "2001:db9::1:443": false, "[2001:db8::1]:443": false, "127.0.0.1:5432": false, ":80": false, "db1:70968": false,
	} {
		i := strings.LastIndex(destination, ":")
		m := directTCP{Host: destination[:i], OriginHost: "127.0.0.1"}
		if _, err := fmt.Sscan(destination[i+1:], &m.Port); err != nil {
			t.Fatal(err)
		}
		before := len(w.all())
		_, _, err := client.OpenChannel(typeDirectTCP, gossh.Marshal(m))
		checkForward(t, destination, err, allowed, len(w.all())-before)
	}
	for path, allowed := range map[string]bool{"/run/app/x": true, "/run/app/../x": false, "/run/app/x/y": false, "/run/docker.sock": false, "run/app/x": false} {
		before := len(w.all())
		_, _, err := client.OpenChannel(typeDirectUnix, gossh.Marshal(struct {
			Path, Reserved string
			Unused         uint32
		}{path, "", 0}))
		checkForward(t, path, err, allowed, len(w.all())-before)
	}
	if ok, _, _ := client.SendRequest(requestListenTCP, true, gossh.Marshal(struct {
		Host string
		Port uint32
	}{"", 8080})); ok || slices.Contains(w.all(), requestListenTCP) {
		t.Error("a listener was granted")
	}
	_, _, err := client.OpenChannel(typeSession, nil)
	if err == nil || !strings.Contains(err.Error(), "you may not open a session on web1") {
		t.Errorf("a session: %v", err)
	}
	client.Close()
	wait()
	if _, has := w.cert.Extensions["permit-port-forwarding"]; !has || len(w.cert.Extensions) != 1 {
		t.Errorf("the certificate's extensions are %v", w.cert.Extensions)
	}
}

func checkForward(t *testing.T, destination string, err error, allowed bool, seen int) {
	t.Helper()
	var refused *gossh.OpenChannelError
	if !errors.As(err, &refused) {
		t.Errorf("%q: %v", destination, err)
		return
	}
	if got := refused.Reason == gossh.ConnectionFailed; got != allowed || seen == 1 != allowed {
		t.Errorf("%q: %v, the origin saw %d requests", destination, err, seen)
	}
	if !allowed && !strings.Contains(refused.Message, "you may not forward to ") {
		t.Errorf("%q: the user reads %q", destination, refused.Message)
	}
}

// TestSFTPByDirection speaks with a real sftp server behind the gateway.
func TestSFTPByDirection(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range []sshgate.Transfer{readOnly, writeOnly, {Read: true, Write: true}} {
		b := limited(t, &sshgate.Channels{SFTP: files}, nil)
		wait := b.serveOrigin(command(t, func(ch gossh.Channel) uint32 {
			server, err := sftp.NewServer(ch, sftp.WithServerWorkingDirectory(dir))
			if err != nil {
				t.Error(err)
				return 1
			}
			_ = server.Serve() // ends with the client
			return 0
		}))
		ssh := b.signedIn()
		client, err := sftp.NewClient(ssh)
		if err != nil {
			t.Fatal(err)
		}
		_, readErr := client.Open("file")
		_, writeErr := client.OpenFile("new", os.O_WRONLY|os.O_CREATE)
		if (readErr == nil) != files.Read || (writeErr == nil) != files.Write {
			t.Errorf("%+v: read %v, write %v", files, readErr, writeErr)
		}
		client.Close()
		ssh.Close()
		wait()
		refused := 0
		for _, e := range b.events.Events() {
			if e.Kind == sshgate.EventDecision && !e.Allowed && e.Activity == sshgate.ActivitySFTP {
				refused++
			}
		}
		if want := map[bool]int{true: 0, false: 1}[files.Read && files.Write]; refused != want {
			t.Errorf("%+v: %d refusals are on record", files, refused)
		}
	}
}

// TestSomethingElseThanSFTP ends with a sentence, and nothing of it reaches the
// origin.
func TestSomethingElseThanSFTP(t *testing.T) {
	b := limited(t, &sshgate.Channels{SFTP: readOnly}, nil)
	w := &witness{t: t}
	wait := w.serve(b)
	client := b.signedIn()
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(ch, "rm -rf /\n")
	if _, err := ch.SendRequest(requestSubsystem, false, gossh.Marshal(text{"sftp"})); err != nil {
		t.Fatal(err)
	}
	errs, _ := io.ReadAll(ch.Stderr())
	if !strings.Contains(string(errs), "sshgate: what is sent is not SFTP version 3") {
		t.Errorf("the user reads %q", errs)
	}
	for range requests {
	}
	ch.Close()
	client.Close()
	wait()
	if w.input.Len() > 0 {
		t.Errorf("the origin got %q", &w.input)
	}
}

// The policy is asked with the type of the key that was proven.
func TestKeyTypeIsProven(t *testing.T) {
	for kind, want := range map[string]bool{"ssh-ed25519": true, "ecdsa-sha2-nistp256": false, sshgate.KeyTypeHardware: false} {
		b := limited(t, nil, func(rule *sshgate.Rule) { rule.Require = []sshgate.Selector{sshgate.KeyType{Types: []string{kind}}} })
		w := &witness{t: t}
		w.serve(b)
		session, err := b.signedIn().NewSession()
		if (err == nil) != want {
			t.Errorf("%s: %v", kind, err)
		}
		if err == nil {
			session.Close()
		}
	}
}
