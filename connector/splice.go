package connector

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

const spliceBuffer = 64 << 10

var spliceBuffers = sync.Pool{New: func() any { return new([spliceBuffer]byte) }}

// abortGrace is how long an origin may take what was sent to it before the
// gateway aborted the stream.
const abortGrace = 10 * time.Second

// splice joins a stream of the tunnel with a connection to an origin. Each
// direction ends on its own.
type splice struct {
	stream *yamux.Stream
	origin net.Conn
	all    *traffic // of all streams
	// lost tells that the tunnel has ended, and closeOrigin ends the connection to
	// the origin accordingly.
	lost        func() bool
	closeOrigin func()

	in, out atomic.Int64 // bytes to the origin, and from it
	aborted atomic.Bool
}

// run copies until both directions have ended and closes both ends. Closing
// the origin's connection and the session ends it early.
func (s *splice) run() {
	var up sync.WaitGroup
	up.Go(s.fromOrigin)
	s.toOrigin()
	up.Wait()
	s.closeOrigin()
}

// abort ends the direction that the gateway has stopped reading. What it wrote
// before still goes to the origin.
func (s *splice) abort() {
	s.aborted.Store(true)
	_ = s.origin.SetReadDeadline(longAgo) // these fail on a closed connection only
	_ = s.stream.SetWriteDeadline(longAgo)
	_ = s.origin.SetWriteDeadline(time.Now().Add(abortGrace))
}

func (s *splice) fromOrigin() {
	err := transfer(s.stream, s.origin, &s.out, &s.all.out)
	_ = s.stream.Close() // fails with the session only
	if err != nil && !s.aborted.Load() {
		s.closeOrigin() // it is broken in both directions
	}
}

func (s *splice) toOrigin() {
	err := transfer(s.origin, s.stream, &s.in, &s.all.in)
	if s.lost() { // yamux says EOF for that, too
		s.closeOrigin()
		return
	}
	if err == nil {
		closeWrite(s.origin)
		return
	}
	// The origin takes no more. What it has sent is still on its way back; the
	// gateway learns from the end of that, so let it not block on a full window.
	_, _ = io.Copy(io.Discard, s.stream) // until its end or the session's
}

// reset ends a connection so that the other end sees it was cut off, where the
// network has such a thing: unix sockets do not.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a closed connection
	}
	conn.Close()
}

func closeWrite(conn net.Conn) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		conn.Close()
		return
	}
	_ = half.CloseWrite() // fails when the connection is gone, which reading finds
}

// transfer copies until src ends, and counts for itself and for all. io.Copy would hand the work to
// net.TCPConn, which allocates a buffer of its own for each copy.
func transfer(dst io.Writer, src io.Reader, count *atomic.Int64, all *atomic.Uint64) error {
	buffer := spliceBuffers.Get().(*[spliceBuffer]byte)
	defer spliceBuffers.Put(buffer)
	for {
		n, err := src.Read(buffer[:])
		if n > 0 {
			written, writeErr := dst.Write(buffer[:n])
			count.Add(int64(written))
			all.Add(uint64(written))
			if writeErr != nil {
				return writeErr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
