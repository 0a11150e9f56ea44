package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate/audit"
	"github.com/sshgate/sshgate/sshgate/console"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/enrolment"
	"github.com/sshgate/sshgate/sshgate/gateway"
	"github.com/sshgate/sshgate/sshgate/limits"
	"github.com/sshgate/sshgate/sshgate/live"
	"github.com/sshgate/sshgate/sshgate/store"
	"github.com/sshgate/sshgate/sshgate/web"
	gossh "golang.org/x/crypto/ssh"
)

const (
	cleanupInterval = 10 * time.Minute // between removals of expired sign-ins
	closeTimeout    = 5 * time.Second  // for what has no grace of its own
)

// gatewayd is the whole gateway, wired together from its configuration.
type gatewayd struct {
	cfg *config.Gateway // as read at the start; what can change since is in settings
	log *slog.Logger

	settings atomic.Pointer[settings]
	reloader *reloader // nil: the configuration is never read again

	hostKeys []gossh.Signer
	userCA   *gateway.UserCA
	tunnelCA *connector.CA

	store   *store.SQLite
	events  *audit.Log
	limits  *limits.Limits
	metrics *web.Metrics
	oidc    *authflow.OIDC
	web     *authflow.Web // nil: the device flow alone
	pending *authflow.Pending
	tokens  *authflow.Tokens
	live    *live.Register
	hub     *connector.Hub
	desk    *enrolment.Desk
	console *console.Console
	ssh     *gateway.Server
	helpers *endtoend.Broker // for connections of the TLS port
	api     *web.API
	tls     *web.Server

	certificates certificates // nil: the gateway's own authority signs one

	sshListener, tunnelListener, metricsListener net.Listener
}

