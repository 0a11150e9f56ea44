package gateway

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Peers that do on purpose what no good one does.

// payload is a request's one string.
func payload(s string) []byte { return gossh.Marshal(struct{ S string }{s}) }

// larval plays a sshd that starts the first exec of a session and refuses all
// other starts, and tells what it ran.
func larval(ran chan<- string) func(gossh.NewChannel) {
	return func(nc gossh.NewChannel) {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		var command sync.WaitGroup
		defer command.Wait()
		started := false
		for req := range requests {
			ok := !started && req.Type == requestExec
			_ = req.Reply(ok, nil)
			if !ok {
				continue
			}
			started = true
			var m struct{ S string }
			_ = gossh.Unmarshal(req.Payload, &m)
			ran <- m.S
			command.Go(func() {
				_, _ = io.Copy(io.Discard, ch)
				sendExit(ch, 0)
				ch.Close()
			})
		}
	}
}

// TestNoCommandEscapesTheRecord hides an exec between starts that the origin
// refuses or ignores.
func TestNoCommandEscapesTheRecord(t *testing.T) {
	b := newBench(t, nil)
	ran := make(chan string, 5)
	wait := b.serveOrigin(larval(ran))
	client := b.signedIn()
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	var discard sync.WaitGroup
	discard.Go(func() { gossh.DiscardRequests(requests) })
	_, _ = ch.SendRequest(requestSubsystem, false, payload("harmless"))
	if ok, err := ch.SendRequest(requestExec, true, payload("hidden")); !ok || err != nil {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	_, _ = ch.SendRequest(requestExec, false, payload("uptime"))
	_ = ch.CloseWrite()
	_, _ = io.Copy(io.Discard, ch)
	ch.Close()
	discard.Wait()
	client.Close()
	wait()
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	if got := <-ran; got != "hidden" || len(ran) != 0 {
		t.Fatalf("the origin ran %q and %d more", got, len(ran))
	}
	var story []string
	for _, e := range b.events.Events() {
		if e.Kind == sshgate.EventSessionStart || e.Kind == sshgate.EventSessionEnd {
			story = append(story, string(e.Kind)+" "+e.Detail+" "+e.Reason+e.Exit)
		}
	}
	want := "session.start subsystem harmless |session.end subsystem harmless refused by the origin|session.start exec hidden |session.end exec hidden 0"
	if got := strings.Join(story, "|"); got != want {
		t.Errorf("the record says\n%s\nwant\n%s", got, want)
	}
}

// TestCommandIsOnRecordBeforeItRuns cuts the connection before the reply.
func TestCommandIsOnRecordBeforeItRuns(t *testing.T) {
	b := newBench(t, nil)
	got := make(chan struct{})
	wait := b.serveOrigin(func(nc gossh.NewChannel) {
		_, requests, err := nc.Accept()
		if err != nil {
			return
		}
		for req := range requests {
			if req.Type == requestExec {
				close(got) // and no reply
			}
		}
	})
	client := b.signedIn()
	ch, _, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.SendRequest(requestExec, false, payload("quick")); err != nil {
		t.Fatal(err)
	}
	<-got
	if e := b.event(sshgate.EventSessionStart); e.Detail != "exec quick" {
		t.Errorf("the start is recorded as %+v", e)
	}
	client.Close()
	wait()
	if e := b.event(sshgate.EventSessionEnd); e.Detail != "exec quick" {
		t.Errorf("the end is recorded as %+v", e)
	}
}

func TestLongCommandIsToldByItsHash(t *testing.T) {
	req := &gossh.Request{Type: requestExec, Payload: payload(strings.Repeat(" ", 5000) + "rm")}
	got := describeStart(req)
	if len(got) > maxDetail || !strings.Contains(got, "(5002 bytes, SHA-256 ") {
		t.Errorf("%d bytes: %s", len(got), got[len(got)-100:])
	}
}

// TestOriginThatAnswersNothing leaves a client's requests unanswered and piles
// up its own: the client's leaving and a shutdown must still be noticed.
func TestOriginThatAnswersNothing(t *testing.T) {
	for name, end := range map[string]func(*bench, *gossh.Client){
		"the client leaves": func(_ *bench, client *gossh.Client) { client.Close() },
		"shutdown": func(b *bench, _ *gossh.Client) {
			ctx, cancel := context.WithCancel(b.t.Context())
			cancel()
			_ = b.server.Shutdown(ctx) // says that it was cut short
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			piled := make(chan struct{})
			var origin sync.WaitGroup
			wait := b.serveOrigin(func(nc gossh.NewChannel) {
				ch, requests, err := nc.Accept()
				if err != nil {
					return
				}
				origin.Go(func() { ignore(requests) })
				origin.Go(func() { _, _ = ch.SendRequest("unanswered", true, nil) })
				for range 100 {
					_, _ = ch.SendRequest("more", false, nil)
				}
				close(piled)
			})
			client := b.signedIn()
			ch, requests, err := client.OpenChannel(typeSession, nil)
			if err != nil {
				t.Fatal(err)
			}
			var leftover sync.WaitGroup
			leftover.Go(func() { ignore(requests) })
			<-piled
			for range 100 {
				_, _ = ch.SendRequest("window-change", false, make([]byte, 16))
			}
			end(b, client)
			waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
			client.Close()
			b.origin.Close()
			wait()
			origin.Wait()
			leftover.Wait()
		})
	}
}

