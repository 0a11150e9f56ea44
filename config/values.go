package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sshgate/sshgate/sshgate"
)

// parsed decodes a single value with a function that says what is wrong with
// it. The text expected, where there is one, is added to that.
func parsed[T any](dst *T, parse func(string) (T, error), expected string) func(cursor) {
	return func(c cursor) {
		text, ok := c.scalar()
		if !ok {
			return
		}
		value, err := parse(text)
		switch {
		case err == nil:
			*dst = value
		case expected == "":
			c.problem("%v", err)
		default:
			c.problem("%v; %s", err, expected)
		}
	}
}

// list decodes a list, or a single value as a list of one. An item that does
// not decode keeps its place as a zero value, so that indexes stay true.
func list[T any](dst *[]T, item func(*T) func(cursor)) func(cursor) {
	return func(c cursor) {
		cursors := c.items()
		values := make([]T, len(cursors))
		for i, cursor := range cursors {
			item(&values[i])(cursor)
		}
		*dst = values
	}
}

const maxText = 1024 // bytes

// text decodes a value of one line that must not be empty.
func text(dst *string) func(cursor) {
	return parsed(dst, func(s string) (string, error) {
		switch {
		case strings.TrimSpace(s) != s || s == "":
			return "", fmt.Errorf("%s is empty or has space around it", quote(s))
		case len(s) > maxText:
			return "", fmt.Errorf("%s is longer than %d bytes", quote(s), maxText)
		case strings.ContainsFunc(s, unicode.IsControl):
			return "", fmt.Errorf("%s has a control character in it", quote(s))
		}
		return s, nil
	}, "")
}

func texts(dst *[]string) func(cursor) { return list(dst, text) }

func integer(dst *int, least, most int) func(cursor) {
	return parsed(dst, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("%s is not a whole number", quote(s))
		}
		if n < least || n > most {
			return 0, fmt.Errorf("%d is out of range", n)
		}
		return n, nil
	}, fmt.Sprintf("expected %d to %d", least, most))
}

func duration(dst *time.Duration, least, most time.Duration) func(cursor) {
	return parsed(dst, func(s string) (time.Duration, error) {
		d, err := parseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("%w; expected a number with its unit, as in 90s, 10m, 12h, 30d", err)
		}
		switch {
		case d < least:
			return 0, fmt.Errorf("%s is too short; expected %s or more", s, shortDuration(least))
		case d > most:
			return 0, fmt.Errorf("%s is too long; expected %s or less", s, shortDuration(most))
		}
		return d, nil
	}, "")
}

const day = 24 * time.Hour

// ParseDuration reads a duration as it is written in a configuration: Go's
// notation, which may begin with a number of days, as in 30d or 1d12h.
func ParseDuration(s string) (time.Duration, error) { return parseDuration(s) }

// parseDuration reads Go's notation, which may begin with a number of days: 30d
// or 1d12h.
func parseDuration(s string) (time.Duration, error) {
	invalid := fmt.Errorf("%s is not a duration", quote(s))
	var total time.Duration
	rest := s
	if number, after, found := strings.Cut(s, "d"); found {
		days, err := strconv.ParseUint(number, 10, 32)
		if err != nil || days > 100*365 {
			return 0, invalid
		}
		total, rest = time.Duration(days)*day, after
		if rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > 100*365*day {
		return 0, invalid
	}
	return total + d, nil
}

// shortDuration writes a duration as people do: 30d, 12h, 1m.
func shortDuration(d time.Duration) string {
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := strings.TrimSuffix(d.String(), "0s")
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		return rest + "h"
	}
	return s
}

// listenAddress reads HOST:PORT or :PORT. Port 0 is any free one.
func listenAddress(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%s is not an address to listen on", quote(s))
	}
	if _, err := portNumber(port, 0); err != nil {
		return "", err
	}
	if host != "" && !isHost(host) {
		return "", fmt.Errorf("%s is not a host name or IP address", quote(host))
	}
	return net.JoinHostPort(host, port), nil
}

const listenExpected = `expected HOST:PORT or :PORT, as in ":22", 127.0.0.1:9090 or "[::1]:22"`

