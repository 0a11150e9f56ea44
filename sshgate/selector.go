package sshgate

import (
	"net/netip"
	"slices"
	"strings"
)

// Selector is one condition on a request. Matches must be a pure function: it
// answers from the request alone, and what it cannot tell it does not match.
//
// A selector matches what is known to be true. In a deny rule or under Exclude
// that cuts the other way: an address that the provider does not vouch for is
// not there to be excluded. Deny by what the allow rules rely on.
type Selector interface {
	Matches(Request) bool
}

// Email matches whoever has one of these verified addresses. The whole address
// counts, ASCII letters in either case.
type Email []string

// Matches implements Selector.
func (s Email) Matches(r Request) bool {
	email := r.Identity.VerifiedEmail()
	return email != "" && slices.ContainsFunc(s, func(want string) bool { return equalFoldASCII(want, email) })
}

// EmailDomain matches whoever has a verified address in one of these domains.
// The domain is what follows the last @, ASCII letters in either case; a
// subdomain is another domain.
type EmailDomain []string

// Matches implements Selector.
func (s EmailDomain) Matches(r Request) bool {
	email := r.Identity.VerifiedEmail()
	at := strings.LastIndexByte(email, '@')
	if at < 1 || at == len(email)-1 {
		return false
	}
	return slices.ContainsFunc(s, func(want string) bool { return equalFoldASCII(want, email[at+1:]) })
}

// Group matches the members of one of these groups, named exactly as the
// provider names them.
type Group []string

// Matches implements Selector.
func (s Group) Matches(r Request) bool {
	return slices.ContainsFunc(s, func(want string) bool { return slices.Contains(r.Identity.Groups, want) })
}

// Claim matches when the claim at Path has one of Values, or is a list that
// does. Text must be equal; true, false and numbers equal the text that JSON
// has for them. Objects and null equal nothing, and so do integers that a
// float64 does not hold exactly.
type Claim struct {
	Path   ClaimPath
	Values []string
}

// Matches implements Selector.
func (s Claim) Matches(r Request) bool {
	return slices.ContainsFunc(s.Path.Texts(r.Identity.Claims), func(have string) bool {
		return slices.Contains(s.Values, have)
	})
}

// Address matches a client that connects from one of these ranges. An IPv4
// address inside IPv6 (RFC 4291 section 2.5.5.2) counts as IPv4, and the zone
// of a link-local address does not count.
type Address []netip.Prefix

// Matches implements Selector.
func (s Address) Matches(r Request) bool {
	addr := r.ClientAddr.Unmap().WithZone("")
	return slices.ContainsFunc(s, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ServiceTokenNamed matches the service tokens of these names or IDs.
type ServiceTokenNamed []string

// Matches implements Selector.
func (s ServiceTokenNamed) Matches(r Request) bool {
	return r.Identity.Kind == ServiceToken && (slices.Contains(s, r.Identity.Name) || slices.Contains(s, r.Identity.Subject))
}

// WorkloadNamed matches the workloads of these names, as the configuration has
// them.
type WorkloadNamed []string

// Matches implements Selector.
func (s WorkloadNamed) Matches(r Request) bool {
	return r.Identity.Kind == Workload && slices.Contains(s, r.Identity.Name)
}

// Everyone matches anybody who signed in; in a service rule, any machine.
type Everyone struct{}

// Matches implements Selector.
func (Everyone) Matches(r Request) bool { return r.Identity.Subject != "" }

// Country matches clients in one of these countries, as the gateway's database of
// addresses has it: two capital letters, ISO 3166-1.
type Country []string

// Matches implements Selector.
func (s Country) Matches(r Request) bool {
	return r.Country != "" && slices.Contains(s, r.Country)
}

// PolicyGroup matches whom any selector of the policy's group of that name does.
// It takes the policy to tell, so that by itself it matches nobody.
type PolicyGroup string

// Matches implements Selector.
func (PolicyGroup) Matches(Request) bool { return false }
