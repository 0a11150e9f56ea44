package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// signedIn returns a client of alice's.
func (b *bench) signedIn() *gossh.Client {
	b.t.Helper()
	key := newSigner(b.t)
	b.bind(key, time.Now())
	client, err := b.dial("deploy+web1", gossh.PublicKeys(key))
	if err != nil {
		b.t.Fatal(err)
	}
	return client
}

// command plays a sshd whose every command is run by f, which returns the exit
// status.
func command(t *testing.T, f func(ch gossh.Channel) uint32) func(gossh.NewChannel) {
	return func(nc gossh.NewChannel) {
		ch, requests, err := nc.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		for req := range requests {
			_ = req.Reply(true, nil)
			if startsCommand(req) {
				sendExit(ch, f(ch))
				ch.Close()
			}
		}
	}
}

// TestOrderOfShortCommands pins, over many sessions that end at once, that the
// reply, the output and the exit status come before the close.
func TestOrderOfShortCommands(t *testing.T) {
	b := newBench(t, nil)
	var n atomic.Uint32
	wait := b.serveOrigin(command(t, func(ch gossh.Channel) uint32 {
		i := n.Add(1)
		fmt.Fprint(ch, "out")
		fmt.Fprint(ch.Stderr(), "err")
		return 1 + i%100
	}))
	client := b.signedIn()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 250 {
				if err := oneCommand(client); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	client.Close()
	wait()
}

// oneCommand runs a command and checks the order in which its end arrives.
func oneCommand(client *gossh.Client) error {
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		return err
	}
	defer ch.Close()
	if ok, err := ch.SendRequest(requestExec, true, gossh.Marshal(struct{ C string }{"x"})); err != nil || !ok {
		return fmt.Errorf("exec was answered %v, %v", ok, err)
	}
	_ = ch.CloseWrite()
	var stdout, stderr []byte
	var readers sync.WaitGroup
	readers.Go(func() { stdout, _ = io.ReadAll(ch) })
	readers.Go(func() { stderr, _ = io.ReadAll(ch.Stderr()) })
	// Like OpenSSH, which closes as soon as both directions have ended: what
	// comes after EOF is lost then.
	readers.Wait()
	ch.Close()
	status := false
	for req := range requests {
		status = status || req.Type == requestExitStatus
	}
	if string(stdout) != "out" || string(stderr) != "err" || !status {
		return fmt.Errorf("got %q, %q, exit status %v", stdout, stderr, status)
	}
	return nil
}

func TestHalfCloseBothWays(t *testing.T) {
	b := newBench(t, nil)
	wait := b.serveOrigin(command(t, func(ch gossh.Channel) uint32 {
		input, _ := io.ReadAll(ch) // ends with the client's half-close
		_, _ = ch.Write(bytes.ToUpper(input))
		_ = ch.CloseWrite()
		return 0
	}))
	client := b.signedIn()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	input := strings.Repeat("abc", 1<<20)
	s.Stdin = strings.NewReader(input)
	out, err := s.Output("x")
	if err != nil || string(out) != strings.ToUpper(input) {
		t.Errorf("%d bytes came back, %v", len(out), err)
	}
	client.Close()
	wait()
}

func TestRefusalOfTheOriginIsPassedOn(t *testing.T) {
	b := newBench(t, nil)
	wait := b.serveOrigin(func(nc gossh.NewChannel) {
		_ = nc.Reject(gossh.ResourceShortage, "no more sessions \x1b[31m")
	})
	client := b.signedIn()
	_, _, err := client.OpenChannel(typeSession, nil)
	var refused *gossh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != gossh.ResourceShortage || refused.Message != "no more sessions ?[31m" {
		t.Errorf("got %#v", err)
	}
	client.Close()
	wait()
}

// TestLostOrigin cuts the origin off in the middle of a session.
func TestLostOrigin(t *testing.T) {
	b := newBench(t, nil)
	cut := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		cfg := &gossh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(b.hostKey)
		_, channels, requests, err := gossh.NewServerConn(nc, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		all.Go(func() { gossh.DiscardRequests(requests) })
		for ch := range channels {
			all.Go(func() {
				command(t, func(gossh.Channel) uint32 { <-cut; nc.Close(); return 0 })(ch)
			})
		}
	})
	client := b.signedIn()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	s.Stderr = &stderr
	if err := s.Start("x"); err != nil {
		t.Fatal(err)
	}
	close(cut)
	err = s.Wait()
	var exit *gossh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != exitLost {
		t.Errorf("the session ended with %v, want exit status %d", err, exitLost)
	}
	if !strings.Contains(stderr.String(), "sshgate: the connection to web1 was lost (request r-") {
		t.Errorf("the user reads %q", &stderr)
	}
	client.Close()
	all.Wait()
	end := b.event(sshgate.EventSessionEnd)
	if end.Reason == "" || end.Exit != "" || end.Detail != "exec x" {
		t.Errorf("the end is recorded as %+v", end)
	}
}

