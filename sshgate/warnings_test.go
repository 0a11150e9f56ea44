package sshgate_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sshgate/sshgate/sshgate"
)

func TestWarnings(t *testing.T) {
	rule := func(name string, action sshgate.Action, include ...sshgate.Selector) sshgate.Rule {
		r := sshgate.Rule{Name: name, Action: action, Include: include}
		if action != sshgate.Deny {
			r.Logins = logins("deploy")
		}
		return r
	}
	but := func(r sshgate.Rule, change func(*sshgate.Rule)) sshgate.Rule {
		change(&r)
		return r
	}
	all, ops, dev := sshgate.Everyone{}, sshgate.Group{"ops"}, sshgate.Group{"dev"}
	people := rule("people", sshgate.Allow, all)
	for _, tt := range []struct {
		name  string
		rules []sshgate.Rule
		want  string // PATH: TEXT, a line each
	}{
		{"nothing", []sshgate.Rule{rule("a", sshgate.Allow, ops), rule("b", sshgate.Allow, dev), rule("c", sshgate.Deny, sshgate.Country{"XX"})}, ""},
		{"a narrower rule first", []sshgate.Rule{rule("a", sshgate.Allow, ops), people}, ""},
		{"a narrower rule after", []sshgate.Rule{people, rule("a", sshgate.Allow, ops)}, `rules[1]: adds nothing: rule "people" allows all of it already`},
		{"of another login", []sshgate.Rule{people, but(rule("a", sshgate.Allow, ops), func(r *sshgate.Rule) { r.Logins = logins("deploy", "root") })}, ""},
		{"with a longer session", []sshgate.Rule{people, but(rule("a", sshgate.Allow, ops), func(r *sshgate.Rule) { r.SessionDuration = 24 * time.Hour })}, ""},
		{"end to end", []sshgate.Rule{people, but(rule("a", sshgate.Allow, ops), func(r *sshgate.Rule) { r.EndToEnd = true })}, ""},
		{"without the limits of the first", []sshgate.Rule{but(people, func(r *sshgate.Rule) { r.Channels = columns["shell"] }), rule("a", sshgate.Allow, ops)}, ""},
		{"without the purpose of the first", []sshgate.Rule{but(people, func(r *sshgate.Rule) { r.Purpose = true }), rule("a", sshgate.Allow, ops)}, ""},
		{"without the condition of the first", []sshgate.Rule{but(people, func(r *sshgate.Rule) { r.When = testCondition("holds") }), rule("a", sshgate.Allow, ops)}, ""},
		{"for machines", []sshgate.Rule{people, rule("a", sshgate.Service, all)}, ""},
		{"denied", []sshgate.Rule{rule("a", sshgate.Allow, ops), rule("no", sshgate.Deny, ops, dev)}, "rules[0]: can never allow anything: rule \"no\" denies whomever it matches\nrules[1]: denies every administrator; say whom it spares with exclude"},
		{"denied in part", []sshgate.Rule{rule("a", sshgate.Allow, ops), but(rule("no", sshgate.Deny, ops), func(r *sshgate.Rule) { r.Require = selectors(dev) })}, ""},
		{"denied twice", []sshgate.Rule{rule("no", sshgate.Deny, dev, sshgate.Country{"XX"}), rule("never", sshgate.Deny, dev)}, `rules[1]: adds nothing: rule "no" denies whomever it matches already`},
		{"administrators are spared", []sshgate.Rule{but(rule("no", sshgate.Deny, all), func(r *sshgate.Rule) { r.Exclude = selectors(ops) })}, ""},
		{"excludes what it requires", []sshgate.Rule{but(people, func(r *sshgate.Rule) { r.Require, r.Exclude = selectors(dev), selectors(dev) })}, "rules[0]: can never match: it excludes what it requires"},
		{"excludes what it includes", []sshgate.Rule{but(rule("a", sshgate.Allow, ops), func(r *sshgate.Rule) { r.Exclude = selectors(ops) })}, "rules[0]: can never match: it excludes all that it includes"},
		{"excludes everyone", []sshgate.Rule{but(rule("a", sshgate.Allow, ops), func(r *sshgate.Rule) { r.Exclude = selectors(all) })}, "rules[0]: can never match: it excludes everyone"},
		{"two countries", []sshgate.Rule{but(people, func(r *sshgate.Rule) { r.Require = selectors(sshgate.Country{"DE"}, sshgate.Country{"FR"}) })}, "rules[0]: can never match: what it requires has nothing in common"},
		{"two groups", []sshgate.Rule{but(people, func(r *sshgate.Rule) { r.Require = selectors(dev, ops) })}, ""},
		{"people that are machines", []sshgate.Rule{rule("a", sshgate.Allow, sshgate.ServiceTokenNamed{"x"})}, "rules[0]: can never match: it is for people, and names machines; its action should be service"},
		{"machines that are people", []sshgate.Rule{rule("a", sshgate.Service, sshgate.Group{"x"})}, "rules[0]: can never match: it is for machines, and names people; its action should be allow"},
		{"channels", []sshgate.Rule{
			but(people, func(r *sshgate.Rule) { r.Channels = &sshgate.Channels{} }),
			but(rule("b", sshgate.Allow, ops), func(r *sshgate.Rule) {
				r.Channels = &sshgate.Channels{Exec: []sshgate.CommandPattern{"*", "uptime"}, SCP: sshgate.Transfer{Read: true}}
			}),
		}, "rules[0].channels: allows nothing\nrules[1].channels.exec: has * beside others; it stands for every command\nrules[1].channels: limits scp and git, and allows every command, which those are too"},
	} {
		p := &sshgate.Policy{
			Administrators: selectors(ops),
			CountryOf:      func(netip.Addr) string { return "" },
			Applications:   []sshgate.Application{{Name: "a", Hosts: hosts("*"), Rules: tt.rules}},
		}
		if diff := cmp.Diff(tt.want, warningsOf(p)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
	p := &sshgate.Policy{Administrators: selectors(sshgate.ServiceTokenNamed{"x"}), Groups: map[string][]sshgate.Selector{"lost": {all}}}
	want := "administrators: names machines alone, which never are administrators, so that nobody is\ngroups.lost: is named by nothing"
	if diff := cmp.Diff(want, warningsOf(p)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func warningsOf(p *sshgate.Policy) string {
	var lines []string
	for _, w := range p.Warnings() {
		lines = append(lines, strings.TrimPrefix(w.Path, "applications[0].")+": "+w.Text)
	}
	return strings.Join(lines, "\n")
}

// A rule of which it is said that it does nothing does nothing: without it, every
// decision gives as much.
func TestUselessRulesCanGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		useless := map[string]bool{}
		for _, w := range m.policy.Warnings() {
			if strings.HasPrefix(w.Text, "can never") || strings.HasPrefix(w.Text, "adds nothing") {
				useless[w.Path] = true
			}
		}
		lean := *m.policy
		lean.Applications = nil
		for a, app := range m.policy.Applications {
			var rules []sshgate.Rule
			for i, r := range app.Rules {
				if !useless[fmt.Sprintf("applications[%d].rules[%d]", a, i)] {
					rules = append(rules, r)
				}
			}
			app.Rules = rules
			lean.Applications = append(lean.Applications, app)
		}
		forAll(t, func(q question) {
			before, after := m.policy.Decide(q.Request), lean.Decide(q.Request)
			if wider(q, before, after) || wider(q, after, before) || before.Login != after.Login {
				t.Fatalf("%s %v: %+v, without useless rules %+v (%v)", q.activity, q.Target, before, after, useless)
			}
		})
	})
}
