package sshgate

import (
	"errors"
	"fmt"
	"strings"
)

// OriginName is the name of an origin in its one normal form: lower case, DNS
// characters, no trailing dot. Make one with ParseOriginName.
type OriginName string

// Login is the name of an account on an origin. Make one with ParseLogin.
type Login string

// Target is where a client wants to go: `deploy+web1` is the login deploy on
// the origin web1.
type Target struct {
	// Login is empty where the client named none, which means the policy's
	// default.
	Login Login
	// Origin is empty when the client asks for the gateway itself.
	Origin OriginName
}

// Separators between a login and an origin. The first is the canonical one; the
// others are what tools leave of it or allow in its place (`ssh ssh://a+b@gate`
// sends a space).
const separators = "+@:%~ "

const (
	maxUserName = 512 // bytes of an SSH user name that are looked at
	maxOrigin   = 253 // RFC 1035 section 2.3.4
	maxLabel    = 63
	maxLogin    = 64
)

// ParseTarget reads the user name of an SSH connection.
//
// The origin is the longest suffix made of DNS characters, and the one
// character before it is the separator: `+`, or one of `@ : % ~` and space.
// Everything before the separator is the login; it may hold separators itself.
// Without a separator the name asks for the gateway itself and is a login:
//
//	deploy+web1.example.com   deploy on web1.example.com
//	+web1                     the policy's default login on web1
//	a@corp+web1               a@corp on web1
//	alice                     the gateway itself, as alice
//
// The error names what is wrong with the name and shows the form to use.
func ParseTarget(user string) (Target, error) {
	if len(user) > maxUserName {
		return Target{}, fmt.Errorf("the user name is longer than %d bytes; use LOGIN+ORIGIN", maxUserName)
	}
	at := len(user)
	for at > 0 && isDNSByte(user[at-1]) {
		at--
	}
	if at == 0 {
		login, err := parseOptionalLogin(user)
		return Target{Login: login}, err
	}
	if !strings.ContainsRune(separators, rune(user[at-1])) {
		return Target{}, fmt.Errorf("%q is not a separator in the user name; use LOGIN+ORIGIN", user[at-1:at])
	}
	origin, err := ParseOriginName(user[at:])
	if err != nil {
		return Target{}, fmt.Errorf("%w; use LOGIN+ORIGIN", err)
	}
	login, err := parseOptionalLogin(user[:at-1])
	if err != nil {
		return Target{}, err
	}
	return Target{Login: login, Origin: origin}, nil
}

// String returns the target in canonical form, as a client would type it.
func (t Target) String() string {
	if t.Origin == "" {
		return string(t.Login)
	}
	return string(t.Login) + "+" + string(t.Origin)
}

// ParseOriginName normalises the name of an origin: lower case, without the
// trailing dot of a fully qualified name.
func ParseOriginName(s string) (OriginName, error) {
	name := strings.TrimSuffix(s, ".")
	if name == "" {
		return "", errors.New("the origin's name is empty")
	}
	if len(name) > maxOrigin {
		return "", fmt.Errorf("the origin's name is longer than %d bytes", maxOrigin)
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return "", fmt.Errorf("origin %q has an empty label", name)
		case len(label) > maxLabel:
			return "", fmt.Errorf("origin %q has a label longer than %d bytes", name, maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return "", fmt.Errorf("origin %q has a label that begins or ends with a hyphen", name)
		}
		for i := range len(label) {
			if !isDNSByte(label[i]) {
				return "", fmt.Errorf("origin %q has a character that DNS names do not have", name)
			}
		}
	}
	// Only now: lowering first would turn the Kelvin sign into a plain k.
	return OriginName(strings.ToLower(name)), nil
}

// ParseLogin checks the name of an account. Any printable ASCII but the
// characters that a shell, a path or an e-mail header would take as more than
// a name is allowed; the origin's own rules come on top. A colon is not: sshd
// cuts the name there, so root:x would be a way to say root.
func ParseLogin(s string) (Login, error) {
	switch {
	case s == "":
		return "", errors.New("the login is empty")
	case len(s) > maxLogin:
		return "", fmt.Errorf("the login is longer than %d bytes", maxLogin)
	case s[0] == '-' || s[0] == '~':
		return "", fmt.Errorf("the login begins with %q", s[:1])
	case s == "." || s == "..":
		return "", fmt.Errorf("the login %q is a directory", s)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte("\"'`$&;|<>()[]{}*?!#/\\,:", c) >= 0 {
			return "", fmt.Errorf("the login %q has a character that is not allowed in account names", s)
		}
	}
	return Login(s), nil
}

func parseOptionalLogin(s string) (Login, error) {
	if s == "" {
		return "", nil
	}
	return ParseLogin(s)
}

// isDNSByte tells whether c may stand in an origin's name. The underscore is
// there because machine names in the field have it.
func isDNSByte(c byte) bool {
	return c == '.' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
