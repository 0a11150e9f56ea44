package connector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/sshgate/sshgate/sshgate"
)

func TestReconnectsToARestartedGateway(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	for range 2 {
		addr := g.addr
		g.stop()
		g.waitFor(sshgate.EventOriginDown, "web1")
		g.start(HubConfig{Admit: allowAll, Events: func(e sshgate.Event) { g.events <- e }}, quickTiming(), addr)
		g.waitFor(sshgate.EventOriginUp, "web1")
	}
	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestConnectionsAreSpread(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr, func(cfg *AgentConfig, _ *timing) { cfg.Connections = 3 })
	eventually(t, "three tunnels", func() bool {
		origins := g.hub.Origins()
		return len(origins) == 1 && origins[0].Tunnels == 3
	})
	for range 6 {
		g.mustDial("web1")
	}
	g.hub.mu.Lock()
	defer g.hub.mu.Unlock()
	for tun := range g.hub.tunnels {
		if tun.streams != 2 {
			t.Errorf("a tunnel has %d streams, want 2", tun.streams)
		}
	}
}

// A tunnel that is lost before the answer is no reason to fail.
func TestDialFallsOver(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	bad := newRawConnector(t, g, g.clientTLS("bad", "web1"))
	bad.register(wireOrigin{Name: "web1"})
	g.waitFor(sshgate.EventOriginUp, "web1")
	go func() { // takes one stream and then breaks
		_, _ = bad.session.AcceptStream()
		bad.session.Close()
	}()
	// The bad tunnel is alone first, so that it is certain to be tried.
	g.startAgent([]Origin{{Name: "web1", Address: o.addr}}, func(cfg *AgentConfig, _ *timing) {
		cfg.TLS = g.clientTLS("good", "web1")
	}).waitReady(t)
	defer g.busy("good")()
	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// One connector cannot reach the origin, the other can; and a connector that
// cannot is asked once, however many tunnels it has.
func TestDialFallsOverToAnotherConnector(t *testing.T) {
	g := startGateway(t)
	var asked sync.Map
	refuse := func(name string) *rawConnector {
		c := newRawConnector(t, g, g.clientTLS(name, "web1"))
		c.register(wireOrigin{Name: "web1"})
		go func() {
			for n := 1; ; n++ {
				stream, err := c.session.AcceptStream()
				if err != nil {
					return
				}
				asked.Store(c, n)
				_, _ = readHeader(stream)
				_ = writeFrame(stream, dialReply{Code: CodeDialRefused, Reason: "no"}, maxHeaderFrame)
				stream.Close()
			}
		}()
		return c
	}
	one, two := refuse("a"), refuse("a")
	g.waitFor(sshgate.EventOriginUp, "web1")
	if _, err := g.dial("web1"); refusalCode(err) != CodeDialRefused {
		t.Fatalf("got %v", err)
	}
	total := 0
	for _, c := range []*rawConnector{one, two} {
		if n, ok := asked.Load(c); ok {
			total += n.(int)
		}
	}
	if total != 1 {
		t.Errorf("the connector was asked %d times", total)
	}
	// A replica is another process of the same connector, and reaches it.
	o := startOrigin(t, echo)
	for _, name := range []string{"a", "b"} {
		other := g.startAgent([]Origin{{Name: "web1", Address: o.addr}}, func(cfg *AgentConfig, _ *timing) {
			cfg.TLS = g.clientTLS(name, "web1")
		})
		other.waitReady(t)
		for range 3 {
			g.mustDial("web1")
		}
		other.stop()
		eventually(t, name+" is gone", func() bool { return g.hub.Origins()[0].Tunnels == 2 })
	}
}

// The hub drains: no new connections, old ones finish, connectors try again.
func TestHubDrain(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	drained := make(chan error, 1)
	go func() { drained <- g.hub.Drain(testContext(t)) }()
	eventually(t, "dialling is refused", func() bool {
		extra, err := g.dial("web1")
		if err == nil {
			extra.Close()
		}
		return refusalCode(err) == CodeDraining
	})
	_, _ = conn.Write([]byte("still here"))
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		t.Fatalf("a connection was cut: %v", err)
	}
	select {
	case err := <-drained:
		t.Fatalf("Drain returned with a connection open: %v", err)
	default:
	}
	_ = conn.CloseWrite()
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	// The connector comes back and is told to wait.
	for {
		err := <-g.served
		if refusalCode(err) == CodeDraining {
			break
		}
		if !errors.Is(err, errDrained) && !errors.Is(err, errGone) {
			t.Fatalf("Serve returned %v", err)
		}
	}
	// A second gateway on the same port takes over.
	addr := g.addr
	g.stop()
	g.waitFor(sshgate.EventOriginDown, "web1")
	g.start(HubConfig{Admit: allowAll, Events: func(e sshgate.Event) { g.events <- e }}, quickTiming(), addr)
	g.waitFor(sshgate.EventOriginUp, "web1")
	g.mustDial("web1")
}

