package station

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/sshgate/sshgate/connector"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var certificate = Certificate{Connector: "rack1", Hostnames: []string{"web1"}, NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}

// serve serves a status and returns the socket's path and how to change the status.
func serve(t *testing.T, status connector.Status) (socket string, set func(connector.Status)) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "run", "status.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	lines := NewLines(10)
	log := slog.New(slog.NewJSONHandler(lines, nil))
	log.Info("it starts")
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, Config{
			Status: func() connector.Status {
				mu.Lock()
				defer mu.Unlock()
				return status
			},
			Certificate: func() Certificate { return certificate },
			Version:     `1.2.3-"odd"\`, Proxy: "http://proxy:3128", Lines: lines, Log: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return socket, func(s connector.Status) {
		mu.Lock()
		defer mu.Unlock()
		status = s
	}
}

func get(t *testing.T, socket, path string) (int, string) {
	t.Helper()
	status, body, err := Get(t.Context(), socket, path)
	if err != nil {
		t.Fatal(err)
	}
	return status, string(body)
}

// connected is the status of a connector with all there can be in it.
func connected() connector.Status {
	dials := make([]uint64, 3)
	dials[0], dials[1], dials[2] = 5, 2, 1
	return connector.Status{
		Gateway: "gate.test:443",
		Tunnels: []connector.TunnelStatus{{Slot: 0, ID: "t-1", Remote: "192.0.2.1:443", Since: time.Now(), Streams: 2}, {Slot: 0, ID: "t-0", Draining: true, Streams: 1}},
		Down:    []connector.SlotStatus{{Slot: 1, Failures: 3, Error: "connection refused"}},
		Origins: []connector.ServiceStatus{
			{Name: "web1", Port: 22, Address: "127.0.0.1:22", State: connector.OriginAccepted, Scan: &connector.ScanStatus{Error: "no route"}},
			{Name: "db1", Port: 5432, State: connector.OriginRefused, Code: connector.CodeNotPermitted, Reason: "not yours", Advice: "ask"},
		},
		Streams: 3,
		Totals: connector.Totals{
			Opened: 4, Lost: 1, Failed: 2, Served: 8, Refused: map[connector.Code]uint64{connector.CodeDialTimeout: 7}, BytesIn: 1 << 40, BytesOut: 10,
			Dials: connector.Histogram{Bounds: []float64{.01, 1}, Counts: dials, Sum: 3.5},
		},
	}
}

func TestStatusAndReadiness(t *testing.T) {
	socket, set := serve(t, connector.Status{Gateway: "gate.test:443"})
	if code, body := get(t, socket, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	if code, body := get(t, socket, "/readyz"); code != 503 || body != "not ready: the first tunnel to gate.test:443 is not up yet\n" {
		t.Errorf("/readyz at first: %d %q", code, body)
	}
	down := connected()
	down.Tunnels = down.Tunnels[1:]
	set(down)
	if code, body := get(t, socket, "/readyz"); code != 503 || !strings.Contains(body, "connection refused") {
		t.Errorf("/readyz with none but a drained tunnel: %d %q", code, body)
	}
	set(connected())
	if code, body := get(t, socket, "/readyz"); code != 200 || body != "ok\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
	code, body := get(t, socket, "/readyz?verbose")
	for _, want := range []string{`{"ready":true,"checks":[{"name":"tunnel","ok":true},{"name":"certificate","ok":true}`, `"name":"origin web1","ok":false,"error":"no route"`, `"origin db1:5432"`, "not_permitted"} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("/readyz?verbose: %d, no %s in %s", code, want, body)
		}
	}
	var report Report
	if _, body = get(t, socket, "/status"); json.Unmarshal([]byte(body), &report) != nil || report.State != Connected || report.Gateway != "gate.test:443" ||
		report.PID != os.Getpid() || report.Certificate.Connector != "rack1" || len(report.Tunnels) != 2 || report.Totals.Refused[connector.CodeDialTimeout] != 7 {
		t.Errorf("/status: %s", body)
	}
	stopping := connected()
	stopping.Stopping = true
	set(stopping)
	if code, body := get(t, socket, "/readyz?verbose"); code != 503 || !strings.Contains(body, `"ready":false`) || !strings.Contains(body, "about to stop") {
		t.Errorf("/readyz while stopping: %d %s", code, body)
	}
	if code, body := get(t, socket, "/debug/log"); code != 200 || !strings.Contains(body, `"msg":"it starts"`) {
		t.Errorf("/debug/log: %d %q", code, body)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/heap", "/debug/"} {
		if code, _ := get(t, socket, path); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
}

func TestMetrics(t *testing.T) {
	socket, _ := serve(t, connected())
	_, body := get(t, socket, "/metrics")
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v in\n%s", problems, err, body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	h := families["sshgate_connector_dial_duration_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 8 || h.GetSampleSum() != 3.5 || len(h.GetBucket()) != 3 || h.GetBucket()[1].GetCumulativeCount() != 7 {
		t.Errorf("the histogram is %v", h)
	}
	if v := families["sshgate_connector_bytes_total"].GetMetric()[0].GetCounter().GetValue(); v != 1<<40 {
		t.Errorf("bytes in: %v", v)
	}
	if v := families["sshgate_connector_build_info"].GetMetric()[0].GetLabel()[0].GetValue(); v != `1.2.3-"odd"\` {
		t.Errorf("the version is %q", v)
	}
	for _, want := range []string{
		"sshgate_connector_tunnels 1\n", "sshgate_connector_tunnels_draining 1\n", "sshgate_connector_streams 3\n",
		`sshgate_connector_origins{state="refused"} 1` + "\n", `sshgate_connector_origins{state="waiting"} 0` + "\n",
		`sshgate_connector_dials_total{result="ok"} 8` + "\n", `sshgate_connector_dials_total{result="dial_timeout"} 7` + "\n",
		"sshgate_connector_tunnels_opened_total 4\n", "sshgate_connector_tunnels_lost_total 1\n", "sshgate_connector_connect_failures_total 2\n",
		"sshgate_connector_certificate_expiry_timestamp_seconds 4.1024448e+09\n",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestOnlyGET(t *testing.T) {
	socket, _ := serve(t, connected())
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", method)
		answer, _ := io.ReadAll(conn)
		conn.Close()
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 405")) {
			t.Errorf("%s: %.40q", method, answer)
		}
	}
}

// More connections than there may be wait for others to end, and what a silent one
// takes up comes free with the time limit.
func TestConnectionsAreBounded(t *testing.T) {
	socket, _ := serve(t, connected())
	conns := make([]net.Conn, maxConnections)
	for i := range conns {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if code, _, err := Get(ctx, socket, "/healthz"); err == nil {
		t.Errorf("one more is served: %d", code)
	}
	conns[0].Close()
	if code, _ := get(t, socket, "/healthz"); code != http.StatusOK {
		t.Errorf("after one has ended: %d", code)
	}
	if code, _ := get(t, socket, "/healthz"); code != http.StatusOK {
		t.Errorf("once more: %d", code)
	}
	big, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	_, _ = fmt.Fprintf(big, "GET /status HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	if answer, _ := io.ReadAll(big); !bytes.HasPrefix(answer, []byte("HTTP/1.1 431")) {
		t.Errorf("a big header: %.40q", answer)
	}
}

func TestStacksHaveNoArguments(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { waitWith([4]uint64{0xfeedface12345678, 1, 2, 3}, started, release) })
	<-started
	text := stacks()
	close(release)
	wg.Wait()
	if !strings.Contains(text, "station.waitWith(...)") || !strings.Contains(text, "goroutine ") || !strings.Contains(text, "chan receive") {
		t.Errorf("the stacks are\n%s", text)
	}
	if found := regexp.MustCompile(`\(.*0x.*\)|feedface`).FindString(text); found != "" {
		t.Errorf("an argument: %s", found)
	}
}

//go:noinline
func waitWith(secret [4]uint64, started, release chan struct{}) uint64 {
	close(started)
	<-release
	return secret[0]
}

func TestLines(t *testing.T) {
	lines := NewLines(3)
	if lines.String() != "" {
		t.Error("it begins with something")
	}
	for i := range 5 {
		fmt.Fprintf(lines, "line %d\n", i)
		if i == 1 && lines.String() != "line 0\nline 1\n" {
			t.Errorf("%q", lines.String())
		}
	}
	if got := lines.String(); got != "line 2\nline 3\nline 4\n" {
		t.Errorf("%q", got)
	}
	fmt.Fprintf(lines, "%s\n", strings.Repeat("x", 2*maxLine))
	if got := lines.String(); len(got) > maxLine+100 || !strings.HasSuffix(got, "x...\n") {
		t.Errorf("%d bytes", len(got))
	}
}

func TestProblemOfACertificate(t *testing.T) {
	now := time.Now()
	for want, c := range map[string]Certificate{
		"":        {NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)},
		"clock":   {NotBefore: now.Add(time.Hour), NotAfter: now.Add(2 * time.Hour)},
		"expired": {NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)},
		"no such": {Error: "no such file"},
	} {
		if got := c.Problem(now); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}

func TestStateOf(t *testing.T) {
	stopping := connected()
	stopping.Stopping = true
	got := []State{StateOf(connected()), StateOf(stopping), StateOf(connector.Status{})}
	if !slices.Equal(got, []State{Connected, Stopping, Connecting}) {
		t.Error(got)
	}
}
