package connector

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

// BenchmarkDownload measures one stream from an origin to the gateway.
func BenchmarkDownload(b *testing.B) {
	const chunk = 1 << 20
	g := startGateway(b)
	o := startOrigin(b, func(conn *net.TCPConn) {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err == nil {
			_, _ = io.Copy(conn, zeros{})
		}
	})
	g.publish("web1", o.addr)
	conn := g.mustDial("web1")
	_, _ = conn.Write([]byte("x"))
	b.SetBytes(chunk)
	for b.Loop() {
		if _, err := io.CopyN(io.Discard, conn, chunk); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDial measures a connection from Dial to Close.
func BenchmarkDial(b *testing.B) {
	g := startGateway(b)
	o := startOrigin(b, echo)
	g.publish("web1", o.addr)
	for b.Loop() {
		conn, err := g.dial("web1")
		if err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}

// hubWith returns a hub with tunnels that only the hub knows, each with an origin of
// its own.
func hubWith(b *testing.B, tunnels int) *Hub {
	b.Helper()
	h, err := NewHub(HubConfig{Admit: allowAll})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Close() })
	for i := range tunnels {
		h.benchmarkTunnel(b, i)
	}
	return h
}

func benchmarkOrigin(i int) sshgate.Endpoint {
	return sshgate.Endpoint{Origin: sshgate.OriginName(fmt.Sprint("web", i)), Port: sshgate.SSHPort}
}

func (h *Hub) benchmarkTunnel(b *testing.B, i int) *tunnel {
	t := &tunnel{hub: h, connector: fmt.Sprint("rack", i)}
	t.line = newLine(nil)
	if refusal, err := h.add(t); refusal != nil || err != nil {
		b.Fatal(refusal, err)
	}
	h.publish(t, map[sshgate.Endpoint]publication{benchmarkOrigin(i): {}}, nil)
	return t
}

// BenchmarkCandidates measures what the choice of a tunnel costs a dial.
func BenchmarkCandidates(b *testing.B) {
	for _, tunnels := range []int{1, 100, 1_000, 10_000} {
		b.Run(fmt.Sprint(tunnels), func(b *testing.B) {
			h := hubWith(b, tunnels)
			service := benchmarkOrigin(tunnels / 2)
			for b.Loop() {
				if found, err := h.candidates(service); len(found) != 1 {
					b.Fatal(found, err)
				}
			}
		})
	}
}

// BenchmarkRegistration measures what a tunnel's coming and going costs the hub.
func BenchmarkRegistration(b *testing.B) {
	for _, tunnels := range []int{1, 100, 1_000, 10_000} {
		b.Run(fmt.Sprint(tunnels), func(b *testing.B) {
			h := hubWith(b, tunnels)
			for b.Loop() {
				h.remove(h.benchmarkTunnel(b, tunnels), "it was measured")
			}
		})
	}
}