// ignore takes requests and answers none.
func ignore(requests <-chan *gossh.Request) {
	for range requests {
	}
}

// TestRequestFloodIsCutOff sends more requests than are kept behind one that is
// not answered.
func TestRequestFloodIsCutOff(t *testing.T) {
	b := newBench(t, nil)
	release := make(chan struct{})
	wait := b.serveOrigin(func(nc gossh.NewChannel) {
		_, requests, err := nc.Accept()
		if err != nil {
			return
		}
		<-release
		gossh.DiscardRequests(requests)
	})
	client := b.signedIn()
	ch, _, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 30<<10)
	for err == nil { // until the gateway hangs up
		_, err = ch.SendRequest("x", false, big)
	}
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	close(release)
	client.Close()
	wait()
}

// TestTooMuchBeforeSignIn: x/crypto keeps what it was sent until the end of
// authentication.
func TestTooMuchBeforeSignIn(t *testing.T) {
	b := newBench(t, nil)
	asked := 0
	endless := gossh.RetryableAuthMethod(gossh.PasswordCallback(func() (string, error) {
		asked++
		return strings.Repeat("x", 200<<10), nil
	}), 100)
	key := newSigner(t)
	// Password is offered to nobody, so the bulk goes into the user name.
	client, err := b.dial(strings.Repeat("u", 200<<10), gossh.PublicKeys(key, newSigner(t), newSigner(t), newSigner(t), newSigner(t), newSigner(t), newSigner(t)), endless)
	if err == nil {
		client.Close()
		t.Fatal("let in")
	}
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	for _, e := range b.events.Events() {
		t.Errorf("something was recorded: %+v", e)
	}
}

// agentBench has an origin that takes any key and starts nothing.
func agentBench(t *testing.T) (*bench, func()) {
	b := newBench(t, func(cfg *Config) {
		cfg.Origins = func(sshgate.OriginName) OriginAuth { return OriginAuth{Method: AgentAuth} }
		cfg.DialTimeout = 500 * time.Millisecond
	})
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			return // the agent did not answer
		}
		defer nc.Close()
		cfg := &gossh.ServerConfig{PublicKeyCallback: func(gossh.ConnMetadata, gossh.PublicKey) (*gossh.Permissions, error) {
			return nil, nil
		}}
		cfg.AddHostKey(b.hostKey)
		_, channels, requests, err := gossh.NewServerConn(nc, cfg)
		if err != nil {
			return // nor did it sign
		}
		all.Go(func() { gossh.DiscardRequests(requests) })
		for ch := range channels {
			all.Go(func() { command(t, func(gossh.Channel) uint32 { return 0 })(ch) })
		}
	})
	return b, all.Wait
}

