package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
)

// Credentials is what live asks for.
func (m *memoryLogins) Credentials(context.Context) (map[sshgate.Credential]time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	good := make(map[sshgate.Credential]time.Time)
	for name, login := range m.logins {
		good[sshgate.Credential{Key: name, Identity: login.Identity.Key()}] = login.ExpiresAt
	}
	return good, m.broken
}

func (m *memoryLogins) check(ctx context.Context, c sshgate.Credential) (time.Time, error) {
	login, err := m.KeyLogin(ctx, c.Key)
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return time.Time{}, &authflow.Failure{Code: authflow.CodeSignInRevoked, Sentence: "your sign-in was revoked"}
	case err != nil:
		return time.Time{}, &authflow.Failure{Code: authflow.CodeUnavailable, Err: err}
	}
	return login.ExpiresAt, nil
}

func (m *memoryLogins) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// liveBench is a bench whose policy and sign-ins change.
type liveBench struct {
	*bench
	policy atomic.Pointer[sshgate.Policy]
	live   *live.Register
}

func newLiveBench(t *testing.T) *liveBench {
	t.Helper()
	b := &liveBench{}
	b.policy.Store(allow(t, "web1", alice.Email, "deploy"))
	b.bench = newBench(t, func(cfg *Config) {
		cfg.Policy = b.policy.Load
		logins := cfg.Logins.(*memoryLogins)
		var err error
		b.live, err = live.New(live.Config{Policy: b.policy.Load, Credentials: logins, Check: logins.check, Events: cfg.Events})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Live = b.live
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { b.live.Run(ctx) })
		t.Cleanup(func() { cancel(); running.Wait() })
	})
	return b
}

// deny has the policy allow nobody from now on.
func (b *liveBench) deny() {
	b.policy.Store(allow(b.t, "web1", "nobody@example.com", "deploy"))
	b.live.PolicyChanged()
}

// gone waits until the gateway has no connection.
func (b *liveBench) gone(what string) {
	b.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); b.server.Stats().Connections > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %+v", what, b.server.Stats())
		}
	}
	if n := b.live.Open(); n != 0 {
		b.t.Errorf("%s: the register still holds %d", what, n)
	}
}

