package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
)

// Limits bounds what clients take. *limits.Limits is one.
type Limits interface {
	AddressLimits
	endtoend.Quotas
	// Refuse puts on record what the server itself refused.
	Refuse(limit sshgate.Limit, id sshgate.Identity, addr netip.Addr, sentence string) *sshgate.Denied
}

// AddressLimits bounds what an address takes before anybody has signed in. A
// leave counts out what was counted in, and may be called again.
type AddressLimits interface {
	// Startup counts a connection in.
	Startup(addr netip.Addr) (leave func(), denied *sshgate.Denied)
	// Pending counts a sign-in in, which connections with the same key share.
	Pending(addr netip.Addr, key string) (leave func(), denied *sshgate.Denied)
	// Failure notes a connection that came to nothing.
	Failure(addr netip.Addr, weight int)
}

// unlimited is what counts where nothing else was configured.
type unlimited struct{}

func (unlimited) Startup(netip.Addr) (func(), *sshgate.Denied)         { return func() {}, nil }
func (unlimited) Pending(netip.Addr, string) (func(), *sshgate.Denied) { return func() {}, nil }
func (unlimited) Failure(netip.Addr, int)                              {}
func (unlimited) Connection(sshgate.Identity, netip.Addr) (func(), *sshgate.Denied) {
	return func() {}, nil
}
func (unlimited) Channel(sshgate.Identity, netip.Addr, bool) (func(), *sshgate.Denied) {
	return func() {}, nil
}
func (unlimited) Refuse(_ sshgate.Limit, _ sshgate.Identity, _ netip.Addr, sentence string) *sshgate.Denied {
	return &sshgate.Denied{RequestID: sshgate.NewRequestID(), Code: sshgate.DenialLimit, Sentence: sentence, Cause: errors.New(sentence)}
}

// What a connection weighs that ended without a sign-in.
const (
	weightFailed = 1
	weightSlow   = 2 // it held its place to the end
)

// noteFailure weighs a connection that is over. One that said nothing, as those
// of a balancer's health checks, weighs nothing unless it stayed.
func (c *conn) noteFailure() {
	limits := c.srv.cfg.Limits
	switch {
	case c.admitted.Load() || errors.Is(context.Cause(c.ctx), errShuttingDown):
	case c.net.slow.Load():
		_ = limits.Refuse(sshgate.LimitSlowHandshake, sshgate.Identity{}, c.addr, "the handshake was not over in time")
		limits.Failure(c.addr, weightSlow)
	case c.net.heard.Load():
		limits.Failure(c.addr, weightFailed)
	}
}

// farewellTime bounds the last words to a client that was refused. They go into
// an empty buffer, as a rule.
const farewellTime = 100 * time.Millisecond

// turnAway closes a connection before its handshake. RFC 4253 section 4.2 lets a
// server send lines before its version; ssh -v shows them.
func turnAway(nc net.Conn, denied *sshgate.Denied) {
	_ = nc.SetWriteDeadline(time.Now().Add(farewellTime))
	_, _ = nc.Write([]byte("sshgate: " + ascii(denied.UserMessage()) + "\r\n")) // it may have left
	nc.Close()
}
