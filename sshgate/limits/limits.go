// Package limits bounds what clients may take: connections that have not signed
// in, sign-ins, failures, and what one identity has open. It counts by network
// and by identity, refuses with a sentence for the user, and puts refusals on
// record without letting a flood of them flood the record.
//
// Make one Limits with New and hand it to all who serve clients, so that they
// count together. Close it last. Every table in it is bounded.
package limits

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Config is what Limits enforces. A field that is zero has its default.
type Config struct {
	Networks Networks

	Startups           sshgate.Startups // of SSH connections; default DefaultStartups
	StartupsPerAddress int              // default 100
	TLSPerAddress      int              // connections to the TLS port, tunnels apart; default 1000
	PendingPerAddress  int              // sign-ins that wait; default 20

	Failures        sshgate.Rate // of one address; default 300 in 10m
	SignIns         sshgate.Rate // that one address starts; default 60 in 1m
	IdentitySignIns sshgate.Rate // that one identity completes; default 60 in 1m

	ConnectionsPerIdentity int // default 500
	ChannelsPerIdentity    int // default 2000
	SessionsPerIdentity    int // default 1000

	Record func(sshgate.Event) // required
	Now    func() time.Time    // default time.Now
}

// DefaultStartups begins to refuse where three addresses have taken all that one
// may.
var DefaultStartups = sshgate.Startups{Start: 300, Rate: 30, Full: 1000}

// Limits counts. It is safe for concurrent use.
type Limits struct {
	cfg      Config
	refusals *refusals
	startups *startups
	tls      *shares[netip.Prefix]
	pending  *waiting
	failures *buckets[netip.Prefix]
	signIns  *buckets[netip.Prefix]
	personal *buckets[sshgate.IdentityKey]

	connections, channels, sessions *shares[sshgate.IdentityKey]
}

func (cfg *Config) setDefaults() error {
	if cfg.Record == nil {
		return errors.New("limits: events have nowhere to go")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Startups == (sshgate.Startups{}) {
		cfg.Startups = DefaultStartups
	}
	for _, n := range []struct {
		field    *int
		fallback int
	}{
		{&cfg.StartupsPerAddress, 100}, {&cfg.TLSPerAddress, 1000}, {&cfg.PendingPerAddress, 20},
		{&cfg.ConnectionsPerIdentity, 500}, {&cfg.ChannelsPerIdentity, 2000}, {&cfg.SessionsPerIdentity, 1000},
	} {
		if *n.field <= 0 {
			*n.field = n.fallback
		}
	}
	for _, r := range []struct {
		field    *sshgate.Rate
		fallback sshgate.Rate
	}{
		{&cfg.Failures, sshgate.Rate{Count: 300, Per: 10 * time.Minute}}, {&cfg.SignIns, sshgate.Rate{Count: 60, Per: time.Minute}}, {&cfg.IdentitySignIns, sshgate.Rate{Count: 60, Per: time.Minute}},
	} {
		if *r.field == (sshgate.Rate{}) {
			*r.field = r.fallback
		}
	}
	return cfg.Networks.setDefaults()
}

// New checks the configuration.
func New(cfg Config) (*Limits, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Limits{
		cfg:      cfg,
		refusals: newRefusals(cfg.Record, cfg.Now, cfg.Networks),
		startups: newStartups(cfg.Startups, cfg.StartupsPerAddress),
		tls:      newShares[netip.Prefix](cfg.TLSPerAddress), pending: newWaiting(cfg.PendingPerAddress),
		failures:    newBuckets[netip.Prefix](cfg.Failures),
		signIns:     newBuckets[netip.Prefix](cfg.SignIns),
		personal:    newBuckets[sshgate.IdentityKey](cfg.IdentitySignIns),
		connections: newShares[sshgate.IdentityKey](cfg.ConnectionsPerIdentity),
		channels:    newShares[sshgate.IdentityKey](cfg.ChannelsPerIdentity),
		sessions:    newShares[sshgate.IdentityKey](cfg.SessionsPerIdentity),
	}, nil
}

// Close puts what was refused since the last summary on record. Refusals after
// it are still counted, and recorded no more.
func (l *Limits) Close() { l.refusals.close() }

// Refused returns how often the limit refused something.
func (l *Limits) Refused(limit sshgate.Limit) uint64 { return l.refusals.of(limit) }

// Use is what is taken now.
type Use struct {
	Startups        int // SSH connections that have not signed in
	Networks        int // that they come from
	Identities      int // that have a connection
	BusiestIdentity int // connections of the one that has the most
	Throttled       int // networks that have used up their failures
}

// Use counts what is taken.
func (l *Limits) Use() Use {
	u := Use{}
	u.Startups, u.Networks = l.startups.use()
	u.Identities, u.BusiestIdentity = l.connections.use()
	u.Throttled = l.failures.empty(l.cfg.Now())
	return u
}

// Refuse counts a refusal under the limit and returns it with the sentence for
// the user. id is zero where nobody has signed in.
func (l *Limits) Refuse(limit sshgate.Limit, id sshgate.Identity, addr netip.Addr, sentence string) *sshgate.Denied {
	request := sshgate.NewRequestID()
	l.refusals.note(limit, id, addr, request, sentence)
	return &sshgate.Denied{RequestID: request, Code: sshgate.DenialLimit, Sentence: sentence, Cause: fmt.Errorf("limit %s: %s", limit, sentence)}
}

func (l *Limits) refuseAddress(limit sshgate.Limit, addr netip.Addr, sentence string) *sshgate.Denied {
	return l.Refuse(limit, sshgate.Identity{}, addr, sentence)
}
