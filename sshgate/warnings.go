package sshgate

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Warnings finds what Validate lets pass but is hardly meant: rules that can
// never match, that others make useless or that limit nothing, groups that nobody
// names, and deny rules that lock every administrator out. It errs on the side of
// silence.
func (p *Policy) Warnings() []PolicyProblem {
	w := warner{validator{policy: p}}
	w.administrators()
	for a := range p.Applications {
		app := &p.Applications[a]
		for i, rule := range app.Rules {
			path := fmt.Sprintf("applications[%d].rules[%d]", a, i)
			if text := rule.never(); text != "" {
				w.problem(path, "can never match: %s", text)
				continue
			}
			if len(app.Rules) <= maxCompared {
				w.useless(path, app, i)
			}
			w.limits(path, rule)
			if !rule.allows() && w.meetsAll(rule, p.Administrators) {
				w.problem(path, "denies every administrator; say whom it spares with exclude")
			}
		}
	}
	w.unused()
	return w.problems
}

// maxCompared is how many rules of an application are compared with each other.
const maxCompared = 200

type warner struct{ validator }

// never says why the rule can not match anybody, or nothing.
func (r Rule) never() string {
	for _, s := range r.Require {
		if has(r.Exclude, s) {
			return "it excludes what it requires"
		}
	}
	if has(r.Exclude, Everyone{}) {
		return "it excludes everyone"
	}
	if len(r.Include) > 0 && !slices.ContainsFunc(r.Include, func(s Selector) bool { return !has(r.Exclude, s) }) {
		return "it excludes all that it includes"
	}
	if r.disjoint() {
		return "what it requires has nothing in common"
	}
	var wrong func(Selector) bool
	text := ""
	switch r.Action {
	case Allow:
		wrong, text = aboutMachines, "it is for people, and names machines; its action should be service"
	case Service:
		wrong, text = aboutPeople, "it is for machines, and names people; its action should be allow"
	default:
		return ""
	}
	if slices.ContainsFunc(r.Require, wrong) || len(r.Include) > 0 && !slices.ContainsFunc(r.Include, func(s Selector) bool { return !wrong(s) }) {
		return text
	}
	return ""
}

func aboutMachines(s Selector) bool {
	switch s.(type) {
	case ServiceTokenNamed, WorkloadNamed:
		return true
	}
	return false
}

func aboutPeople(s Selector) bool {
	switch s.(type) {
	case Email, EmailDomain, Group:
		return true
	}
	return false
}

// disjoint tells whether two selectors that must both match, of something of which
// a request has one, have no value in common.
func (r Rule) disjoint() bool {
	values := func(s Selector) []string {
		switch s := s.(type) {
		case Email:
			return lowered(s)
		case EmailDomain:
			return lowered(s)
		case Country:
			return s
		case KeyType:
			if !slices.Contains(s.Types, KeyTypeHardware) {
				return s.Types
			}
		}
		return nil
	}
	for i, a := range r.Require {
		for _, b := range r.Require[:i] {
			va, vb := values(a), values(b)
			if reflect.TypeOf(a) == reflect.TypeOf(b) && len(va) > 0 && len(vb) > 0 &&
				!slices.ContainsFunc(va, func(v string) bool { return slices.Contains(vb, v) }) {
				return true
			}
		}
	}
	return false
}

func lowered(values []string) []string {
	low := make([]string, len(values))
	for i, v := range values {
		low[i] = strings.ToLower(v)
	}
	return low
}

func has(selectors []Selector, s Selector) bool {
	return slices.ContainsFunc(selectors, func(other Selector) bool { return reflect.DeepEqual(s, other) })
}

// useless warns of a rule that another one makes so.
func (w *warner) useless(path string, app *Application, i int) {
	rule := app.Rules[i]
	for j, other := range app.Rules {
		switch {
		case i == j || other.never() != "" || !other.coversWho(rule):
		case !other.allows() && rule.allows():
			w.problem(path, "can never allow anything: rule %q denies whomever it matches", other.Name)
			return
		case j < i && !other.allows() && !rule.allows():
			w.problem(path, "adds nothing: rule %q denies whomever it matches already", other.Name)
			return
		case j < i && other.Action == rule.Action && other.coversWhat(app, rule):
			w.problem(path, "adds nothing: rule %q allows all of it already", other.Name)
			return
		}
	}
}

