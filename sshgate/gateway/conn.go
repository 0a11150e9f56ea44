package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// The causes with which a connection's context ends.
var (
	errClientGone   = errors.New("the client is gone")
	errShuttingDown = errors.New("the gateway is shutting down")
	errOriginGone   = errors.New("the connection to the origin is gone")
)

// goodbyeTime is how long a client may take to read its last words and leave.
const goodbyeTime = 3 * time.Second

// conn is one client connection and owns all that belongs to it.
type conn struct {
	srv  *Server
	id   sshgate.ConnectionID
	net  *clientConn
	addr netip.Addr
	log  *slog.Logger

	// ctx ends with the connection, or when it is told to end; its cause says
	// why. gone is closed when the client has left.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	gone     chan struct{}
	goneOnce sync.Once

	// auth is used by the authentication callbacks only, which x/crypto calls
	// one after the other.
	auth authState
	// counted falls when the connection no longer counts as unauthenticated,
	// when leave is called.
	counted sync.Once
	leave   func()
	// admitted is set once somebody has signed in; quota then gives back what the
	// connection takes of theirs. It is set by the authentication callbacks.
	admitted atomic.Bool
	quota    func()

	// ssh is the connection once it is authenticated.
	ssh atomic.Pointer[gossh.ServerConn]

	// work counts the goroutines that serve channels and the origin.
	work     sync.WaitGroup
	channels atomic.Int32
	picking  atomic.Int32 // sessions that show a picker
	uncalled atomic.Int32 // channels that the origin opened for no reason

	mu      sync.Mutex           // guards what follows; held briefly, never while dialling
	closing bool                 // no further goroutine may start
	lent    map[lending]*loan    // what the client has let origins open
	picked  map[*origin]struct{} // the origins of sessions that picked one
	purpose string               // what the person last said it is for, "" where nobody asked
	said    string               // the application that they said it of

	released  []func()          // take the connection out of what is decided about again
	listeners map[string]func() // and these its listeners, by the request that cancels them

	// dialling is held while the origin is dialled, so that channels opened at
	// once share one connection. Never taken with mu held.
	dialling sync.Mutex
	dials    atomic.Int32    // that have ended; changed with dialling held
	dialled  *sshgate.Denied // why the last one failed; guarded by dialling
	origin   *origin         // guarded by mu
}

func newConn(s *Server, nc net.Conn) *conn {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &conn{
		srv:    s,
		id:     sshgate.NewConnectionID(),
		addr:   clientAddr(nc),
		ctx:    ctx,
		cancel: cancel,
		gone:   make(chan struct{}),
		lent:   make(map[lending]*loan),
		picked: make(map[*origin]struct{}),

		listeners: make(map[string]func()),
	}
	c.net = &clientConn{Conn: nc, owner: c, budget: preAuthBytes}
	c.log = s.cfg.Log.With("connection", c.id, "client", c.addr.String())
	return c
}

// clientAddr returns the peer's address, the zero Addr where it has none.
func clientAddr(nc net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// connKey is the one key of gliderlabs' context that the gateway uses.
type connKey struct{}

func (s *Server) connCallback(ctx ssh.Context, nc net.Conn) net.Conn {
	client := nc.(*clientConn)
	ctx.SetValue(connKey{}, client.owner)
	client.limit(s.cfg.HandshakeTimeout) // as a whole: a trickle of bytes gains nothing
	return client
}

// clientGone is called when nothing more can be read from the client.
func (c *conn) clientGone() {
	c.goneOnce.Do(func() { close(c.gone) })
	c.cancel(errClientGone)
}

// authenticated takes the connection out of those that have not signed in.
func (c *conn) authenticated() {
	c.counted.Do(func() {
		c.srv.unauthenticated.Add(-1)
		c.leave()
	})
}

// close ends the connection and all that hangs on it. It does not wait: it closes
// the network below, since x/crypto's own Close can wait for a peer that stalls.
func (c *conn) close(cause error) {
	c.cancel(cause)
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.net.Close()
	c.closeOrigins()
}

// enter counts a goroutine in that the connection waits for; the caller owes it
// a c.work.Done. It returns false once the connection is closing.
func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.work.Add(1)
	return true
}

// start runs f in a goroutine that the connection waits for, unless it is
// closing.
func (c *conn) start(f func()) {
	if c.enter() {
		go func() {
			defer c.work.Done()
			f()
		}()
	}
}

// drain ends the connection unless it carries a channel.
func (c *conn) drain() {
	if c.channels.Load() == 0 {
		c.cancel(errShuttingDown) // a waiting sign-in says so to its user
		c.start(func() { c.closeSoon(errShuttingDown) })
	}
}

// channelDone counts a channel out. The last one of a drain takes the connection
// with it, which a ControlMaster would keep open.
func (c *conn) channelDone() {
	if c.channels.Add(-1) == 0 && c.srv.isDraining() {
		c.drain()
	}
}

// goodbye ends the connection, with a last word to the user of each session.
func (c *conn) goodbye(cause error) {
	c.cancel(cause)
	c.closeOrigins()                    // their sessions tell their users, then serveOrigin ends the connection
	c.closeWithin(2*goodbyeTime, cause) // whatever stalls
}

// closeSoon closes the connection when the client has done so, or a moment
// later: closing it with bytes unread would send a reset, and the client might
// lose the last that it was told.
func (c *conn) closeSoon(cause error) {
	c.net.limit(goodbyeTime)
	c.closeWithin(goodbyeTime, cause)
}

func (c *conn) closeWithin(d time.Duration, cause error) {
	waitFor(c.gone, d)
	c.close(cause)
}
