package sshgate_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sshgate/sshgate/sshgate"
)

// The properties are drawn from a small world, so that patterns overlap, rules
// collide and every selector matches somebody and misses somebody.

var (
	worldOrigins  = []string{"web1", "db1.lab.example.com", "a.b.lab.example.com", "lab.example.com", "x.example.com"}
	worldPatterns = []string{"*", "web1", "*.example.com", "*.lab.example.com", "db1.lab.example.com", "*.b.lab.example.com", "lab.example.com"}
	worldLogins   = []string{"", "root", "deploy", "al", "1000"}
	worldClaims   = []any{nil, "al", "root", "1000", "al@example.com", 7.0, []any{"al", "x"}}
)

// trait is a selector together with a second, independent way to say whom it
// matches.
type trait struct {
	selector sshgate.Selector
	fits     func(sshgate.Request) bool
}

var traits = []trait{
	{sshgate.Everyone{}, func(sshgate.Request) bool { return true }},
	{sshgate.Group{"ops"}, func(r sshgate.Request) bool { return strings.Contains(strings.Join(r.Identity.Groups, ","), "ops") }},
	{sshgate.Group{"dev", "none"}, func(r sshgate.Request) bool { return strings.Contains(strings.Join(r.Identity.Groups, ","), "dev") }},
	{sshgate.Email{"A@Example.com"}, func(r sshgate.Request) bool { return r.Identity.EmailVerified && r.Identity.Email == "a@example.com" }},
	{sshgate.EmailDomain{"example.com"}, func(r sshgate.Request) bool {
		return r.Identity.EmailVerified && strings.HasSuffix(r.Identity.Email, "@example.com")
	}},
	{sshgate.Claim{Path: "unix", Values: []string{"al", "7"}}, func(r sshgate.Request) bool {
		switch fmt.Sprint(r.Identity.Claims["unix"]) {
		case "al", "7", "[al x]":
			return true
		}
		return false
	}},
	{sshgate.Address{netip.MustParsePrefix("10.0.0.0/8")}, func(r sshgate.Request) bool { return strings.Contains(r.ClientAddr.String(), "10.") }},
}

func drawTraits(t *rapid.T, name string, least int) []trait {
	return rapid.SliceOfN(rapid.SampledFrom(traits), least, 2).Draw(t, name)
}

func drawIdentity(t *rapid.T) sshgate.Identity {
	return sshgate.Identity{
		Issuer: "https://idp.example.com", Subject: "1",
		Email:         rapid.SampledFrom([]string{"", "a@example.com", "b@example.com", "a@lab.example.com"}).Draw(t, "email"),
		EmailVerified: rapid.Bool().Draw(t, "verified"),
		Groups:        rapid.SampledFrom([][]string{nil, {"ops"}, {"dev"}, {"dev", "ops"}}).Draw(t, "groups"),
		Claims:        map[string]any{"unix": rapid.SampledFrom(worldClaims).Draw(t, "unix")},
		SignedInAt:    noon.Add(-rapid.SampledFrom([]time.Duration{0, time.Hour, 5 * time.Hour}).Draw(t, "age")),
	}
}

// fresh is the same person, just signed in.
func fresh(id sshgate.Identity) sshgate.Identity {
	id.SignedInAt = noon
	return id
}

func drawAddr(t *rapid.T) netip.Addr {
	return netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.1.1", "::ffff:10.1.1.1", "192.0.2.1", "2001:db8::1"}).Draw(t, "address"))
}

// model is a policy and the traits that its rules were made of.
type model struct {
	policy *sshgate.Policy
	rules  map[string]modelRule // by their name, which is unique in the policy
}

type modelRule struct {
	include, require, exclude []trait
	logins                    []string
}

