package proxyproto

import (
	"errors"
	"net"

	haproxy "github.com/pires/go-proxyproto"
)

// conn is a connection with the addresses that count for it. It refuses a header
// where none may be: of a stranger, or of a client behind a proxy.
type conn struct {
	net.Conn
	remote, local net.Addr
	refused       func()

	// The rest is used by Read alone, which one goroutine calls at a time.
	early []byte // what came with the header
	seen  int    // bytes that the beginning of a header would have, too
	v1    bool   // those of version 1 still fit
	v2    bool
}

// errHeader ends a connection that begins with a header it may not have.
var errHeader = errors.New("a PROXY header from an address that is not trusted")

func (p *Listener) guarded(nc net.Conn, early []byte, remote, local net.Addr) *conn {
	return &conn{
		Conn: nc, remote: remote, local: local, early: early, v1: true, v2: true,
		refused: func() { p.cfg.Refused(peer(nc), errHeader.Error()) },
	}
}

func (c *conn) RemoteAddr() net.Addr { return c.remote }
func (c *conn) LocalAddr() net.Addr  { return c.local }

// NetConn is the connection below, for those who need its TCP options.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Read(b []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(b, c.early)
		c.early = c.early[n:]
	} else {
		n, err = c.Conn.Read(b)
	}
	if (c.v1 || c.v2) && c.begins(b[:n]) {
		c.refused()
		c.Close()
		return 0, errHeader
	}
	return n, err
}

// begins tells whether a header has begun, which may come a byte at a time.
func (c *conn) begins(b []byte) bool {
	for _, x := range b {
		c.v1 = c.v1 && x == haproxy.SIGV1[c.seen]
		c.v2 = c.v2 && x == haproxy.SIGV2[c.seen]
		c.seen++
		switch {
		case c.v1 && c.seen == len(haproxy.SIGV1), c.v2 && c.seen == len(haproxy.SIGV2):
			return true
		case !c.v1 && !c.v2:
			return false
		}
	}
	return false
}
