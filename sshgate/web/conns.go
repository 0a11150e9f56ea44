package web

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// addListener notes a listener that stopAccepting has to close. It returns
// false when the server has stopped already.
func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	l.Close()
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// addTask counts a task that somebody may wait for. It returns false when the
// server stops: a WaitGroup must not grow while it is waited for.
func (s *Server) addTask() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.tasks.Add(1)
	return true
}

// track notes a connection and counts its goroutine among the tasks, unless
// there are MaxConns already or the server stops.
func (s *Server) track(raw net.Conn) (*tracked, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || len(s.conns) >= s.cfg.MaxConns {
		return nil, false
	}
	conn := &tracked{Conn: raw, server: s, leave: func() {}}
	s.conns[conn] = struct{}{}
	s.tasks.Add(1)
	return conn, true
}

// Conns returns how many connections are open.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// tracked is a connection below TLS that gives its place up when it is closed,
// whoever closes it: net/http, a tunnel or a handler that took it over.
type tracked struct {
	net.Conn
	server *Server
	leave  func() // counts it out of those of its address
	once   sync.Once
	ended  atomic.Bool
}

// Read notes the end. crypto/tls says io.EOF for one without close_notify, too, as
// long as it is between records; one that it says before this is the client's word.
func (c *tracked) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.ended.Store(true)
	}
	return n, err
}

// cut tells that the client's connection has ended.
func (c *tracked) cut() bool { return c.ended.Load() }

// NetConn is the connection below, for those who need its TCP options.
func (c *tracked) NetConn() net.Conn { return c.Conn }

func (c *tracked) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.leave()
		c.server.mu.Lock()
		defer c.server.mu.Unlock()
		delete(c.server.conns, c)
	})
	return err
}

// handoff is a listener whose connections are put into it: net/http accepts
// from it those that have done their handshake and are not tunnels.
type handoff struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// put passes the connection on, or closes it when nobody accepts any more.
func (h *handoff) put(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		conn.Close()
	}
}

// Accept returns the next connection, or net.ErrClosed.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close makes Accept return. It may be called again.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is a stand-in: the connections come from several listeners.
func (h *handoff) Addr() net.Addr { return handoffAddr{} }

type handoffAddr struct{}

func (handoffAddr) Network() string { return "tls" }
func (handoffAddr) String() string  { return "handoff" }
