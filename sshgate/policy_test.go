package sshgate_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/sshgate"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func hosts(patterns ...string) []sshgate.HostPattern {
	var list []sshgate.HostPattern
	for _, p := range patterns {
		list = append(list, mustPattern(p))
	}
	return list
}

func logins(templates ...string) []sshgate.LoginTemplate {
	var list []sshgate.LoginTemplate
	for _, s := range templates {
		list = append(list, mustTemplate(s))
	}
	return list
}

func selectors(s ...sshgate.Selector) []sshgate.Selector { return s }

func alice() sshgate.Identity {
	return sshgate.Identity{
		Issuer: "https://idp.example.com", Subject: "alice-1",
		Email: "alice@example.com", EmailVerified: true,
		Groups:     []string{"ops", "dev"},
		Claims:     map[string]any{"unix": "alice", "contract": "permanent"},
		SignedInAt: noon.Add(-30 * time.Minute),
	}
}

func bob() sshgate.Identity {
	return sshgate.Identity{
		Issuer: "https://idp.example.com", Subject: "bob-1",
		Email:  "bob@example.com", // not verified
		Groups: []string{"dev"}, Claims: map[string]any{"contract": "external"},
		SignedInAt: noon.Add(-30 * time.Minute),
	}
}

func ask(id sshgate.Identity, target string) sshgate.Request {
	parsed, err := sshgate.ParseTarget(target)
	if err != nil {
		panic(err)
	}
	return sshgate.Request{
		Identity: id, Target: parsed, ClientAddr: netip.MustParseAddr("192.0.2.7"),
		Channel: sshgate.ChannelSession, Time: noon,
	}
}

// companyPolicy has one case of everything that decides.
func companyPolicy() *sshgate.Policy {
	return &sshgate.Policy{
		SessionDuration: 10 * time.Hour,
		Applications: []sshgate.Application{
			{
				Name: "everything", Hosts: hosts("*"),
				Rules: []sshgate.Rule{
					{Name: "ops", Action: sshgate.Allow, Include: selectors(sshgate.Group{"ops"}), Logins: logins("*")},
				},
			},
			{
				Name: "lab", Hosts: hosts("*.lab.example.com"), SessionDuration: 8 * time.Hour,
				Rules: []sshgate.Rule{
					{Name: "own account", Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}), Logins: logins("${claims.unix}")},
					{Name: "shared", Action: sshgate.Allow, Include: selectors(sshgate.Group{"dev"}), Logins: logins("deploy", "build"), SessionDuration: time.Hour},
					{Name: "short", Action: sshgate.Allow, Include: selectors(sshgate.Group{"dev"}), Logins: logins("root"), SessionDuration: 10 * time.Minute},
					{Name: "no externals as deploy", Action: sshgate.Deny, Include: selectors(sshgate.Address{netip.MustParsePrefix("198.51.100.0/24")})},
				},
			},
			{
				Name: "vault", Hosts: hosts("vault.lab.example.com", "hsm"),
				Rules: []sshgate.Rule{
					{
						Name: "staff", Action: sshgate.Allow,
						Include: selectors(sshgate.Email{"alice@example.com"}, sshgate.Group{"dev"}),
						Require: selectors(sshgate.EmailDomain{"example.com"}, sshgate.Address{netip.MustParsePrefix("192.0.2.0/24")}),
						Exclude: selectors(sshgate.Claim{Path: "contract", Values: []string{"external"}}),
						Logins:  logins("*", "keeper"),
					},
				},
			},
			{Name: "closed", Hosts: hosts("*.closed.example.com")},
			{
				Name: "nobody", Hosts: hosts("nobody"),
				Rules: []sshgate.Rule{
					{Name: "no include", Action: sshgate.Allow, Logins: logins("deploy")},
					{Name: "no logins", Action: sshgate.Allow, Include: selectors(sshgate.Everyone{})},
					{Name: "only the star", Action: sshgate.Allow, Include: selectors(sshgate.Group{"ops"}), Logins: logins("*")},
				},
			},
			{
				Name: "typo", Hosts: hosts("typo"),
				Rules: []sshgate.Rule{
					{Name: "open", Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}), Logins: logins("deploy")},
					{Name: "misspelt", Action: "dney", Include: selectors(sshgate.Group{"ops"})},
				},
			},
		},
	}
}

