package sshgate

import (
	"fmt"
	"strings"
)

// Explanation is a decision and how it came about, rule by rule.
type Explanation struct {
	Decision Decision
	// Login is the account that the rules were asked about: the one that the
	// request names, or the default that the first rule picked. May be empty.
	Login Login
	// Rules are those of the application that answers, in order; empty where none
	// does.
	Rules []RuleExplanation
}

// RuleOutcome is what one rule says of a request.
type RuleOutcome string

// The outcomes.
const (
	RuleDenies     RuleOutcome = "denies"
	RuleAllows     RuleOutcome = "allows"
	RulePurpose    RuleOutcome = "purpose"     // it would allow, once told what for
	RuleSignIn     RuleOutcome = "sign-in"     // it would allow, after another sign-in
	RuleNotPermits RuleOutcome = "not-permits" // it matches, and allows another login or something else
	RuleNoMatch    RuleOutcome = "no-match"
	RuleNotFor     RuleOutcome = "not-for" // it is for machines, or for people
)

// RuleExplanation is what a rule says of a request, and why.
type RuleExplanation struct {
	Name    string
	Action  Action
	Outcome RuleOutcome
	// Because is a sentence.
	Because string
	// Selectors are all of the rule, in order, with its condition at the end.
	Selectors []SelectorExplanation
}

// SelectorExplanation is what a selector says of a request.
type SelectorExplanation struct {
	// List is include, require, exclude or when.
	List string
	// Want is the selector, as in group: ops, and Have what the request has of that.
	Want, Have string
	// Result is yes, no or unknown.
	Result string
}

// Explain answers as Decide does, and says how it came to that. It is for those
// who may read the policy: it tells what the rules say and what the identity has.
func (p *Policy) Explain(req Request) Explanation {
	d, app, m := p.decide(req)
	e := Explanation{Decision: d, Login: req.Target.Login}
	if app == nil {
		return e
	}
	e.Login = m.req.Target.Login
	for _, rule := range app.Rules {
		e.Rules = append(e.Rules, m.explain(app, rule))
	}
	return e
}

func (m *matcher) explain(app *Application, rule Rule) RuleExplanation {
	e := RuleExplanation{Name: rule.Name, Action: rule.Action}
	lists := []struct {
		name      string
		selectors []Selector
	}{{"include", rule.Include}, {"require", rule.Require}, {"exclude", rule.Exclude}}
	for _, list := range lists {
		for _, s := range list.selectors {
			want, have := describe(s, m.req)
			e.Selectors = append(e.Selectors, SelectorExplanation{List: list.name, Want: want, Have: have, Result: m.selector(s).String()})
		}
	}
	if rule.When != nil {
		result, have := m.condition(rule.When).String(), ""
		if _, err := rule.When.Holds(m.req); err != nil {
			have = err.Error()
		}
		e.Selectors = append(e.Selectors, SelectorExplanation{List: "when", Want: rule.When.String(), Have: have, Result: result})
	}
	e.Outcome, e.Because = m.outcome(app, rule, e.Selectors)
	return e
}

// outcome returns what the rule comes to, and why.
func (m *matcher) outcome(app *Application, rule Rule, selectors []SelectorExplanation) (RuleOutcome, string) {
	matches := m.matches(rule)
	if !rule.allows() {
		if matches {
			return RuleDenies, "it matches: " + why(selectors, true) + "; a deny rule wins over every other"
		}
		return RuleNoMatch, why(selectors, false)
	}
	if !rule.isFor(m.req.Identity) {
		if m.req.Identity.Machine() {
			return RuleNotFor, "it is for people, and this is a machine"
		}
		return RuleNotFor, "it is for machines, and this is a person"
	}
	o := offer{rule: rule}
	if !matches {
		if o.stepUp = m.helps(rule); o.stepUp == nil {
			return RuleNoMatch, why(selectors, false)
		}
	}
	var refusal string
	if o.login, refusal = rule.permits(m.req, app); refusal != "" {
		return RuleNotPermits, refusal
	}
	switch d := m.decision(app, o); {
	case d.Allowed:
		return RuleAllows, "it matches: " + why(selectors, true) + "; " + d.Reason
	case d.Expired:
		return RuleSignIn, d.Reason
	default:
		return RulePurpose, d.Reason
	}
}

// why says in few words which selectors made a rule match, or not.
func why(selectors []SelectorExplanation, matches bool) string {
	var included, missed []string
	for _, s := range selectors {
		switch {
		case s.List != "include":
		case s.Result == yes.String() || matches && s.Result == unknown.String():
			included = append(included, s.Want)
		default:
			missed = append(missed, s.Want)
		}
	}
	if len(included)+len(missed) == 0 {
		return "it includes nobody"
	}
	if len(included) == 0 {
		return "it includes " + strings.Join(missed, " or ") + ", and the request is none of these"
	}
	for _, s := range selectors {
		switch {
		case matches:
		case s.List == "require" && s.Result != yes.String():
			return fmt.Sprintf("it requires %s, and the request has %s", s.Want, s.Have)
		case s.List == "exclude" && s.Result != no.String():
			return "it excludes " + s.Want
		case s.List == "when" && s.Result == unknown.String():
			return "its condition cannot be told: " + s.Have
		case s.List == "when" && s.Result == no.String():
			return "its condition does not hold: " + s.Want
		}
	}
	return "it includes " + strings.Join(included, " and ")
}

// String names the value as explanations do.
func (t truth) String() string {
	switch t {
	case yes:
		return "yes"
	case no:
		return "no"
	}
	return "unknown"
}
