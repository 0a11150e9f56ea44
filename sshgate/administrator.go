package sshgate

import (
	"cmp"
	"net/netip"
	"time"
)

// Administrator tells whether the policy lets somebody administer the gateway.
// Machines never may, and nobody with a sign-in that has reached the policy's
// SessionDuration.
func (p *Policy) Administrator(id Identity, addr netip.Addr, key Key, now time.Time) bool {
	req := Request{Identity: id, ClientAddr: addr, Key: key, Time: now}
	return p.signedIn(req) && p.matcher(req).matches(Rule{Action: Allow, Include: p.Administrators})
}

// signedIn tells whether the request is a person's whose sign-in is good under
// the policy's own session duration.
func (p *Policy) signedIn(req Request) bool {
	id := req.Identity
	return id.Issuer != "" && id.Subject != "" && !id.Machine() && !req.Time.IsZero() &&
		req.Time.Sub(id.SignedInAt) < cmp.Or(p.SessionDuration, DefaultSessionDuration)
}
