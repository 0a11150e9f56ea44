// Package proxyproto takes the clients' addresses from proxies that begin their
// connections with a PROXY header, versions 1 and 2 of
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
//
// Wrap a listener with Listen. A connection of a trusted address must begin with a
// header, and one of any other address must not: whoever believes what strangers
// say about themselves has no addresses.
package proxyproto

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	haproxy "github.com/pires/go-proxyproto"
)

// Config is what a Listener needs.
type Config struct {
	Trusted []netip.Prefix // the proxies; none: every header is refused
	// Refused is told of connections that end for their header, or for having
	// none. It must not wait. Default: nobody is told.
	Refused func(peer netip.Addr, reason string)

	Timeout    time.Duration // for the header; default 5s
	MaxWaiting int           // connections whose header is awaited at once; default 1024
}

// Listener hands out connections with the addresses of clients.
type Listener struct {
	net.Listener
	cfg Config

	accepted chan accepted
	done     chan struct{} // closed by Close
	once     sync.Once
	tasks    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	waiting map[net.Conn]struct{} // for their header
}

type accepted struct {
	conn net.Conn
	err  error
}

// Listen takes the connections of l. Close the result, which closes l.
func Listen(l net.Listener, cfg Config) *Listener {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = 1024
	}
	if cfg.Refused == nil {
		cfg.Refused = func(netip.Addr, string) {}
	}
	p := &Listener{Listener: l, cfg: cfg, accepted: make(chan accepted), done: make(chan struct{}), waiting: make(map[net.Conn]struct{})}
	p.tasks.Go(p.run)
	return p
}

// Accept returns the next connection whose header has been read, or which needs
// none. It waits for no header itself.
func (p *Listener) Accept() (net.Conn, error) {
	select {
	case next := <-p.accepted:
		return next.conn, next.err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close closes the listener and the connections that nobody has accepted.
func (p *Listener) Close() error {
	err := net.ErrClosed
	p.once.Do(func() {
		err = p.Listener.Close()
		close(p.done)
		p.mu.Lock()
		p.closed = true
		for conn := range p.waiting {
			conn.Close()
		}
		p.mu.Unlock()
	})
	p.tasks.Wait()
	return err
}

func (p *Listener) run() {
	for {
		nc, err := p.Listener.Accept()
		switch {
		case err != nil:
			if !p.hand(nil, err) || errors.Is(err, net.ErrClosed) {
				return
			}
		case !p.trusts(nc):
			p.hand(p.guarded(nc, nil, nc.RemoteAddr(), nc.LocalAddr()), nil)
		case p.wait(nc):
			p.tasks.Go(func() { p.header(nc) })
		default:
			p.cfg.Refused(peer(nc), "too many connections whose PROXY header has not come")
			nc.Close()
		}
	}
}

// hand passes a connection or an error to who accepts, unless the listener is
// closed. It returns false then.
func (p *Listener) hand(conn net.Conn, err error) bool {
	select {
	case p.accepted <- accepted{conn, err}:
		return true
	case <-p.done:
		if conn != nil {
			conn.Close()
		}
		return false
	}
}

func (p *Listener) trusts(nc net.Conn) bool {
	addr := peer(nc)
	for _, prefix := range p.cfg.Trusted {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// wait notes a connection whose header is to be read, if there is room for it.
func (p *Listener) wait(nc net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.waiting) >= p.cfg.MaxWaiting {
		return false
	}
	p.waiting[nc] = struct{}{}
	return true
}

func (p *Listener) arrived(nc net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, nc)
}

// header reads the header of a trusted connection and hands it on.
func (p *Listener) header(nc net.Conn) {
	conn, err := p.read(nc)
	p.arrived(nc)
	switch {
	case err == nil:
		p.hand(conn, nil)
	case errors.Is(err, errSilent):
		nc.Close() // a health check that only connects
	default:
		select {
		case <-p.done:
		default:
			p.cfg.Refused(peer(nc), "no good PROXY header from a trusted address: "+err.Error())
		}
		nc.Close()
	}
}

// readAhead holds a header of version 1, which is read at once.
const readAhead = 256 // bytes

var errSilent = errors.New("the connection ended without a word")

func (p *Listener) read(nc net.Conn) (net.Conn, error) {
	if err := nc.SetReadDeadline(time.Now().Add(p.cfg.Timeout)); err != nil {
		return nil, errSilent // it is closed
	}
	reader := bufio.NewReaderSize(nc, readAhead)
	var timeout net.Error
	if _, err := reader.Peek(1); err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		return nil, errSilent
	}
	header, err := haproxy.Read(reader)
	if err != nil {
		return nil, err
	}
	if err := nc.SetReadDeadline(time.Time{}); err != nil {
		return nil, errSilent
	}
	early := make([]byte, reader.Buffered())
	if _, err := io.ReadFull(reader, early); err != nil {
		return nil, err
	}
	remote, local := nc.RemoteAddr(), nc.LocalAddr()
	// The proxy speaks for itself in LOCAL, and in what names no TCP address.
	if source, destination, ok := header.TCPAddrs(); ok && !header.Command.IsLocal() {
		remote, local = source, destination
	}
	return p.guarded(nc, early, remote, local), nil
}

// peer is the address of the other end, whatever a header says.
func peer(nc net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
