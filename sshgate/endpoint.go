package sshgate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// SSHPort is the port by which clients ask for an origin's SSH server. It names
// the service; the connector may dial another.
const SSHPort = 22

// Endpoint is one service of an origin: its name and a port, 22 for its SSH
// server. Make one with NewEndpoint or ParseEndpoint.
type Endpoint struct {
	Origin OriginName
	Port   uint16
}

// NewEndpoint normalises a host and a port as a client sent them: an origin's
// name in any case, with or without a trailing dot. An address, which an origin's
// name never is, has a form of its own in error messages only.
func NewEndpoint(host string, port uint32) (Endpoint, error) {
	if port == 0 || port > 65535 {
		return Endpoint{}, fmt.Errorf("port %d is not from 1 to 65535", port)
	}
	if strings.ContainsAny(host, ":[]") {
		return Endpoint{}, errors.New("an IPv6 address is not the name of an origin")
	}
	origin, err := ParseOriginName(host)
	if err != nil {
		return Endpoint{}, err
	}
	return Endpoint{Origin: origin, Port: uint16(port)}, nil
}

// ParseEndpoint reads HOST:PORT, or HOST alone, which means SSH.
func ParseEndpoint(s string) (Endpoint, error) {
	host, text, found := s, "", false
	if at := strings.LastIndexByte(s, ':'); at >= 0 && !strings.HasSuffix(s, "]") {
		host, text, found = s[:at], s[at+1:], true
	}
	port := uint64(SSHPort)
	if found {
		var err error
		// Digits alone: ParseUint would take a sign or, in base 0, a prefix.
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || strings.Trim(text, "0123456789") != "" {
			return Endpoint{}, fmt.Errorf("the port of %q is not from 1 to 65535", s)
		}
	}
	return NewEndpoint(host, uint32(port))
}

// String returns the endpoint as ParseEndpoint reads it, the port included.
func (e Endpoint) String() string { return string(e.Origin) + ":" + strconv.Itoa(int(e.Port)) }

// Short returns the endpoint as people write it: without the port where that is
// SSH's.
func (e Endpoint) Short() string {
	if e.Port == SSHPort {
		return string(e.Origin)
	}
	return e.String()
}

// Channel returns how connections to the endpoint are decided about:
// ChannelEndToEnd for SSH, ChannelTCP for everything else.
func (e Endpoint) Channel() Channel {
	if e.Port == SSHPort {
		return ChannelEndToEnd
	}
	return ChannelTCP
}