// shell starts a command on the client's connection.
func shell(t *testing.T, client *gossh.Client) (ch gossh.Channel, requests <-chan *gossh.Request) {
	t.Helper()
	ch, requests, err := client.OpenChannel(typeSession, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := ch.SendRequest(requestShell, true, nil); err != nil || !ok {
		t.Fatalf("shell: %v, %v", ok, err)
	}
	return ch, requests
}

// untilClosed runs a command until the client closes its channel.
func untilClosed(ch gossh.Channel) uint32 {
	_, _ = io.Copy(io.Discard, ch)
	return 0
}

func TestPolicyChangeEndsASession(t *testing.T) {
	b := newLiveBench(t)
	wait := b.serveOrigin(command(t, untilClosed))
	client := b.signedIn()
	ch, requests := shell(t, client)
	b.live.PolicyChanged() // which changes nothing
	b.deny()
	said, _ := io.ReadAll(ch.Stderr())
	if want := "\r\nsshgate: your access to web1 has ended: the access policy has changed (request r-"; !strings.HasPrefix(string(said), want) {
		t.Errorf("said %q", said)
	}
	status := ""
	for req := range requests {
		status += fmt.Sprintf("%s %x", req.Type, req.Payload)
	}
	if status != "exit-status 000000ff" {
		t.Errorf("ended with %q", status)
	}
	client.Close()
	wait()
	b.gone("after the end")
	var denied, ended []sshgate.Event
	for _, e := range b.events.Events() {
		switch {
		case e.Kind == sshgate.EventDecision && !e.Allowed:
			denied = append(denied, e)
		case e.Kind == sshgate.EventSessionEnd:
			ended = append(ended, e)
		}
	}
	if len(denied) != 1 || len(ended) != 1 || denied[0].Request != ended[0].Request || denied[0].Reason != ended[0].Reason ||
		!strings.Contains(ended[0].Reason, "no rule of application") || denied[0].Connection == "" || !denied[0].ClientAddr.IsValid() {
		t.Errorf("decisions %+v, ends %+v", denied, ended)
	}
}

// TestStalledClientsEnd: neither who reads nothing of a channel nor who reads nothing
// at all keeps access, or the gateway's goroutines.
func TestStalledClientsEnd(t *testing.T) {
	for name, stall := range map[string]bool{"the channel": false, "the connection": true} {
		t.Run(name, func(t *testing.T) {
			b := newLiveBench(t)
			var written atomic.Int64
			wait := b.serveOrigin(command(t, func(ch gossh.Channel) uint32 {
				for {
					n, err := ch.Write(make([]byte, 32<<10))
					written.Add(int64(n))
					if err != nil {
						return 1
					}
				}
			}))
			nc, err := net.Dial("tcp", b.address)
			if err != nil {
				t.Fatal(err)
			}
			slow := &stallingConn{Conn: nc, stalled: make(chan struct{})}
			defer slow.Close()
			key := newSigner(t)
			b.bind(key, time.Now())
			sc, channels, globals, err := gossh.NewClientConn(slow, "gate", &gossh.ClientConfig{
				User: "deploy+web1", Auth: []gossh.AuthMethod{gossh.PublicKeys(key)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
			})
			if err != nil {
				t.Fatal(err)
			}
			client := gossh.NewClient(sc, channels, globals)
			shell(t, client)
			slow.stall.Store(stall)
			for before := int64(-1); before != written.Load(); time.Sleep(200 * time.Millisecond) {
				before = written.Load()
			}
			begin := time.Now()
			b.deny()
			for b.server.Stats().Channels > 0 {
				if time.Since(begin) > 5*time.Second {
					t.Fatal("it goes on")
				}
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("it took %s", took)
			}
			if connections := b.server.Stats().Connections; !stall && connections != 1 {
				t.Errorf("%d connections: only the channel was to end", connections)
			}
			slow.Close()
			client.Close()
			wait()
			b.gone("after the end")
		})
	}
}

// stallingConn reads nothing any more once stall is set.
type stallingConn struct {
	net.Conn
	stall   atomic.Bool
	once    sync.Once
	stalled chan struct{}
}

func (c *stallingConn) Read(p []byte) (int, error) {
	if c.stall.Load() {
		<-c.stalled
	}
	return c.Conn.Read(p)
}

func (c *stallingConn) Close() error {
	c.once.Do(func() { close(c.stalled) })
	return c.Conn.Close()
}

// TestRevokedSignInEndsTheConnection: with a key and without, with a session and
// without.
func TestRevokedSignInEndsTheConnection(t *testing.T) {
	b := newLiveBench(t)
	wait := b.serveOrigin(command(t, untilClosed))
	busy := b.signedIn()
	idle, err := b.dial("deploy+web1", gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	ch, _ := shell(t, busy)
	b.logins.change(func() {
		if n := len(b.logins.logins); n != 2 {
			t.Errorf("%d sign-ins are kept", n)
		}
	})
	b.logins.change(func() { b.logins.broken = errors.New("no disk") })
	b.live.StateChanged()
	if _, _, err := busy.OpenChannel(typeSession, nil); err == nil || !strings.Contains(err.Error(), "can't be looked up right now") {
		t.Errorf("a further channel while the store is gone: %v", err)
	}
	if stats := b.server.Stats(); stats.Connections != 2 || stats.Channels == 0 {
		t.Errorf("while the store is gone: %+v", stats)
	}
	begin := time.Now()
	b.logins.change(func() { b.logins.broken = nil; clear(b.logins.logins) })
	if _, _, err := busy.OpenChannel(typeSession, nil); err == nil || !strings.Contains(err.Error(), "your sign-in was revoked; to sign in again") {
		t.Errorf("a further channel: %v", err)
	}
	b.live.StateChanged()
	said, _ := io.ReadAll(ch.Stderr())
	if !strings.Contains(string(said), "your access to web1 has ended: your sign-in was revoked (request r-") {
		t.Errorf("said %q", said)
	}
	_ = idle.Wait()
	_ = busy.Wait()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %s", took)
	}
	wait()
	b.gone("after the revocation")
}

// TestSignInWithoutAKeyIsForgotten when its connection ends.
func TestSignInWithoutAKeyIsForgotten(t *testing.T) {
	b := newLiveBench(t)
	client, err := b.dial("deploy+web1", gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	b.gone("after the connection")
	b.logins.change(func() {
		if n := len(b.logins.logins); n != 0 {
			t.Errorf("%d are kept", n)
		}
	})
}

// TestPolicyChangeEndsAListener: the origin is asked to stop listening, and what it
// opens all the same is refused.
func TestPolicyChangeEndsAListener(t *testing.T) {
	b := newLiveBench(t)
	seen := make(chan string, 10)
	var origin gossh.Conn
	serving := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		cfg := &gossh.ServerConfig{PublicKeyCallback: func(gossh.ConnMetadata, gossh.PublicKey) (*gossh.Permissions, error) { return nil, nil }}
		cfg.AddHostKey(b.hostKey)
		sc, channels, requests, err := gossh.NewServerConn(nc, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		origin = sc
		close(serving)
		all.Go(func() {
			for req := range requests {
				seen <- fmt.Sprintf("%s %x", req.Type, req.Payload)
				_ = req.Reply(true, gossh.Marshal(struct{ Port uint32 }{4321}))
			}
		})
		for ch := range channels {
			_ = ch.Reject(gossh.Prohibited, "no")
		}
	})
	client := b.signedIn()
	if ok, _, err := client.SendRequest(requestListenTCP, true, gossh.Marshal(listenTCP{"localhost", 0})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	<-serving
	<-seen
	b.deny()
	if got, want := <-seen, fmt.Sprintf("%s %x", requestCancelTCP, gossh.Marshal(listenTCP{"localhost", 4321})); got != want {
		t.Errorf("the origin was asked %q, want %q", got, want)
	}
	if _, _, err := origin.OpenChannel(typeForwardedTCP, nil); err == nil {
		t.Error("the origin may still open channels")
	}
	client.Close()
	all.Wait()
	b.gone("after the end")
}

// A command ends when the rule that allows it goes, although the channel might still
// be opened for another.
func TestNarrowedRuleEndsACommand(t *testing.T) {
	b := newLiveBench(t)
	only := func(command string) *sshgate.Policy {
		pattern, err := sshgate.ParseCommandPattern(command)
		if err != nil {
			t.Fatal(err)
		}
		policy := allow(t, "web1", alice.Email, "deploy")
		policy.Applications[0].Rules[0].Channels = &sshgate.Channels{Exec: []sshgate.CommandPattern{pattern}}
		return policy
	}
	b.policy.Store(only("backup"))
	wait := b.serveOrigin(command(t, untilClosed))
	client := b.signedIn()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(strings.Builder)
	session.Stderr = stderr
	if _, err := session.StdinPipe(); err != nil { // without one its input ends at once
		t.Fatal(err)
	}
	if err := session.Start("backup"); err != nil {
		t.Fatal(err)
	}
	b.policy.Store(only("restore"))
	b.live.PolicyChanged()
	if err := session.Wait(); err == nil || !strings.Contains(stderr.String(), "your access to web1 has ended") {
		t.Errorf("%v, %q", err, stderr)
	}
	client.Close()
	wait()
	b.gone("after the end")
}
