package web_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sshgate/sshgate/sshgate/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// certificate returns a self-signed certificate for 127.0.0.1 and a pool that
// trusts it.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gate"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
})

func clientTLS(protos ...string) *tls.Config {
	_, pool := certificate()
	return &tls.Config{RootCAs: pool, NextProtos: protos, MinVersion: tls.VersionTLS12}
}

// port is a running server.
type port struct {
	*web.Server
	addr   string
	served chan error // what Serve returned
	cancel context.CancelFunc
}

// start runs a server until the test ends.
func start(t *testing.T, cfg web.ServerConfig) *port {
	t.Helper()
	cert, _ := certificate()
	if cfg.TLS == nil {
		cfg.TLS = &tls.Config{}
	}
	cfg.TLS.Certificates = []tls.Certificate{cert}
	server, err := web.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &port{Server: server, addr: l.Addr().String(), served: make(chan error, 1), cancel: cancel}
	var serving sync.WaitGroup
	serving.Go(func() { p.served <- server.Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return p
}

// dial opens a TLS connection that offers the protocols.
func (p *port) dial(t *testing.T, protos ...string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", p.addr, clientTLS(protos...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// silent opens a TCP connection that says nothing.
func (p *port) silent(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// wantClosed waits until the server closes the connection.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the server keeps the connection open")
	}
}

// get fetches a page over the protocols offered.
func (p *port) get(t *testing.T, path string, protos ...string) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: clientTLS(protos...), ForceAttemptHTTP2: len(protos) > 0 && protos[0] == "h2"}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	resp, err := client.Get("https://" + p.addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// echo is a tunnel that returns what it gets.
func echo(_ context.Context, conn *tls.Conn) error {
	_, err := io.Copy(conn, conn)
	return err
}

func wantEcho(t *testing.T, conn *tls.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
		t.Fatalf("got %q, %v from the tunnel", got, err)
	}
}

func TestProtocols(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: echo})
	for _, test := range []struct {
		name   string
		protos []string
		proto  string
	}{
		{"HTTP/2", []string{"h2", "http/1.1"}, "HTTP/2.0"},
		{"HTTP/1.1", []string{"http/1.1"}, "HTTP/1.1"},
		{"without ALPN", nil, "HTTP/1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, body := p.get(t, "/", test.protos...)
			if resp.Proto != test.proto || resp.StatusCode != http.StatusOK || !strings.Contains(body, "sshgate") {
				t.Errorf("got %s %s: %q, want %s 200", resp.Proto, resp.Status, body, test.proto)
			}
		})
	}
	t.Run("tunnel", func(t *testing.T) { wantEcho(t, p.dial(t, web.TunnelProtocol)) })
	t.Run("the server prefers the tunnel", func(t *testing.T) {
		wantEcho(t, p.dial(t, "http/1.1", "h2", web.TunnelProtocol))
	})
	t.Run("unknown protocol", func(t *testing.T) {
		conn, err := tls.Dial("tcp", p.addr, clientTLS("sshgate-tunnel/2"))
		if err == nil {
			conn.Close()
			t.Fatal("the handshake succeeded")
		}
	})
	t.Run("no TLS at all", func(t *testing.T) {
		conn := p.silent(t)
		if _, err := io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n\x00\xff garbage\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		wantClosed(t, conn)
		wantEcho(t, p.dial(t, web.TunnelProtocol))
	})
}

func TestTunnelNeedsTLS13(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: func(context.Context, *tls.Conn) error {
		t.Error("a tunnel over TLS 1.2")
		return nil
	}})
	cfg := clientTLS(web.TunnelProtocol)
	cfg.MaxVersion = tls.VersionTLS12
	conn, err := tls.Dial("tcp", p.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantClosed(t, conn)
}

func TestNoTunnelConfigured(t *testing.T) {
	p := start(t, web.ServerConfig{})
	conn, err := tls.Dial("tcp", p.addr, clientTLS(web.TunnelProtocol))
	if err == nil {
		conn.Close()
		t.Fatal("the handshake succeeded")
	}
	resp, _ := p.get(t, "/", "h2")
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got %s", resp.Status)
	}
}

func TestLanding(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: echo})
	for _, path := range []string{"/x", "/login", "/index.html", "/..%2f"} {
		if resp, _ := p.get(t, path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s, want 404", path, resp.Status)
		}
	}
	resp, _ := p.get(t, "/")
	for name, want := range map[string]string{
		"Content-Security-Policy":   "default-src 'none'",
		"X-Content-Type-Options":    "nosniff",
		"X-Frame-Options":           "DENY",
		"Referrer-Policy":           "no-referrer",
		"Cache-Control":             "no-store",
		"Strict-Transport-Security": "max-age=",
	} {
		if got := resp.Header.Get(name); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q in it", name, got, want)
		}
	}
}

