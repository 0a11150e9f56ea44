package sshgate

import (
	"fmt"
	"strings"
)

// HostPattern stands for one origin or many: an exact name, `*.suffix` for
// every name with one or more labels before the suffix, or `*` for every
// origin. Make one with ParseHostPattern. Patterns are comparable; the zero
// value matches nothing.
type HostPattern struct {
	// name is the exact name, or the suffix of a wildcard: empty for `*`.
	name     OriginName
	wildcard bool
}

// ParseHostPattern reads a pattern. Its names are normalised as
// ParseOriginName does.
func ParseHostPattern(s string) (HostPattern, error) {
	if s == "*" {
		return HostPattern{wildcard: true}, nil
	}
	suffix, wildcard := strings.CutPrefix(s, "*.")
	if strings.Contains(suffix, "*") {
		return HostPattern{}, fmt.Errorf("host pattern %q has a * that is not its whole first label", s)
	}
	name, err := ParseOriginName(suffix)
	if err != nil {
		return HostPattern{}, fmt.Errorf("host pattern: %w", err)
	}
	return HostPattern{name: name, wildcard: wildcard}, nil
}

// Match tells whether the pattern stands for the origin. No pattern stands for
// the empty name, which is the gateway itself. `*.example.com` does not stand
// for example.com.
func (p HostPattern) Match(origin OriginName) bool {
	switch {
	case origin == "":
		return false
	case !p.wildcard:
		return origin == p.name
	case p.name == "":
		return true
	}
	rest, ok := strings.CutSuffix(string(origin), "."+string(p.name))
	return ok && rest != ""
}

// Specificity orders the patterns that match one origin: the greatest is the
// most specific. An exact name beats every wildcard, a longer suffix a shorter
// one, and `*` beats nothing. Two different patterns that match the same origin
// never have the same specificity.
func (p HostPattern) Specificity() int {
	if !p.wildcard {
		return maxOrigin + 1
	}
	return len(p.name)
}

// String returns the pattern as ParseHostPattern reads it.
func (p HostPattern) String() string {
	switch {
	case !p.wildcard:
		return string(p.name)
	case p.name == "":
		return "*"
	}
	return "*." + string(p.name)
}

// Covers tells whether the pattern stands for every origin that the other one
// stands for.
func (p HostPattern) Covers(other HostPattern) bool {
	switch {
	case other == HostPattern{}:
		return false
	case !other.wildcard:
		return p.Match(other.name)
	case !p.wildcard:
		return false
	}
	return p.name == "" || p == other || p.Match(other.name)
}

// Wildcard tells a pattern of many names from an exact one.
func (p HostPattern) Wildcard() bool { return p.wildcard }
