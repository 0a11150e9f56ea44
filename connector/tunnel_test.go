package connector

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sshgate/sshgate/sshgate"
)

func TestEcho(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no stream is left", func() bool { return g.hub.Stats().Streams == 0 })
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// The origin sends much after the client has sent its end, as in `ssh host cat`.
func TestClientHalfClose(t *testing.T) {
	const size = 64 << 20
	g := startGateway(t)
	o := startOrigin(t, func(conn *net.TCPConn) {
		if _, err := io.Copy(io.Discard, conn); err != nil {
			return
		}
		_, _ = io.CopyN(conn, rand.NewChaCha8([32]byte{1}), size)
	})
	g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectStream(t, conn, size, 1)
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("Write after CloseWrite succeeds")
	}
}

// The client sends much after the origin has sent its end.
func TestOriginHalfClose(t *testing.T) {
	const size = 16 << 20
	sum := make(chan [32]byte, 1)
	g := startGateway(t)
	o := startOrigin(t, func(conn *net.TCPConn) {
		_ = conn.CloseWrite()
		h := sha256.New()
		if _, err := io.Copy(h, conn); err == nil {
			sum <- [32]byte(h.Sum(nil))
		}
	})
	g.publish("web1", o.addr, noScan)
	conn := g.mustDial("web1")
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("Read = %d, %v, want EOF", n, err)
	}
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(conn, h), rand.NewChaCha8([32]byte{2}), size); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-sum:
		if got != [32]byte(h.Sum(nil)) {
			t.Error("the origin received something else")
		}
	case <-time.After(testTimeout):
		t.Fatal("the origin did not get the end")
	}
}

// expectStream reads what the generator with the seed writes, and then EOF.
func expectStream(t *testing.T, r io.Reader, size int64, seed byte) {
	t.Helper()
	want, got := sha256.New(), sha256.New()
	_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{seed}), size)
	n, err := io.Copy(got, r)
	if err != nil || n != size {
		t.Fatalf("read %d bytes, %v; want %d", n, err, size)
	}
	if [32]byte(got.Sum(nil)) != [32]byte(want.Sum(nil)) {
		t.Error("the bytes are not those that were sent")
	}
}

// Both directions at once, on several streams of one tunnel.
func TestParallelTransfers(t *testing.T) {
	const size, streams = 8 << 20, 6
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	var wg sync.WaitGroup
	for i := range streams {
		conn := g.mustDial("web1")
		wg.Go(func() {
			if _, err := io.CopyN(conn, rand.NewChaCha8([32]byte{byte(i)}), size); err != nil {
				t.Error(err)
			}
			_ = conn.CloseWrite()
		})
		wg.Go(func() {
			want, got := sha256.New(), sha256.New()
			_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{byte(i)}), size)
			if n, err := io.Copy(got, conn); err != nil || n != size {
				t.Errorf("read %d bytes, %v", n, err)
			}
			if [32]byte(got.Sum(nil)) != [32]byte(want.Sum(nil)) {
				t.Error("the bytes are not those that were sent")
			}
		})
	}
	wg.Wait()
}