func TestHandshakeTimeout(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: echo, HandshakeTimeout: 500 * time.Millisecond, MaxHandshakes: 1})
	wantClosed(t, p.silent(t))
	// Its place is free again, if not at the very moment that it is closed.
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := tls.Dial("tcp", p.addr, clientTLS(web.TunnelProtocol))
		if err == nil {
			defer conn.Close()
			wantEcho(t, conn)
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestMaxHandshakes(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: echo, MaxHandshakes: 1})
	open := p.dial(t, web.TunnelProtocol) // done with its handshake: does not count
	wantEcho(t, open)
	first := p.silent(t)
	wantClosed(t, p.silent(t)) // accepted after the first
	wantEcho(t, open)
	first.Close()
}

func TestMaxConns(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: echo, MaxConns: 2})
	first, second := p.dial(t, web.TunnelProtocol), p.dial(t, web.TunnelProtocol)
	wantEcho(t, first)
	wantEcho(t, second)
	wantClosed(t, p.silent(t))
	if n := p.Conns(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	first.Close()
	for p.Conns() == 2 { // until the server has noticed
		time.Sleep(time.Millisecond)
	}
	wantEcho(t, p.dial(t, web.TunnelProtocol))
}

func TestShutdownTellsTunnels(t *testing.T) {
	cause := make(chan error, 1)
	p := start(t, web.ServerConfig{Tunnel: func(ctx context.Context, conn *tls.Conn) error {
		if _, err := io.CopyN(conn, conn, 4); err != nil {
			return err
		}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		_, err := io.WriteString(conn, "bye!")
		return err
	}})
	conn := p.dial(t, web.TunnelProtocol)
	wantEcho(t, conn)
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-cause; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the tunnel's cause is %v, want a reason", err)
	}
	if last, err := io.ReadAll(conn); err != nil || string(last) != "bye!" {
		t.Errorf("the tunnel's last words are %q, %v", last, err)
	}
	if err := <-p.served; err != nil {
		t.Errorf("Serve: %v, want nil", err)
	}
	if _, err := net.Dial("tcp", p.addr); err == nil {
		t.Error("still listening")
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	p := start(t, web.ServerConfig{HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		select {
		case <-goOn:
			io.WriteString(w, "finished")
		case <-r.Context().Done():
			t.Error("the request was cancelled")
		}
	})})
	body := make(chan string, 1)
	go func() {
		_, b := p.get(t, "/", "http/1.1")
		body <- b
	}()
	<-started
	down := make(chan error, 1)
	go func() { down <- p.Shutdown(context.Background()) }()
	for { // until the listener is closed, so that Shutdown is under way
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			break
		}
		conn.Close()
	}
	close(goOn)
	if got := <-body; got != "finished" {
		t.Errorf("got %q", got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// TestShutdownCutsWhatStays has a tunnel, a request and a handler with a
// connection of its own that end only when their connections do.
func TestShutdownCutsWhatStays(t *testing.T) {
	var started sync.WaitGroup
	started.Add(3)
	p := start(t, web.ServerConfig{
		Tunnel: func(_ context.Context, conn *tls.Conn) error {
			started.Done()
			_, err := io.Copy(io.Discard, conn)
			return err
		},
		HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			started.Done()
			if r.URL.Path != "/hijack" {
				<-r.Context().Done()
				return
			}
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.Copy(io.Discard, conn)
		}),
	})
	p.dial(t, web.TunnelProtocol)
	for _, path := range []string{"/wait", "/hijack"} {
		if _, err := io.WriteString(p.dial(t, "http/1.1"), "GET "+path+" HTTP/1.1\r\nHost: gate\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	started.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want context.DeadlineExceeded", err)
	}
	if err := <-p.served; err != nil { // returns only after all three have ended
		t.Errorf("Serve: %v, want nil", err)
	}
	if n := p.Conns(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	p := start(t, web.ServerConfig{Tunnel: echo})
	conn := p.dial(t, web.TunnelProtocol)
	wantEcho(t, conn)
	p.cancel()
	if err := <-p.served; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v, want context.Canceled", err)
	}
	wantClosed(t, conn)
}

// flaky is a listener whose first Accepts fail.
type flaky struct {
	net.Listener
	failures int
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestAcceptFailuresPass(t *testing.T) {
	cert, _ := certificate()
	server, err := web.NewServer(web.ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Tunnel: echo})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(t.Context(), &flaky{Listener: l, failures: 3}) }()
	p := &port{Server: server, addr: l.Addr().String()}
	conn := p.dial(t, web.TunnelProtocol)
	wantEcho(t, conn)
	conn.Close()
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestNewServerRefuses(t *testing.T) {
	for name, cfg := range map[string]web.ServerConfig{
		"no TLS":         {},
		"no certificate": {TLS: &tls.Config{}},
	} {
		if _, err := web.NewServer(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestServeAfterShutdown(t *testing.T) {
	p := start(t, web.ServerConfig{})
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Serve(t.Context(), l); err == nil {
		t.Error("served")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is left open: %v", err)
	}
}
