// Package web is everything that the gateway serves over TLS or HTTP: the TLS
// port, where ALPN tells connectors from browsers (Server), and the listener
// for operators with health and metrics (NewAdmin).
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/acme"
)

// TunnelProtocol is the ALPN name by which a connector asks for the tunnel
// (RFC 7301).
const TunnelProtocol = "sshgate-tunnel/1"

const (
	httpHeaderTimeout = 10 * time.Second
	httpReadTimeout   = 30 * time.Second // the body included; what is hijacked has none
	httpIdleTimeout   = 2 * time.Minute
	httpMaxHeader     = 32 << 10 // bytes
)

// DefaultMaxConns is the default of ServerConfig.MaxConns.
const DefaultMaxConns = 32768

// errStopped is the cause that tunnels see when the server ends.
var errStopped = errors.New("the gateway is shutting down")

// ServerConfig is what a Server needs. Fields without a default must be set.
type ServerConfig struct {
	// TLS has the certificate, and verifies client certificates as far as they
	// are wanted. NewServer copies it, sets the application protocols of the
	// copy and raises its minimum version to TLS 1.2. A configuration that
	// GetConfigForClient returns is used as it is.
	TLS *tls.Config
	// Tunnel serves a connector until its connection ends or ctx does. The
	// handshake is complete and its version TLS 1.3. The server closes the
	// connection when Tunnel returns. Nil: tunnels are refused.
	Tunnel func(ctx context.Context, conn *tls.Conn) error
	// Rejected is told of client certificates that were not taken. Nil drops that.
	Rejected func(remote net.Addr, err *tls.CertificateVerificationError)
	// HTTP answers everybody else, over HTTP/2 or HTTP/1.1. Default: Landing.
	HTTP http.Handler
	// ACME has the port answer challenges of a certificate authority (RFC 8737), for
	// which TLS must have the certificate.
	ACME bool

	// HandshakeTimeout bounds the TLS handshake. Default 10s.
	HandshakeTimeout time.Duration
	// MaxConns bounds the connections at once, MaxHandshakes those of them
	// that have not finished the handshake. What comes on top is closed at
	// once. Defaults DefaultMaxConns and 4096.
	MaxConns      int
	MaxHandshakes int
	// Limits bounds what one address takes of them. Default: it is not bounded.
	Limits ConnLimits

	Log *slog.Logger // default: nothing is logged
}

// Server is the TLS port. Make one with NewServer, then call Serve, for several
// listeners if need be.
type Server struct {
	cfg  ServerConfig
	log  *slog.Logger
	http *http.Server

	// stop is cancelled when the server is to end; tunnels live under it.
	stop       context.Context
	cancelStop context.CancelCauseFunc
	// tasks are the goroutines that Serve waits for, and HTTP handlers.
	tasks      sync.WaitGroup
	web        *handoff
	handshakes chan struct{} // holds a value for each that is under way

	// mu guards the rest.
	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*tracked]struct{}
	stopping  bool
}

// NewServer checks the configuration and returns a server that does not listen
// yet. Call Shutdown also when Serve was never called.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.TLS == nil {
		return nil, errors.New("the TLS port needs a TLS configuration")
	}
	if len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetCertificate == nil && cfg.TLS.GetConfigForClient == nil {
		return nil, errors.New("the TLS port needs a certificate")
	}
	setDefaults(&cfg)
	stop, cancel := context.WithCancelCause(context.Background())
	s := &Server{
		cfg:        cfg,
		log:        cfg.Log,
		stop:       stop,
		cancelStop: cancel,
		web:        newHandoff(),
		handshakes: make(chan struct{}, cfg.MaxHandshakes),
		listeners:  make(map[net.Listener]struct{}),
		conns:      make(map[*tracked]struct{}),
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: httpHeaderTimeout,
		ReadTimeout:       httpReadTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpMaxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.tasks.Go(func() { _ = s.http.Serve(s.web) }) // returns when the server stops
	return s, nil
}

func setDefaults(cfg *ServerConfig) {
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS12)
	cfg.TLS.NextProtos = []string{TunnelProtocol, "h2", "http/1.1"}
	if cfg.Tunnel == nil {
		cfg.TLS.NextProtos = slices.Delete(cfg.TLS.NextProtos, 0, 1)
	}
	if cfg.ACME {
		cfg.TLS.NextProtos = append(cfg.TLS.NextProtos, acme.ALPNProto)
	}
	if cfg.HTTP == nil {
		cfg.HTTP = Landing()
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = 10 * time.Second
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	if cfg.MaxHandshakes <= 0 {
		cfg.MaxHandshakes = 4096
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

// Serve accepts connections until Shutdown, when it returns nil; until ctx ends,
// which ends the whole server at once; or until the listener fails. It closes
// the listener. Connections outlive a listener that fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.addListener(l) {
		return errors.Join(errStopped, l.Close())
	}
	defer s.removeListener(l)
	undo := context.AfterFunc(ctx, func() { s.close() })
	defer undo()
	err := s.accept(l)
	if ctx.Err() != nil {
		s.close()
		s.tasks.Wait()
		return context.Cause(ctx)
	}
	if s.isStopping() {
		s.tasks.Wait()
		return nil
	}
	return fmt.Errorf("accept on %s: %w", l.Addr(), err)
}

