package sshgate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// DestinationPattern stands for what a client may forward to: HOST:PORT, where
// HOST is a name, *.suffix, an address, a range such as 10.0.0.0/8, or `*`, and
// PORT is a number or `*`. IPv6 stands in brackets: [2001:db8::/32]:443. Make one
// with ParseDestinationPattern; the zero value matches nothing.
//
// A name is allowed by that name, wherever it leads: the origin resolves it.
// Ranges match what a client names by its address, and names match no address.
type DestinationPattern struct {
	text string
	name HostPattern
	// prefix is valid for addresses and ranges.
	prefix netip.Prefix
	port   uint16 // 0: every port
}

// ParseDestinationPattern reads a pattern.
func ParseDestinationPattern(s string) (DestinationPattern, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return DestinationPattern{}, fmt.Errorf("the destination %q is not HOST:PORT", s)
	}
	p := DestinationPattern{text: s}
	if port != "*" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return DestinationPattern{}, fmt.Errorf("the destination %q has the port %q, which is neither a number from 1 to 65535 nor *", s, port)
		}
		p.port = uint16(n)
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		p.prefix = netip.PrefixFrom(addr, addr.BitLen())
		return p, nil
	}
	if strings.Contains(host, "/") {
		p.prefix, err = netip.ParsePrefix(host)
		if err != nil || p.prefix != p.prefix.Masked() || p.prefix.Addr().Is4In6() {
			return DestinationPattern{}, fmt.Errorf("the destination %q has no address range before its port, as in 10.0.0.0/8", s)
		}
		return p, nil
	}
	if p.name, err = ParseHostPattern(host); err != nil {
		return DestinationPattern{}, fmt.Errorf("the destination %q: %w", s, err)
	}
	return p, nil
}

// Match tells whether the pattern stands for the destination, HOST:PORT.
func (p DestinationPattern) Match(destination string) bool {
	host, port, err := splitDestination(destination)
	if err != nil || p.port != 0 && p.port != port {
		return false
	}
	if p.prefix.IsValid() {
		addr, err := netip.ParseAddr(host)
		return err == nil && p.prefix.Contains(addr.Unmap().WithZone(""))
	}
	if p.name == (HostPattern{wildcard: true}) {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	name, err := ParseOriginName(host)
	return err == nil && p.name.Match(name)
}

// String returns the pattern as ParseDestinationPattern reads it.
func (p DestinationPattern) String() string { return p.text }

func splitDestination(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && (host == "" || n == 0) {
		err = errors.New("no host or no port")
	}
	return host, uint16(n), err
}