// dialAddress returns a function that reads HOST:PORT, or HOST alone with a
// default port.
func dialAddress(defaultPort string) func(string) (string, error) {
	return func(s string) (string, error) {
		if strings.Contains(s, "/") {
			return "", fmt.Errorf("%s is not an address", quote(s))
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = strings.Trim(s, "[]"), defaultPort
		}
		if !isHost(host) {
			return "", fmt.Errorf("%s is not a host name or IP address", quote(host))
		}
		if _, err := portNumber(port, 1); err != nil {
			return "", err
		}
		return net.JoinHostPort(host, port), nil
	}
}

func portNumber(s string, least uint64) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < least {
		return 0, fmt.Errorf("%s is not a port number", quote(s))
	}
	return uint16(n), nil
}

// isHost tells whether s is an IP address or a DNS name.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	_, err := sshgate.ParseOriginName(s)
	return err == nil
}

// hostname reads the DNS name of a host, or its IP address.
func hostname(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, nil
	}
	name, err := sshgate.ParseOriginName(s)
	if err != nil {
		return "", fmt.Errorf("%s is not a host name", quote(s))
	}
	return string(name), nil
}

// issuerURL reads the URL of an OpenID Connect issuer, which has neither query
// nor fragment (OpenID Connect Discovery 1.0 section 3). The text is kept as it
// is: an issuer is compared byte by byte.
func issuerURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		// Without the text, which may hold a password.
		return "", errors.New("is not a URL")
	case u.User != nil:
		return "", errors.New("the issuer's URL has a user name in it")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#"):
		return "", fmt.Errorf("the issuer %s has a query or a fragment", quote(s))
	case u.Scheme == "https":
		return s, nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return s, nil
	}
	return "", fmt.Errorf("the issuer %s is not reached through https", quote(s))
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// ParseOriginURL reads what a connector dials for an origin: ssh://HOST[:PORT], whose
// port 22 it fills in, tcp://HOST:PORT, rdp://HOST[:PORT] (3389) or unix:///PATH.
func ParseOriginURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" && u.Scheme != "unix" || u.Opaque != "":
		return nil, errors.New("is not a URL")
	case u.User != nil:
		return nil, errors.New("the origin's URL has a user name in it; the policy says who logs in as whom")
	case u.Scheme == "unix":
		return socketURL(u)
	case !slices.Contains([]string{"ssh", "tcp", "rdp"}, u.Scheme):
		return nil, fmt.Errorf("the scheme %s is not supported", quote(u.Scheme))
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("%s has more than a host and a port", quote(s))
	}
	if u.Scheme == "tcp" && u.Port() == "" {
		return nil, fmt.Errorf("%s has no port", quote(s))
	}
	address, err := dialAddress(map[string]string{"ssh": "22", "rdp": "3389"}[u.Scheme])(u.Host)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: u.Scheme, Host: address}, nil
}

// socketURL checks the URL of a unix socket.
func socketURL(u *url.URL) (*url.URL, error) {
	const longest = 107 // unix(7)
	switch {
	case u.Host != "" || !strings.HasPrefix(u.Path, "/"):
		return nil, errors.New("the path of a unix socket is absolute, with three slashes: unix:///run/NAME.sock")
	case len(u.Path) > longest:
		return nil, fmt.Errorf("the path of a unix socket is at most %d bytes long", longest)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("%s has more than a path", quote(u.String()))
	}
	return &url.URL{Scheme: u.Scheme, Path: u.Path}, nil
}

// addressRange reads a CIDR prefix or a single address.
func addressRange(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is not an address range; expected one as in 10.0.0.0/8 or 2001:db8::/32", quote(s))
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is IPv4 inside IPv6; write it as an IPv4 range", quote(s))
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits outside its mask; did you mean %s?", quote(s), prefix.Masked())
	}
	return prefix, nil
}

var (
	scopePattern    = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`) // RFC 6749 section 3.3
	variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func scope(dst *string) func(cursor) {
	return parsed(dst, func(s string) (string, error) {
		if !scopePattern.MatchString(s) {
			return "", fmt.Errorf("%s is not a scope", quote(s))
		}
		return s, nil
	}, "list scopes one by one, as in [openid, email]")
}
