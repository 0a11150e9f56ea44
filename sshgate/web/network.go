package web

import (
	"net/netip"
	"slices"
)

// How much of an address one network shares: what a site's router has as a rule.
const (
	networkBits4 = 24
	networkBits6 = 48
)

// sameNetwork tells whether two addresses are in one network, or both in ranges that
// count as one.
func sameNetwork(a, b netip.Addr, ranges []netip.Prefix) bool {
	a, b = a.Unmap().WithZone(""), b.Unmap().WithZone("")
	if !a.IsValid() || !b.IsValid() {
		return false
	}
	if a == b {
		return true
	}
	in := func(addr netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	if in(a) && in(b) {
		return true
	}
	bits := networkBits6
	if a.Is4() {
		bits = networkBits4
	}
	shared, err := a.Prefix(bits)
	return err == nil && shared.Contains(b)
}
