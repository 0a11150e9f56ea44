package connector

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
)

// service returns the status of an SSH server that the agent publishes.
func (s Status) service(t *testing.T, name sshgate.OriginName) ServiceStatus {
	t.Helper()
	for _, o := range s.Origins {
		if o.Name == name && o.Port == sshgate.SSHPort {
			return o
		}
	}
	t.Fatalf("%s is not in %+v", name, s.Origins)
	return ServiceStatus{}
}

func TestStatus(t *testing.T) {
	g := startGateway(t, func(cfg *HubConfig, _ *timing) {
		cfg.Admit = func(_ context.Context, reg Registration) error {
			if reg.Origin == "changed" {
				return &Refusal{CodeHostKeyChanged, "it is not the key that it was"}
			}
			return nil
		}
	})
	signer := newSigner(t, "ed25519")
	s := startSSHD(t, "127.0.0.1:0", signer)
	closed := startOrigin(t, echo)
	closed.close()
	echoes := startOrigin(t, echo)
	begin := time.Now()
	a := g.startAgent([]Origin{
		{Name: "web1", Address: s.addr}, {Name: "changed", Address: s.addr}, {Name: "away", Address: closed.addr},
		{Name: "web1", Port: 7, Address: echoes.addr},
	})
	if before := a.Status(); before.Connected() || len(before.Origins) != 4 || before.Origins[0].State != OriginWaiting {
		t.Errorf("before the first tunnel: %+v", before)
	}
	a.waitReady(t)
	eventually(t, "the gateway's answers", func() bool {
		now := a.Status()
		away := now.service(t, "away")
		return now.service(t, "changed").State == OriginRefused && now.service(t, "web1").State == OriginAccepted &&
			now.service(t, "web1").Scan != nil && away.State == OriginAccepted && away.Scan != nil
	})
	conn, err := g.hub.Dial(testContext(t), DialRequest{Origin: "web1", Port: 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, _ = conn.Write([]byte("hello"))
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.dial("away"); refusalCode(err) != CodeDialRefused {
		t.Fatal(err)
	}
	eventually(t, "one stream is left", func() bool {
		now := a.Status()
		return now.Streams == 1 && now.Totals.BytesIn == 5 // counted once the origin has them
	})

	now := a.Status()
	checkServices(t, now, begin, signer)
	checkTotals(t, now.Totals)
	if !now.Connected() || now.Gateway != g.addr || now.Streams != 1 || len(now.Down) != 0 {
		t.Errorf("connected: %+v", now)
	}
	if len(now.Tunnels) != 1 {
		t.Fatalf("the tunnels are %+v", now.Tunnels)
	}
	tunnel := now.Tunnels[0]
	if !strings.HasPrefix(tunnel.ID, "t-") || tunnel.Remote != g.addr || tunnel.Since.Before(begin) || tunnel.Streams != 1 || tunnel.Draining {
		t.Errorf("the tunnel is %+v", tunnel)
	}
	if text, err := json.Marshal(now); err != nil || !strings.Contains(string(text), `"state":"refused","code":"host_key_changed"`) {
		t.Errorf("%s, %v", text, err)
	}
}

// checkServices checks what TestStatus publishes.
func checkServices(t *testing.T, now Status, begin time.Time, signer ssh.Signer) {
	t.Helper()
	web1 := now.service(t, "web1")
	if want := []HostKey{{"ssh-ed25519", ssh.FingerprintSHA256(signer.PublicKey())}}; !cmp.Equal(web1.Scan.HostKeys, want) || web1.Scan.Error != "" || web1.Scan.At.Before(begin) {
		t.Errorf("web1's host keys: %+v", web1.Scan)
	}
	if changed := now.service(t, "changed"); changed.Code != CodeHostKeyChanged || !strings.Contains(changed.Reason, "that it was") || changed.Advice == "" {
		t.Errorf("a refused origin: %+v", changed)
	}
	if away := now.service(t, "away"); !strings.Contains(away.Scan.Error, "refused") || len(away.Scan.HostKeys) != 0 {
		t.Errorf("an origin that is away: %+v", away.Scan)
	}
	if echo := now.Origins[2]; echo.Port != 7 || echo.Scan != nil {
		t.Errorf("a service that is not SSH: %+v", echo)
	}
}

// checkTotals checks what TestStatus has done.
func checkTotals(t *testing.T, totals Totals) {
	t.Helper()
	if totals.Opened != 1 || totals.Served != 1 || totals.BytesIn != 5 || totals.BytesOut != 5 ||
		!cmp.Equal(totals.Refused, map[Code]uint64{CodeDialRefused: 1}) {
		t.Errorf("the totals are %+v", totals)
	}
	dials := uint64(0)
	for _, n := range totals.Dials.Counts {
		dials += n
	}
	if dials != 1 || totals.Dials.Sum <= 0 || len(totals.Dials.Counts) != len(totals.Dials.Bounds)+1 {
		t.Errorf("the dials are %+v", totals.Dials)
	}
}

// A gateway that is away: the slot says why, and the counts tell a tunnel that was
// lost from one that could not be opened.
func TestStatusOfALostTunnel(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	var mu sync.Mutex
	away := false
	a := g.publish("web1", o.addr, func(cfg *AgentConfig, _ *timing) {
		cfg.DialGateway = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return nil, net.UnknownNetworkError("the line is cut")
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	mu.Lock()
	away = true
	mu.Unlock()
	g.hub.mu.Lock()
	for tunnel := range g.hub.tunnels {
		tunnel.close()
	}
	g.hub.mu.Unlock()
	eventually(t, "failed attempts", func() bool { return a.Status().Totals.Failed >= 2 })
	now := a.Status()
	if now.Connected() || len(now.Tunnels) != 0 || len(now.Down) != 1 || now.service(t, "web1").State != OriginWaiting {
		t.Errorf("without a gateway: %+v", now)
	}
	if down := now.Down[0]; down.Failures < 2 || !strings.Contains(down.Error, "the line is cut") {
		t.Errorf("the slot is %+v", down)
	}
	mu.Lock()
	away = false
	mu.Unlock()
	eventually(t, "another tunnel", func() bool { return a.Status().Connected() })
	if now = a.Status(); now.Totals.Lost != 1 || now.Totals.Opened != 2 || len(now.Down) != 0 {
		t.Errorf("with another tunnel: %+v", now)
	}
}

// A drained tunnel is listed beside the one in its place, and was not lost.
func TestStatusOfADrainedTunnel(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	a := g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	g.hub.mu.Lock()
	for tunnel := range g.hub.tunnels {
		g.hub.mu.Unlock()
		tunnel.drain("for the test")
		g.hub.mu.Lock()
	}
	g.hub.mu.Unlock()
	eventually(t, "a second tunnel", func() bool { return len(a.Status().Tunnels) == 2 })
	now := a.Status()
	if old, fresh := now.Tunnels[0], now.Tunnels[1]; !old.Draining || old.Streams != 1 || fresh.Draining || fresh.Slot != 0 || now.Up() != 1 {
		t.Errorf("the tunnels are %+v", now.Tunnels)
	}
	conn.Close()
	eventually(t, "the old tunnel ends", func() bool { return len(a.Status().Tunnels) == 1 })
	if now = a.Status(); now.Totals.Lost != 0 || now.Totals.Failed != 0 || now.Totals.Opened != 2 {
		t.Errorf("the totals are %+v", now.Totals)
	}
	go func() { _ = a.Shutdown(context.Background()) }()
	eventually(t, "it is stopping", func() bool { return a.Status().Stopping })
}
