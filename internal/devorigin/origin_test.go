//go:build unix

package devorigin_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"

	"github.com/sshgate/sshgate/internal/devorigin"
)

// TestMain keeps the start-up files of whoever runs the tests out of the shells.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "devorigin")
	if err != nil {
		panic(err)
	}
	os.Setenv("HOME", home)
	os.Setenv("SHELL", "/bin/sh")
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(home)
		os.Exit(code)
	}))
}

// limit is how long a test waits for something that should happen at once.
const limit = 20 * time.Second

func newSigner(t *testing.T) gossh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// testOrigin is a running origin with its authority.
type testOrigin struct {
	addr    string
	hostKey gossh.PublicKey
	ca      gossh.Signer
	dir     string
	stop    context.CancelFunc
	served  chan error
}

// startOrigin runs an origin for the login "demo" until the test ends.
func startOrigin(t *testing.T, change ...func(*devorigin.Config)) *testOrigin {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hostKey := newSigner(t)
	o := &testOrigin{
		addr: l.Addr().String(), hostKey: hostKey.PublicKey(), ca: newSigner(t),
		dir: t.TempDir(), served: make(chan error, 1),
	}
	cfg := devorigin.Config{Listener: l, HostKey: hostKey, TrustedCA: o.ca.PublicKey(), Login: "demo", Dir: o.dir}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.stop = cancel
	var serving sync.WaitGroup
	serving.Go(func() { o.served <- devorigin.Serve(ctx, cfg) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return o
}

// certificate signs a user certificate for demo that is good for an hour, after
// change.
func (o *testOrigin) certificate(t *testing.T, key gossh.PublicKey, change func(*gossh.Certificate)) *gossh.Certificate {
	t.Helper()
	now := time.Now()
	cert := &gossh.Certificate{
		Key: key, CertType: gossh.UserCert, KeyId: "test", ValidPrincipals: []string{"demo"},
		ValidAfter: uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(time.Hour).Unix()),
		Permissions: gossh.Permissions{Extensions: map[string]string{"permit-pty": ""}},
	}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, o.ca); err != nil {
		t.Fatal(err)
	}
	return cert
}

// login returns an authentication method with a certificate.
func (o *testOrigin) login(t *testing.T, change func(*gossh.Certificate)) gossh.AuthMethod {
	t.Helper()
	key := newSigner(t)
	signer, err := gossh.NewCertSigner(o.certificate(t, key.PublicKey(), change), key)
	if err != nil {
		t.Fatal(err)
	}
	return gossh.PublicKeys(signer)
}

func (o *testOrigin) dialAs(user string, methods ...gossh.AuthMethod) (*gossh.Client, error) {
	return gossh.Dial("tcp", o.addr, &gossh.ClientConfig{
		User: user, Auth: methods, HostKeyCallback: gossh.FixedHostKey(o.hostKey), Timeout: limit,
	})
}

// dial signs in as demo.
func (o *testOrigin) dial(t *testing.T) *gossh.Client {
	t.Helper()
	client, err := o.dialAs("demo", o.login(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestAuthentication(t *testing.T) {
	o := startOrigin(t)
	stranger := &testOrigin{ca: newSigner(t)}
	hours := func(n int) uint64 { return uint64(time.Now().Add(time.Duration(n) * time.Hour).Unix()) }
	critical := func(name, value string) func(*gossh.Certificate) {
		return func(c *gossh.Certificate) { c.CriticalOptions = map[string]string{name: value} }
	}
	for _, test := range []struct {
		name  string
		user  string
		login gossh.AuthMethod
		ok    bool
	}{
		{"a good certificate", "demo", o.login(t, nil), true},
		{"from an address that it allows", "demo", o.login(t, critical("source-address", "127.0.0.0/8")), true},
		{"from an address that it does not", "demo", o.login(t, critical("source-address", "192.0.2.0/24")), false},
		{"a command that is not enforced", "demo", o.login(t, critical("force-command", "true")), false},
		{"an unknown critical option", "demo", o.login(t, critical("x@example.com", "")), false},
		{"another user", "root", o.login(t, nil), false},
		{"another user with a fitting principal", "root", o.login(t, func(c *gossh.Certificate) { c.ValidPrincipals = []string{"root"} }), false},
		{"another principal", "demo", o.login(t, func(c *gossh.Certificate) { c.ValidPrincipals = []string{"root"} }), false},
		{"no principal", "demo", o.login(t, func(c *gossh.Certificate) { c.ValidPrincipals = nil }), false},
		{"a host's certificate", "demo", o.login(t, func(c *gossh.Certificate) { c.CertType = gossh.HostCert }), false},
		{"expired", "demo", o.login(t, func(c *gossh.Certificate) { c.ValidBefore = hours(-1) }), false},
		{"not valid yet", "demo", o.login(t, func(c *gossh.Certificate) { c.ValidAfter = hours(1) }), false},
		{"another authority", "demo", stranger.login(t, nil), false},
		{"a plain key", "demo", gossh.PublicKeys(newSigner(t)), false},
		{"the authority's own key", "demo", gossh.PublicKeys(o.ca), false},
		{"a password", "demo", gossh.Password("demo"), false},
		{"keyboard-interactive", "demo", gossh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil }), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := o.dialAs(test.user, test.login)
			if err == nil {
				client.Close()
			}
			if ok := err == nil; ok != test.ok {
				t.Errorf("signed in: %v (%v), want %v", ok, err, test.ok)
			}
		})
	}
}

