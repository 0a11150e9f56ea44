package connector

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second // for what should happen at once

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// quickTiming keeps tests from waiting where the default would.
func quickTiming() timing {
	quick := defaultTiming()
	quick.firstScan = 200 * time.Millisecond // most origins of the tests are no SSH servers
	quick.retryFirst = 20 * time.Millisecond
	quick.retryMost = 100 * time.Millisecond
	quick.rescanFirst = 20 * time.Millisecond
	quick.rescanMost = 50 * time.Millisecond
	return quick
}

func allowAll(context.Context, Registration) error { return nil }

// gateway is a hub behind a real TLS listener.
type gateway struct {
	t      testing.TB
	ca     *CA
	hub    *Hub
	addr   string
	cancel context.CancelFunc
	events chan sshgate.Event
	served chan error // what Serve returned

	listener net.Listener
	wg       sync.WaitGroup
}

func newCAForTest(t testing.TB) *CA {
	t.Helper()
	ca, err := OpenCA(t.TempDir()+"/ca", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func startGateway(t testing.TB, change ...func(*HubConfig, *timing)) *gateway {
	t.Helper()
	g := &gateway{t: t, ca: newCAForTest(t), events: make(chan sshgate.Event, 1000), served: make(chan error, 1000)}
	cfg := HubConfig{Admit: allowAll, Events: func(e sshgate.Event) { g.events <- e }, Log: testLog(t)}
	quick := quickTiming()
	for _, f := range change {
		f(&cfg, &quick)
	}
	g.start(cfg, quick, "127.0.0.1:0")
	t.Cleanup(g.stop)
	return g
}

func (g *gateway) start(cfg HubConfig, quick timing, addr string) {
	g.t.Helper()
	hub, err := NewHub(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	hub.timing = quick
	g.hub = hub
	server := ServerTLS(g.ca, g.ca.ServerCertificate([]string{"gate.test"}, []net.IP{net.IPv4(127, 0, 0, 1)}))
	server.NextProtos = append(server.NextProtos, "h2")
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.listener, g.addr = listener, listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.wg.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() {
				conn := tls.Server(raw, server)
				if err := conn.HandshakeContext(ctx); err != nil {
					raw.Close()
					g.served <- err
					return
				}
				g.served <- hub.Serve(ctx, conn)
			})
		}
	})
}

func (g *gateway) stop() {
	g.listener.Close()
	g.hub.Close()
	g.cancel()
	g.wg.Wait()
}

// clientTLS is the configuration of a connector with a certificate for the names.
func (g *gateway) clientTLS(name string, hostnames ...string) *tls.Config {
	return clientConfig(g.t, g.ca, g.ca, name, hostnames...)
}

func clientConfig(t testing.TB, issuer, server *CA, name string, hostnames ...string) *tls.Config {
	t.Helper()
	certPEM, keyPEM, err := issuer.IssueConnector(name, hostnames, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: server.Pool(), ServerName: "gate.test"}
}

// runningAgent is an agent whose Run has been called.
type runningAgent struct {
	*Agent
	stop func()
}

// startAgent runs an agent with one connection, for the origins in its certificate.
func (g *gateway) startAgent(origins []Origin, change ...func(*AgentConfig, *timing)) *runningAgent {
	g.t.Helper()
	names := make([]string, len(origins))
	for i, o := range origins {
		names[i] = string(o.Name)
	}
	cfg := AgentConfig{
		Gateway: g.addr, TLS: g.clientTLS("c1", names...), Connections: 1, Origins: origins, Log: testLog(g.t),
	}
	quick := quickTiming()
	for _, f := range change {
		f(&cfg, &quick)
	}
	agent, err := NewAgent(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	agent.timing = quick
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := agent.Run(ctx); err != nil {
			g.t.Error(err)
		}
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
	})
	g.t.Cleanup(stop)
	return &runningAgent{agent, stop}
}

