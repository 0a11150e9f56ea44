package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/station"
)

// runningConnector is "connector run" in this process.
type runningConnector struct {
	stderr *lockedBuffer
	stop   context.CancelFunc
	done   chan struct{}
	code   int // once done is closed
}

// startConnector runs a connector for web1, whose SSH server is at the address, until
// the test ends. The files of its certificate are in dir.
func startConnector(t *testing.T, dir, gateway, web1 string, args ...string) *runningConnector {
	t.Helper()
	file := filepath.Join(dir, "connector.yaml")
	text := fmt.Sprintf("gateway: %s\nserver_name: gate.test\ngateway_ca_file: gateway-ca.crt\norigins:\n  - name: web1\n    url: ssh://%s\n", gateway, web1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &runningConnector{stderr: &lockedBuffer{}, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.code = Run(ctx, append([]string{"connector", "run", "--config", file, "--log-format", "json"}, args...), nil, io.Discard, c.stderr)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-c.done:
		case <-time.After(testTimeout):
			t.Error("the connector does not end")
		}
	})
	return c
}

// waitForLog waits until the connector has logged the text.
func (c *runningConnector) waitForLog(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !strings.Contains(c.stderr.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not log %q:\n%s", text, c.stderr)
		}
	}
}

// A second connector leaves the first one's socket alone and runs without.
func TestSecondConnectorHasNoSocket(t *testing.T) {
	dir := t.TempDir()
	if err := writeCert(dir, time.Hour, "web1"); err != nil {
		t.Fatal(err)
	}
	_, gateway := startHub(t, dir)
	web1, stop := startSSHD(t.Fatalf)
	t.Cleanup(stop)
	t.Setenv("RUNTIME_DIRECTORY", dir)
	first := startConnector(t, dir, gateway, web1)
	first.waitForLog(t, `"msg":"connected"`)
	second := startConnector(t, dir, gateway, web1)
	second.waitForLog(t, "another connector answers on "+dir)
	second.waitForLog(t, `"msg":"connected"`)
	var stderr lockedBuffer
	socket := filepath.Join(dir, "status.sock")
	if code := Run(t.Context(), []string{"connector", "run", "--config", filepath.Join(dir, "connector.yaml"), "--status-socket", socket}, nil, io.Discard, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "another connector answers") {
		t.Errorf("with the socket named: %d\n%s", code, &stderr)
	}
	off := startConnector(t, dir, gateway, web1, "--status-socket", "off")
	off.waitForLog(t, `"msg":"connected"`)
	if strings.Contains(off.stderr.String(), "status socket") {
		t.Errorf("with --status-socket off:\n%s", off.stderr)
	}
	if code, out := askStatus(t); code != exitOK {
		t.Errorf("the first no longer answers: %d\n%s", code, out)
	}
}