// TestNothingLetsNobodyIn pins the trap of gliderlabs: without a handler of its
// own it turns authentication off.
func TestNothingLetsNobodyIn(t *testing.T) {
	o := startOrigin(t)
	for _, user := range []string{"demo", "root", ""} {
		client, err := o.dialAs(user)
		if err == nil {
			client.Close()
			t.Errorf("user %q got in with no authentication at all", user)
		}
	}
}

func TestInjectedClock(t *testing.T) {
	o := startOrigin(t, func(cfg *devorigin.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	})
	if client, err := o.dialAs("demo", o.login(t, nil)); err == nil {
		client.Close()
		t.Error("the certificate has expired by the origin's clock, and was accepted")
	}
}

func TestBanner(t *testing.T) {
	o := startOrigin(t, func(cfg *devorigin.Config) { cfg.Banner = "Authorised use only.\n" })
	var banner string
	client, err := gossh.Dial("tcp", o.addr, &gossh.ClientConfig{
		User: "demo", Auth: []gossh.AuthMethod{o.login(t, nil)}, HostKeyCallback: gossh.FixedHostKey(o.hostKey),
		BannerCallback: func(text string) error { banner = text; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if banner != "Authorised use only.\n" {
		t.Errorf("got banner %q", banner)
	}
}

func TestLoginTimeout(t *testing.T) {
	o := startOrigin(t, func(cfg *devorigin.Config) { cfg.LoginTimeout = 100 * time.Millisecond })
	silent, err := net.Dial("tcp", o.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := silent.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(silent); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("a client that says nothing is kept")
		}
	}
}

// TestLoginTimeoutEndsWithLogin keeps a session longer than the login may take.
func TestLoginTimeoutEndsWithLogin(t *testing.T) {
	t.Parallel() // it mostly waits
	const timeout = 1500 * time.Millisecond
	o := startOrigin(t, func(cfg *devorigin.Config) { cfg.LoginTimeout = timeout })
	client := o.dial(t)
	if out := run(t, client, "sleep 2; echo still here"); out != "still here\n" {
		t.Errorf("got %q", out)
	}
}

func TestGarbage(t *testing.T) {
	o := startOrigin(t)
	for _, garbage := range []string{"\x00\xff\x00", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("A", 1<<16), "SSH-2.0-x\r\n\x7f\xff\xff\xff"} {
		conn, err := net.Dial("tcp", o.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(garbage)) // the server may have hung up before the end of it
		conn.Close()
	}
	if out := run(t, o.dial(t), "echo alive"); out != "alive\n" {
		t.Errorf("got %q", out)
	}
}

func TestOnlySessions(t *testing.T) {
	o := startOrigin(t)
	client := o.dial(t)
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "tun@openssh.com", "x"} {
		ch, _, err := client.OpenChannel(kind, nil)
		if err == nil {
			ch.Close()
			t.Errorf("channel %q was opened", kind)
		}
	}
	if ok, _, err := client.SendRequest("tcpip-forward", true, gossh.Marshal(struct {
		Host string
		Port uint32
	}{"127.0.0.1", 0})); ok || err != nil {
		t.Errorf("tcpip-forward: %v, %v, want a refusal", ok, err)
	}
}

func TestMaxSessions(t *testing.T) {
	client := startOrigin(t).dial(t)
	var open []*gossh.Session
	for range 10 {
		s, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	_, err := client.NewSession()
	var refused *gossh.OpenChannelError
	if !errors.As(err, &refused) || refused.Message != "no more sessions" {
		t.Fatalf("got %v, want the refusal of an eleventh session", err)
	}
	if err := open[0].Run("true"); err != nil {
		t.Fatal(err)
	}
	if out := run(t, client, "echo room"); out != "room\n" { // the place is free before the client knows
		t.Errorf("got %q", out)
	}
}

func TestServeRefusesConfig(t *testing.T) {
	key := newSigner(t)
	full := devorigin.Config{HostKey: key, TrustedCA: key.PublicKey(), Login: "demo"}
	noHostKey, noCA, noLogin := full, full, full
	noHostKey.HostKey, noCA.TrustedCA, noLogin.Login = nil, nil, ""
	for name, cfg := range map[string]devorigin.Config{"host key": noHostKey, "authority": noCA, "login": noLogin} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Listener = l
		if err := devorigin.Serve(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("without %s: the listener is left open", name)
		}
	}
	if err := devorigin.Serve(t.Context(), full); err == nil {
		t.Error("without a listener: served")
	}
}

func TestListenerFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	key := newSigner(t)
	err = devorigin.Serve(t.Context(), devorigin.Config{Listener: l, HostKey: key, TrustedCA: key.PublicKey(), Login: "demo"})
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}