// coversWho tells whether the rule matches whenever the other one does, as far as
// can be told from its text.
func (r Rule) coversWho(other Rule) bool {
	for _, s := range other.Include {
		if !has(r.Include, s) && !has(r.Include, Everyone{}) {
			return false
		}
	}
	for _, s := range r.Require {
		if !has(other.Require, s) {
			return false
		}
	}
	for _, s := range r.Exclude {
		if !has(other.Exclude, s) {
			return false
		}
	}
	return r.When == nil || other.When != nil && r.When.String() == other.When.String() && r.allows() == other.allows()
}

// coversWhat tells whether the rule gives all that the other one gives, on no
// stricter terms.
func (r Rule) coversWhat(app *Application, other Rule) bool {
	duration := func(r Rule) int64 { return int64(cmp.Or(r.SessionDuration, app.SessionDuration)) }
	age, otherAge := cmp.Or(r.MaxAge, app.MaxAge), cmp.Or(other.MaxAge, app.MaxAge)
	switch {
	case duration(r) != duration(other):
		return false
	case age != 0 && (otherAge == 0 || age < otherAge):
		return false
	case r.Purpose && !other.Purpose, other.endToEnd() && !r.endToEnd():
		return false
	case r.Channels != nil && !reflect.DeepEqual(r.Channels, other.Channels):
		return false
	}
	for _, port := range other.Ports {
		if !slices.Contains(r.Ports, port) {
			return false
		}
	}
	for _, l := range other.Logins {
		if !slices.ContainsFunc(r.Logins, func(mine LoginTemplate) bool { return mine.text == l.text }) {
			return false
		}
	}
	return true
}

// limits warns of limits that others make void.
func (w *warner) limits(path string, rule Rule) {
	c := rule.Channels
	if c == nil {
		return
	}
	if reflect.DeepEqual(*c, Channels{}) && len(rule.Ports) == 0 {
		w.problem(path+".channels", "allows nothing")
	}
	if !slices.Contains(c.Exec, anything) {
		return
	}
	if len(c.Exec) > 1 {
		w.problem(path+".channels.exec", "has * beside others; it stands for every command")
	}
	if c.SCP != (Transfer{}) || len(c.Git.Read) > 0 || len(c.Git.Write) > 0 {
		w.problem(path+".channels", "limits scp and git, and allows every command, which those are too")
	}
}

// administrators warns where nobody can be one.
func (w *warner) administrators() {
	admins := w.policy.Administrators
	if len(admins) > 0 && !slices.ContainsFunc(admins, func(s Selector) bool { return !aboutMachines(s) }) {
		w.problem("administrators", "names machines alone, which never are administrators, so that nobody is")
	}
}

// meetsAll tells whether a deny rule matches everybody whom the selectors match.
func (w *warner) meetsAll(rule Rule, selectors []Selector) bool {
	return len(selectors) > 0 && rule.coversWho(Rule{Action: Deny, Include: selectors})
}

// unused warns of groups of the policy that nothing names.
func (w *warner) unused() {
	named := map[PolicyGroup]bool{}
	note := func(lists ...[]Selector) {
		for _, list := range lists {
			for _, s := range list {
				if group, ok := s.(PolicyGroup); ok {
					named[group] = true
				}
			}
		}
	}
	note(w.policy.Administrators)
	for _, selectors := range w.policy.Groups {
		note(selectors)
	}
	for _, app := range w.policy.Applications {
		for _, rule := range app.Rules {
			note(rule.Include, rule.Require, rule.Exclude)
		}
	}
	for _, rule := range w.policy.Publish {
		note(rule.Include, rule.Require, rule.Exclude)
	}
	for _, name := range slices.Sorted(maps.Keys(w.policy.Groups)) {
		if !named[PolicyGroup(name)] {
			w.problem("groups."+name, "is named by nothing")
		}
	}
}