// TestAgentOfAClientThatWaits: Go's client asks for an answer to its offer before
// it goes on.
func TestAgentOfAClientThatWaits(t *testing.T) {
	b, wait := agentBench(t)
	client := b.signedIn()
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: newPrivateKey(t)}); err != nil {
		t.Fatal(err)
	}
	if err := agent.ForwardToAgent(client, keyring); err != nil {
		t.Fatal(err)
	}
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.RequestAgentForwarding(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Run("x"); err != nil {
		t.Error(err)
	}
	client.Close()
	wait()
}

// TestAgentThatDoesNotAnswer is asked for its keys, while the client's window is
// resized and resized.
func TestAgentThatDoesNotAnswer(t *testing.T) {
	b, wait := agentBench(t)
	client := b.signedIn()
	agents := client.HandleChannelOpen(typeAgent)
	ch, _, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = ch.SendRequest(requestAgent, false, nil)
	_, _ = ch.SendRequest(requestShell, false, nil)
	<-agents // and no answer
	for range 60 {
		_, _ = ch.SendRequest("window-change", false, make([]byte, 16))
	}
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	client.Close()
	b.origin.Close()
	wait()
}

// TestListenerThatWasRefused does not let the origin open its channels.
func TestListenerThatWasRefused(t *testing.T) {
	b := newBench(t, nil)
	opened := make(chan error, 1)
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		cfg := &gossh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(b.hostKey)
		sc, channels, requests, err := gossh.NewServerConn(nc, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		all.Go(func() { gossh.DiscardRequests(requests) }) // refuses the listener
		for ch := range channels {
			all.Go(func() {
				command(t, func(gossh.Channel) uint32 {
					_, _, err := sc.OpenChannel(typeForwardedTCP, nil)
					opened <- err
					return 0
				})(ch)
			})
		}
	})
	client := b.signedIn()
	if l, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("the listener was not refused")
	}
	if err := oneCommandStatus(client); err != nil {
		t.Error(err)
	}
	if err := <-opened; err == nil {
		t.Error("the origin opened a channel of a listener that it has refused")
	}
	client.Close()
	all.Wait()
}

// TestJumpNoticesThatTheClientHasClosed while the origin goes on.
func TestJumpNoticesThatTheClientHasClosed(t *testing.T) {
	policy := allow(t, "web1", alice.Email, "deploy")
	policy.Applications[0].Rules[0].EndToEnd = true
	b := newBench(t, func(cfg *Config) { cfg.Policy = func() *sshgate.Policy { return policy } })
	key := newSigner(t)
	b.bind(key, time.Now())
	client, err := b.dial("alice", gossh.PublicKeys(key))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial("tcp", "web1:22")
	if err != nil {
		t.Fatal(err)
	}
	origin, err := b.origin.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	conn.Close() // the channel; the connection stays
	if _, err := io.Copy(io.Discard, origin); err != nil {
		t.Logf("the origin's end: %v", err)
	}
	_ = origin.(*net.TCPConn).CloseWrite()
	waitForStats(t, b, func(s Stats) bool { return s.Channels == 0 })
	client.Close()
	if e := b.event(sshgate.EventSessionEnd); e.Channel != sshgate.ChannelEndToEnd {
		t.Errorf("the end is recorded as %+v", e)
	}
}

func TestJumpToABadNameIsOnRecord(t *testing.T) {
	b := newBench(t, nil)
	key := newSigner(t)
	b.bind(key, time.Now())
	client, err := b.dial("alice", gossh.PublicKeys(key))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, address := range []string{"10.0.0.1:23", "web1:80", "[::1]:22"} {
		if conn, err := client.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("%s was reached", address)
		}
	}
	n := 0
	for _, e := range b.events.Events() {
		if e.Kind == sshgate.EventDecision && !e.Allowed && e.Reason != "" && e.Detail != "" {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d refusals are on record, want 3", n)
	}
}