func drawModel(t *rapid.T) *model {
	m := &model{policy: &sshgate.Policy{SessionDuration: drawDuration(t, "policy duration")}, rules: map[string]modelRule{}}
	for i := range rapid.IntRange(0, 3).Draw(t, "applications") {
		app := sshgate.Application{
			Name:            fmt.Sprintf("app%d", i),
			Hosts:           hosts(rapid.SliceOfN(rapid.SampledFrom(worldPatterns), 1, 3).Draw(t, "hosts")...),
			SessionDuration: drawDuration(t, "application duration"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "rules") {
			action := rapid.SampledFrom([]sshgate.Action{sshgate.Allow, sshgate.Allow, sshgate.Deny}).Draw(t, "action")
			app.Rules = append(app.Rules, m.drawRule(t, action))
		}
		m.policy.Applications = append(m.policy.Applications, app)
	}
	return m
}

func drawDuration(t *rapid.T, name string) time.Duration {
	return rapid.SampledFrom([]time.Duration{0, 30 * time.Minute, 2 * time.Hour}).Draw(t, name)
}

func (m *model) drawRule(t *rapid.T, action sshgate.Action) sshgate.Rule {
	mr := modelRule{
		include: drawTraits(t, "include", 0),
		require: drawTraits(t, "require", 0),
		exclude: drawTraits(t, "exclude", 0),
	}
	rule := sshgate.Rule{Name: fmt.Sprintf("rule%d", len(m.rules)), Action: action}
	if action == sshgate.Allow {
		mr.logins = rapid.SliceOfN(rapid.SampledFrom([]string{"deploy", "root", "*", "${claims.unix}", "1000"}), 0, 3).Draw(t, "logins")
		rule.Logins = logins(mr.logins...)
		rule.SessionDuration = drawDuration(t, "rule duration")
	}
	for _, x := range mr.include {
		rule.Include = append(rule.Include, x.selector)
	}
	for _, x := range mr.require {
		rule.Require = append(rule.Require, x.selector)
	}
	for _, x := range mr.exclude {
		rule.Exclude = append(rule.Exclude, x.selector)
	}
	m.rules[rule.Name] = mr
	return rule
}

// forAll calls f with a request for every origin and login of the world.
func forAll(id sshgate.Identity, addr netip.Addr, f func(sshgate.Request)) {
	for _, origin := range worldOrigins {
		for _, login := range worldLogins {
			f(sshgate.Request{
				Identity:   id,
				Target:     sshgate.Target{Login: sshgate.Login(login), Origin: sshgate.OriginName(origin)},
				ClientAddr: addr, Channel: sshgate.ChannelSession, Time: noon,
			})
		}
	}
}

// Nobody gets anywhere, or as anybody, because rules stand in another order.
func TestOrderOfRulesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		shuffled := &sshgate.Policy{SessionDuration: m.policy.SessionDuration}
		for _, app := range m.policy.Applications {
			app.Rules = rapid.Permutation(app.Rules).Draw(t, "order")
			shuffled.Applications = append(shuffled.Applications, app)
		}
		id, addr := drawIdentity(t), drawAddr(t)
		forAll(id, addr, func(r sshgate.Request) {
			before, after := m.policy.Decide(r), shuffled.Decide(r)
			if (before.Allowed || before.Expired) != (after.Allowed || after.Expired) {
				t.Fatalf("%v: %+v, in another order %+v", r.Target, before, after)
			}
			r.Identity = fresh(id)
			if before, after := m.policy.Decide(r), shuffled.Decide(r); before.Allowed != after.Allowed {
				t.Fatalf("%v, fresh: %+v, in another order %+v", r.Target, before, after)
			}
		})
	})
}

func TestAnotherDenyNeverWidens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		if len(m.policy.Applications) == 0 {
			return
		}
		stricter := &sshgate.Policy{SessionDuration: m.policy.SessionDuration, Applications: slices.Clone(m.policy.Applications)}
		app := &stricter.Applications[rapid.IntRange(0, len(stricter.Applications)-1).Draw(t, "application")]
		at := rapid.IntRange(0, len(app.Rules)).Draw(t, "position")
		app.Rules = slices.Insert(slices.Clone(app.Rules), at, m.drawRule(t, sshgate.Deny))
		forAll(drawIdentity(t), drawAddr(t), func(r sshgate.Request) {
			before, after := m.policy.Decide(r), stricter.Decide(r)
			if after.Allowed && !before.Allowed || after.Expired && !before.Expired {
				t.Fatalf("%v: %+v, with a deny more %+v", r.Target, before, after)
			}
		})
	})
}

func TestFewerAllowsNeverWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		stricter := &sshgate.Policy{SessionDuration: m.policy.SessionDuration}
		for _, app := range m.policy.Applications {
			app.Rules = slices.DeleteFunc(slices.Clone(app.Rules), func(r sshgate.Rule) bool {
				return r.Action == sshgate.Allow && rapid.Bool().Draw(t, "delete")
			})
			stricter.Applications = append(stricter.Applications, app)
		}
		forAll(fresh(drawIdentity(t)), drawAddr(t), func(r sshgate.Request) {
			if before, after := m.policy.Decide(r), stricter.Decide(r); after.Allowed && !before.Allowed {
				t.Fatalf("%v: %+v, with fewer allow rules %+v", r.Target, before, after)
			}
		})
	})
}

// Decide agrees with a second evaluator that shares no code with it.
func TestDecideAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		forAll(drawIdentity(t), drawAddr(t), func(r sshgate.Request) {
			got := m.policy.Decide(r)
			checkDecision(t, got)
			if got, want := summary(got), m.decide(r); got != want {
				t.Fatalf("%v: %s, the model says %s", r.Target, got, want)
			}
		})
	})
}

// decide is the naive evaluator: it answers as summary prints.
func (m *model) decide(r sshgate.Request) string {
	app, found := m.application(string(r.Target.Origin))
	if !found {
		return "denied /"
	}
	var allows []sshgate.Rule
	for _, rule := range app.Rules {
		mr := m.rules[rule.Name]
		fits := func(x trait) bool { return x.fits(r) }
		misses := func(x trait) bool { return !x.fits(r) }
		if !slices.ContainsFunc(mr.include, fits) || slices.ContainsFunc(mr.require, misses) || slices.ContainsFunc(mr.exclude, fits) {
			continue
		}
		if rule.Action == sshgate.Deny {
			return "denied " + app.Name + "/" + rule.Name
		}
		allows = append(allows, rule)
	}
	for _, rule := range allows {
		login := m.rules[rule.Name].login(string(r.Target.Login), r.Identity.Claims["unix"])
		if login == "" {
			continue
		}
		duration := 12 * time.Hour
		for _, d := range []time.Duration{m.policy.SessionDuration, app.SessionDuration, rule.SessionDuration} {
			if d != 0 {
				duration = d
			}
		}
		expired := ""
		if !r.Time.Before(r.Identity.SignedInAt.Add(duration)) {
			expired = "expired "
		}
		return fmt.Sprintf("%s%s/%s %s %v", expired, app.Name, rule.Name, login, duration)
	}
	return "denied " + app.Name + "/"
}

// application walks from the whole name up to `*` and takes the first
// application that has what it meets.
func (m *model) application(origin string) (sshgate.Application, bool) {
	candidates := []string{origin}
	for rest := origin; ; {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			break
		}
		candidates = append(candidates, "*."+after)
		rest = after
	}
	for _, candidate := range append(candidates, "*") {
		for _, app := range m.policy.Applications {
			for _, host := range app.Hosts {
				if host.String() == candidate {
					return app, true
				}
			}
		}
	}
	return sshgate.Application{}, false
}

func (mr modelRule) login(want string, claim any) string {
	for _, template := range mr.logins {
		yields := template
		switch template {
		case "*":
			yields = want
		case "${claims.unix}":
			yields = ""
			if claim == "al" { // the only value that is a name fit for an account
				yields = "al"
			}
		}
		if yields != "" && (want == "" || want == yields) {
			return yields
		}
	}
	return ""
}
