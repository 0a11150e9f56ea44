package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Session durations are at least a minute, since a shorter one ends before the
// work begins, and at most a year.
const (
	minSession = time.Minute
	maxSession = 365 * day
)

func decodePolicy(dst *sshgate.Policy) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"session_duration": duration(&dst.SessionDuration, minSession, maxSession),
			"applications":     list(&dst.Applications, application),
			"publish":          list(&dst.Publish, publishRule),
		}, required{"applications": "what no application allows is denied"})
		c.validate(dst)
	}
}

// validate reports what the policy finds wrong with itself, at the lines that
// it came from. It leaves out what is the consequence of a value that did not
// decode, which is reported already.
func (c cursor) validate(policy *sshgate.Policy) {
	var invalid *sshgate.PolicyError
	if !errors.As(policy.Validate(), &invalid) {
		return
	}
	for _, p := range invalid.Problems {
		path := c.path + "." + p.Path
		if !c.doc.reported(path) {
			c.doc.problemAt(path, p.Text)
		}
	}
}

func application(dst *sshgate.Application) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"name":             text(&dst.Name),
			"hosts":            list(&dst.Hosts, hostPattern),
			"session_duration": duration(&dst.SessionDuration, minSession, maxSession),
			"rules":            list(&dst.Rules, rule),
		}, required{"rules": "to deny everybody write []"})
	}
}

func hostPattern(dst *sshgate.HostPattern) func(cursor) {
	return parsed(dst, sshgate.ParseHostPattern, `expected a name, "*.suffix" or "*"`)
}

func rule(dst *sshgate.Rule) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"name":             text(&dst.Name),
			"action":           parsed(&dst.Action, action, ""),
			"include":          list(&dst.Include, selector),
			"require":          list(&dst.Require, selector),
			"exclude":          list(&dst.Exclude, selector),
			"logins":           list(&dst.Logins, loginTemplate),
			"session_duration": duration(&dst.SessionDuration, minSession, maxSession),
			"end_to_end":       parsed(&dst.EndToEnd, boolean, ""),
			"ports":            list(&dst.Ports, port),
		}, nil)
	}
}

func publishRule(dst *sshgate.PublishRule) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"name":      text(&dst.Name),
			"include":   list(&dst.Include, selector),
			"require":   list(&dst.Require, selector),
			"exclude":   list(&dst.Exclude, selector),
			"hostnames": list(&dst.Hostnames, hostPattern),
		}, nil)
	}
}

func boolean(s string) (bool, error) {
	switch s {
	case "true", "false":
		return s == "true", nil
	}
	return false, fmt.Errorf("%s is neither true nor false", quote(s))
}

func action(s string) (sshgate.Action, error) {
	switch a := sshgate.Action(s); a {
	case sshgate.Allow, sshgate.Service, sshgate.Deny:
		return a, nil
	}
	return "", fmt.Errorf("%s is not an action; expected allow, service or deny", quote(s))
}

func port(dst *uint16) func(cursor) {
	return parsed(dst, func(s string) (uint16, error) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("%s is not a port; expected a number from 1 to 65535", quote(s))
		}
		return uint16(n), nil
	}, "")
}

func loginTemplate(dst *sshgate.LoginTemplate) func(cursor) {
	return parsed(dst, sshgate.ParseLoginTemplate, `expected an account name, "${claims.NAME}" or "*"`)
}

// selector decodes a mapping of one key, the kind of the selector.
func selector(dst *sshgate.Selector) func(cursor) {
	return func(c cursor) {
		before := len(c.doc.problems)
		kinds := 0
		one := func(decode func(cursor) sshgate.Selector) func(cursor) {
			return func(c cursor) {
				kinds++
				*dst = decode(c)
			}
		}
		c.object(schema{
			"email":         one(stringSelector[sshgate.Email]),
			"email_domain":  one(stringSelector[sshgate.EmailDomain]),
			"group":         one(stringSelector[sshgate.Group]),
			"claim":         one(claimSelector),
			"address":       one(addressSelector),
			"service_token": one(stringSelector[sshgate.ServiceTokenNamed]),
			"workload":      one(stringSelector[sshgate.WorkloadNamed]),
			"everyone":      one(everyoneSelector),
		}, nil)
		if kinds != 1 && len(c.doc.problems) == before {
			c.problem("has %d selectors; expected one in each item of the list", kinds)
		}
	}
}

// stringSelector decodes the selectors that are a list of strings.
func stringSelector[S interface {
	~[]string
	sshgate.Selector
}](c cursor) sshgate.Selector {
	var values []string
	texts(&values)(c)
	return S(values)
}

func claimSelector(c cursor) sshgate.Selector {
	var claim sshgate.Claim
	c.object(schema{
		"name":   parsed(&claim.Path, sshgate.ParseClaimPath, "expected the name of a claim; for addresses use email or email_domain"),
		"values": texts(&claim.Values),
	}, required{
		"name":   "expected the name of a claim, as in department or realm.roles",
		"values": "expected the values that match",
	})
	return claim
}

func addressSelector(c cursor) sshgate.Selector {
	var ranges []netip.Prefix
	list(&ranges, prefix)(c)
	return sshgate.Address(ranges)
}

func everyoneSelector(c cursor) sshgate.Selector {
	if s, ok := c.scalar(); ok && s != "true" {
		c.problem("%s has no meaning here; write true, or leave the selector out", quote(s))
	}
	return sshgate.Everyone{}
}
