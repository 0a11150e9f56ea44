package connector

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// Conn is a connection to an origin. Close ends it in both directions at once,
// CloseWrite in one: the origin reads EOF and can still send. Its addresses are
// those of the tunnel.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// ErrTunnelLost is what reading and writing return when the tunnel below a
// connection is gone. It is never io.EOF, which the origin alone can send. Where the
// connector was shut out the error is the *Refusal, too.
var ErrTunnelLost = errors.New("the tunnel to the origin is lost")

// streamConn is a yamux stream as a Conn.
type streamConn struct {
	stream *yamux.Stream
	tunnel *tunnel
	closed atomic.Bool
	ended  atomic.Bool // the origin's end has been read

	// reading is held by Read, so that what Close leaves behind does not share
	// the stream with a Read that has yet to notice.
	reading sync.Mutex
}

func (c *streamConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.stream.Read(p)
	if errors.Is(err, io.EOF) && !c.ended.Load() {
		// yamux says EOF also for a session that ended.
		if c.tunnel.session.IsClosed() {
			err = c.tunnel.lost()
		} else {
			c.ended.Store(true)
		}
	}
	return n, c.explain(err)
}

func (c *streamConn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.stream.Write(p)
	return n, c.explain(err)
}

// explain puts yamux's errors into the words of package net.
func (c *streamConn) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case c.closed.Load():
		return net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrSessionShutdown), c.tunnel.session.IsClosed():
		return c.tunnel.lost()
	}
	return err
}

// CloseWrite tells the origin that nothing more comes.
func (c *streamConn) CloseWrite() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.stream.Close()
}

// Close returns at once; the tunnel sees to the rest. It is idempotent.
func (c *streamConn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	_ = c.stream.SetDeadline(longAgo) // wakes Read and Write; always nil
	if !c.tunnel.start(c.finish) {
		c.tunnel.release()
	}
	return nil
}

// finish ends the stream. yamux has no reset: the connector is told by message
// that the stream is aborted, and until its end arrives whatever it had already
// sent is thrown away, since a full window would keep that end from being sent.
func (c *streamConn) finish() {
	defer c.tunnel.release()
	c.reading.Lock()
	defer c.reading.Unlock()
	_ = c.stream.SetDeadline(time.Time{}) // always nil
	_ = c.stream.Close()                  // fails only with the session
	if c.ended.Load() {
		return
	}
	if err := c.tunnel.send(abortMessage{Type: typeAbort, Stream: c.stream.StreamID()}); err != nil {
		c.tunnel.fail(err)
		return
	}
	for {
		_, err := io.Copy(io.Discard, c.stream) // until its end or the session's
		if !isTimeout(err) {
			return
		}
		_ = c.stream.SetDeadline(time.Time{}) // a late one, set while Close ran
	}
}

func (c *streamConn) LocalAddr() net.Addr  { return c.stream.LocalAddr() }
func (c *streamConn) RemoteAddr() net.Addr { return c.stream.RemoteAddr() }

// SetDeadline sets both deadlines. That of writing is looked at while a write
// waits for the origin to read, not while it waits for the line.
func (c *streamConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *streamConn) SetReadDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.stream.SetReadDeadline(t)
}

func (c *streamConn) SetWriteDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.stream.SetWriteDeadline(t)
}
