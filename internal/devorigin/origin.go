//go:build unix

// Package devorigin is a small SSH server for trying sshgate out: the origin
// behind `sshgated dev`. It accepts user certificates of one authority for one
// login name and gives whoever has one a shell, commands and sftp as the account
// that runs the process.
//
// Start with Serve. It is not a replacement for sshd: it changes no user,
// forwards no ports and no agents, and belongs on a loopback address.
package devorigin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

const (
	maxConns    = 64
	maxSessions = 10 // per connection, as sshd's MaxSessions
)

// Config is what Serve needs. Fields without a default must be set.
type Config struct {
	Listener net.Listener // closed by Serve
	HostKey  gossh.Signer
	// TrustedCA signs the user certificates that are accepted.
	TrustedCA gossh.PublicKey
	// Login is the one user name, which a certificate must name as a principal.
	Login string

	Banner string // shown before the login; default: none
	Motd   string // shown when a terminal opens a shell; default: none
	Dir    string // where sessions begin; default: the home directory

	// LoginTimeout bounds the time until a client has signed in. Default 30s.
	LoginTimeout time.Duration
	Now          func() time.Time // default time.Now
	Log          *slog.Logger     // default: nothing is logged
}

func (cfg *Config) validate() error {
	switch {
	case cfg.Listener == nil:
		return errors.New("no listener is set")
	case cfg.HostKey == nil:
		return errors.New("no host key is set")
	case cfg.TrustedCA == nil:
		return errors.New("no trusted certificate authority is set")
	case cfg.Login == "":
		return errors.New("no login is set")
	}
	return nil
}

func (cfg *Config) setDefaults() error {
	if cfg.Dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("find the home directory: %w", err)
		}
		cfg.Dir = home
	}
	if cfg.LoginTimeout <= 0 {
		cfg.LoginTimeout = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Serve accepts connections until ctx ends, then cuts those that are open, ends
// their processes, waits for them and returns nil. It returns an error when the
// configuration lacks something or the listener fails.
func Serve(ctx context.Context, cfg Config) error {
	err := cfg.validate()
	if err == nil {
		err = cfg.setDefaults()
	}
	if err != nil {
		if cfg.Listener != nil {
			cfg.Listener.Close()
		}
		return fmt.Errorf("start the demo origin: %w", err)
	}
	o := &origin{cfg: cfg, conns: make(map[net.Conn]struct{})}
	undo := context.AfterFunc(ctx, o.stop)
	err = o.accept()
	undo()
	o.stop()
	o.tasks.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept on %s: %w", cfg.Listener.Addr(), err)
}

// origin is a running server.
type origin struct {
	cfg   Config
	tasks sync.WaitGroup // connections and sessions

	mu      sync.Mutex // guards the rest
	conns   map[net.Conn]struct{}
	stopped bool
}

// accept takes connections until the listener is closed.
func (o *origin) accept() error {
	for {
		nc, err := o.cfg.Listener.Accept()
		if err != nil {
			return err
		}
		if !o.add(nc) {
			nc.Close()
			continue
		}
		go func() {
			defer o.tasks.Done()
			defer o.remove(nc)
			newConn(o, nc).serve()
		}()
	}
}

// add notes a connection and counts it as a task, unless there are too many.
func (o *origin) add(nc net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped || len(o.conns) >= maxConns {
		return false
	}
	o.conns[nc] = struct{}{}
	o.tasks.Add(1)
	return true
}

func (o *origin) remove(nc net.Conn) {
	nc.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.conns, nc)
}

// addTask counts a session, unless the server has stopped: gliderlabs starts a
// goroutine for each channel and waits for none of them.
func (o *origin) addTask() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return false
	}
	o.tasks.Add(1)
	return true
}

// stop closes the listener and every connection.
func (o *origin) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	o.cfg.Listener.Close()
	for nc := range o.conns {
		nc.Close()
	}
}

// conn is one client's connection.
type conn struct {
	origin *origin
	nc     net.Conn
	log    *slog.Logger
	// loginTimer closes the connection unless somebody signs in.
	loginTimer *time.Timer

	mu       sync.Mutex // guards sessions
	sessions int
}

func newConn(o *origin, nc net.Conn) *conn {
	return &conn{origin: o, nc: nc, log: o.cfg.Log.With("client", nc.RemoteAddr().String())}
}

// serve handles the connection until it ends. Sessions may outlast it for as
// long as their processes take to end.
func (c *conn) serve() {
	server := &ssh.Server{
		HostSigners:          []ssh.Signer{c.origin.cfg.HostKey},
		ServerConfigCallback: func(ssh.Context) *gossh.ServerConfig { return c.serverConfig() },
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session": func(_ *ssh.Server, sc *gossh.ServerConn, channel gossh.NewChannel, _ ssh.Context) {
				c.serveSession(sc, channel)
			},
		},
		RequestHandlers: map[string]ssh.RequestHandler{}, // no forwarding
		ConnectionFailedCallback: func(_ net.Conn, err error) {
			c.log.Debug("connection failed", "err", err)
		},
	}
	// Not a deadline of the connection: gliderlabs sets those anew with each
	// Read and Write.
	c.loginTimer = time.AfterFunc(c.origin.cfg.LoginTimeout, func() { c.nc.Close() })
	defer c.loginTimer.Stop()
	server.HandleConn(c.nc)
}

// serveSession runs one session channel.
func (c *conn) serveSession(sc *gossh.ServerConn, channel gossh.NewChannel) {
	if !c.origin.addTask() {
		return
	}
	defer c.origin.tasks.Done()
	if !c.enter() {
		_ = channel.Reject(gossh.ResourceShortage, "no more sessions") // fails only with the connection
		return
	}
	release := sync.OnceFunc(c.leave)
	defer release()
	ch, requests, err := channel.Accept()
	if err != nil {
		c.log.Debug("session failed", "err", err)
		return
	}
	s := &session{
		cfg: &c.origin.cfg, conn: sc, ch: ch, requests: requests,
		mayHavePty: permits(sc.Permissions, "permit-pty"),
		release:    release, log: c.log,
	}
	s.serve()
}

func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions >= maxSessions {
		return false
	}
	c.sessions++
	return true
}

func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions--
}