// newGatewayd builds the gateway; nothing runs or listens yet. Close it if it
// is not run. log is for whoever runs it, audited for the record of who did what.
func newGatewayd(ctx context.Context, cfg *config.Gateway, log, audited *slog.Logger) (*gatewayd, error) {
	g := &gatewayd{cfg: cfg, log: log}
	first, err := newSettings(cfg, nil, log)
	if err != nil {
		return nil, err
	}
	g.settings.Store(first)
	if err := g.openState(ctx); err != nil {
		g.close()
		return nil, err
	}
	if err := g.wire(audited); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// openState opens the keys and the database in data_dir, making what is missing.
func (g *gatewayd) openState(ctx context.Context) (err error) {
	if err := os.MkdirAll(g.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	if g.hostKeys, err = gateway.OpenHostKeys(hostKeyDir(g.cfg)); err != nil {
		return err
	}
	if g.userCA, err = gateway.OpenUserCA(userCADir(g.cfg)); err != nil {
		return err
	}
	if g.tunnelCA, err = connector.OpenCA(tunnelCADir(g.cfg), time.Now); err != nil {
		return err
	}
	g.store, err = store.OpenSQLite(ctx, databaseFile(g.cfg), time.Now)
	return err
}

// wire joins the parts.
func (g *gatewayd) wire(audited *slog.Logger) (err error) {
	g.metrics = web.NewMetrics(web.MetricsConfig{Version: programVersion(), Log: g.log, Gauges: g.limitGauges(web.Gauges{
		Tunnels:       func() int { return g.hub.Stats().Tunnels },
		Origins:       func() int { return g.hub.Stats().Origins },
		Streams:       func() int { return g.hub.Stats().Streams },
		Connections:   func() int { return g.ssh.Stats().Connections },
		PendingLogins: func() int { return g.pending.Waiting() },
		AuditFailures: func() uint64 { return g.events.Failures() },
		CertificateFailures: func() uint64 {
			if g.certificates == nil {
				return 0
			}
			return g.certificates.Failures()
		},
	})})
	g.metrics.ConfigLoaded(time.Now(), false)
	latest := console.NewLatest(latestEvents)
	g.events = audit.NewLog(time.Now, g.log, audit.SlogSink(audited), g.metrics, latest, console.Uses{Store: g.store, Log: g.log})
	if g.limits, err = limits.New(limitsConfig(g.cfg, g.events.Record)); err != nil {
		return err
	}

	g.oidc, err = authflow.NewOIDC(authflow.OIDCConfig{
		Issuer:       g.cfg.SignIn.Issuer,
		ClientID:     g.cfg.SignIn.ClientID,
		ClientSecret: g.cfg.SignIn.ClientSecret.Reveal(),
		Scopes:       g.cfg.SignIn.Scopes,
		GroupsClaim:  string(g.cfg.SignIn.GroupsClaim),
		UserInfo:     g.cfg.SignIn.UserInfo,
		Log:          g.log,
	})
	if err != nil {
		return fmt.Errorf("sign_in: %w", err)
	}
	g.pending = authflow.NewPending(g.limited(g.startSignIn()), g.cfg.SignIn.MaxPending)

	g.tokens = authflow.NewTokens(authflow.TokensConfig{Access: g.store, Services: g.store, Logins: g.store, Log: g.log})
	g.live, err = live.New(live.Config{Policy: g.policy, Credentials: g.store, Check: g.tokens.Check, Events: g.events, Log: g.log})
	if err != nil {
		return err
	}

	registrar := &gateway.Registrar{Store: g.store, Events: g.events, Now: time.Now}
	g.hub, err = connector.NewHub(connector.HubConfig{
		Admit: registrar.Admit, Check: g.checkConnector, Events: g.events.Record, Log: g.log, MaxTunnels: g.cfg.Tunnel.MaxTunnels,
	})
	if err != nil {
		return err
	}
	g.desk, err = enrolment.New(enrolment.Config{
		Policy: g.policy, CA: g.tunnelCA, Store: g.store, Events: g.events, CertificateTTL: g.cfg.Connectors.CertificateTTL, Log: g.log,
	})
	if err != nil {
		return err
	}
	if g.console, err = g.newConsole(latest); err != nil {
		return err
	}
	if g.ssh, err = g.newSSH(); err != nil {
		return err
	}
	if g.api, err = g.newAPI(); err != nil {
		return err
	}
	g.tls, err = g.newTLS()
	return err
}

// startSignIn returns what begins a sign-in, by the flow of the configuration.
func (g *gatewayd) startSignIn() func(context.Context, authflow.Asker) (authflow.Login, error) {
	if g.cfg.SignIn.Flow == config.FlowDevice {
		return func(ctx context.Context, _ authflow.Asker) (authflow.Login, error) { return g.oidc.StartDevice(ctx) }
	}
	g.web = authflow.NewWeb(authflow.WebConfig{
		OIDC: g.oidc, URL: webURL(g.cfg), Always: g.cfg.SignIn.Flow == config.FlowWeb, ConfirmCode: g.cfg.SignIn.ConfirmCode,
	})
	return g.web.Start
}

// webURL is where browsers and helpers reach the TLS port.
func webURL(cfg *config.Gateway) string {
	return "https://" + strings.TrimSuffix(cfg.Tunnel.Advertise, ":443")
}

func (g *gatewayd) newSSH() (*gateway.Server, error) {
	return gateway.New(gateway.Config{
		HostKeys:         g.hostKeys,
		Policy:           g.policy,
		SignIns:          g.pending,
		Logins:           g.store,
		Services:         g.tokens,
		Console:          g.console,
		Tunnel:           g.hub,
		HostPins:         g.store,
		CA:               g.userCA,
		Events:           g.events,
		Live:             g.live,
		Origins:          g.originAuth,
		Advertise:        g.cfg.SSH.Advertise,
		LoginTimeout:     g.cfg.SSH.LoginTimeout,
		HandshakeTimeout: g.cfg.SSH.HandshakeTimeout,
		MaxConnections:   g.cfg.SSH.MaxConnections,
		Limits:           g.limits,
		MaxAuthTries:     g.cfg.SSH.MaxAuthTries,
		MaxChannels:      g.cfg.SSH.MaxChannels,
		Log:              g.log,
	})
}

// newAPI is what the TLS port offers to helpers.
func (g *gatewayd) newAPI() (_ *web.API, err error) {
	g.helpers, err = endtoend.New(endtoend.Config{Policy: g.policy, Tunnel: g.hub, HostPins: g.store, Events: g.events, Live: g.live, Quotas: g.limits})
	if err != nil {
		return nil, err
	}
	cfg := web.APIConfig{
		Hostname: g.cfg.Hostname,
		URL:      webURL(g.cfg),
		SSH:      g.cfg.SSH.Advertise,
		Version:  programVersion(),
		Policy:   g.policy,
		Broker:   g.helpers,
		Tokens:   g.tokens,
		SignIns:  g.pending,
		Origins:  g.hub.Origins,
		HostPins: g.store,
		CA:       g.userCA,
		Events:   g.events,
		Limits:   g.limits,
		Log:      g.log,

		Workloads: g.workloads,
		Enrolment: g.desk, CheckConnector: g.checkConnector,
		SameNetwork: g.cfg.SignIn.SameNetwork, Networks: g.cfg.SignIn.Networks,
	}
	if g.web != nil {
		cfg.Web = g.web
	}
	for _, key := range g.hostKeys {
		cfg.HostKeys = append(cfg.HostKeys, key.PublicKey())
	}
	return web.NewAPI(cfg)
}

func (g *gatewayd) newTLS() (*web.Server, error) {
	var err error
	if g.certificates, err = g.openCertificates(); err != nil {
		return nil, err
	}
	var certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	if g.certificates != nil {
		certificate = g.certificates.Get
	} else {
		certificate = g.ownCertificate()
		if _, err := certificate(nil); err != nil { // better now than at the first connection
			return nil, fmt.Errorf("tunnel: the gateway's certificate: %w", err)
		}
	}
	return web.NewServer(web.ServerConfig{
		TLS:      connector.ServerTLS(g.tunnelCA, certificate),
		Tunnel:   g.hub.Serve,
		Rejected: g.certificateRejected,
		HTTP:     g.api,
		ACME:     g.cfg.Tunnel.ACME != nil,
		// Tunnels alone, as many as there may be, leave room for helpers.
		MaxConns: max(web.DefaultMaxConns, 2*g.cfg.Tunnel.MaxTunnels),
		Limits:   g.limits,
		Log:      g.log,
	})
}

// ownCertificate is what the gateway's own authority signs for its hostname, and
// for the address that it listens on where that is a certain one.
func (g *gatewayd) ownCertificate() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var names []string
	var ips []net.IP
	if ip := net.ParseIP(g.cfg.Hostname); ip != nil {
		ips = append(ips, ip)
	} else {
		names = append(names, g.cfg.Hostname)
	}
	host, _, _ := net.SplitHostPort(g.cfg.Tunnel.Listen) // checked when it was read
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		ips = append(ips, ip)
	}
	return g.tunnelCA.ServerCertificate(names, ips)
}