func TestDecide(t *testing.T) {
	from := func(r sshgate.Request, addr string) sshgate.Request {
		r.ClientAddr = netip.MustParseAddr(addr)
		return r
	}
	verifiedBob := bob()
	verifiedBob.EmailVerified = true
	permanentBob := bob()
	permanentBob.Claims = nil
	permanentVerifiedBob := permanentBob
	permanentVerifiedBob.EmailVerified = true

	tests := []struct {
		name    string
		request sshgate.Request
		// want is "APPLICATION/RULE LOGIN DURATION" where allowed, "expired ..."
		// or "denied APPLICATION/RULE" otherwise.
		want string
	}{
		{"catch-all", ask(alice(), "root+db1"), "everything/ops root 10h0m0s"},
		{"catch-all, not in the group", ask(bob(), "root+db1"), "denied everything/"},
		{"catch-all has no default login", ask(alice(), "+db1"), "denied everything/"},
		{"longer wildcard answers", ask(alice(), "alice+a.lab.example.com"), "lab/own account alice 8h0m0s"},
		{"longer wildcard answers, deeper name", ask(alice(), "alice+b.a.lab.example.com"), "lab/own account alice 8h0m0s"},
		{"no fallback to the wider application", ask(alice(), "mallory+a.lab.example.com"), "denied lab/"},
		{"the suffix itself is not in the wildcard", ask(alice(), "alice+lab.example.com"), "everything/ops alice 10h0m0s"},
		{"exact name answers", ask(alice(), "alice+vault.lab.example.com"), "vault/staff alice 10h0m0s"},
		{"second host of an application", ask(alice(), "x+hsm"), "vault/staff x 10h0m0s"},

		{"default login from a claim", ask(alice(), "+a.lab.example.com"), "lab/own account alice 8h0m0s"},
		{"default login of the next rule where the claim is missing", ask(bob(), "+a.lab.example.com"), "lab/shared deploy 1h0m0s"},
		{"default login after a star", ask(alice(), "+hsm"), "vault/staff keeper 10h0m0s"},
		{"second login of a rule", ask(bob(), "build+a.lab.example.com"), "lab/shared build 1h0m0s"},
		{"somebody else's account", ask(bob(), "alice+a.lab.example.com"), "denied lab/"},
		{"logins are case-sensitive", ask(bob(), "Deploy+a.lab.example.com"), "denied lab/"},
		{"rule that does not permit the login is passed over", ask(alice(), "deploy+a.lab.example.com"), "lab/shared deploy 1h0m0s"},
		{"sign-in older than the rule's duration", ask(alice(), "root+a.lab.example.com"), "expired lab/short root 10m0s"},

		{"deny wins over an earlier allow", from(ask(alice(), "alice+a.lab.example.com"), "198.51.100.9"), "denied lab/no externals as deploy"},
		{"deny wins over expiry", from(ask(alice(), "root+a.lab.example.com"), "198.51.100.9"), "denied lab/no externals as deploy"},
		{"deny sees through IPv4 in IPv6", from(ask(alice(), "alice+a.lab.example.com"), "::ffff:198.51.100.9"), "denied lab/no externals as deploy"},
		{"deny of another application does not count", from(ask(alice(), "alice+db1"), "198.51.100.9"), "everything/ops alice 10h0m0s"},

		{"require fails on the address", from(ask(alice(), "+hsm"), "203.0.113.1"), "denied vault/"},
		{"require fails on the unverified address", ask(permanentBob, "+hsm"), "denied vault/"},
		{"exclude", ask(verifiedBob, "+hsm"), "denied vault/"},
		{"include by the second selector", ask(permanentVerifiedBob, "+hsm"), "vault/staff keeper 10h0m0s"},

		{"application without rules", ask(alice(), "root+a.closed.example.com"), "denied closed/"},
		{"rules that match nobody or permit nothing", ask(bob(), "deploy+nobody"), "denied nobody/"},
		{"star without a login", ask(alice(), "+nobody"), "denied nobody/"},
		{"star with a login", ask(alice(), "deploy+nobody"), "nobody/only the star deploy 10h0m0s"},
		{"an unknown action denies", ask(alice(), "deploy+typo"), "denied typo/misspelt"},
		{"an unknown action denies those it matches only", ask(bob(), "deploy+typo"), "typo/open deploy 10h0m0s"},

		{"the gateway itself is no origin", ask(alice(), "root"), "denied /"},
	}
	policy := companyPolicy()
	for _, tt := range tests {
		d := policy.Decide(tt.request)
		if got := summary(d); got != tt.want {
			t.Errorf("%s: %s, want %s\n(%s)", tt.name, got, tt.want, d.Reason)
		}
		checkDecision(t, d)
	}
}