// A reader that does not read stalls its own stream alone, and at most a window
// of its data is taken from the origin.
func TestSlowReaderStallsNobodyElse(t *testing.T) {
	g := startGateway(t)
	var mu sync.Mutex
	sent := 0
	o := startOrigin(t, func(conn *net.TCPConn) {
		kind := make([]byte, 1)
		if _, err := io.ReadFull(conn, kind); err != nil {
			return
		}
		if kind[0] != 'f' {
			echo(conn)
			return
		}
		chunk := make([]byte, 64<<10)
		for {
			n, err := conn.Write(chunk)
			mu.Lock()
			sent += n
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	g.publish("web1", o.addr)
	slow := g.mustDial("web1")
	_, _ = slow.Write([]byte("f"))
	// Wait until the flood has come to a stop.
	total := func() int { mu.Lock(); defer mu.Unlock(); return sent }
	last := -1
	eventually(t, "the flood stops", func() bool {
		now := total()
		stopped := now == last && now > streamWindow
		last = now
		time.Sleep(50 * time.Millisecond)
		return stopped
	})
	const socketBuffers = 24 << 20 // the kernel's, on loopback, at either end
	if got := total(); got > streamWindow+socketBuffers {
		t.Errorf("the origin could send %d MiB to a reader that does not read", got>>20)
	}
	quick := g.mustDial("web1")
	_, _ = quick.Write([]byte("e" + "ping"))
	buf := make([]byte, 4)
	if _, err := io.ReadFull(quick, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("the other stream: %q, %v", buf, err)
	}
	// Closing unread must not leave anything behind.
	slow.Close()
	quick.Close()
	eventually(t, "no stream is left", func() bool { return g.hub.Stats().Streams == 0 })
}

// What was written before Close arrives, although Close also aborts.
func TestCloseDeliversWhatWasWritten(t *testing.T) {
	const size = 2 << 20
	received := make(chan int64, 1)
	g := startGateway(t)
	o := startOrigin(t, func(conn *net.TCPConn) {
		time.Sleep(100 * time.Millisecond) // let the abort overtake the data
		n, _ := io.Copy(io.Discard, conn)
		received <- n
	})
	g.publish("web1", o.addr, noScan)
	conn := g.mustDial("web1")
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case n := <-received:
		if n != size {
			t.Errorf("the origin received %d bytes of %d", n, size)
		}
	case <-time.After(testTimeout):
		t.Fatal("the origin's connection was not ended")
	}
}

func TestCloseWakesReadAndWrite(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		<-time.After(time.Second) // takes nothing
	})
	g.publish("web1", o.addr, noScan)
	conn := g.mustDial("web1")
	errs := make(chan error, 2)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		errs <- err
	}()
	started := make(chan struct{})
	go func() {
		close(started)
		chunk := make([]byte, 1<<20)
		for {
			if _, err := conn.Write(chunk); err != nil {
				errs <- err
				return
			}
		}
	}()
	<-started
	time.Sleep(100 * time.Millisecond) // until Write blocks
	conn.Close()
	for range 2 {
		select {
		case err := <-errs:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want net.ErrClosed", err)
			}
		case <-time.After(testTimeout):
			t.Fatal("Read or Write still blocks")
		}
	}
}

func TestDeadlines(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// yamux ends a session with EOF on every stream. That must not look like the
// origin's own end.
func TestLostTunnelIsNotEOF(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	a := g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	go a.stop()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrTunnelLost) {
		t.Errorf("Read: %v, want ErrTunnelLost", err)
	}
	eventually(t, "writing fails too", func() bool {
		_, err := conn.Write([]byte("x"))
		return errors.Is(err, ErrTunnelLost)
	})
	g.waitFor(sshgate.EventOriginDown, "web1")
	if _, err := g.dial("web1"); !errors.Is(err, ErrOffline) {
		t.Errorf("Dial: %v, want ErrOffline", err)
	}
	conn.Close()
	if n := g.hub.Stats().Streams; n != 0 {
		t.Errorf("%d streams are counted", n)
	}
}