// event waits for the first event of a kind.
func (b *bench) event(kind sshgate.EventKind) sshgate.Event {
	b.t.Helper()
	e, err := b.events.Wait(b.t.Context(), func(e sshgate.Event) bool { return e.Kind == kind })
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func TestEventsOfASession(t *testing.T) {
	b := newBench(t, nil)
	wait := b.serveOrigin(command(t, func(ch gossh.Channel) uint32 {
		_, _ = io.ReadAll(ch)
		fmt.Fprint(ch, "four")
		return 9
	}))
	client := b.signedIn()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdin = strings.NewReader("in")
	_ = s.Run("uptime") // the exit status is in the event
	client.Close()
	wait()
	decision, start, end := b.event(sshgate.EventDecision), b.event(sshgate.EventSessionStart), b.event(sshgate.EventSessionEnd)
	if !decision.Allowed || decision.Rule != "rule" || decision.Application != "app" {
		t.Errorf("decision: %+v", decision)
	}
	if start.Request != decision.Request || end.Request != decision.Request || end.Connection == "" {
		t.Error("the events do not share the request's id")
	}
	if end.Identity != "alice@example.com" || end.Origin != "web1" || end.Login != "deploy" || !end.ClientAddr.IsLoopback() ||
		end.BytesIn != 2 || end.BytesOut != 4 || end.Exit != "9" || end.Detail != "exec uptime" || end.Duration <= 0 {
		t.Errorf("end: %+v", end)
	}
}

// TestOriginCannotReachIntoTheClient: what the client has not asked for is
// refused by the gateway already.
func TestOriginCannotReachIntoTheClient(t *testing.T) {
	b := newBench(t, nil)
	tried := make(chan error, 4)
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
		all.Go(func() { gossh.DiscardRequests(requests) })
		for _, kind := range []string{typeAgent, typeX11, typeForwardedTCP, typeSession} {
			_, _, err := sc.OpenChannel(kind, nil)
			tried <- err
		}
		for ch := range channels {
			all.Go(func() { command(t, func(gossh.Channel) uint32 { return 0 })(ch) })
		}
	})
	client := b.signedIn()
	for _, kind := range []string{typeAgent, typeX11, typeForwardedTCP, typeSession} {
		opened := client.HandleChannelOpen(kind)
		all.Go(func() {
			for ch := range opened {
				t.Errorf("the origin opened %s at the client", ch.ChannelType())
				_ = ch.Reject(gossh.Prohibited, "")
			}
		})
	}
	if err := oneCommandStatus(client); err != nil {
		t.Error(err)
	}
	for range 4 {
		if err := <-tried; err == nil {
			t.Error("the origin's channel was opened")
		}
	}
	client.Close()
	all.Wait()
}

func oneCommandStatus(client *gossh.Client) error {
	s, err := client.NewSession()
	if err != nil {
		return err
	}
	return s.Run("x")
}

func TestDecidedPerChannel(t *testing.T) {
	var policy atomic.Pointer[sshgate.Policy]
	policy.Store(allow(t, "web1", alice.Email, "deploy"))
	b := newBench(t, func(cfg *Config) { cfg.Policy = policy.Load })
	wait := b.serveOrigin(command(t, func(gossh.Channel) uint32 { return 0 }))
	client := b.signedIn()
	if err := oneCommandStatus(client); err != nil {
		t.Fatal(err)
	}
	policy.Store(&sshgate.Policy{})
	_, _, err := client.OpenChannel(typeSession, nil)
	var refused *gossh.OpenChannelError
	if !errors.As(err, &refused) || !strings.Contains(refused.Message, `there is no origin "web1" that you may reach`) {
		t.Errorf("after the policy changed: %v", err)
	}
	if ok, _, _ := client.SendRequest(requestListenTCP, true, gossh.Marshal(struct {
		Host string
		Port uint32
	}{"127.0.0.1", 0})); ok {
		t.Error("a listener was granted after the policy changed")
	}
	client.Close()
	wait()
}

func TestLimitOfChannels(t *testing.T) {
	b := newBench(t, func(cfg *Config) { cfg.MaxChannels = 3 })
	release := make(chan struct{})
	wait := b.serveOrigin(command(t, func(gossh.Channel) uint32 { <-release; return 0 }))
	client := b.signedIn()
	for range 3 {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.NewSession(); err == nil || !strings.Contains(err.Error(), "3 channels open") {
		t.Errorf("the fourth channel: %v", err)
	}
	close(release)
	client.Close()
	wait()
}

func TestWrongHostKeyOfTheOrigin(t *testing.T) {
	stranger := newSigner(t)
	b := newBench(t, func(cfg *Config) { cfg.HostPins = pinned{stranger.PublicKey()} })
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		cfg := &gossh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(b.hostKey)
		if _, _, _, err := gossh.NewServerConn(nc, cfg); err == nil {
			t.Error("the gateway went on with a host key that is not pinned")
		}
	})
	client := b.signedIn()
	_, _, err := client.OpenChannel(typeSession, nil)
	if err == nil || !strings.Contains(err.Error(), "the host key of web1 has changed") {
		t.Errorf("got %v", err)
	}
	client.Close()
	all.Wait()
}

func TestUnknownOriginAnswersAsForbidden(t *testing.T) {
	b := newBench(t, func(cfg *Config) {
		policy := allow(t, "*", alice.Email, "deploy")
		cfg.Policy = func() *sshgate.Policy { return policy }
	})
	key := newSigner(t)
	b.bind(key, time.Now())
	client, err := b.dial("deploy+nowhere", gossh.PublicKeys(key))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, _, err = client.OpenChannel(typeSession, nil); err == nil || !strings.Contains(err.Error(), "that you may reach") {
		t.Errorf("got %v", err)
	}
}