func summary(d sshgate.Decision) string {
	by := d.Application + "/" + d.Rule
	about := by + " " + string(d.Login) + " " + d.SessionDuration.String()
	switch {
	case d.Expired:
		return "expired " + about
	case !d.Allowed && d.Purpose:
		return "purpose " + about
	case !d.Allowed:
		return "denied " + by
	}
	for _, way := range []struct {
		name string
		set  bool
	}{{"get", d.Files.Read}, {"put", d.Files.Write}} {
		if way.set {
			about += " " + way.name
		}
	}
	return about
}

type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// checkDecision checks what holds for every decision.
func checkDecision(t failer, d sshgate.Decision) {
	t.Helper()
	if d.Reason == "" {
		t.Errorf("%+v has no reason", d)
	}
	if d.Allowed && d.Expired {
		t.Errorf("%+v is allowed and expired", d)
	}
	if answered := d.Allowed || d.Expired || d.Purpose; answered != (d.Login != "") || answered != (d.SessionDuration != 0) || answered && d.Rule == "" {
		t.Errorf("%+v is inconsistent", d)
	}
	if d.StepUp != nil && !d.Expired || d.Files != (sshgate.Transfer{}) && !d.Allowed {
		t.Errorf("%+v asks for a sign-in that is not needed, or gives files without access", d)
	}
}

func TestDecideReasons(t *testing.T) {
	policy := companyPolicy()
	timeless := ask(alice(), "x+db1")
	timeless.Time = time.Time{}
	upper := ask(alice(), "x+db1")
	upper.Target.Origin = "VAULT.lab.example.com"
	noIssuer, noSubject := alice(), alice()
	noIssuer.Issuer, noSubject.Subject = "", ""
	outside := ask(alice(), "alice+a.lab.example.com")
	outside.ClientAddr = netip.MustParseAddr("198.51.100.1")

	for _, tt := range []struct {
		policy  *sshgate.Policy
		request sshgate.Request
		want    string
	}{
		{policy, ask(alice(), "root+db1"), `rule "ops" allows "alice@example.com" as root`},
		{policy, outside, `rule "no externals as deploy" denies "alice@example.com"`},
		{policy, ask(bob(), "root+db1"), `no rule of application "everything" allows "bob-1"`},
		{policy, ask(bob(), "alice+a.lab.example.com"), `no rule of application "lab" permits login "alice"`},
		{policy, ask(alice(), "+db1"), `the request names no login and no rule of application "everything" has a default for it`},
		{policy, ask(alice(), "root+a.lab.example.com"), `the sign-in of "alice@example.com" is older than the session duration of 10m0s`},
		{&sshgate.Policy{}, ask(alice(), "root+db1"), "no application has origin db1"},
		{policy, ask(alice(), "root"), "the request names no origin: the origin's name is empty"},
		{policy, upper, `the request's origin "VAULT.lab.example.com" is not in normal form`},
		{policy, timeless, "the request has no time"},
		{policy, ask(noIssuer, "root+db1"), "the request is nobody's: its identity has no issuer or no subject"},
		{policy, ask(noSubject, "root+db1"), "the request is nobody's: its identity has no issuer or no subject"},
		{policy, ask(sshgate.Identity{}, "root+db1"), "the request is nobody's: its identity has no issuer or no subject"},
	} {
		if d := tt.policy.Decide(tt.request); d.Reason != tt.want {
			t.Errorf("%q, want %q", d.Reason, tt.want)
		}
	}
}

