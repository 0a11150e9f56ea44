package connector

import (
	"io"
	"net"
	"testing"
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
