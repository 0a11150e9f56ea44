package sshgate

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

// ACR matches sign-ins of one of these authentication context classes: the claim
// acr (OpenID Connect Core 1.0 section 2). Where nothing but this keeps a rule from
// matching, the decision asks for a sign-in of that class, see Decision.StepUp.
type ACR []string

// Matches implements Selector.
func (s ACR) Matches(r Request) bool {
	return Claim{Path: "acr", Values: s}.Matches(r)
}

// AMR matches sign-ins by one of these methods: the claim amr, whose values RFC
// 8176 lists. Selectors in a row under Require ask for several.
type AMR []string

// Matches implements Selector.
func (s AMR) Matches(r Request) bool {
	return Claim{Path: "amr", Values: s}.Matches(r)
}

// StepUp is what to ask the provider for in a sign-in that would help (OpenID
// Connect Core 1.0 section 3.1.2.1). Where all is zero, any sign-in does.
type StepUp struct {
	// ACRValues are for acr_values, any of which would do.
	ACRValues []string
	// MaxAge is for max_age: somebody must have proven themselves that recently.
	// Zero asks for nothing.
	MaxAge time.Duration
	// Prompt is for prompt: "login" where a session at the provider must not do,
	// otherwise empty.
	Prompt string
}

// AuthenticatedAt is when the person last proved who they are to the provider:
// the claim auth_time where a session at the provider was older than the sign-in,
// otherwise SignedInAt.
func (id Identity) AuthenticatedAt() time.Time {
	var seconds float64
	switch v := id.Claims["auth_time"].(type) {
	case float64:
		seconds = v
	case json.Number:
		seconds, _ = v.Float64()
	default:
		return id.SignedInAt
	}
	if !(seconds >= 0 && seconds < maxExactFloat) {
		return id.SignedInAt
	}
	if at := time.Unix(int64(math.Floor(seconds)), 0); at.Before(id.SignedInAt) {
		return at
	}
	return id.SignedInAt
}

// add notes what a selector that does not match asks of a sign-in. It returns
// false for a selector that no sign-in helps.
func (s *StepUp) add(selector Selector) bool {
	switch want := selector.(type) {
	case ACR:
		if len(s.ACRValues) == 0 {
			s.ACRValues = slices.Clone(want)
			return true
		}
		// Of two that must both hold, what both name.
		both := slices.DeleteFunc(slices.Clone(s.ACRValues), func(v string) bool { return !slices.Contains(want, v) })
		if len(both) > 0 {
			s.ACRValues = both
		}
		return len(both) > 0
	case AMR:
		s.Prompt = "login"
		return true
	}
	return false
}

// avoid drops the classes that the selectors exclude. It returns false where none
// is left.
func (s *StepUp) avoid(exclude []Selector) bool {
	some := len(s.ACRValues) > 0
	for _, selector := range exclude {
		if acr, ok := selector.(ACR); ok {
			s.ACRValues = slices.DeleteFunc(s.ACRValues, func(v string) bool { return slices.Contains(acr, v) })
		}
	}
	return !some || len(s.ACRValues) > 0
}
