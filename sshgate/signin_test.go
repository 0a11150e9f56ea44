package sshgate_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/sshgate"
)

// onlyRule is a policy of one rule for everybody on every origin.
func onlyRule(change func(*sshgate.Rule)) *sshgate.Policy {
	r := sshgate.Rule{Name: "r", Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}), Logins: logins("deploy")}
	change(&r)
	return &sshgate.Policy{
		Applications: []sshgate.Application{{Name: "a", Hosts: hosts("*"), Rules: []sshgate.Rule{r}}},
		Groups:       map[string][]sshgate.Selector{"strong": {sshgate.ACR{"phr"}}},
	}
}

func claims(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

func TestSignInAgeAtTheBoundary(t *testing.T) {
	session := func(r *sshgate.Rule) { r.SessionDuration = time.Hour }
	maxAge := func(r *sshgate.Rule) { r.MaxAge = time.Hour }
	both := func(r *sshgate.Rule) { r.SessionDuration, r.MaxAge = 2*time.Hour, time.Hour }
	login := &sshgate.StepUp{MaxAge: time.Hour, Prompt: "login"}
	at := func(ago time.Duration) float64 { return float64(noon.Add(-ago).Unix()) }
	for _, tt := range []struct {
		name     string
		rule     func(*sshgate.Rule)
		signedIn time.Duration // ago
		claims   map[string]any
		opened   time.Duration // ago, zero: now
		want     string
		stepUp   *sshgate.StepUp
	}{
		{"just before", session, time.Hour - 1, nil, 0, "a/r deploy 1h0m0s", nil},
		{"at that moment", session, time.Hour, nil, 0, "expired a/r deploy 1h0m0s", nil},
		{"just after", session, time.Hour + 1, nil, 0, "expired a/r deploy 1h0m0s", nil},
		{"in the future", session, -time.Hour, nil, 0, "a/r deploy 1h0m0s", nil},
		{"max age, just before", maxAge, time.Hour - 1, nil, 0, "a/r deploy 12h0m0s", nil},
		{"max age, at that moment", maxAge, time.Hour, nil, 0, "expired a/r deploy 12h0m0s", login},
		{"max age, the provider's session is older", maxAge, 0, claims("auth_time", at(time.Hour)), 0, "expired a/r deploy 12h0m0s", login},
		{"max age, the provider's session is young enough", maxAge, 0, claims("auth_time", at(time.Hour-time.Second)), 0, "a/r deploy 12h0m0s", nil},
		{"max age, the number as text", maxAge, 0, claims("auth_time", json.Number("0")), 0, "expired a/r deploy 12h0m0s", login},
		{"max age, a claim later than the sign-in", maxAge, time.Hour, claims("auth_time", at(0)), 0, "expired a/r deploy 12h0m0s", login},
		{"max age, a claim that is none", maxAge, 0, claims("auth_time", "yesterday"), 0, "a/r deploy 12h0m0s", nil},
		{"what is open may go on", maxAge, 5 * time.Hour, nil, 5*time.Hour - 1, "a/r deploy 12h0m0s", nil},
		{"what was opened in time", maxAge, 5 * time.Hour, nil, 4*time.Hour + 1, "a/r deploy 12h0m0s", nil},
		{"what was opened too late", maxAge, 5 * time.Hour, nil, 4 * time.Hour, "expired a/r deploy 12h0m0s", login},
		{"what is open ends with the session", session, 2 * time.Hour, nil, 2 * time.Hour, "expired a/r deploy 1h0m0s", nil},
		{"the session's end asks for the age at once", both, 2 * time.Hour, nil, 2 * time.Hour, "expired a/r deploy 2h0m0s", &sshgate.StepUp{MaxAge: time.Hour}},
	} {
		req := ask(alice(), "+web1")
		req.Identity.SignedInAt, req.Identity.Claims = noon.Add(-tt.signedIn), tt.claims
		if tt.opened != 0 {
			req.Opened = noon.Add(-tt.opened)
		}
		d := onlyRule(tt.rule).Decide(req)
		if got := summary(d); got != tt.want {
			t.Errorf("%s: %s (%s), want %s", tt.name, got, d.Reason, tt.want)
		}
		if diff := cmp.Diff(tt.stepUp, d.StepUp); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
		checkDecision(t, d)
	}
}

func TestStepUp(t *testing.T) {
	require := func(s ...sshgate.Selector) func(*sshgate.Rule) {
		return func(r *sshgate.Rule) { r.Require = s }
	}
	ops, phr := sshgate.Group{"ops"}, sshgate.ACR{"phr", "phrh"}
	for _, tt := range []struct {
		name   string
		rule   func(*sshgate.Rule)
		claims map[string]any
		want   string
		stepUp *sshgate.StepUp
	}{
		{"of the class", require(phr), claims("acr", "phrh"), "allowed", nil},
		{"of another", require(phr), claims("acr", "pwd"), "expired", &sshgate.StepUp{ACRValues: []string{"phr", "phrh"}}},
		{"of none", require(phr), nil, "expired", &sshgate.StepUp{ACRValues: []string{"phr", "phrh"}}},
		{"by the method", require(sshgate.AMR{"hwk"}), claims("amr", []any{"pwd", "hwk"}), "allowed", nil},
		{"by another", require(sshgate.AMR{"hwk"}), claims("amr", []any{"pwd"}), "expired", &sshgate.StepUp{Prompt: "login"}},
		{"class and method", require(phr, sshgate.AMR{"hwk"}), nil, "expired", &sshgate.StepUp{ACRValues: []string{"phr", "phrh"}, Prompt: "login"}},
		{"one of two classes", require(phr, sshgate.ACR{"phrh", "x"}), nil, "expired", &sshgate.StepUp{ACRValues: []string{"phrh"}}},
		{"two classes that no sign-in has", require(phr, sshgate.ACR{"x"}), nil, "denied", nil},
		{"something else is missing too", require(phr, sshgate.Group{"kings"}), nil, "denied", nil},
		{"nothing else is missing", require(phr, ops), nil, "expired", &sshgate.StepUp{ACRValues: []string{"phr", "phrh"}}},
		{"by a group of the policy", require(sshgate.PolicyGroup("strong")), nil, "expired", &sshgate.StepUp{ACRValues: []string{"phr"}}},
		{"included by it", func(r *sshgate.Rule) { r.Include = selectors(sshgate.Group{"kings"}, phr) }, nil, "expired", &sshgate.StepUp{ACRValues: []string{"phr", "phrh"}}},
		{"included without it", func(r *sshgate.Rule) { r.Include = selectors(phr, ops) }, nil, "allowed", nil},
		{"excluded by it", func(r *sshgate.Rule) { r.Exclude = selectors(sshgate.ACR{"pwd"}) }, claims("acr", "pwd"), "denied", nil},
		{"one class is excluded", func(r *sshgate.Rule) { r.Require, r.Exclude = selectors(phr), selectors(sshgate.ACR{"phr"}) }, nil, "expired", &sshgate.StepUp{ACRValues: []string{"phrh"}}},
		{"both classes are excluded", func(r *sshgate.Rule) {
			r.Require, r.Exclude = selectors(phr), selectors(sshgate.ACR{"phr"}, sshgate.ACR{"phrh"})
		}, nil, "denied", nil},
		{"excluded by what cannot be told", func(r *sshgate.Rule) { r.Require, r.Exclude = selectors(phr), selectors(sshgate.PolicyGroup("gone")) }, nil, "denied", nil},
		{"the condition does not hold", func(r *sshgate.Rule) { r.Require, r.When = selectors(phr), testCondition("no") }, nil, "denied", nil},
		{"with an age", func(r *sshgate.Rule) { r.Require, r.MaxAge = selectors(phr), time.Hour }, nil, "expired", &sshgate.StepUp{ACRValues: []string{"phr", "phrh"}, MaxAge: time.Hour}},
		{"another login", func(r *sshgate.Rule) { r.Require, r.Logins = selectors(phr), logins("root") }, nil, "denied", nil},
	} {
		req := ask(alice(), "deploy+web1")
		req.Identity.Claims = tt.claims
		d := onlyRule(tt.rule).Decide(req)
		got := map[int]string{0: "denied", 1: "expired", 2: "purpose", 3: "allowed"}[standing(d)]
		if got != tt.want || !cmp.Equal(tt.stepUp, d.StepUp) {
			t.Errorf("%s: %s %+v (%s), want %s %+v", tt.name, got, d.StepUp, d.Reason, tt.want, tt.stepUp)
		}
		req.Identity.Kind = sshgate.ServiceToken
		p := onlyRule(func(r *sshgate.Rule) { tt.rule(r); r.Action = sshgate.Service })
		if d := p.Decide(req); standing(d) != 3 && standing(d) != 0 {
			t.Errorf("%s: a machine is asked for a sign-in: %+v", tt.name, d)
		}
	}
}

func TestPurpose(t *testing.T) {
	p := onlyRule(func(r *sshgate.Rule) { r.Purpose = true })
	req := ask(alice(), "+web1")
	for purpose, want := range map[string]bool{"": false, " \t": false, "INC-42": true} {
		req.Purpose = purpose
		if d := p.Decide(req); d.Allowed != want || !d.Purpose || d.Login != "deploy" || d.Expired {
			t.Errorf("%q: %+v", purpose, d)
		}
	}
	// A sign-in is what comes last.
	req.Purpose, req.Identity.SignedInAt = "", noon.Add(-24*time.Hour)
	if d := p.Decide(req); d.Allowed || !d.Expired || !d.Purpose {
		t.Errorf("expired: %+v", d)
	}
}

func TestConditionFailsClosed(t *testing.T) {
	for text, want := range map[string][2]bool{ // allowed under an allow rule, and beside a deny rule with it
		"holds": {true, false}, "does not": {false, true}, "fails": {false, false},
	} {
		req := ask(alice(), "+web1")
		if d := onlyRule(func(r *sshgate.Rule) { r.When = testCondition(text) }).Decide(req); d.Allowed != want[0] {
			t.Errorf("allow when %s: %+v", text, d)
		}
		p := onlyRule(func(*sshgate.Rule) {})
		p.Applications[0].Rules = append(p.Applications[0].Rules, sshgate.Rule{
			Name: "deny", Action: sshgate.Deny, Include: selectors(sshgate.Everyone{}), When: testCondition(text),
		})
		if d := p.Decide(req); d.Allowed != want[1] {
			t.Errorf("deny when %s: %+v", text, d)
		}
	}
}

func TestAdministrator(t *testing.T) {
	p := &sshgate.Policy{
		SessionDuration: time.Hour,
		Groups:          map[string][]sshgate.Selector{"admins": {sshgate.Group{"ops"}}},
		Administrators:  selectors(sshgate.PolicyGroup("admins"), sshgate.Everyone{}),
	}
	addr := netip.MustParseAddr("192.0.2.1")
	machine, nobody, old := alice(), alice(), alice()
	machine.Kind, nobody.Issuer, old.SignedInAt = sshgate.ServiceToken, "", noon.Add(-time.Hour)
	for name, tt := range map[string]struct {
		id   sshgate.Identity
		want bool
	}{"alice": {alice(), true}, "bob": {bob(), true}, "a machine": {machine, false}, "nobody": {nobody, false}, "an old sign-in": {old, false}} {
		if got := p.Administrator(tt.id, addr, sshgate.Key{}, noon); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	p.Administrators = selectors(sshgate.PolicyGroup("admins"), sshgate.KeyType{Types: []string{"hardware"}})
	if p.Administrator(bob(), addr, sshgate.Key{Type: "ssh-rsa"}, noon) || !p.Administrator(bob(), addr, sshgate.Key{Type: "sk-ssh-ed25519@openssh.com"}, noon) {
		t.Error("the key does not decide")
	}
	if (&sshgate.Policy{}).Administrator(alice(), addr, sshgate.Key{}, noon) {
		t.Error("an empty policy has an administrator")
	}
}