func TestDecideSessionDuration(t *testing.T) {
	const policyFor, applicationFor, ruleFor = 3 * time.Hour, 2 * time.Hour, time.Hour
	for _, tt := range []struct{ policy, application, rule, want time.Duration }{
		{0, 0, 0, sshgate.DefaultSessionDuration},
		{policyFor, 0, 0, policyFor},
		{policyFor, applicationFor, 0, applicationFor},
		{policyFor, applicationFor, ruleFor, ruleFor},
		{policyFor, 0, ruleFor, ruleFor},
		{0, applicationFor, 0, applicationFor},
		{ruleFor, applicationFor, policyFor, policyFor}, // a rule may be longer too
	} {
		policy := &sshgate.Policy{SessionDuration: tt.policy, Applications: []sshgate.Application{{
			Name: "a", Hosts: hosts("*"), SessionDuration: tt.application,
			Rules: []sshgate.Rule{{
				Name: "r", Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}),
				Logins: logins("deploy"), SessionDuration: tt.rule,
			}},
		}}}
		if d := policy.Decide(ask(alice(), "+web1")); !d.Allowed || d.SessionDuration != tt.want {
			t.Errorf("%v/%v/%v: %+v, want %v", tt.policy, tt.application, tt.rule, d, tt.want)
		}
	}
}

// A sign-in is good until its session duration has passed, that moment excluded,
// so that a timer set to it finds the sign-in expired.
func TestDecideExpiry(t *testing.T) {
	policy := companyPolicy()
	for _, tt := range []struct {
		age     time.Duration
		allowed bool
	}{
		{0, true},
		{10*time.Hour - time.Nanosecond, true},
		{10 * time.Hour, false},
		{10*time.Hour + time.Nanosecond, false},
		{1000 * time.Hour, false},
	} {
		id := alice()
		id.SignedInAt = noon.Add(-tt.age)
		if d := policy.Decide(ask(id, "root+db1")); d.Allowed != tt.allowed || d.Expired == tt.allowed {
			t.Errorf("age %v: allowed %v, expired %v", tt.age, d.Allowed, d.Expired)
		}
	}
	never := alice()
	never.SignedInAt = time.Time{}
	if d := policy.Decide(ask(never, "root+db1")); d.Allowed || !d.Expired {
		t.Errorf("without a sign-in time: %+v", d)
	}
	// Whom no rule allows, a new sign-in would not help.
	old := bob()
	old.SignedInAt = time.Time{}
	if d := policy.Decide(ask(old, "root+db1")); d.Allowed || d.Expired {
		t.Errorf("an old sign-in that no rule allows: %+v", d)
	}
}