func TestHubDrainIsBounded(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.hub.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: %v", err)
	}
	g.hub.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrTunnelLost) {
		t.Errorf("Read after Close of the hub: %v", err)
	}
}

// One tunnel is drained; the agent opens another, and the old one ends with its
// last stream.
func TestAgentReplacesADrainedTunnel(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	a := g.publish("web1", o.addr)
	old := g.mustDial("web1")
	var drained *tunnel
	g.hub.mu.Lock()
	for drained = range g.hub.tunnels {
	}
	g.hub.mu.Unlock()
	drained.drain("for the test")
	drained.drain("twice")
	eventually(t, "a second tunnel", func() bool { return a.Stats().Tunnels == 2 })
	fresh := g.mustDial("web1")
	for _, conn := range []Conn{old, fresh} {
		_, _ = conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	old.Close()
	eventually(t, "the old tunnel ends", func() bool { return g.hub.Stats().Tunnels == 1 && a.Stats().Tunnels == 1 })
	if a.lingering.Load() != 0 {
		t.Error("the old tunnel is still counted")
	}
}

// The agent stops in order: what runs may finish, nothing new begins, and the
// gateway hears of it at once.
func TestAgentShutdown(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	a := g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	stopped := make(chan error, 1)
	go func() { stopped <- a.Shutdown(testContext(t)) }()
	g.waitFor(sshgate.EventOriginDown, "web1")
	if _, err := g.dial("web1"); !errors.Is(err, ErrOffline) {
		t.Errorf("Dial: %v", err)
	}
	_, _ = conn.Write([]byte("still here"))
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		t.Fatalf("a connection was cut: %v", err)
	}
	_ = conn.CloseWrite()
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatalf("the end was lost: %v", err)
	}
	conn.Close()
	select {
	case err := <-stopped:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(testTimeout):
		t.Fatal("Shutdown does not return")
	}
	if err := a.Shutdown(context.Background()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

func TestAgentShutdownIsBounded(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	a := g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := a.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrTunnelLost) {
		t.Errorf("Read: %v", err)
	}
}

func TestAgentStopsWhileTheGatewayIsAway(t *testing.T) {
	g := startGateway(t)
	cfg := AgentConfig{Gateway: g.addr, TLS: g.clientTLS("c1", "web1"), Origins: []Origin{{Name: "web1", Address: "127.0.0.1:1"}}}
	g.stop()
	agent, err := NewAgent(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.Run(context.Background())
	}()
	eventually(t, "Run has begun", func() bool { agent.mu.Lock(); defer agent.mu.Unlock(); return agent.running })
	if err := agent.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := agent.Run(context.Background()); err == nil {
		t.Error("Run can be called twice")
	}
}

// proxy is a TCP proxy that can be made slow, or dead without being closed.
type proxy struct {
	addr string

	mu     sync.Mutex
	frozen chan struct{} // closed: what passes now stops for good, and nobody new gets through
	delay  time.Duration // for each 4 KiB towards the gateway
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: listener.Addr().String(), frozen: make(chan struct{})}
	over := make(chan struct{})
	var wg sync.WaitGroup
	pass := func(dst, src net.Conn, slow bool) {
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		buf := make([]byte, 4<<10)
		for {
			n, err := src.Read(buf)
			select {
			case <-frozen:
				<-over
				return
			default:
			}
			p.mu.Lock()
			delay := p.delay
			p.mu.Unlock()
			if slow {
				time.Sleep(delay)
			}
			if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
				dst.Close()
				src.Close()
				return
			}
		}
	}
	wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if p.isFrozen() {
				client.Close()
				continue
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			wg.Go(func() { <-over; client.Close(); server.Close() })
			wg.Go(func() { pass(server, client, true) })
			wg.Go(func() { pass(client, server, false) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		close(over)
		wg.Wait()
	})
	return p
}

func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.frozen)
}

// thaw lets new connections through; those that were frozen stay so.
func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *proxy) isFrozen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
		return true
	default:
		return false
	}
}

func (p *proxy) slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

func shortSilence(quick *timing) {
	quick.heartbeat, quick.silence = 100*time.Millisecond, 500*time.Millisecond
}

