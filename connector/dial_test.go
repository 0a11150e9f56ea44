package connector

import (
	"io"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// A tunnel that does not answer holds nobody up for long, and what it answers too late
// is undone.
func TestDialIsNotHeldUp(t *testing.T) {
	g := startGateway(t, func(_ *HubConfig, quick *timing) { quick.hedge = 50 * time.Millisecond })
	slow := newRawConnector(t, g, g.clientTLS("slow", "web1"))
	slow.register(wireOrigin{Name: "web1"})
	g.waitFor(sshgate.EventOriginUp, "web1")
	o := startOrigin(t, echo)
	g.startAgent([]Origin{{Name: "web1", Address: o.addr}}, func(cfg *AgentConfig, _ *timing) {
		cfg.TLS = g.clientTLS("good", "web1")
	}).waitReady(t)
	defer g.busy("good")()

	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stream, err := slow.session.AcceptStream() // it was asked first
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readHeader(stream); err != nil {
		t.Fatal(err)
	}
	_ = writeFrame(stream, dialReply{OK: true}, maxHeaderFrame)
	_ = stream.SetReadDeadline(time.Now().Add(testTimeout))
	if _, err := io.ReadAll(stream); err != nil {
		t.Errorf("the late answer was taken: %v", err)
	}
	stream.Close()
	conn.Close()
	eventually(t, "no streams are left", func() bool { return g.hub.Stats().Streams == 1 }) // the one that looks busier
}

// When all are silent the caller waits for as long as one may take, and no longer.
func TestDialWaitsForTheLast(t *testing.T) {
	g := startGateway(t, func(_ *HubConfig, quick *timing) {
		quick.hedge, quick.dial = 20*time.Millisecond, 300*time.Millisecond
	})
	for range 3 {
		newRawConnector(t, g, g.clientTLS("silent", "web1")).register(wireOrigin{Name: "web1"})
	}
	begin := time.Now()
	if _, err := g.dial("web1"); refusalCode(err) != CodeDialTimeout {
		t.Errorf("%v", err)
	}
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("it gave up after %s", took)
	}
	eventually(t, "no streams are left", func() bool { return g.hub.Stats().Streams == 0 })
}
