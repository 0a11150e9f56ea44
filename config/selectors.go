package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sshgate/sshgate/sshgate"
)

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
			"acr":           one(stringSelector[sshgate.ACR]),
			"amr":           one(stringSelector[sshgate.AMR]),
			"country":       one(stringSelector[sshgate.Country]),
			"key_type":      one(keyTypeSelector),
			"time":          one(timeSelector),
			"policy_group":  one(policyGroupSelector),
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
	list(&ranges, func(p *netip.Prefix) func(cursor) { return parsed(p, addressRange, "") })(c)
	return sshgate.Address(ranges)
}

func everyoneSelector(c cursor) sshgate.Selector {
	if s, ok := c.scalar(); ok && s != "true" {
		c.problem("%s has no meaning here; write true, or leave the selector out", quote(s))
	}
	return sshgate.Everyone{}
}

// keyTypeSelector decodes a list of types, or a mapping that says more.
func keyTypeSelector(c cursor) sshgate.Selector {
	var key sshgate.KeyType
	if c.node.Kind != yaml.MappingNode {
		texts(&key.Types)(c)
		return key
	}
	c.object(schema{
		"type":     texts(&key.Types),
		"touched":  parsed(&key.Touched, boolean, ""),
		"verified": parsed(&key.Verified, boolean, ""),
	}, required{"type": "expected the types of keys, as in " + sshgate.KeyTypeHardware})
	return key
}

func timeSelector(c cursor) sshgate.Selector {
	w := sshgate.TimeWindow{To: day}
	var days [][]time.Weekday
	c.object(schema{
		"days": list(&days, func(dst *[]time.Weekday) func(cursor) { return parsed(dst, weekdays, "") }),
		"from": parsed(&w.From, clock, ""),
		"to":   parsed(&w.To, clock, ""),
		"zone": parsed(&w.Location, zone, ""),
	}, required{"zone": "expected whose clock it is, as in Europe/Berlin or UTC"})
	w.Weekdays = slices.Concat(days...)
	return w
}

var weekdayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// weekdays reads a day, or the first and the last of several: mon or mon-fri.
func weekdays(s string) ([]time.Weekday, error) {
	first, last, several := strings.Cut(s, "-")
	if !several {
		last = first
	}
	from, to := slices.Index(weekdayNames, first), slices.Index(weekdayNames, last)
	if from < 0 || to < 0 {
		return nil, fmt.Errorf("%s is no day of the week; expected one or several, as in mon or mon-fri", quote(s))
	}
	var days []time.Weekday
	for d := from; ; d = (d + 1) % 7 {
		days = append(days, time.Weekday(d))
		if d == to {
			return days, nil
		}
	}
}

// clock reads the hour and the minute of a day, up to 24:00.
func clock(s string) (time.Duration, error) {
	if s == "24:00" {
		return day, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		return 0, fmt.Errorf("%s is no time of day; expected one from 00:00 to 24:00", quote(s))
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

func zone(s string) (*time.Location, error) {
	location, err := time.LoadLocation(s)
	if err != nil || s == "" || s == "Local" {
		return nil, fmt.Errorf("%s is no time zone; expected one as in Europe/Berlin, America/New_York or UTC", quote(s))
	}
	return location, nil
}

func policyGroupSelector(c cursor) sshgate.Selector {
	var name string
	text(&name)(c)
	return sshgate.PolicyGroup(name)
}

const maxGroups = 1000

var groupNamePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// selectorGroups decodes the policy's groups, whose names the file makes up.
func selectorGroups(dst *map[string][]sshgate.Selector) func(cursor) {
	return func(c cursor) {
		if c.node.Kind != yaml.MappingNode {
			c.problem("is %s; expected names, each with a list of selectors", kindName(c.node))
			return
		}
		entries := c.entries(0)
		if len(entries) > maxGroups {
			c.problem("has %d groups; expected at most %d", len(entries), maxGroups)
			return
		}
		groups := map[string][]sshgate.Selector{}
		for _, e := range entries {
			name := e.key.Value
			if !groupNamePattern.MatchString(name) {
				c.doc.report(e.key.Line, e.key.Column, c.path, fmt.Sprintf("%s is no name for a group; use letters, digits, - and _", quote(name)))
				continue
			}
			selectors := []sshgate.Selector{}
			list(&selectors, selector)(c.key(name, e.value))
			groups[name] = selectors
		}
		*dst = groups
	}
}
