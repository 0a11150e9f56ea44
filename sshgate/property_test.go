package sshgate_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sshgate/sshgate/sshgate"
)

// standing is how much a decision gives: 0 nothing, 1 after a sign-in, 2 with a
// purpose, 3 outright.
func standing(d sshgate.Decision) int {
	switch {
	case d.Allowed:
		return 3
	case d.Expired:
		return 1
	case d.Purpose:
		return 2
	}
	return 0
}

// wider tells whether b gives what a does not. Where the request names no login
// the first rule picks one, so only something against nothing counts.
func wider(q question, a, b sshgate.Decision) bool {
	if q.Target.Login == "" && a.Login != b.Login && standing(a) > 0 {
		return false
	}
	return standing(b) > standing(a) || b.Files.Read && !a.Files.Read || b.Files.Write && !a.Files.Write
}

func with(p *sshgate.Policy, change func(app *sshgate.Application)) *sshgate.Policy {
	q := *p
	q.Applications = slices.Clone(p.Applications)
	for i := range q.Applications {
		q.Applications[i].Rules = slices.Clone(q.Applications[i].Rules)
		change(&q.Applications[i])
	}
	return &q
}

// Nobody gets anywhere, or as anybody, because rules stand in another order.
func TestOrderOfRulesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		shuffled := with(m.policy, func(app *sshgate.Application) { app.Rules = rapid.Permutation(app.Rules).Draw(t, "order") })
		forAll(t, func(q question) {
			before, after := m.policy.Decide(q.Request), shuffled.Decide(q.Request)
			if wider(q, before, after) || wider(q, after, before) {
				t.Fatalf("%s %v: %+v, in another order %+v", q.activity, q.Target, before, after)
			}
		})
	})
}

func TestAnotherDenyNeverWidens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		deny := m.drawRule(t, sshgate.Deny)
		stricter := with(m.policy, func(app *sshgate.Application) {
			if rapid.Bool().Draw(t, "here") {
				app.Rules = slices.Insert(app.Rules, rapid.IntRange(0, len(app.Rules)).Draw(t, "position"), deny)
			}
		})
		forAll(t, func(q question) {
			before, after := m.policy.Decide(q.Request), stricter.Decide(q.Request)
			if standing(after) == 0 && after.Rule == deny.Name {
				return
			}
			if diff := cmp.Diff(before, after); diff != "" && standing(after) > 0 {
				t.Fatalf("%s %v: (-before +with a deny more)\n%s", q.activity, q.Target, diff)
			}
		})
	})
}

func TestFewerAllowsNeverWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		stricter := with(m.policy, func(app *sshgate.Application) {
			app.Rules = slices.DeleteFunc(app.Rules, func(r sshgate.Rule) bool {
				return r.Action != sshgate.Deny && rapid.Bool().Draw(t, "delete")
			})
		})
		forAll(t, func(q question) {
			if before, after := m.policy.Decide(q.Request), stricter.Decide(q.Request); wider(q, before, after) {
				t.Fatalf("%s %v: %+v, with fewer allow rules %+v", q.activity, q.Target, before, after)
			}
		})
	})
}

// tightenings make a rule that allows stricter, and a deny rule is left alone.
var tightenings = []func(*sshgate.Rule){
	func(r *sshgate.Rule) { r.Require = append(slices.Clone(r.Require), sshgate.Group{"ops"}) },
	func(r *sshgate.Rule) { r.Require = append(slices.Clone(r.Require), sshgate.ACR{"phr"}) },
	func(r *sshgate.Rule) { r.Exclude = append(slices.Clone(r.Exclude), sshgate.Country{"DE"}) },
	func(r *sshgate.Rule) { r.Exclude = append(slices.Clone(r.Exclude), sshgate.PolicyGroup("gone")) },
	func(r *sshgate.Rule) { r.When = testCondition("fails") },
	func(r *sshgate.Rule) { r.Purpose = true },
	func(r *sshgate.Rule) { r.EndToEnd = false },
	func(r *sshgate.Rule) { r.Channels = &sshgate.Channels{} },
	func(r *sshgate.Rule) { r.MaxAge = time.Nanosecond },
	func(r *sshgate.Rule) { r.SessionDuration = time.Nanosecond },
	func(r *sshgate.Rule) { r.Ports = nil },
}

func TestStricterRulesNeverWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		stricter := with(m.policy, func(app *sshgate.Application) {
			for i := range app.Rules {
				if app.Rules[i].Action != sshgate.Deny && rapid.Bool().Draw(t, "tighten") {
					tightenings[rapid.IntRange(0, len(tightenings)-1).Draw(t, "tightening")](&app.Rules[i])
				}
			}
		})
		forAll(t, func(q question) {
			if before, after := m.policy.Decide(q.Request), stricter.Decide(q.Request); wider(q, before, after) {
				t.Fatalf("%s %v: %+v, stricter %+v", q.activity, q.Target, before, after)
			}
		})
	})
}

// Decide agrees with a second evaluator that shares no code with it.
func TestDecideAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		forAll(t, func(q question) {
			got := m.policy.Decide(q.Request)
			if q.activity != "jump" && q.activity != "tcp" {
				checkDecision(t, got)
			}
			if got, want := summary(got), m.decide(q); got != want {
				t.Fatalf("%s %v: %s, the model says %s", q.activity, q.Target, got, want)
			}
		})
	})
}

// What rules are said to do amounts to what was decided.
func TestExplainAgreesWithDecide(t *testing.T) {
	outcomes := map[sshgate.RuleOutcome]int{sshgate.RuleAllows: 3, sshgate.RulePurpose: 2, sshgate.RuleSignIn: 1}
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		forAll(t, func(q question) {
			d, e := m.policy.Decide(q.Request), m.policy.Explain(q.Request)
			if diff := cmp.Diff(d, e.Decision); diff != "" {
				t.Fatalf("%s %v: (-Decide +Explain)\n%s", q.activity, q.Target, diff)
			}
			best, by, denied := 0, "", false
			for _, r := range e.Rules {
				if r.Because == "" {
					t.Fatalf("%s %v: rule %s has no reason", q.activity, q.Target, r.Name)
				}
				if r.Outcome == sshgate.RuleDenies && !denied {
					best, by, denied = 0, r.Name, true
				}
				if s := outcomes[r.Outcome]; !denied && s > best {
					best, by = s, r.Name
				}
			}
			if standing(d) != best || best == 3 && !allowsToo(e, d.Rule) || denied && d.Rule != by {
				t.Fatalf("%s %v: %+v, the rules say %d by %q: %+v", q.activity, q.Target, d, best, by, e.Rules)
			}
		})
	})
}

func allowsToo(e sshgate.Explanation, rule string) bool {
	return slices.ContainsFunc(e.Rules, func(r sshgate.RuleExplanation) bool { return r.Name == rule && r.Outcome == sshgate.RuleAllows })
}
