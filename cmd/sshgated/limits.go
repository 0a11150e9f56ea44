package main

import (
	"context"
	"net"
	"net/netip"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/limits"
	"github.com/sshgate/sshgate/sshgate/proxyproto"
	"github.com/sshgate/sshgate/sshgate/web"
)

// limitsConfig is what the configuration says about limits.
func limitsConfig(cfg *config.Gateway, record func(sshgate.Event)) limits.Config {
	return limits.Config{
		Networks: limits.Networks{Bits4: cfg.Limits.PrefixIPv4, Bits6: cfg.Limits.PrefixIPv6, Exempt: cfg.Limits.Exempt},

		Startups: cfg.SSH.MaxStartups, StartupsPerAddress: cfg.SSH.MaxStartupsPerAddress,
		TLSPerAddress: cfg.Tunnel.MaxConnectionsPerAddress, PendingPerAddress: cfg.SignIn.MaxPendingPerAddress,

		Failures: cfg.Limits.FailuresPerAddress, SignIns: cfg.Limits.SignInsPerAddress, IdentitySignIns: cfg.Limits.SignInsPerIdentity,

		ConnectionsPerIdentity: cfg.SSH.MaxConnectionsPerIdentity,
		ChannelsPerIdentity:    cfg.SSH.MaxChannelsPerIdentity,
		SessionsPerIdentity:    cfg.SSH.MaxSessionsPerIdentity,

		Record: record,
	}
}

// clients returns the listener with the addresses of clients, as far as the
// proxies say them.
func (g *gatewayd) clients(l net.Listener, proxies []netip.Prefix) net.Listener {
	return proxyproto.Listen(l, proxyproto.Config{Trusted: proxies, Refused: func(peer netip.Addr, reason string) {
		_ = g.limits.Refuse(sshgate.LimitProxyHeader, sshgate.Identity{}, peer, reason)
	}})
}

// limitGauges adds the numbers about limits.
func (g *gatewayd) limitGauges(gauges web.Gauges) web.Gauges {
	gauges.LimitRefusals = func(limit sshgate.Limit) uint64 { return g.limits.Refused(limit) }
	gauges.Startups = func() int { return g.limits.Use().Startups }
	gauges.StartupNetworks = func() int { return g.limits.Use().Networks }
	gauges.Throttled = func() int { return g.limits.Use().Throttled }
	gauges.Identities = func() int { return g.limits.Use().Identities }
	gauges.BusiestIdentity = func() int { return g.limits.Use().BusiestIdentity }
	return gauges
}

// limited has the sign-ins that start begins count among those of whoever completes
// them.
func (g *gatewayd) limited(start func(context.Context, authflow.Asker) (authflow.Login, error)) func(context.Context, authflow.Asker) (authflow.Login, error) {
	return func(ctx context.Context, asker authflow.Asker) (authflow.Login, error) {
		login, err := start(ctx, asker)
		if err != nil {
			return nil, err
		}
		if web, ok := login.(*authflow.WebLogin); ok {
			return limitedWebLogin{web, g.limits}, nil
		}
		return limitedLogin{login, g.limits}, nil
	}
}

// limitedLogin is a sign-in that counts among those of whoever completes it.
type limitedLogin struct {
	authflow.Login
	limits *limits.Limits
}

// Wait returns who signed in, unless they have done so too often.
func (l limitedLogin) Wait(ctx context.Context) (sshgate.Identity, error) {
	return counted(ctx, l.Login, l.limits)
}

// limitedWebLogin is a limitedLogin that can ask back.
type limitedWebLogin struct {
	*authflow.WebLogin
	limits *limits.Limits
}

// Wait is that of limitedLogin.
func (l limitedWebLogin) Wait(ctx context.Context) (sshgate.Identity, error) {
	return counted(ctx, l.WebLogin, l.limits)
}

func counted(ctx context.Context, login authflow.Login, limits *limits.Limits) (sshgate.Identity, error) {
	id, err := login.Wait(ctx)
	if err != nil {
		return id, err
	}
	if denied := limits.SignedIn(id); denied != nil {
		return sshgate.Identity{}, &authflow.Failure{Code: authflow.CodeTooMany, Sentence: denied.UserMessage(), Err: denied}
	}
	return id, nil
}
