package config

import (
	"net/netip"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Limits bounds how often addresses and identities may do something.
type Limits struct {
	// PrefixIPv4 and PrefixIPv6 say how large a network counts as one address.
	// Defaults 32 and 64.
	PrefixIPv4 int
	PrefixIPv6 int
	// Exempt are the addresses to which no limit per address applies.
	Exempt []netip.Prefix
	// FailuresPerAddress limits sign-ins and credentials that come to nothing.
	// Default 300/10m.
	FailuresPerAddress sshgate.Rate
	// SignInsPerAddress limits sign-ins that are started. Default 60/1m.
	SignInsPerAddress sshgate.Rate
	// SignInsPerIdentity limits those that one identity completes. Default 60/1m.
	SignInsPerIdentity sshgate.Rate
}

// ProxyProtocol says which addresses begin their connections with a PROXY header,
// as HAProxy's send-proxy does. They must; all others must not.
type ProxyProtocol struct {
	SSH    []netip.Prefix
	Tunnel []netip.Prefix
}

func defaultLimits() Limits {
	return Limits{
		PrefixIPv4: 32, PrefixIPv6: 64, FailuresPerAddress: sshgate.Rate{Count: 300, Per: 10 * time.Minute},
		SignInsPerAddress: sshgate.Rate{Count: 60, Per: time.Minute}, SignInsPerIdentity: sshgate.Rate{Count: 60, Per: time.Minute},
	}
}

func (l *Limits) decode(c cursor) {
	const expected = "expected COUNT/TIME, as in 60/1m"
	c.object(schema{
		"ipv4_prefix":           integer(&l.PrefixIPv4, 8, 32),
		"ipv6_prefix":           integer(&l.PrefixIPv6, 16, 128),
		"exempt":                list(&l.Exempt, prefix),
		"failures_per_address":  parsed(&l.FailuresPerAddress, sshgate.ParseRate, expected),
		"sign_ins_per_address":  parsed(&l.SignInsPerAddress, sshgate.ParseRate, expected),
		"sign_ins_per_identity": parsed(&l.SignInsPerIdentity, sshgate.ParseRate, expected),
	}, nil)
}

func (p *ProxyProtocol) decode(c cursor) {
	c.object(schema{"ssh": list(&p.SSH, proxy), "tunnel": list(&p.Tunnel, proxy)}, nil)
}

func prefix(dst *netip.Prefix) func(cursor) { return parsed(dst, addressRange, "") }

// proxy decodes the addresses of proxies. Everybody is none.
func proxy(dst *netip.Prefix) func(cursor) {
	return func(c cursor) {
		prefix(dst)(c)
		if dst.IsValid() && dst.Bits() == 0 {
			c.problem("%s is everybody, who could then pose as anybody; name the proxies", dst)
		}
	}
}
