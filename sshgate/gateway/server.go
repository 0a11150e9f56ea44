// Package gateway is the SSH server that people connect to. It signs them in,
// asks the policy about every channel, and joins the channel to one at the
// origin's own sshd, through the tunnel.
//
// Make a Server with New, hand it a listener with Serve, and end it with
// Shutdown. The package knows neither the configuration's format nor where
// state is kept: what it needs comes through the small interfaces of Config.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
)

// SignIns starts sign-ins and shares those of the same key.
// *authflow.Pending is one.
type SignIns interface {
	Join(ctx context.Context, key string, asker authflow.Asker) (*authflow.Ticket, error)
}

// KeyLogins remembers who signed in with which SSH key.
type KeyLogins interface {
	// KeyLogin returns what is remembered of the key with this SHA256
	// fingerprint; an error where nothing is. The caller judges ExpiresAt.
	KeyLogin(ctx context.Context, fingerprint string) (sshgate.KeyLogin, error)
	BindKey(ctx context.Context, login sshgate.KeyLogin) error
	// ForgetKey forgets what BindKey bound; sshgate.ErrNotFound where that was nothing.
	ForgetKey(ctx context.Context, fingerprint string) error
}

// ServiceKeys knows the SSH keys that are registered for service tokens.
// *authflow.Tokens is one.
type ServiceKeys interface {
	// ServiceKey returns the machine that the key with this SHA256 fingerprint
	// stands for, and until when. registered with an error says that the key is
	// that of a token which is no longer good, and why.
	// It counts as a use: the key must have been proven.
	ServiceKey(ctx context.Context, fingerprint string) (id sshgate.Identity, expires time.Time, registered bool, err error)
	// KeyRegistered tells whether it would know the key, good or not.
	KeyRegistered(ctx context.Context, fingerprint string) bool
}

// Tunnel reaches origins through their connectors. *connector.Hub is one.
type Tunnel interface {
	Dial(ctx context.Context, req connector.DialRequest) (connector.Conn, error)
}

// Recorder takes events for the record. *audit.Log is one.
type Recorder interface {
	Record(sshgate.Event)
}

// Config is what a Server needs. Fields without a default must be set.
type Config struct {
	HostKeys []gossh.Signer
	Policy   func() *sshgate.Policy // the rules in force now
	SignIns  SignIns
	Logins   KeyLogins
	Tunnel   Tunnel
	HostPins HostKeyPins
	CA       *UserCA
	Events   Recorder

	// Live ends what is no longer allowed. Nil: it goes on.
	Live *live.Register

	// Services knows the SSH keys of service tokens. Nil: there are none.
	Services ServiceKeys

	// Console answers those who name no origin. Nil: they are told to name one.
	Console Console
	// Origins says how to sign in at an origin. Default: CertificateAuth for
	// each.
	Origins func(sshgate.OriginName) OriginAuth
	// Advertise is the gateway's address as people type it, "gate.example.com"
	// or "gate.example.com:2222", for the hints it prints. Default "GATEWAY".
	Advertise string
	// Version is what the server tells clients of itself. Default "sshgate".
	Version string

	// Limits bounds what addresses and identities take. Default: they are not
	// bounded.
	Limits Limits

	LoginTimeout     time.Duration // for authentication with the sign-in; default 10m
	HandshakeTimeout time.Duration // until authentication begins; default 20s
	DialTimeout      time.Duration // to reach and enter an origin; default 30s
	MaxConnections   int           // default 4096
	MaxAuthTries     int           // failed attempts on one connection; default 20
	MaxChannels      int           // open at once on one connection; default 256

	Log *slog.Logger
	Now func() time.Time // default time.Now
}

func (cfg *Config) setDefaults() error {
	switch {
	case len(cfg.HostKeys) == 0:
		return errors.New("gateway: no host key")
	case cfg.Policy == nil || cfg.SignIns == nil || cfg.Logins == nil || cfg.Tunnel == nil || cfg.HostPins == nil || cfg.CA == nil || cfg.Events == nil:
		return errors.New("gateway: a required part of the configuration is missing")
	}
	if cfg.Origins == nil {
		cfg.Origins = func(sshgate.OriginName) OriginAuth { return OriginAuth{} }
	}
	if cfg.Limits == nil {
		cfg.Limits = unlimited{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Advertise == "" {
		cfg.Advertise = "GATEWAY"
	}
	if cfg.Version == "" {
		cfg.Version = "sshgate"
	}
	for _, d := range []struct {
		field    *time.Duration
		fallback time.Duration
	}{
		{&cfg.LoginTimeout, 10 * time.Minute},
		{&cfg.HandshakeTimeout, 20 * time.Second},
		{&cfg.DialTimeout, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.fallback
		}
	}
	for _, n := range []struct {
		field    *int
		fallback int
	}{
		{&cfg.MaxConnections, 4096},
		{&cfg.MaxAuthTries, 20},
		{&cfg.MaxChannels, 256},
	} {
		if *n.field <= 0 {
			*n.field = n.fallback
		}
	}
	return nil
}

// Server is the gateway's SSH server.
type Server struct {
	cfg    Config
	ssh    *ssh.Server
	broker *endtoend.Broker

	unauthenticated atomic.Int64
	running         running
	picking         atomic.Int32 // sessions that show a picker

	mu       sync.Mutex // guards what follows
	draining bool
	listener map[net.Listener]struct{}
	conns    map[*conn]struct{}
	wg       sync.WaitGroup // one for each of conns
}

// New checks the configuration and returns a server that has not started.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	broker, err := endtoend.New(endtoend.Config{
		Policy: cfg.Policy, Tunnel: cfg.Tunnel, HostPins: cfg.HostPins, Events: cfg.Events, Live: cfg.Live, Quotas: cfg.Limits,
		DialTimeout: cfg.DialTimeout, Now: cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		broker:   broker,
		listener: make(map[net.Listener]struct{}),
		conns:    make(map[*conn]struct{}),
	}
	s.ssh = &ssh.Server{
		ConnCallback:         s.connCallback,
		ServerConfigCallback: s.serverConfig,
		ConnectionFailedCallback: func(_ net.Conn, err error) {
			s.cfg.Log.Debug("connection ended before it was authenticated", "err", err)
		},
		// Every channel and request is carried raw: gliderlabs' own session
		// rewrites line ends under a pty and loses terminal modes.
		ChannelHandlers: map[string]ssh.ChannelHandler{"default": handleChannel},
		RequestHandlers: map[string]ssh.RequestHandler{"default": handleGlobalRequest},
	}
	return s, nil
}

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("gateway: server closed")

