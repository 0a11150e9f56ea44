package helper

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/proxydial"
	"github.com/sshgate/sshgate/sshgate"
)

// fakeGateway answers what the test says, and counts sign-ins.
type fakeGateway struct {
	*httptest.Server
	signIns atomic.Int32
	mu      sync.Mutex
	number  string          // that the page shows, "" where none is wanted
	good    map[string]bool // tokens
	whoami  func(header string) (int, string)
}

func newFakeGateway(t *testing.T) *fakeGateway {
	t.Helper()
	f := &fakeGateway{good: map[string]bool{}}
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, status int, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	mux.HandleFunc("POST /oauth/device_authorization", func(w http.ResponseWriter, _ *http.Request) {
		say(w, 200, `{"device_code":"d","user_code":"AB-CD","verification_uri":"https://idp.test/device","expires_in":600,"interval":1}`)
	})
	mux.HandleFunc("POST /oauth/token", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("grant_type") == grantExchange {
			say(w, 400, `{"error":"invalid_grant","error_description":"no workload takes it","request_id":"r-1"}`)
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.number != "" && r.FormValue("confirmation") != f.number {
			say(w, 400, `{"error":"confirmation_required","error_description":"type the number"}`)
			return
		}
		token := fmt.Sprint("token-", f.signIns.Add(1))
		f.good[token] = true
		say(w, 200, fmt.Sprintf(`{"access_token":%q,"expires_in":3600,"identity":"alice@example.com"}`, token))
	})
	mux.HandleFunc("GET /api/v1/whoami", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.whoami != nil {
			status, text := f.whoami(r.Header.Get("Authorization"))
			say(w, status, text)
			return
		}
		if !f.good[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] {
			say(w, 401, `{"error":"token_unknown","error_description":"there is no such token","request_id":"r-1"}`)
			return
		}
		say(w, 200, `{"identity":"alice@example.com"}`)
	})
	f.Server = httptest.NewTLSServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeGateway) address() string { return f.Listener.Addr().String() }

func (f *fakeGateway) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
}

// access returns somebody's with the options.
func (f *fakeGateway) access(t *testing.T, store *Store, o Options) (*Access, *bytes.Buffer) {
	t.Helper()
	gateway, err := NewGateway(f.address(), f.ca())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gateway.http.CloseIdleConnections)
	var stderr bytes.Buffer
	o.Stderr, o.Getenv, o.NoBrowser = &stderr, func(string) string { return "" }, true
	return &Access{Gateway: gateway, Store: store, Place: store.For(gateway.Address), opts: o, now: time.Now}, &stderr
}

func ask(a *Access) error {
	var me struct{ Identity string }
	return a.Call(context.Background(), http.MethodGet, "/api/v1/whoami", nil, &me)
}

func TestSignInWithTheNumberOfThePage(t *testing.T) {
	f := newFakeGateway(t)
	f.number = "123456"
	store, _ := newStore(t)
	lines := []string{"\n", "654321\n", " 123456 \n"}
	a, stderr := f.access(t, store, Options{Terminal: func() (io.ReadCloser, error) {
		line := lines[0]
		lines = lines[1:]
		return io.NopCloser(strings.NewReader(line)), nil
	}})
	if err := ask(a); err != nil || len(lines) != 0 {
		t.Fatalf("%v, %d lines left", err, len(lines))
	}
	if n := strings.Count(stderr.String(), "That is not the number."); n != 2 {
		t.Errorf("said %s", stderr)
	}
	store, _ = newStore(t)
	a, _ = f.access(t, store, Options{Terminal: func() (io.ReadCloser, error) { return nil, errors.New("none") }})
	var p *Problem
	if err := ask(a); !errors.As(err, &p) || p.Kind != SignIn || !strings.Contains(p.Text, "no terminal") {
		t.Errorf("got %v", err)
	}
}

