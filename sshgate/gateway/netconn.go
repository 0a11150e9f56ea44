package gateway

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// clientConn is a client's network connection.
//
// Its Read tells the owner at once when the client is gone, which x/crypto does
// not while an authentication callback waits for a sign-in. Its deadlines are
// the owner's alone: gliderlabs/ssh sets one on every Read and Write, and with
// no time-out of its own configured that would clear ours.
type clientConn struct {
	net.Conn
	owner *conn
	// budget is how many bytes more the client may send before it is signed in;
	// unlimited lifts it.
	budget    int64 // used by Read alone, which x/crypto calls from one goroutine
	unlimited atomic.Bool

	heard atomic.Bool // the client has sent something
	begun atomic.Bool // the handshake is over
	slow  atomic.Bool // it was not in time
}

// preAuthBytes is what a client may send until it is signed in: ten times what
// the largest agents need. x/crypto keeps parts of it until the end.
const preAuthBytes = 1 << 20

var errPreAuthBytes = errors.New("the client has sent too much without signing in")

func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.unlimited.Load() {
		if n > 0 {
			c.heard.Store(true)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.begun.Load() {
			c.slow.Store(true)
		}
		if c.budget -= int64(n); c.budget < 0 && err == nil {
			err = errPreAuthBytes
		}
	}
	if err != nil {
		c.owner.clientGone()
	}
	return n, err
}

func (c *clientConn) SetDeadline(time.Time) error      { return nil }
func (c *clientConn) SetReadDeadline(time.Time) error  { return nil }
func (c *clientConn) SetWriteDeadline(time.Time) error { return nil }

// limit cuts the connection off after d; zero lifts the limit.
func (c *clientConn) limit(d time.Duration) {
	var deadline time.Time
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	_ = c.Conn.SetDeadline(deadline) // fails only on a closed connection
}
