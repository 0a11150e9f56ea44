package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	"github.com/sshgate/sshgate/sshgate/web"
)

// ask sends a GET to the handler, with Accept set.
func ask(handler http.Handler, path, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func well(context.Context) error { return nil }

func TestHealth(t *testing.T) {
	admin := web.NewAdmin(web.AdminConfig{Checks: []web.Check{
		{Name: "store", Probe: func(context.Context) error { return errors.New("down") }},
	}})
	if w := ask(admin, "/healthz", ""); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("got %d %q, want 200: the process is alive whatever the checks say", w.Code, w.Body)
	}
	if w := ask(admin, "/metrics", ""); w.Code != 404 {
		t.Errorf("/metrics without metrics: %d, want 404", w.Code)
	}
	if w := ask(admin, "/", ""); w.Code != 404 {
		t.Errorf("/: %d, want 404", w.Code)
	}
}

func TestReadiness(t *testing.T) {
	var down error
	admin := web.NewAdmin(web.AdminConfig{Checks: []web.Check{
		{Name: "policy", Probe: well},
		{Name: "store", Probe: func(context.Context) error { return down }},
	}})
	if w := ask(admin, "/readyz", ""); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("all is well: %d %q", w.Code, w.Body)
	}
	down = errors.New("the disk is full")
	if w := ask(admin, "/readyz", "*/*"); w.Code != 503 || w.Body.String() != "not ready: store\n" {
		t.Errorf("one is down: %d %q", w.Code, w.Body)
	}
	for _, q := range []struct{ path, accept string }{{"/readyz?verbose", ""}, {"/readyz", "application/json"}} {
		w := ask(admin, q.path, q.accept)
		var got struct {
			Ready  bool
			Checks []struct {
				Name, Error string
				OK          bool
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%q: %v", w.Body, err)
		}
		if w.Code != 503 || got.Ready || len(got.Checks) != 2 ||
			!got.Checks[0].OK || got.Checks[1].OK || got.Checks[1].Name != "store" || got.Checks[1].Error != "the disk is full" {
			t.Errorf("%v: %d %+v", q, w.Code, got)
		}
	}
	warns := web.NewAdmin(web.AdminConfig{Checks: []web.Check{{Name: "file", Warns: true, Probe: func(context.Context) error { return down }}}})
	if w := ask(warns, "/readyz", ""); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("a warning: %d %q, want ready", w.Code, w.Body)
	}
	if w := ask(warns, "/readyz?verbose", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"ready":true`) || !strings.Contains(w.Body.String(), `"ok":false,"warning":true,"error":"the disk is full"`) {
		t.Errorf("a warning in detail: %d %q", w.Code, w.Body)
	}
	if w := ask(web.NewAdmin(web.AdminConfig{}), "/readyz?verbose", ""); w.Code != 200 {
		t.Errorf("without checks: %d, want 200", w.Code)
	}
}

// TestReadinessOfStubbornProbe has a probe that ignores its context: asking
// must not wait for it, nor start it again.
func TestReadinessOfStubbornProbe(t *testing.T) {
	release, ended := make(chan struct{}), make(chan struct{})
	starts := 0
	admin := web.NewAdmin(web.AdminConfig{Checks: []web.Check{{
		Name: "stubborn", Timeout: 20 * time.Millisecond,
		Probe: func(context.Context) error {
			defer close(ended)
			starts++
			<-release
			return nil
		},
	}}})
	for range 3 {
		if w := ask(admin, "/readyz", ""); w.Code != 503 {
			t.Errorf("got %d, want 503", w.Code)
		}
	}
	close(release)
	<-ended
	if starts != 1 {
		t.Errorf("it ran %d times at once", starts)
	}
}

func TestServeAdmin(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- web.ServeAdmin(ctx, l, web.NewAdmin(web.AdminConfig{})) }()
	transport := &http.Transport{}
	client := &http.Client{Transport: transport}
	resp, err := client.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	transport.CloseIdleConnections()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("got %v, want nil", err)
	}

	if err := web.ServeAdmin(t.Context(), l, http.NotFoundHandler()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed listener: got %v, want net.ErrClosed", err)
	}
}

func TestMetrics(t *testing.T) {
	streams := 3
	m := web.NewMetrics(web.MetricsConfig{
		Version: "v1.2.3",
		Gauges: web.Gauges{
			Tunnels: func() int { return 2 }, Streams: func() int { return streams },
			Connections: func() int { return 5 }, PendingLogins: func() int { return 1 },
			AuditFailures: func() uint64 { return 7 },
		},
	})
	var _ audit.Sink = m
	for _, e := range []sshgate.Event{
		{Kind: sshgate.EventLoginStart},
		{Kind: sshgate.EventLoginStart},
		{Kind: sshgate.EventLoginSuccess},
		{Kind: sshgate.EventLoginFailure},
		{Kind: sshgate.EventDecision, Allowed: true, Channel: sshgate.ChannelSession},
		{Kind: sshgate.EventDecision, Channel: sshgate.ChannelForward},
		{Kind: sshgate.EventDecision, Channel: "x\n# HELP", Identity: "mallory", ClientAddr: netip.MustParseAddr("192.0.2.1")},
		{Kind: sshgate.EventSessionStart, Channel: sshgate.ChannelSession},
		{Kind: sshgate.EventSessionStart, Channel: sshgate.ChannelSession},
		{Kind: sshgate.EventSessionEnd, Channel: sshgate.ChannelSession, BytesIn: 10, BytesOut: 2000, Duration: 90 * time.Second},
		{Kind: sshgate.EventHostKey, Allowed: true},
		{Kind: sshgate.EventHostKey},
		{Kind: "something else"},
	} {
		if err := m.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	text := ask(web.NewAdmin(web.AdminConfig{Metrics: m.Handler()}), "/metrics", "").Body.String()
	for _, line := range []string{
		`sshgate_logins_started_total 2`,
		`sshgate_logins_total{result="success"} 1`,
		`sshgate_logins_total{result="failure"} 1`,
		`sshgate_decisions_total{allowed="true",channel="session"} 1`,
		`sshgate_decisions_total{allowed="false",channel="forward"} 1`,
		`sshgate_decisions_total{allowed="false",channel="other"} 1`,
		`sshgate_sessions_active 1`,
		`sshgate_sessions_total{channel="session"} 2`,
		`sshgate_session_bytes_total{direction="in"} 10`,
		`sshgate_session_bytes_total{direction="out"} 2000`,
		`sshgate_session_duration_seconds_sum 90`,
		`sshgate_session_duration_seconds_bucket{le="60"} 0`,
		`sshgate_session_duration_seconds_bucket{le="300"} 1`,
		`sshgate_host_keys_total{allowed="true"} 1`,
		`sshgate_host_keys_total{allowed="false"} 1`,
		`sshgate_tunnels 2`,
		`sshgate_tunnel_streams 3`,
		`sshgate_connections 5`,
		`sshgate_logins_pending 1`,
		`sshgate_audit_failures_total 7`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	for _, part := range []string{`version="v1.2.3"`, "go_goroutines ", "process_open_fds "} {
		if !strings.Contains(text, part) {
			t.Errorf("missing: %s", part)
		}
	}
	if strings.Contains(text, "mallory") || strings.Contains(text, "192.0.2.1") {
		t.Error("an identity or an address became a label")
	}
	for line := range strings.Lines(text) {
		if name, isSample := strings.CutPrefix(line, "sshgate_"); isSample {
			name = "sshgate_" + name[:strings.IndexAny(name, "{ ")]
			name = strings.NewReplacer("_bucket", "", "_sum", "", "_count", "").Replace(name)
			if !strings.Contains(text, "# HELP "+name+" ") {
				t.Errorf("%s has no help", name)
			}
		}
	}

	streams = 4
	if text := ask(m.Handler(), "/metrics", "").Body.String(); !strings.Contains(text, "\nsshgate_tunnel_streams 4\n") {
		t.Error("a gauge is not read anew")
	}
}

// TestMetricsOfOddEvents feeds numbers that would make a counter panic.
func TestMetricsOfOddEvents(t *testing.T) {
	m := web.NewMetrics(web.MetricsConfig{})
	if err := m.Write(sshgate.Event{Kind: sshgate.EventSessionEnd, BytesIn: -1, BytesOut: -1, Duration: -1}); err != nil {
		t.Error(err)
	}
}
