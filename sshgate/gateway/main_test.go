package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var alice = sshgate.Identity{Issuer: "https://idp.test", Subject: "1", Email: "alice@example.com", EmailVerified: true}

// bench is a gateway with one origin, web1, whose SSH server the test plays.
type bench struct {
	t       *testing.T
	server  *Server
	address string
	events  *audit.Recorder
	logins  *memoryLogins
	origin  net.Listener
	hostKey gossh.Signer

	mu       sync.Mutex
	identity sshgate.Identity // who the next sign-ins are
	signInAs error            // or why they fail
	started  int              // sign-ins
}

// memoryLogins is the smallest KeyLogins.
type memoryLogins struct {
	mu     sync.Mutex
	logins map[string]sshgate.KeyLogin
	broken error // what reading fails with
}

func (m *memoryLogins) KeyLogin(_ context.Context, fingerprint string) (sshgate.KeyLogin, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return sshgate.KeyLogin{}, m.broken
	}
	login, ok := m.logins[fingerprint]
	if !ok {
		return sshgate.KeyLogin{}, sshgate.ErrNotFound
	}
	return login, nil
}

func (m *memoryLogins) BindKey(_ context.Context, login sshgate.KeyLogin) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logins[login.Fingerprint] = login
	return nil
}

func (m *memoryLogins) ForgetKey(_ context.Context, fingerprint string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.logins[fingerprint]; !ok {
		return sshgate.ErrNotFound
	}
	delete(m.logins, fingerprint)
	return nil
}

// tcpTunnel reaches the origin without a connector.
type tcpTunnel struct{ origin net.Addr }

func (d tcpTunnel) Dial(ctx context.Context, req connector.DialRequest) (connector.Conn, error) {
	if req.Origin != "web1" {
		return nil, connector.ErrOffline
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.origin.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// pinned knows the host key of web1.
type pinned struct{ key gossh.PublicKey }

func (p pinned) HostKeys(_ context.Context, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error) {
	if origin != "web1" {
		return nil, nil
	}
	return []sshgate.HostKeyPin{{Origin: origin, Key: string(gossh.MarshalAuthorizedKey(p.key))}}, nil
}

// instantLogin is a sign-in that is over as soon as it is waited for.
type instantLogin struct{ b *bench }

func (l instantLogin) Prompt() authflow.Prompt {
	return authflow.Prompt{UserCode: "ABCD", VerificationURI: "https://idp.test/device", ExpiresAt: time.Now().Add(time.Minute)}
}

func (l instantLogin) Wait(context.Context) (sshgate.Identity, error) {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	id := l.b.identity
	id.SignedInAt = time.Now()
	return id, l.b.signInAs
}

func newPrivateKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSigner(t testing.TB) gossh.Signer {
	t.Helper()
	signer, err := gossh.NewSignerFromKey(newPrivateKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func allow(t testing.TB, host, email, login string) *sshgate.Policy {
	t.Helper()
	pattern, err := sshgate.ParseHostPattern(host)
	if err != nil {
		t.Fatal(err)
	}
	template, err := sshgate.ParseLoginTemplate(login)
	if err != nil {
		t.Fatal(err)
	}
	return &sshgate.Policy{Applications: []sshgate.Application{{
		Name: "app", Hosts: []sshgate.HostPattern{pattern},
		Rules: []sshgate.Rule{{
			Name: "rule", Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Email{email}},
			Logins: []sshgate.LoginTemplate{template},
		}},
	}}}
}

// newBench starts a gateway. change may alter its configuration first.
func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := &bench{
		t: t, events: audit.NewRecorder(1000), origin: listen(t), hostKey: newSigner(t), identity: alice,
		logins: &memoryLogins{logins: map[string]sshgate.KeyLogin{}},
	}
	ca, err := OpenUserCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	policy := allow(t, "web1", alice.Email, "deploy")
	pending := authflow.NewPending(func(context.Context) (authflow.Login, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.started++
		return instantLogin{b}, nil
	}, 100)
	cfg := Config{
		HostKeys: []gossh.Signer{newSigner(t)},
		Policy:   func() *sshgate.Policy { return policy },
		SignIns:  pending,
		Logins:   b.logins,
		Tunnel:   tcpTunnel{b.origin.Addr()},
		HostPins: pinned{b.hostKey.PublicKey()},
		CA:       ca,
		Events:   b.events,
	}
	if change != nil {
		change(&cfg)
	}
	if b.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	b.address = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = b.server.Shutdown(ctx) // ends connections that the test left open
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
		pending.Close()
		b.origin.Close()
	})
	return b
}

// dial connects to the gateway.
func (b *bench) dial(user string, auth ...gossh.AuthMethod) (*gossh.Client, error) {
	return gossh.Dial("tcp", b.address, &gossh.ClientConfig{
		User: user, Auth: auth, HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	})
}

// noAnswers is a client's keyboard-interactive that has nothing to say.
func noAnswers(_, _ string, questions []string, _ []bool) ([]string, error) {
	return make([]string, len(questions)), nil
}

// serveOrigin takes one connection as the origin's SSH server would, checking
// the gateway's certificate, and hands its channels to handle.
func (b *bench) serveOrigin(handle func(gossh.NewChannel)) (wait func()) {
	var all sync.WaitGroup
	all.Go(func() {
		nc, err := b.origin.Accept()
		if err != nil {
			return // the test ended
		}
		defer nc.Close()
		checker := &gossh.CertChecker{IsUserAuthority: func(key gossh.PublicKey) bool {
			return gossh.FingerprintSHA256(key) == gossh.FingerprintSHA256(b.server.cfg.CA.PublicKey())
		}}
		cfg := &gossh.ServerConfig{PublicKeyCallback: checker.Authenticate}
		cfg.AddHostKey(b.hostKey)
		_, channels, requests, err := gossh.NewServerConn(nc, cfg)
		if err != nil {
			b.t.Errorf("the origin refused the gateway: %v", err)
			return
		}
		all.Go(func() { gossh.DiscardRequests(requests) })
		for ch := range channels {
			all.Go(func() { handle(ch) })
		}
	})
	return all.Wait
}
