package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sshgate/sshgate/sshgate"
)

// policyTest is a question to the policy and the answer that its author expects.
type policyTest struct {
	name    string
	request sshgate.Request
	ago     time.Duration // since the sign-in
	expect  string
	// rule, as and files are not looked at where they are not set.
	rule  string
	as    sshgate.Login
	files *sshgate.Transfer
	// because is why it must be so, for whoever breaks it.
	because string
}

// testTime is when tests are asked that say nothing else: a Monday at noon.
var testTime = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

const maxTests = 2000

// The answers that a test can expect.
const (
	expectAllow   = "allow"
	expectDeny    = "deny"
	expectExpired = "expired"
	expectPurpose = "purpose"
)

func decodeTest(dst *policyTest) func(cursor) {
	return func(c cursor) {
		r := &dst.request
		r.Channel, r.Time = sshgate.ChannelSession, testTime
		asks := 0
		one := func(channel sshgate.Channel, kind sshgate.ActivityKind, flag bool) func(cursor) {
			return func(c cursor) {
				asks++
				r.Channel = channel
				detail, set := "", true
				if flag {
					parsed(&set, boolean, "")(c)
				} else {
					text(&detail)(c)
				}
				if !set {
					c.problem("has no meaning as false; leave it out")
				}
				r.Activity = sshgate.NewActivity(channel, kind, detail)
			}
		}
		c.object(schema{
			"name":       text(&dst.name),
			"who":        dst.who,
			"origin":     parsed(&r.Target.Origin, sshgate.ParseOriginName, ""),
			"login":      parsed(&r.Target.Login, sshgate.ParseLogin, ""),
			"purpose":    text(&r.Purpose),
			"shell":      one(sshgate.ChannelSession, sshgate.ActivityShell, true),
			"command":    one(sshgate.ChannelSession, sshgate.ActivityExec, false),
			"subsystem":  one(sshgate.ChannelSession, sshgate.ActivitySubsystem, false),
			"agent":      one(sshgate.ChannelSession, sshgate.ActivityAgent, true),
			"x11":        one(sshgate.ChannelSession, sshgate.ActivityX11, true),
			"forward":    one(sshgate.ChannelForward, sshgate.ActivityForward, false),
			"unix":       one(sshgate.ChannelUnix, sshgate.ActivityUnix, false),
			"listen":     one(sshgate.ChannelListen, sshgate.ActivityListen, true),
			"end_to_end": one(sshgate.ChannelEndToEnd, sshgate.ActivityOpen, true),
			"port": func(c cursor) {
				asks++
				r.Channel = sshgate.ChannelTCP
				port(&r.Port)(c)
			},
			"expect": parsed(&dst.expect, expectation, ""),
			"rule":   text(&dst.rule),
			"as":     parsed(&dst.as, sshgate.ParseLogin, ""),
			"files": func(c cursor) {
				dst.files = new(sshgate.Transfer)
				transfer(dst.files)(c)
			},
			"because": text(&dst.because),
		}, required{
			"name":   "the report names what failed",
			"who":    "expected who asks, as in {email: alice@example.com, groups: [ops]}",
			"origin": "expected where they want to go",
			"expect": "expected " + expectations,
		})
		if asks > 1 {
			c.problem("asks for %d things at once; write a test for each", asks)
		}
	}
}

const expectations = "allow, deny, expired (after another sign-in) or purpose (once told what for)"

func expectation(s string) (string, error) {
	switch s {
	case expectAllow, expectDeny, expectExpired, expectPurpose:
		return s, nil
	}
	return "", fmt.Errorf("%s is no answer; expected %s", quote(s), expectations)
}

// who decodes the identity and what else is known of whoever asks.
func (test *policyTest) who(c cursor) {
	r := &test.request
	id := &r.Identity
	id.EmailVerified = true
	var token, workload string
	c.object(schema{
		"email":          text(&id.Email),
		"email_verified": parsed(&id.EmailVerified, boolean, ""),
		"subject":        text(&id.Subject),
		"groups":         texts(&id.Groups),
		"claims":         tokenClaims(&id.Claims),
		"service_token":  text(&token),
		"workload":       text(&workload),
		"address":        parsed(&r.ClientAddr, ipAddress, ""),
		"country":        text(&r.Country),
		"key_type":       text(&r.Key.Type),
		"touched":        parsed(&r.Key.Touched, boolean, ""),
		"verified":       parsed(&r.Key.Verified, boolean, ""),
		"time":           parsed(&r.Time, moment, ""),
		"signed_in":      duration(&test.ago, 0, maxSession),
	}, nil)
	switch {
	case token != "" && workload != "":
		c.problem("is a service token and a workload; keep one")
	case token != "":
		id.Kind, id.Name, id.Issuer = sshgate.ServiceToken, token, sshgate.ServiceIssuer
	case workload != "":
		id.Kind, id.Name = sshgate.Workload, workload
	}
	for _, name := range []string{id.Subject, id.Email, id.Name, "somebody"} {
		if id.Subject == "" {
			id.Subject = name
		}
	}
	id.EmailVerified = id.EmailVerified && id.Email != ""
}