func TestRefusalsOfTheConnector(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	o := startOrigin(t, echo)
	unreachable := errors.New("no route")
	g := startGateway(t)
	a := g.startAgent([]Origin{
		{Name: "closed", Address: closed.Addr().String()}, {Name: "slow", Address: "slow.invalid:22"},
		{Name: "broken", Address: "broken.invalid:22"}, {Name: "web1", Address: o.addr},
	}, func(cfg *AgentConfig, quick *timing) {
		quick.originDial = 50 * time.Millisecond
		quick.firstScan = 100 * time.Millisecond
		cfg.MaxStreams = 1
		cfg.DialOrigin = func(ctx context.Context, network, address string) (net.Conn, error) {
			switch address {
			case "slow.invalid:22":
				<-ctx.Done()
				return nil, ctx.Err()
			case "broken.invalid:22":
				return nil, unreachable
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	a.waitReady(t)
	for origin, want := range map[sshgate.OriginName]Code{
		"closed": CodeDialRefused, "slow": CodeDialTimeout, "broken": CodeDialFailed,
	} {
		_, err := g.dial(origin)
		if got := refusalCode(err); got != want {
			t.Errorf("%s: %v, want %s", origin, err, want)
		}
		eventually(t, "the refused stream is gone", func() bool { return a.Stats().Streams == 0 })
	}
	first := g.mustDial("web1")
	if _, err := g.dial("web1"); refusalCode(err) != CodeOverloaded {
		t.Errorf("beyond MaxStreams: %v", err)
	}
	first.Close()
	eventually(t, "the slot is free", func() bool { return a.Stats().Streams == 0 })
	g.mustDial("web1")
}

func TestHubLimitsStreams(t *testing.T) {
	g := startGateway(t, func(cfg *HubConfig, _ *timing) { cfg.MaxStreamsPerTunnel = 2 })
	o := startOrigin(t, echo)
	g.publish("web1", o.addr)
	g.mustDial("web1")
	second := g.mustDial("web1")
	if _, err := g.dial("web1"); refusalCode(err) != CodeOverloaded {
		t.Fatalf("got %v", err)
	}
	second.Close()
	eventually(t, "the slot is free", func() bool { return g.hub.Stats().Streams == 1 })
	g.mustDial("web1")
}

func TestDialHonoursContext(t *testing.T) {
	g := startGateway(t)
	dialling := make(chan struct{}, 1)
	g.startAgent([]Origin{{Name: "slow", Address: "slow.invalid:22"}}, func(cfg *AgentConfig, quick *timing) {
		quick.firstScan = time.Millisecond
		cfg.DialOrigin = func(ctx context.Context, _, _ string) (net.Conn, error) {
			if !isScan(ctx) {
				dialling <- struct{}{}
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}).waitReady(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("the client has gone")
	go func() {
		<-dialling
		cancel(gone)
	}()
	start := time.Now()
	_, err := g.hub.Dial(ctx, DialRequest{Origin: "slow"})
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	// The abort reaches the connector, which stops dialling at once.
	eventually(t, "no stream is left", func() bool { return g.hub.Stats().Streams == 0 })
}

func TestDialIsBounded(t *testing.T) {
	g := startGateway(t, func(_ *HubConfig, quick *timing) { quick.dial = 100 * time.Millisecond })
	g.startAgent([]Origin{{Name: "slow", Address: "slow.invalid:22"}}, func(cfg *AgentConfig, quick *timing) {
		quick.firstScan = time.Millisecond
		cfg.DialOrigin = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}).waitReady(t)
	_, err := g.hub.Dial(context.Background(), DialRequest{Origin: "slow"})
	if refusalCode(err) != CodeDialTimeout {
		t.Errorf("got %v", err)
	}
}

// Names and addresses that the gateway makes up are never dialled.
func TestOnlyConfiguredOriginsAreDialled(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	var mu sync.Mutex
	dialled := map[string]bool{}
	a := g.publish("web1", o.addr, func(cfg *AgentConfig, _ *timing) {
		cfg.DialOrigin = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			dialled[address] = true
			mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	var tun *tunnel
	g.hub.mu.Lock()
	for tun = range g.hub.tunnels {
	}
	g.hub.mu.Unlock()
	secret := startOrigin(t, echo)
	wanted := map[string]Code{
		"other": CodeUnknownOrigin, secret.addr: CodeBadRequest, "web1:22": CodeBadRequest, "": CodeBadRequest,
		"127.0.0.1": CodeUnknownOrigin, "localhost": CodeUnknownOrigin, "web1\x00": CodeBadRequest, "../web1": CodeBadRequest,
	}
	for i := range 50 {
		wanted[fmt.Sprintf("host%d", i)] = CodeUnknownOrigin
	}
	for name, want := range wanted {
		_, err := tun.dial(testContext(t), DialRequest{Origin: sshgate.OriginName(name)})
		if got := refusalCode(err); got != want {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	a.stop()
	if diff := cmp.Diff(map[string]bool{o.addr: true}, dialled); diff != "" {
		t.Error(diff)
	}
	if secret.accepted.Load() != 0 {
		t.Error("an address of the gateway's choice was dialled")
	}
}