// Both ends notice a line that is dead without an end, and the agent comes back.
func TestDeadLine(t *testing.T) {
	g := startGateway(t, func(_ *HubConfig, quick *timing) { shortSilence(quick) })
	p := startProxy(t, g.addr)
	o := startOrigin(t, echo)
	a := g.publish("web1", o.addr, func(cfg *AgentConfig, quick *timing) {
		shortSilence(quick)
		cfg.Gateway = p.addr
	})
	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p.freeze()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrTunnelLost) {
		t.Errorf("Read: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if err := <-g.served; !errors.Is(err, errSilent) {
		t.Errorf("Serve: %v", err)
	}
	// Only now may the agent come back: had it been quicker than the hub, the origin would never have been down.
	g.waitFor(sshgate.EventOriginDown, "web1")
	p.thaw()
	g.waitFor(sshgate.EventOriginUp, "web1")
	eventually(t, "one tunnel", func() bool { return a.Stats().Tunnels == 1 })
	g.mustDial("web1")
}

// With the default timing a dead line is found within 15 seconds.
func TestDefaultTiming(t *testing.T) {
	d := defaultTiming()
	const looks = 10
	if found := d.silence + d.silence/looks; found >= 15*time.Second {
		t.Errorf("a dead line is found after %s", found)
	}
	if d.silence < 2*d.heartbeat {
		t.Error("one sign of life that is late ends a tunnel")
	}
}

// A line that is slow and full in one direction for longer than the limit is
// not taken for dead.
func TestSlowLineIsNotDead(t *testing.T) {
	const size = 1 << 20
	g := startGateway(t, func(_ *HubConfig, quick *timing) { shortSilence(quick) })
	p := startProxy(t, g.addr)
	o := startOrigin(t, func(conn *net.TCPConn) {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err == nil {
			_, _ = io.Copy(conn, io.LimitReader(zeros{}, size))
		}
	})
	g.publish("web1", o.addr, func(cfg *AgentConfig, quick *timing) {
		shortSilence(quick)
		cfg.Gateway = p.addr
	})
	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	p.slow(10 * time.Millisecond) // 400 KB/s: 2.6 s, five times the limit
	start := time.Now()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != size {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if took := time.Since(start); took < time.Second {
		t.Fatalf("the line was not slow: %s", took)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What yamux calls StreamCloseTimeout cuts a stream that is half-closed for
// longer. The first case shows that it does, the second that it is off here.
func TestHalfCloseHasNoTimeLimit(t *testing.T) {
	for _, limited := range []bool{true, false} {
		t.Run(fmt.Sprintf("limited=%t", limited), func(t *testing.T) {
			cfg := muxConfig(testLog(t))
			const limit = 50 * time.Millisecond
			if limited {
				cfg.StreamCloseTimeout = limit
			}
			near, far := net.Pipe()
			client, err := yamux.Client(near, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := yamux.Server(far, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			a, err := client.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			b, err := server.AcceptStream()
			if err != nil {
				t.Fatal(err)
			}
			_ = a.Close() // a half-close
			time.Sleep(4 * limit)
			_, _ = b.Write([]byte("late"))
			_ = b.Close()
			got, _ := io.ReadAll(a)
			if want := map[bool]string{true: "", false: "late"}[limited]; string(got) != want {
				t.Errorf("read %q, want %q", got, want)
			}
		})
	}
}

func TestCertificateExpiryMovesTheTunnel(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	g := startGateway(t, func(cfg *HubConfig, _ *timing) { cfg.Now = clock })
	cfg := g.clientTLS("c1", "web1")
	c := newRawConnector(t, g, cfg)
	eventually(t, "the tunnel is there", func() bool { return g.hub.Stats().Tunnels == 1 })
	mu.Lock()
	now = cfg.Certificates[0].Leaf.NotAfter.Add(-50 * time.Millisecond)
	mu.Unlock()
	c.register(wireOrigin{Name: "web1"})
	mu.Lock()
	now = now.Add(time.Second)
	mu.Unlock()
	for {
		msg, err := readControl(c.control)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := msg.(*drainMessage); ok {
			break
		}
	}
	c.session.Close()
	<-g.served
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	conn, err := tls.Dial("tcp", g.addr, rawTLS(cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-g.served; err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("Serve of an expired certificate: %v", err)
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	g.hub.Close()
	g.hub.Close()
	if _, err := g.dial("web1"); refusalCode(err) != CodeDraining {
		t.Errorf("Dial: %v", err)
	}
	conn, err := tls.Dial("tcp", g.addr, rawTLS(g.clientTLS("c1", "web1")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "Serve refuses", func() bool { return errors.Is(<-g.served, errHubClosed) })
}
