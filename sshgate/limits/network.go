package limits

import (
	"errors"
	"net/netip"
)

// Networks says which addresses count as one. A provider gives one customer one
// address of IPv4, and a whole /64 of IPv6 or more.
type Networks struct {
	Bits4  int            // default 32
	Bits6  int            // default 64
	Exempt []netip.Prefix // addresses to which no limit per address applies
}

func (n *Networks) setDefaults() error {
	if n.Bits4 == 0 {
		n.Bits4 = 32
	}
	if n.Bits6 == 0 {
		n.Bits6 = 64
	}
	if n.Bits4 < 0 || n.Bits4 > 32 || n.Bits6 < 0 || n.Bits6 > 128 {
		return errors.New("limits: a network's size is out of range")
	}
	return nil
}

// of returns the network of the address, and false where it is not limited: it
// is exempt, or there is no address.
func (n Networks) of(addr netip.Addr) (netip.Prefix, bool) {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return netip.Prefix{}, false
	}
	for _, exempt := range n.Exempt {
		if exempt.Contains(addr) {
			return netip.Prefix{}, false
		}
	}
	bits := n.Bits6
	if addr.Is4() {
		bits = n.Bits4
	}
	prefix, err := addr.Prefix(bits)
	return prefix, err == nil
}
