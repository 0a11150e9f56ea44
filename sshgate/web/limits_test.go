package web_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	"github.com/sshgate/sshgate/sshgate/limits"
	"github.com/sshgate/sshgate/sshgate/web"
)

func newLimits(t *testing.T, cfg limits.Config) (*limits.Limits, *audit.Recorder) {
	t.Helper()
	events := audit.NewRecorder(100)
	cfg.Record = events.Record
	l := must(limits.New(cfg))
	t.Cleanup(l.Close)
	return l, events
}

func wantLimit(t *testing.T, l *limits.Limits, events *audit.Recorder, limit sshgate.Limit, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); l.Refused(limit) != n && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := l.Refused(limit); got != n {
		t.Errorf("%s refused %d times, want %d", limit, got, n)
	}
	found := 0
	for _, e := range events.Events() {
		if e.Kind == sshgate.EventLimit && e.Detail == string(limit) {
			found++
		}
	}
	if found != 1 {
		t.Errorf("%s: %d events", limit, found)
	}
}

// The connections of one address are bounded, and those of tunnels do not count.
func TestConnectionsPerAddress(t *testing.T) {
	l, events := newLimits(t, limits.Config{TLSPerAddress: 2})
	p := start(t, web.ServerConfig{Limits: l, Tunnel: func(ctx context.Context, _ *tls.Conn) error {
		<-ctx.Done()
		return nil
	}})
	for range 5 {
		p.dial(t, web.TunnelProtocol)
		time.Sleep(20 * time.Millisecond) // it counts until the server sees what it is
	}
	first := p.silent(t)
	p.silent(t)
	for deadline := time.Now().Add(5 * time.Second); p.Conns() < 7 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	wantClosed(t, p.silent(t))
	wantLimit(t, l, events, sshgate.LimitAddressTLS, 1)
	first.Close()
	for deadline := time.Now().Add(5 * time.Second); p.Conns() > 6 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if resp, _ := p.get(t, "/"); resp.StatusCode != http.StatusOK {
		t.Errorf("the place is not free again: %s", resp.Status)
	}
}

func TestLimitsOfThePort(t *testing.T) {
	l, events := newLimits(t, limits.Config{})
	p := start(t, web.ServerConfig{Limits: l, MaxConns: 2, MaxHandshakes: 1, HandshakeTimeout: 300 * time.Millisecond})
	slow := p.silent(t)
	for deadline := time.Now().Add(5 * time.Second); p.Conns() < 1 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	wantClosed(t, p.silent(t))
	wantLimit(t, l, events, sshgate.LimitHandshakes, 1)
	go dribble(slow)
	wantClosed(t, slow)
	wantLimit(t, l, events, sshgate.LimitSlowHandshake, 1)
	for range 2 {
		conn := p.dial(t)
		_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n"))
		if _, err := conn.Read(make([]byte, 1)); err != nil { // after the handshake, on both sides
			t.Fatal(err)
		}
	}
	wantClosed(t, p.silent(t))
	wantLimit(t, l, events, sshgate.LimitConnections, 1)
}

func dribble(conn net.Conn) {
	for _, b := range []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 100)) {
		if _, err := conn.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Sign-ins that wait are bounded by address, and those that end give their place
// back.
func TestPendingOverHTTPS(t *testing.T) {
	b := newAPI(t, answering)
	begin := func() (status int, text string) {
		resp, body := b.do(http.MethodPost, "/oauth/device_authorization", "", url.Values{})
		text, _ = body["error_description"].(string)
		return resp.StatusCode, text
	}
	for range 10 { // as many as there may be in all
		begin()
	}
	status, text := begin()
	if status != http.StatusTooManyRequests || !strings.Contains(text, "too many sign-ins are waiting") {
		t.Errorf("%d %q", status, text)
	}
	if b.limits.Refused(sshgate.LimitPending) != 1 {
		t.Error("it is not counted")
	}
	b.logins <- result{id: person("alice")}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		status, text := begin()
		if status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the place is not free again: %d %q", status, text)
		}
	}
}

// Guessing is slow, and for who guesses alone.
func TestManyFailuresFromOneAddress(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	statuses := map[int]int{}
	for range 30 {
		resp, _ := b.do(http.MethodGet, "/api/v1/whoami", "Bearer x", nil)
		statuses[resp.StatusCode]++
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	if statuses[401] < 15 || statuses[429] < 5 || len(statuses) != 2 {
		t.Errorf("statuses %v", statuses)
	}
	if resp, _ := b.do(http.MethodGet, "/api/v1/whoami", alice, nil); resp.StatusCode != 200 {
		t.Errorf("a good token from the same address: %d", resp.StatusCode)
	}
	started := map[int]int{}
	for range 70 {
		resp, _ := b.do(http.MethodPost, "/oauth/device_authorization", "", url.Values{})
		started[resp.StatusCode]++
	}
	if started[429] < 5 {
		t.Errorf("sign-ins started: %v", started)
	}
}