func (a *runningAgent) waitReady(t testing.TB) {
	t.Helper()
	select {
	case <-a.Ready():
	case <-time.After(testTimeout):
		t.Fatal("the agent did not become ready")
	}
}

// publish runs an agent for one origin and waits until it is up.
func (g *gateway) publish(name sshgate.OriginName, address string, change ...func(*AgentConfig, *timing)) *runningAgent {
	g.t.Helper()
	a := g.startAgent([]Origin{{Name: name, Address: address}}, change...)
	a.waitReady(g.t)
	g.waitFor(sshgate.EventOriginUp, name)
	return a
}

// busy has a connector's tunnels look as if they carried a connection more, until free
// is called.
func (g *gateway) busy(connector string) (free func()) {
	g.hub.mu.Lock()
	defer g.hub.mu.Unlock()
	var busy []*tunnel
	for t := range g.hub.tunnels {
		if t.connector == connector {
			t.streams++
			g.hub.streams++
			busy = append(busy, t)
		}
	}
	return func() {
		for _, t := range busy {
			t.release()
		}
	}
}

func (g *gateway) waitFor(kind sshgate.EventKind, name sshgate.OriginName) {
	g.t.Helper()
	deadline := time.After(testTimeout)
	for {
		select {
		case e := <-g.events:
			if e.Kind == kind && e.Origin == name {
				return
			}
		case <-deadline:
			g.t.Fatalf("no event %s for %s", kind, name)
		}
	}
}

func (g *gateway) dial(name sshgate.OriginName) (Conn, error) {
	g.t.Helper()
	return g.hub.Dial(testContext(g.t), DialRequest{RequestID: "r-1", ConnectionID: "c-1", Origin: name, Identity: "alice@example.com", Login: "deploy"})
}

func (g *gateway) mustDial(name sshgate.OriginName) Conn {
	g.t.Helper()
	conn, err := g.dial(name)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

// eventually waits for a state that no event announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// origin is a TCP server that is no SSH server.
type origin struct {
	addr     string
	accepted atomic.Int64
	close    func()
}

// startOrigin serves each connection with handle. Connections that say nothing,
// the scans of host keys, get an EOF in handle.
func startOrigin(t testing.TB, handle func(*net.TCPConn)) *origin {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{addr: listener.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			o.accepted.Add(1)
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	o.close = sync.OnceFunc(func() {
		listener.Close()
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	t.Cleanup(o.close)
	return o
}

func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
}

// noScan keeps host key scans away from an origin that is no SSH server, so that
// every connection to it comes from a dial.
func noScan(cfg *AgentConfig, quick *timing) {
	dial := (&net.Dialer{}).DialContext
	cfg.DialOrigin = func(ctx context.Context, network, address string) (net.Conn, error) {
		if isScan(ctx) {
			return nil, errors.New("not scanned in this test")
		}
		return dial(ctx, network, address)
	}
}

// isScan tells a scan by its deadline: a scan has five seconds, a dial ten.
func isScan(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= scanHandshake
}

// sshd is an SSH server that has host keys and lets nobody in.
type sshd struct {
	addr string
	keys []string
}

func startSSHD(t *testing.T, addr string, signers ...ssh.Signer) *sshd {
	t.Helper()
	cfg := &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
		return nil, errors.New("nobody gets in")
	}}
	s := &sshd{}
	for _, signer := range signers {
		cfg.AddHostKey(signer)
		s.keys = append(s.keys, hostKeyLine(signer.PublicKey()))
	}
	slices.Sort(s.keys)
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _, _, _ = ssh.NewServerConn(conn, cfg)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
	s.addr = listener.Addr().String()
	return s
}

func newSigner(t *testing.T, kind string) ssh.Signer {
	t.Helper()
	var key any
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// testLog writes to the test's log, and nothing once the test is over.
func testLog(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// refusalCode returns the code of a refusal, or "".
func refusalCode(err error) Code {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return ""
}
