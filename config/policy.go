package config

import (
	"errors"
	"fmt"
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

func decodePolicy(dst *sshgate.Policy, tests *[]policyTest) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"session_duration": duration(&dst.SessionDuration, minSession, maxSession),
			"groups":           selectorGroups(&dst.Groups),
			"administrators":   list(&dst.Administrators, selector),
			"applications":     list(&dst.Applications, application),
			"country_file":     countryFile(&dst.CountryOf),
			"publish":          list(&dst.Publish, publishRule),
			"tests":            list(tests, decodeTest),
		}, required{"applications": "what no application allows is denied"})
		c.validate(dst)
	}
}

// validate reports what the policy finds wrong with itself, at the lines that
// it came from. It leaves out what is the consequence of a value that did not
// decode, which is reported already.
func (c cursor) validate(policy *sshgate.Policy) {
	for _, p := range policy.Warnings() {
		c.doc.warnAt(c.path+"."+p.Path, p.Text)
	}
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
			"max_age":          duration(&dst.MaxAge, minSession, maxSession),
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
			"when":             condition(&dst.When),
			"logins":           list(&dst.Logins, loginTemplate),
			"session_duration": duration(&dst.SessionDuration, minSession, maxSession),
			"max_age":          duration(&dst.MaxAge, minSession, maxSession),
			"purpose":          parsed(&dst.Purpose, boolean, ""),
			"channels":         channels(&dst.Channels),
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
