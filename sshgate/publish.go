package sshgate

import (
	"net/netip"
	"slices"
	"time"
)

// PublishRule lets people hand out hostnames: whoever it matches may let a
// connector in that publishes them. It matches as a Rule does.
type PublishRule struct {
	Name      string
	Include   []Selector
	Require   []Selector
	Exclude   []Selector
	Hostnames []HostPattern
}

// PublishRequest asks what somebody may hand out. Identity needs an issuer and a
// subject, and must be a person's; Time must be set.
type PublishRequest struct {
	Identity   Identity
	ClientAddr netip.Addr // of the person, not of the machine that is let in
	Key        Key        // of the person, where they proved one
	Time       time.Time
}

// Publishable is what a rule lets somebody hand out.
type Publishable struct {
	Rule      string
	Hostnames []HostPattern
}

// Publishable returns what the rules let the person hand out, those of each rule
// that matches. What no rule names is not: the answer is empty for machines, and for
// a sign-in that has reached the policy's SessionDuration.
func (p *Policy) Publishable(req PublishRequest) []Publishable {
	ask := Request{Identity: req.Identity, ClientAddr: req.ClientAddr, Key: req.Key, Time: req.Time}
	if !p.signedIn(ask) {
		return nil
	}
	m := p.matcher(ask)
	var found []Publishable
	for _, r := range p.Publish {
		rule := Rule{Action: Allow, Include: r.Include, Require: r.Require, Exclude: r.Exclude}
		if m.matches(rule) {
			found = append(found, Publishable{Rule: r.Name, Hostnames: r.Hostnames})
		}
	}
	return found
}

// MayPublish returns the name of the rule that lets the person hand the hostname
// out, which may be a wildcard, and whether there is one.
func (p *Policy) MayPublish(req PublishRequest, hostname HostPattern) (rule string, ok bool) {
	for _, offer := range p.Publishable(req) {
		if slices.ContainsFunc(offer.Hostnames, func(have HostPattern) bool { return have.Covers(hostname) }) {
			return offer.Rule, true
		}
	}
	return "", false
}
