package gateway

import (
	"net"
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
}

func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
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