func TestEmptyPolicyDenies(t *testing.T) {
	for name, policy := range map[string]*sshgate.Policy{
		"zero":                 {},
		"empty application":    {Applications: []sshgate.Application{{}}},
		"application, no host": {Applications: []sshgate.Application{{Rules: companyPolicy().Applications[0].Rules}}},
		"application, no rule": {Applications: []sshgate.Application{{Hosts: hosts("*")}}},
		"empty rule":           {Applications: []sshgate.Application{{Hosts: hosts("*"), Rules: []sshgate.Rule{{}}}}},
		"zero pattern, login": {Applications: []sshgate.Application{{
			Hosts: []sshgate.HostPattern{{}, mustPattern("*")},
			Rules: []sshgate.Rule{{Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}), Logins: []sshgate.LoginTemplate{{}}}},
		}}},
	} {
		for _, target := range []string{"root+web1", "+web1", "root", ""} {
			if d := policy.Decide(ask(alice(), target)); d.Allowed || d.Expired {
				t.Errorf("%s policy, %q: %+v", name, target, d)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	if err := companyPolicyWithoutFaults().Validate(); err != nil {
		t.Fatalf("a policy without faults: %v", err)
	}
	prefix := netip.MustParsePrefix
	policy := &sshgate.Policy{
		SessionDuration: -1,
		Applications: []sshgate.Application{
			{Name: "a", Hosts: hosts("web1", "*.lab", "WEB1"), SessionDuration: -1},
			{Name: "a", Hosts: hosts("*.LAB")},
			{Rules: []sshgate.Rule{
				{Name: "r", Action: sshgate.Allow, SessionDuration: -1},
				{Name: "r", Action: sshgate.Deny, Include: selectors(sshgate.Everyone{}), Logins: logins("x"), SessionDuration: 1},
				{Action: "bypass", Include: selectors(sshgate.Everyone{})},
				{Name: "empty", Include: selectors(sshgate.Everyone{})},
				{
					Name: "selectors", Action: sshgate.Deny,
					Include: selectors(nil, sshgate.Email{}, sshgate.Email{"a@b.c", "example.com"}, sshgate.EmailDomain{"@example.com"}),
					Require: selectors(sshgate.EmailDomain{"*.example.com"}, sshgate.Group{""}, sshgate.Claim{Values: []string{"x"}}, sshgate.Claim{Path: "x"}),
					Exclude: selectors(sshgate.Claim{Path: "email", Values: []string{"x"}}, sshgate.Address{}, sshgate.Address{{}},
						sshgate.Address{prefix("10.0.0.1/8")}, sshgate.Address{prefix("::ffff:10.0.0.0/104")}),
				},
			}},
		},
	}
	const want = `policy.session_duration: is negative
policy.applications[0].session_duration: is negative
policy.applications[0].hosts[2]: "web1" stands in applications[0].hosts[0] too; a pattern belongs to one application
policy.applications[1].name: "a" is taken by applications[0].name; names must differ
policy.applications[1].hosts[0]: "*.lab" stands in applications[0].hosts[1] too; a pattern belongs to one application
policy.applications[2].name: is missing; the log names what decided
policy.applications[2].hosts: is empty; name the origins that the application is for
policy.applications[2].rules[0].include: is empty, which matches nobody; everybody who signs in is everyone
policy.applications[2].rules[0].session_duration: is negative
policy.applications[2].rules[0].logins: is empty; a rule that allows names the logins, or ports
policy.applications[2].rules[1].name: "r" is taken by applications[2].rules[0].name; names must differ
policy.applications[2].rules[1].logins: has no meaning in a deny rule, which denies every login
policy.applications[2].rules[1].session_duration: has no meaning in a deny rule
policy.applications[2].rules[2].name: is missing; the log names what decided
policy.applications[2].rules[2].action: "bypass" is not an action; use allow, service or deny
policy.applications[2].rules[3].action: is missing; use allow, service or deny
policy.applications[2].rules[4].include[0]: is no selector
policy.applications[2].rules[4].include[1]: names no address
policy.applications[2].rules[4].include[2]: the address "example.com" must be a whole e-mail address, as in alice@example.com
policy.applications[2].rules[4].include[3]: the domain "@example.com" must be what follows the @ of an address, as in example.com
policy.applications[2].rules[4].require[0]: the domain "*.example.com" must be what follows the @ of an address, as in example.com
policy.applications[2].rules[4].require[1]: the group "" must not be empty
policy.applications[2].rules[4].require[2]: the claim's name is empty
policy.applications[2].rules[4].require[3]: names no value
policy.applications[2].rules[4].exclude[0]: the claim "email" may be an address that nobody verified
policy.applications[2].rules[4].exclude[1]: names no address range
policy.applications[2].rules[4].exclude[2]: the address range invalid Prefix can not match as written
policy.applications[2].rules[4].exclude[3]: the address range 10.0.0.1/8 can not match as written
policy.applications[2].rules[4].exclude[4]: the address range ::ffff:10.0.0.0/104 can not match as written`
	err := policy.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// companyPolicyWithoutFaults leaves out the applications that are there to be
// wrong.
func companyPolicyWithoutFaults() *sshgate.Policy {
	p := companyPolicy()
	p.Applications = p.Applications[:4]
	return p
}

func TestLongestSession(t *testing.T) {
	if got := (&sshgate.Policy{}).LongestSession(); got != sshgate.DefaultSessionDuration {
		t.Errorf("of the zero policy: %v", got)
	}
	policy := companyPolicy()
	if got := policy.LongestSession(); got != 10*time.Hour {
		t.Errorf("the policy's own is the longest: %v", got)
	}
	policy.Applications[1].SessionDuration = 20 * time.Hour
	if got := policy.LongestSession(); got != 20*time.Hour {
		t.Errorf("an application's is the longest: %v", got)
	}
	policy.Applications[1].Rules[1].SessionDuration = 30 * time.Hour
	if got := policy.LongestSession(); got != 30*time.Hour {
		t.Errorf("a rule's is the longest: %v", got)
	}
}
