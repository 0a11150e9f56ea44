package sshgate

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limit names a bound on what an address or an identity may take.
type Limit string

// The limits. Those that no client can reach alone are the gateway's own.
const (
	LimitStartups         Limit = "startups"                 // connections that have not signed in, in all
	LimitAddressStartups  Limit = "startups_per_address"     // of those, from one address
	LimitSlowHandshake    Limit = "slow_handshake"           // a handshake that was not over in time
	LimitConnections      Limit = "connections"              // connections to a port, in all
	LimitHandshakes       Limit = "tls_handshakes"           // TLS handshakes under way, in all
	LimitAddressTLS       Limit = "tls_per_address"          // connections of one address to the TLS port, tunnels apart
	LimitProxyHeader      Limit = "proxy_header"             // PROXY headers that were missing, bad, or not to be trusted
	LimitFailures         Limit = "failures_per_address"     // sign-ins and credentials that came to nothing
	LimitSignIns          Limit = "sign_ins_per_address"     // sign-ins that were started
	LimitIdentitySignIns  Limit = "sign_ins_per_identity"    // sign-ins that were completed
	LimitPending          Limit = "pending_sign_ins"         // sign-ins that wait, in all
	LimitAddressPending   Limit = "pending_per_address"      // of those, from one address
	LimitIdentityConns    Limit = "connections_per_identity" // open at once, SSH and HTTPS together
	LimitIdentityChannels Limit = "channels_per_identity"    // open at once, in all connections
	LimitIdentitySessions Limit = "sessions_per_identity"    // of those, sessions and end-to-end SSH
	LimitChannels         Limit = "channels"                 // open at once in one connection
)

// Limits returns all of them.
func Limits() []Limit {
	return []Limit{
		LimitStartups, LimitAddressStartups, LimitSlowHandshake, LimitConnections, LimitHandshakes, LimitAddressTLS, LimitProxyHeader,
		LimitFailures, LimitSignIns, LimitIdentitySignIns, LimitPending, LimitAddressPending,
		LimitIdentityConns, LimitIdentityChannels, LimitIdentitySessions, LimitChannels,
	}
}

// Startups is sshd's MaxStartups: from Start connections on that have not signed
// in, one more is refused with the probability of Rate percent, which grows until
// all are refused at Full.
type Startups struct{ Start, Rate, Full int }

const mostStartups = 1_000_000

// ParseStartups reads "START:RATE:FULL", or one number, at which all are refused.
func ParseStartups(text string) (s Startups, err error) {
	parts := strings.Split(text, ":")
	var n [3]int
	if len(parts) != 1 && len(parts) != 3 {
		return s, fmt.Errorf("%.40q is neither START:RATE:FULL nor a number", text)
	}
	for i, part := range parts {
		if n[i], err = strconv.Atoi(part); err != nil || n[i] < 1 || n[i] > mostStartups {
			return s, fmt.Errorf("%.40q is not a number from 1 to %d", part, mostStartups)
		}
	}
	if len(parts) == 1 {
		return Startups{n[0], 100, n[0]}, nil
	}
	s = Startups{n[0], n[1], n[2]}
	switch {
	case s.Rate > 100:
		return Startups{}, fmt.Errorf("the rate %d is more than 100 percent", s.Rate)
	case s.Start > s.Full:
		return Startups{}, fmt.Errorf("refusals start at %d, beyond the %d at which all are refused", s.Start, s.Full)
	}
	return s, nil
}

// String is what ParseStartups reads.
func (s Startups) String() string { return fmt.Sprintf("%d:%d:%d", s.Start, s.Rate, s.Full) }

// Refuses decides about one more connection beside the n that there are. dice is
// from 0 to 99.
func (s Startups) Refuses(n, dice int) bool {
	switch {
	case n >= s.Full:
		return true
	case n < s.Start:
		return false
	}
	return dice < s.Rate+(100-s.Rate)*(n-s.Start)/(s.Full-s.Start)
}

// Rate is how often something may happen: Count times at once, and from then on
// evenly Count times in Per.
type Rate struct {
	Count int
	Per   time.Duration
}

// The bounds of a Rate.
const (
	mostCount = 1_000_000
	longest   = 24 * time.Hour
	// shortest keeps one time, Per divided by Count, from being nothing.
	shortest = time.Second
)

// ParseRate reads COUNT/TIME, as in 60/1m.
func ParseRate(text string) (Rate, error) {
	count, per, found := strings.Cut(text, "/")
	if !found {
		return Rate{}, fmt.Errorf("%.40q is not COUNT/TIME", text)
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > mostCount {
		return Rate{}, fmt.Errorf("%.40q is not a number from 1 to %d", count, mostCount)
	}
	d, err := time.ParseDuration(per)
	if err != nil || d < shortest || d > longest {
		return Rate{}, fmt.Errorf("%.40q is not a time from %s to %s", per, shortest, longest)
	}
	return Rate{Count: n, Per: d}, nil
}

// String is what ParseRate reads.
func (r Rate) String() string { return fmt.Sprintf("%d/%s", r.Count, r.Per) }

// Each is how long one time takes to come back.
func (r Rate) Each() time.Duration { return r.Per / time.Duration(r.Count) }