// Serve takes connections from l until Shutdown, and closes l. It may be called
// for several listeners.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		l.Close()
		return ErrClosed
	}
	s.listener[l] = struct{}{}
	s.mu.Unlock()
	defer l.Close()

	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.accept(nc)
			continue
		}
		if s.isDraining() {
			return ErrClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accepting ssh connections: %w", err)
		}
		// Out of file descriptors, most likely. Connections end and free some.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.cfg.Log.Error("accepting an ssh connection failed", "err", err, "retry_in", pause)
		time.Sleep(pause)
	}
}

// accept owns nc from here on.
func (s *Server) accept(nc net.Conn) {
	c := newConn(s, nc)
	if denied := s.admit(c); denied != nil {
		s.cfg.Log.Debug("connection refused", "client", nc.RemoteAddr().String(), "reason", denied.Sentence)
		turnAway(nc, denied)
		return
	}
	go func() {
		defer s.release(c)
		s.ssh.HandleConn(c.net)
		// x/crypto reads nothing after a client's disconnect message, so this
		// may be the first to know.
		c.clientGone()
		c.close(errClientGone)
		c.work.Wait()
	}()
}

// admit counts the connection in, or says why not.
func (s *Server) admit(c *conn) *sshgate.Denied {
	leave, denied := s.cfg.Limits.Startup(c.addr)
	if denied != nil {
		return denied
	}
	c.leave = leave
	if denied := s.enter(c); denied != nil {
		leave()
		return denied
	}
	return nil
}

// enter puts the connection among the others.
func (s *Server) enter(c *conn) *sshgate.Denied {
	s.mu.Lock()
	draining, full := s.draining, len(s.conns) >= s.cfg.MaxConnections
	if !draining && !full {
		s.conns[c] = struct{}{}
		s.unauthenticated.Add(1)
		s.wg.Add(1)
	}
	s.mu.Unlock()
	switch {
	case draining:
		return &sshgate.Denied{RequestID: sshgate.NewRequestID(), Code: sshgate.DenialClosing, Sentence: errShuttingDown.Error()}
	case full:
		return s.cfg.Limits.Refuse(sshgate.LimitConnections, sshgate.Identity{}, c.addr, "the gateway has as many connections as it takes; try again in a moment")
	}
	return nil
}

func (s *Server) release(c *conn) {
	c.noteFailure()
	c.authenticated()
	c.release()
	if c.quota != nil {
		c.quota()
	}
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// Shutdown stops taking connections and lets those that carry a channel go on
// until ctx is done. Then it tells their users and closes them. It returns when
// all are gone: nil if they went by themselves, otherwise ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for l := range s.listener {
		l.Close()
	}
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()

	gone := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.start(func() { c.goodbye(errShuttingDown) })
	}
	s.mu.Unlock()
	<-gone
	return ctx.Err()
}

// Stats is what the server holds right now.
type Stats struct {
	Connections     int // signed in or not
	Unauthenticated int // of those, not signed in yet
	Channels        int // open to origins
}

// Stats counts connections and channels.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{Connections: len(s.conns), Unauthenticated: int(s.unauthenticated.Load())}
	for c := range s.conns {
		stats.Channels += int(c.channels.Load())
	}
	return stats
}

// transport returns the algorithms for both sides of the gateway: what x/crypto
// holds to be safe, in its order, which a test pins: the post-quantum hybrid
// mlkem768x25519-sha256 first among the key exchanges, and AES-GCM first among
// the ciphers, since with AES instructions it costs a fraction of the others.
// Towards origins, where the gateway is the client, this order wins.
func transport() gossh.Config {
	algos := gossh.SupportedAlgorithms()
	return gossh.Config{KeyExchanges: algos.KeyExchanges, Ciphers: algos.Ciphers, MACs: algos.MACs}
}