func TestPrintStatus(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	report := station.Report{
		Version: "1.2.3", PID: 42, Started: now.Add(-3*time.Hour - 12*time.Minute), Time: now, State: station.Connected, Proxy: "http://proxy:3128",
		Certificate: station.Certificate{Connector: "rack1", Hostnames: []string{"web1", "*.lab"}, NotAfter: now.Add(12 * 24 * time.Hour)},
		Status: connector.Status{
			Gateway: "gate.test:443",
			Tunnels: []connector.TunnelStatus{{ID: "t-1", Remote: "192.0.2.1:443", Since: now.Add(-50 * time.Hour), Streams: 1}, {ID: "t-0", Remote: "192.0.2.1:443", Since: now.Add(-time.Minute), Streams: 2, Draining: true}},
			Down:    []connector.SlotStatus{{Slot: 1, Failures: 2, Error: "refused\x1b[31m\nstate        fine", Next: now.Add(12 * time.Second)}},
			Origins: []connector.ServiceStatus{
				{Name: "web1", Port: 22, Address: "127.0.0.1:22", State: connector.OriginAccepted, Scan: &connector.ScanStatus{HostKeys: []connector.HostKey{{Type: "ssh-ed25519", Fingerprint: "SHA256:abc"}}}},
				{Name: "web2", Port: 22, Address: "127.0.0.1:23", State: connector.OriginWaiting, Scan: &connector.ScanStatus{Error: "no route"}},
				{Name: "db1", Port: 5432, Address: "/run/db", State: connector.OriginRefused, Code: connector.CodeNotPermitted, Reason: "not yours", Advice: "ask"},
			},
			Streams: 3,
			Totals: connector.Totals{
				Opened: 4, Lost: 1, Failed: 2, Served: 8, BytesIn: 3 << 30, BytesOut: 10,
				Refused: map[connector.Code]uint64{connector.CodeDialTimeout: 7, connector.CodeDialFailed: 1},
			},
		},
	}
	const want = `state        connected
gateway      gate.test:443
proxy        http://proxy:3128
connector    version 1.2.3, process 42, up 3h12m
tunnels      1 of 2
  t-1        to 192.0.2.1:443, up 2 days, 1 connection
  t-0        to 192.0.2.1:443, up 1m, 2 connections, ends with them
  not up     next try in 12s; refused?[31m?state        fine
certificate  connector rack1, good until 2027-03-13, may publish web1, *.lab
  warning    it expires in 12 days and should have been renewed; look into the connector's log
origin       web1 at 127.0.0.1:22, published
  host key   ssh-ed25519 SHA256:abc
origin       web2 at 127.0.0.1:23, not published yet
  PROBLEM    its SSH server does not answer: no route
origin       db1:5432 at /run/db, refused
  PROBLEM    not yours (not_permitted)
  what to do ask
connections  3 now, 8 so far, 8 failed (dial_failed 1, dial_timeout 7)
bytes        3.0 GiB to origins, 10 B from them
line         4 tunnels opened, 1 lost, 2 attempts failed
`
	var out strings.Builder
	if err := printStatus(&out, report); err != nil || out.String() != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, out.String(), want)
	}
}

// An agent that hangs is not reported to be alive.
func TestWatchdogOfAHangingAgent(t *testing.T) {
	dir := t.TempDir()
	states, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer states.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", "40000")
	var hangs atomic.Bool
	release := make(chan struct{})
	hanging := make(chan struct{}, 1)
	stop := tellSystemd(func() connector.Status {
		if hangs.Load() {
			hanging <- struct{}{}
			<-release
			hangs.Store(false)
		}
		return connector.Status{Gateway: "gate:443"}
	}, slog.New(slog.DiscardHandler))
	expectState(t, states, "STATUS=connecting to gate:443")
	expectState(t, states, "WATCHDOG=1")
	expectState(t, states, "WATCHDOG=1")
	hangs.Store(true)
	<-hanging
	buf := make([]byte, 100)
	for n := 0; err == nil; n++ { // those that were sent before
		_ = states.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = states.Read(buf)
		if n > 10 {
			t.Fatal("it is reported to be alive")
		}
	}
	close(release)
	expectState(t, states, "WATCHDOG=1")
	stop()
}

func TestSummary(t *testing.T) {
	up := connector.Status{
		Gateway: "gate:443", Tunnels: make([]connector.TunnelStatus, 2),
		Origins: []connector.ServiceStatus{{State: connector.OriginAccepted}, {State: connector.OriginRefused}},
	}
	stopping := up
	stopping.Stopping = true
	for want, s := range map[string]connector.Status{
		"connected to gate:443, 2 tunnels, 1 of 2 origins": up,
		"stopping, 0 connections left":                     stopping,
		"connecting to gate:443":                           {Gateway: "gate:443", Down: make([]connector.SlotStatus, 2)},
		"not connected to gate:443: a?b":                   {Gateway: "gate:443", Down: []connector.SlotStatus{{}, {Error: "a\nb"}}},
	} {
		if got := summary(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