// listen opens the three ports, except those that are open already.
func (g *gatewayd) listen() (err error) {
	for _, port := range []struct {
		field, address string
		listener       *net.Listener
	}{
		{"ssh.listen", g.cfg.SSH.Listen, &g.sshListener},
		{"tunnel.listen", g.cfg.Tunnel.Listen, &g.tunnelListener},
		{"metrics.listen", g.cfg.Metrics.Listen, &g.metricsListener},
	} {
		if port.address == "" || *port.listener != nil {
			continue
		}
		if *port.listener, err = net.Listen("tcp", port.address); err != nil {
			return listenerError(port.field, port.address, err)
		}
	}
	return nil
}

// run serves until ctx is done or a part fails, then drains and closes. It calls
// stopping when the drain begins.
func (g *gatewayd) run(ctx context.Context, stopping func()) error {
	defer g.close()
	serving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// What running sessions need goes on while they drain.
	lasting, stopLasting := context.WithCancel(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stopLasting()

	parts.Go(func() { stop(ignoreClosed(g.ssh.Serve(g.clients(g.sshListener, g.cfg.ProxyProtocol.SSH)))) })
	parts.Go(func() { stop(g.tls.Serve(lasting, g.clients(g.tunnelListener, g.cfg.ProxyProtocol.Tunnel))) })
	if g.metricsListener != nil {
		admin := web.NewAdmin(web.AdminConfig{Checks: g.checks(serving), Metrics: g.metrics.Handler()})
		parts.Go(func() { stop(web.ServeAdmin(lasting, g.metricsListener, admin)) })
	}
	parts.Go(func() { g.cleanUp(lasting) })
	parts.Go(func() { g.serveCtl(lasting) })
	parts.Go(func() { g.watchState(lasting) })
	parts.Go(func() { g.live.Run(lasting) })
	if g.reloader != nil {
		parts.Go(func() { g.reloader.run(lasting, g) })
	}
	if g.certificates != nil {
		parts.Go(func() { g.certificates.Run(lasting) })
	}

	<-serving.Done()
	stopping()
	g.drain()
	if ctx.Err() != nil {
		return nil // asked to end
	}
	return context.Cause(serving)
}

func ignoreClosed(err error) error {
	if errors.Is(err, gateway.ErrClosed) {
		return nil
	}
	return err
}

// drain lets running sessions end by themselves for a while.
func (g *gatewayd) drain() {
	stats := g.ssh.Stats()
	g.log.Info("draining", "connections", stats.Connections, "channels", stats.Channels, "helpers", g.helpers.Passages(), "timeout", g.cfg.SSH.DrainTimeout)
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.SSH.DrainTimeout)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() { _ = g.hub.Drain(ctx) }) // connectors go elsewhere; what is left is logged below
	both.Go(func() {
		if err := g.helpers.Drain(ctx); err != nil {
			g.log.Warn("helpers' connections are cut off at the end of the drain", "connections", g.helpers.Passages())
		}
	})
	if err := g.ssh.Shutdown(ctx); err != nil {
		g.log.Warn("sessions were cut off at the end of the drain", "err", err)
	}
	both.Wait()
}

