package sshgate

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// selectorProblem says why a selector of this package can not match as meant,
// or nothing. Selectors of other packages answer for themselves.
func selectorProblem(s Selector) string {
	switch s := s.(type) {
	case nil:
		return "is no selector"
	case Email:
		return valuesProblem("address", s, func(email string) bool {
			at := strings.LastIndexByte(email, '@')
			return at > 0 && at < len(email)-1 && !strings.ContainsAny(email, " \t\r\n")
		}, "must be a whole e-mail address, as in alice@example.com")
	case EmailDomain:
		return valuesProblem("domain", s, func(domain string) bool {
			return domain != "" && !strings.ContainsAny(domain, "@* \t\r\n") && domain[0] != '.'
		}, "must be what follows the @ of an address, as in example.com")
	case ServiceTokenNamed:
		return valuesProblem("service token", s, notEmpty, "must not be empty")
	case WorkloadNamed:
		return valuesProblem("workload", s, notEmpty, "must not be empty")
	case Group:
		return valuesProblem("group", s, notEmpty, "must not be empty")
	case ACR:
		return valuesProblem("authentication context class", s, notEmpty, "must not be empty")
	case AMR:
		return valuesProblem("authentication method", s, notEmpty, "must not be empty")
	case Country:
		return valuesProblem("country", s, func(code string) bool {
			return len(code) == 2 && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
		}, "must be two capital letters, as in DE")
	case KeyType:
		return keyTypeProblem(s)
	case TimeWindow:
		return s.problem()
	case Claim:
		if _, err := ParseClaimPath(string(s.Path)); err != nil {
			return err.Error()
		}
		return valuesProblem("value", s.Values, notEmpty, "must not be empty")
	case Address:
		if len(s) == 0 {
			return "names no address range"
		}
		for _, prefix := range s {
			if !prefix.IsValid() || prefix.Addr().Is4In6() || prefix != prefix.Masked() {
				return fmt.Sprintf("the address range %v can not match as written", prefix)
			}
		}
	}
	return ""
}

// valuesProblem says what is wrong with the values of a selector: that there
// are none, or that one is not valid.
func valuesProblem(noun string, values []string, valid func(string) bool, expected string) string {
	if len(values) == 0 {
		return "names no " + noun
	}
	i := slices.IndexFunc(values, func(value string) bool { return !valid(value) })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("the %s %q %s", noun, values[i], expected)
}

func notEmpty(s string) bool { return s != "" }

// keyTypes are the types of keys that OpenSSH's clients prove, but for DSA.
var keyTypes = []string{
	"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", KeyTypeHardware,
}

func keyTypeProblem(s KeyType) string {
	if text := valuesProblem("key type", s.Types, func(name string) bool { return slices.Contains(keyTypes, name) },
		"is not known; use one of "+strings.Join(keyTypes, ", ")); text != "" {
		return text
	}
	if (s.Touched || s.Verified) && !slices.ContainsFunc(s.Types, func(name string) bool { return name == KeyTypeHardware || Key{Type: name}.Hardware() }) {
		return "wants a key that is touched or verified, which only the keys of FIDO tokens are"
	}
	return ""
}

func (s TimeWindow) problem() string {
	const day = 24 * time.Hour
	switch {
	case s.From < 0 || s.From >= day || s.To < 0 || s.To > day:
		return "has hours that no clock shows; use 00:00 to 24:00"
	case slices.ContainsFunc(s.Weekdays, func(d time.Weekday) bool { return d < time.Sunday || d > time.Saturday }):
		return "has a weekday that is none"
	}
	return ""
}