// accept takes connections until the listener is closed. A failure that may
// pass, such as a lack of file descriptors, is waited out.
func (s *Server) accept(l net.Listener) error {
	const firstPause, longestPause = 5 * time.Millisecond, time.Second
	pause := firstPause
	for {
		conn, err := l.Accept()
		if err == nil {
			pause = firstPause
			s.take(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) || s.isStopping() {
			return err
		}
		s.log.Warn("cannot accept a connection", "addr", l.Addr().String(), "err", err)
		select {
		case <-time.After(pause):
		case <-s.stop.Done():
			return err
		}
		pause = min(2*pause, longestPause)
	}
}

// take starts the handling of a connection, if there is room for it.
func (s *Server) take(raw net.Conn) {
	leave, denied := func() {}, (*sshgate.Denied)(nil)
	if s.cfg.Limits != nil {
		if leave, denied = s.cfg.Limits.TLS(addrOf(raw)); denied != nil {
			raw.Close()
			return
		}
	}
	select {
	case s.handshakes <- struct{}{}:
	default:
		leave()
		s.refuse(raw, sshgate.LimitHandshakes, "too many handshakes")
		return
	}
	conn, ok := s.track(raw)
	if !ok {
		<-s.handshakes
		leave()
		s.refuse(raw, sshgate.LimitConnections, "too many connections")
		return
	}
	conn.leave = leave
	go func() { // track has counted it among the tasks
		defer s.tasks.Done()
		s.serveConn(conn)
	}()
}

func (s *Server) refuse(raw net.Conn, limit sshgate.Limit, reason string) {
	raw.Close()
	s.noteRefusal(raw, limit, reason)
}

func (s *Server) noteRefusal(raw net.Conn, limit sshgate.Limit, reason string) {
	if s.cfg.Limits != nil {
		_ = s.cfg.Limits.Refuse(limit, sshgate.Identity{}, addrOf(raw), reason)
	} else {
		s.log.Warn("connection refused", "client", raw.RemoteAddr().String(), "reason", reason)
	}
}

// serveConn does the handshake and passes the connection to whom it is for.
func (s *Server) serveConn(raw *tracked) {
	conn := tls.Server(raw, s.cfg.TLS)
	log := s.log.With("client", raw.RemoteAddr().String())
	ctx, cancel := context.WithTimeout(s.stop, s.cfg.HandshakeTimeout)
	err := conn.HandshakeContext(ctx)
	cancel()
	<-s.handshakes
	if err != nil {
		log.Debug("TLS handshake failed", "err", err)
		var rejected *tls.CertificateVerificationError
		if errors.As(err, &rejected) && s.cfg.Rejected != nil {
			s.cfg.Rejected(raw.RemoteAddr(), rejected)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			s.noteRefusal(raw, sshgate.LimitSlowHandshake, "the handshake was not over in time")
		}
		raw.Close()
		return
	}
	state := conn.ConnectionState()
	switch {
	case state.NegotiatedProtocol == acme.ALPNProto:
		conn.Close() // the handshake was all
	case state.NegotiatedProtocol != TunnelProtocol:
		s.web.put(conn)
	case s.cfg.Tunnel == nil || state.Version < tls.VersionTLS13:
		log.Warn("tunnel refused", "version", tls.VersionName(state.Version), "wanted", tls.VersionName(tls.VersionTLS13))
		conn.Close()
	default:
		defer conn.Close()
		raw.leave() // tunnels have limits of their own
		if err := s.cfg.Tunnel(s.stop, conn); err != nil {
			log.Info("tunnel ended", "err", err)
		}
	}
}

// serveHTTP counts the handler among the tasks: net/http does not wait for a
// handler that took its connection over.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.addTask() {
		http.Error(w, errStopped.Error(), http.StatusServiceUnavailable)
		return
	}
	defer s.tasks.Done()
	s.cfg.HTTP.ServeHTTP(w, r)
}

// Shutdown closes the listeners, tells tunnels to end through their context,
// lets HTTP requests finish, and returns when all have. When ctx ends first, it
// cuts what is left off and returns the context's error without waiting for it;
// Serve still waits. Further calls do the same again, which is harmless.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopAccepting()
	err := s.http.Shutdown(ctx)
	ended := make(chan struct{})
	go func() { // ends with the tasks, which end when their connections are cut
		s.tasks.Wait()
		close(ended)
	}()
	if err == nil {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	s.close()
	return fmt.Errorf("shut the TLS port down: %w", err)
}

// close ends the server at once. It does not wait.
func (s *Server) close() {
	s.stopAccepting()
	_ = s.http.Close() // the connections are closed below, whatever it says
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Conn.Close()
	}
}

// stopAccepting closes the listeners and cancels the tunnels.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.listeners {
		l.Close()
	}
	s.cancelStop(errStopped)
	s.web.Close()
}