// checks are what /readyz asks.
func (g *gatewayd) checks(serving context.Context) []web.Check {
	return []web.Check{
		{Name: "serving", Probe: func(context.Context) error {
			if serving.Err() != nil {
				return errors.New("the gateway is shutting down")
			}
			return nil
		}},
		{Name: "store", Probe: g.store.Ping},
		{Name: "sign_in", Probe: g.oidc.Ready},
		{Name: "configuration", Warns: true, Probe: func(context.Context) error { return g.reloader.problem() }},
	}
}

// cleanUp removes expired sign-ins now and then.
func (g *gatewayd) cleanUp(ctx context.Context) {
	tick := time.NewTicker(cleanupInterval)
	defer tick.Stop()
	for {
		if n, err := g.store.DeleteExpired(ctx, time.Now()); err != nil && ctx.Err() == nil {
			g.log.Error("expired sign-ins could not be removed", "err", err)
		} else if n > 0 {
			g.log.Info("removed expired sign-ins", "count", n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// close ends what is left, in the order of who uses whom.
func (g *gatewayd) close() {
	for _, l := range []net.Listener{g.sshListener, g.tunnelListener, g.metricsListener} {
		if l != nil {
			l.Close()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if g.hub != nil {
		g.hub.Close()
	}
	if g.desk != nil {
		g.desk.Close()
	}
	if g.tls != nil {
		if err := g.tls.Shutdown(ctx); err != nil {
			g.log.Warn("closing the tunnel port", "err", err)
		}
	}
	if g.api != nil {
		g.api.Close()
	}
	if g.pending != nil {
		g.pending.Close()
	}
	if g.limits != nil {
		g.limits.Close()
	}
	if g.events != nil {
		if err := g.events.Close(ctx); err != nil {
			g.log.Error("closing the audit log", "err", err)
		}
	}
	if g.store != nil {
		if err := g.store.Close(); err != nil {
			g.log.Error("closing the database", "err", err)
		}
	}
}