func TestSignInOnceAndAgainWhenNeeded(t *testing.T) {
	f := newFakeGateway(t)
	store, _ := newStore(t)
	a, stderr := f.access(t, store, Options{})
	for range 3 {
		if err := ask(a); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for range 10 { // one access serves many connections
		all.Go(func() {
			if err := ask(a); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := f.signIns.Load(); n != 1 || !strings.Contains(stderr.String(), "https://idp.test/device") || !strings.Contains(stderr.String(), "AB-CD") {
		t.Errorf("%d sign-ins; said %s", n, stderr)
	}
	// The gateway no longer knows the token: one more sign-in, and one alone.
	f.mu.Lock()
	f.good = map[string]bool{}
	f.mu.Unlock()
	if err := ask(a); err != nil || f.signIns.Load() != 2 {
		t.Errorf("%v, %d sign-ins", err, f.signIns.Load())
	}
	// It takes nothing: that is no reason to go on for ever.
	f.whoami = func(string) (int, string) {
		return 401, `{"error":"sign_in_expired","error_description":"your sign-in has expired"}`
	}
	if err := ask(a); KindOf(err) != SignIn || f.signIns.Load() != 3 {
		t.Errorf("%v, %d sign-ins", err, f.signIns.Load())
	}
}

func TestWhoMayNotSignInIsNotAsked(t *testing.T) {
	f := newFakeGateway(t)
	for name, o := range map[string]Options{
		"who forbids it":     {NoLogin: true},
		"a service token":    {ServiceID: "st-1", ServiceSecret: "s"},
		"a job":              {IDToken: "x"},
		"a job without file": {IDTokenFile: "/nowhere"},
		"a job elsewhere":    {GitHubActions: true},
	} {
		store, _ := newStore(t)
		a, stderr := f.access(t, store, o)
		err := ask(a)
		if want := map[bool]Kind{true: Usage, false: SignIn}[strings.HasSuffix(name, "file") || strings.HasSuffix(name, "elsewhere")]; KindOf(err) != want {
			t.Errorf("%s: %v, kind %d, want %d", name, err, KindOf(err), want)
		}
		if f.signIns.Load() != 0 || stderr.Len() > 0 {
			t.Errorf("%s: asked to sign in: %s", name, stderr)
		}
	}
}

// Those who need a sign-in at the same time share it.
func TestSignInIsShared(t *testing.T) {
	f := newFakeGateway(t)
	store, _ := newStore(t)
	var all sync.WaitGroup
	for range 20 {
		a, _ := f.access(t, store, Options{})
		all.Go(func() {
			if err := ask(a); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := f.signIns.Load(); n != 1 {
		t.Errorf("%d sign-ins", n)
	}
}

func TestProblemsOfTheGateway(t *testing.T) {
	f := newFakeGateway(t)
	store, _ := newStore(t)
	a, _ := f.access(t, store, Options{ServiceID: "st-1", ServiceSecret: "s"})
	for answer, want := range map[string]Kind{
		`{"error":"denied","error_description":"no","request_id":"r-7"}`: Denied,
		`{"error":"origin_offline","error_description":"x"}`:             Origin,
		`{"error":"token_revoked","error_description":"x"}`:              SignIn,
		`{"error":"shutting_down"}`:                                      Unreachable,
		`{"error":"something new","error_description":"\u001b[31m"}`:     Broken,
		`<html>`: Unreachable,
	} {
		f.whoami = func(string) (int, string) { return 500, answer }
		err := ask(a)
		if KindOf(err) != want || strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("%s: %q, kind %d, want %d", answer, err, KindOf(err), want)
		}
	}
	other, err := NewGateway(f.address(), nil) // of a CA that nobody here knows
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Info(t.Context()); KindOf(err) != Unreachable || !strings.Contains(err.Error(), "--ca-file") {
		t.Errorf("an unknown CA: %v", err)
	}
	if _, err := NewGateway(f.address(), []byte("no PEM")); KindOf(err) != Usage {
		t.Errorf("a CA file that is none: %v", err)
	}
}

// tlsPair returns both ends of a TLS connection.
func tlsPair(t *testing.T) (*tlsStream, *tls.Conn) {
	t.Helper()
	f := newFakeGateway(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", f.TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan *tls.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_ = conn.(*tls.Conn).HandshakeContext(context.Background())
			served <- conn.(*tls.Conn)
		}
	}()
	gateway, err := NewGateway(l.Addr().String(), f.ca())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := gateway.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := <-served
	t.Cleanup(func() { conn.NetConn().Close(); other.NetConn().Close() })
	return &tlsStream{Conn: conn, readAhead: &proxydial.ReadAhead{Conn: conn, Reader: bufio.NewReader(conn)}}, other
}

// The end of the connection is not the end of what it carries.
func TestEndsOfAStream(t *testing.T) {
	stream, other := tlsPair(t)
	_, _ = io.WriteString(other, "all")
	_ = other.CloseWrite()
	if got, err := io.ReadAll(stream); string(got) != "all" || err != nil {
		t.Errorf("an end: %q, %v", got, err)
	}
	stream, other = tlsPair(t)
	_, _ = io.WriteString(other, "half")
	other.NetConn().(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(stream); string(got) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a cut: %q, %v", got, err)
	}
}

func TestCarry(t *testing.T) {
	stream, other := tlsPair(t)
	go func() {
		got, _ := io.ReadAll(other)
		_, _ = other.Write(append([]byte("got "), got...))
		_ = other.CloseWrite()
	}()
	var out bytes.Buffer
	closed := false
	if err := Carry(t.Context(), stream, strings.NewReader("this"), &out, func() { closed = true }); err != nil || out.String() != "got this" || !closed {
		t.Errorf("%q, %v, closed: %v", &out, err, closed)
	}
	stream, other = tlsPair(t)
	other.NetConn().Close()
	closed = false
	err := Carry(t.Context(), stream, strings.NewReader(""), io.Discard, func() { closed = true })
	if err == nil || closed {
		t.Errorf("a cut: %v, closed: %v", err, closed)
	}
	service, _ := sshgate.ParseEndpoint("db1:5432")
	if text := CutOff(service, stream, err).Error(); !strings.Contains(text, "the connection to db1:5432 was cut off") {
		t.Error(text)
	}
}