func ipAddress(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s is no IP address", quote(s))
	}
	return addr, nil
}

func moment(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s is no time; expected one as in 2026-01-05T12:00:00+01:00", quote(s))
	}
	return t, nil
}

// tokenClaims decodes what an ID token could have: any values, as JSON decodes them.
func tokenClaims(dst *map[string]any) func(cursor) {
	return func(c cursor) {
		if c.node.Kind != yaml.MappingNode {
			c.problem("is %s; expected claims with their values", kindName(c.node))
			return
		}
		*dst, _ = c.value(0).(map[string]any)
	}
}

const maxClaimDepth = 16

func (c cursor) value(depth int) any {
	switch {
	case depth > maxClaimDepth:
		c.problem("nests deeper than %d", maxClaimDepth)
		return nil
	case c.node.Kind == yaml.MappingNode:
		object := map[string]any{}
		for _, e := range c.entries(0) {
			object[e.key.Value] = c.key(e.key.Value, e.value).value(depth + 1)
		}
		return object
	case c.node.Kind == yaml.SequenceNode:
		list := []any{}
		for _, item := range c.items() {
			list = append(list, item.value(depth+1))
		}
		return list
	}
	switch c.node.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return c.node.Value == "true"
	case "!!int", "!!float":
		if f, err := strconv.ParseFloat(c.node.Value, 64); err == nil {
			return f
		}
	}
	return c.node.Value
}

// runTests reports the tests that the policy fails.
func (g *Gateway) runTests(c cursor) {
	if c.doc.reported("policy") || c.doc.reported("workloads") {
		return // what failed may be the consequence
	}
	if len(g.tests) > maxTests {
		c.doc.problemAt("policy.tests", fmt.Sprintf("has %d tests; at most %d are run", len(g.tests), maxTests))
		return
	}
	for i, test := range g.tests {
		r := test.request
		if r.Identity.Issuer == "" {
			r.Identity.Issuer = g.SignIn.Issuer
		}
		r.Identity.SignedInAt = r.Time.Add(-test.ago)
		if wrong := test.wrong(g.policy.Decide(r)); len(wrong) > 0 {
			text := test.failure(wrong, g.policy.Explain(r))
			c.doc.problemAt(fmt.Sprintf("policy.tests[%d].name", i), fmt.Sprintf("the test %s fails: %s", quote(test.name), text))
		}
	}
}

// wrong says how the decision is not the expected one.
func (test policyTest) wrong(d sshgate.Decision) (wrong []string) {
	differs := func(what, want, got string) {
		if want != "" && want != got {
			wrong = append(wrong, fmt.Sprintf("expected %s%s, got %s", what, want, got))
		}
	}
	differs("", test.expect, outcome(d))
	differs("the rule ", test.rule, orNone(d.Rule))
	differs("the login ", string(test.as), orNone(string(d.Login)))
	if test.files != nil {
		differs("files ", ways(*test.files), ways(d.Files))
	}
	return wrong
}

// failure says what went wrong, and why.
func (test policyTest) failure(wrong []string, e sshgate.Explanation) string {
	d := e.Decision
	text := strings.Join(wrong, "; ") + ": " + d.Reason
	for _, rule := range e.Rules {
		if test.rule != "" && rule.Name == test.rule && test.rule != d.Rule {
			text += fmt.Sprintf("; rule %q: %s", rule.Name, rule.Because)
		}
	}
	if test.because != "" {
		text += fmt.Sprintf(" (it must be so because: %s)", test.because)
	}
	return text
}

func outcome(d sshgate.Decision) string {
	switch {
	case d.Allowed:
		return expectAllow
	case d.Expired:
		return expectExpired
	case d.Purpose:
		return expectPurpose
	}
	return expectDeny
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// ways names which way files may go.
func ways(t sshgate.Transfer) string {
	switch {
	case t.Read && t.Write:
		return "read and write"
	case t.Read:
		return "read"
	case t.Write:
		return "write"
	}
	return "none"
}
