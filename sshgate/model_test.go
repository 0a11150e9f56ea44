package sshgate_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/sshgate/sshgate/sshgate"
)

// model is a policy and what its rules were made of, with a naive evaluator that
// shares no code with Decide.
type model struct {
	policy *sshgate.Policy
	rules  map[string]modelRule // by their name, which is unique in the policy
}

type modelRule struct {
	include, require, exclude []trait
	logins                    []string
	limit                     limit
}

func drawModel(t *rapid.T) *model {
	m := &model{policy: &sshgate.Policy{SessionDuration: drawDuration(t, "policy duration"), Groups: worldGroups}, rules: map[string]modelRule{}}
	for i := range rapid.IntRange(1, 3).Draw(t, "applications") {
		app := sshgate.Application{
			Name:            fmt.Sprintf("app%d", i),
			Hosts:           hosts(rapid.SliceOfN(rapid.SampledFrom(worldPatterns), 1, 3).Draw(t, "hosts")...),
			SessionDuration: drawDuration(t, "application duration"),
			MaxAge:          drawDuration(t, "application age"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "rules") {
			action := rapid.SampledFrom([]sshgate.Action{sshgate.Allow, sshgate.Allow, sshgate.Allow, sshgate.Allow, sshgate.Service, sshgate.Deny}).Draw(t, "action")
			app.Rules = append(app.Rules, m.drawRule(t, action))
		}
		m.policy.Applications = append(m.policy.Applications, app)
	}
	return m
}

func (m *model) drawRule(t *rapid.T, action sshgate.Action) sshgate.Rule {
	mr := modelRule{include: drawTraits(t, "include", everyone), require: drawTraits(t, "require"), exclude: drawTraits(t, "exclude")}
	if action == sshgate.Deny {
		mr.include = rapid.SliceOfN(rapid.SampledFrom(traits), 0, 2).Draw(t, "include")
	}
	rule := sshgate.Rule{Name: fmt.Sprintf("rule%d", len(m.rules)), Action: action}
	if text := rapid.SampledFrom(conditions).Draw(t, "when"); text != "" {
		rule.When = testCondition(text)
	}
	if action != sshgate.Deny {
		mr.logins = rapid.SliceOfN(rapid.SampledFrom([]string{"deploy", "root", "*", "${claims.unix}", "1000"}), 0, 3).Draw(t, "logins")
		rule.Logins = logins(mr.logins...)
		rule.SessionDuration = drawDuration(t, "rule duration")
		rule.MaxAge = drawDuration(t, "rule age")
		rule.Purpose = rapid.IntRange(0, 3).Draw(t, "asks") == 0
		mr.limit = rapid.OneOf(rapid.Just(limits[0]), rapid.SampledFrom(limits)).Draw(t, "limit")
		rule.Channels = mr.limit.channels
		rule.EndToEnd = rapid.Bool().Draw(t, "end to end")
		rule.Ports = rapid.SampledFrom([][]uint16{nil, {80}, {80, 5432}}).Draw(t, "ports")
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

// answers collects what each part of a rule answers, in the order include,
// require, exclude, when.
func (mr modelRule) answers(rule sshgate.Rule, r sshgate.Request, hopeful bool) (answers []byte) {
	for i, list := range [][]trait{mr.include, mr.require, mr.exclude} {
		for _, x := range list {
			a := x.fits(r)
			excluded := slices.ContainsFunc(mr.exclude, func(y trait) bool { return fmt.Sprint(y.selector) == fmt.Sprint(x.selector) })
			if hopeful && i < 2 && x.stronger && !excluded {
				a = 'y'
			}
			answers = append(answers, a)
		}
	}
	switch fmt.Sprint(rule.When) {
	case "<nil>", "holds":
		return append(answers, 'y')
	case "fails":
		return append(answers, '?')
	case "on web1":
		return append(answers, when(r.Target.Origin == "web1"))
	}
	return append(answers, 'n')
}

// worlds counts, of all ways to answer what cannot be told, in how many the rule
// matches.
func (mr modelRule) worlds(answers []byte) (matching, all int) {
	if i := slices.Index(answers, '?'); i >= 0 {
		for _, a := range []byte("yn") {
			world := slices.Clone(answers)
			world[i] = a
			m, n := mr.worlds(world)
			matching, all = matching+m, all+n
		}
		return matching, all
	}
	text := string(answers)
	include, text := text[:len(mr.include)], text[len(mr.include):]
	require, text := text[:len(mr.require)], text[len(mr.require):]
	exclude, condition := text[:len(mr.exclude)], text[len(mr.exclude):]
	if strings.Contains(include, "y") && !strings.Contains(require, "n") && !strings.Contains(exclude, "y") && condition == "y" {
		return 1, 1
	}
	return 0, 1
}

// candidate is what a rule would give.
type candidate struct {
	rule     string
	rank     int    // 3 outright, 2 with a purpose, 1 after a sign-in
	strength bool   // it takes a sign-in of another kind
	text     string // as summary prints it
}

// decide answers as summary prints, but for the reason.
func (m *model) decide(q question) string {
	app, found := m.application(string(q.Target.Origin))
	if !found {
		return "denied /"
	}
	for _, rule := range app.Rules {
		mr := m.rules[rule.Name]
		if matching, _ := mr.worlds(mr.answers(rule, q.Request, false)); rule.Action == sshgate.Deny && matching > 0 {
			return "denied " + app.Name + "/" + rule.Name
		}
	}
	candidates := m.candidates(app, q, string(q.Target.Login))
	if len(candidates) == 0 {
		return "denied " + app.Name + "/"
	}
	if q.Target.Login == "" && q.activity != "jump" && q.activity != "tcp" {
		first := candidates[0]
		for _, c := range candidates {
			if first.strength && !c.strength {
				first = c
			}
		}
		login := m.rules[first.rule].login("", q.Identity.Claims["unix"])
		candidates = m.candidates(app, q, login)
	}
	best, files := candidate{}, ""
	for _, strength := range []bool{false, true} {
		for _, c := range candidates {
			if c.strength == strength && c.rank > best.rank {
				best = c
			}
		}
	}
	if q.activity == "sftp" && best.rank == 3 {
		for _, way := range []string{"get", "put"} {
			for _, c := range candidates {
				if c.rank == 3 && strings.Contains(m.rules[c.rule].limit.allows, way) && !strings.Contains(files, way) {
					files += " " + way
				}
			}
		}
	}
	return best.text + files
}

func (m *model) candidates(app sshgate.Application, q question, login string) (list []candidate) {
	for _, rule := range app.Rules {
		mr := m.rules[rule.Name]
		wants := sshgate.Allow
		if q.Identity.Kind != "" {
			wants = sshgate.Service
		}
		if rule.Action != wants {
			continue
		}
		matching, all := mr.worlds(mr.answers(rule, q.Request, false))
		now := matching == all
		hopes, all := mr.worlds(mr.answers(rule, q.Request, true))
		if !now && (hopes < all || wants == sshgate.Service) {
			continue
		}
		yields, ok := "", false
		switch q.activity {
		case "jump":
			ok = rule.EndToEnd && mr.limit.channels == nil
		case "tcp":
			ok = len(rule.Ports) == 2
		default:
			yields = mr.login(login, q.Identity.Claims["unix"])
			ok = yields != "" && slices.Contains(strings.Fields(mr.limit.allows), q.activity)
		}
		if ok {
			list = append(list, m.candidate(app, rule, q, yields, !now))
		}
	}
	return list
}

func (m *model) candidate(app sshgate.Application, rule sshgate.Rule, q question, login string, strength bool) candidate {
	duration, age := 12*time.Hour, time.Duration(0)
	for _, d := range []time.Duration{m.policy.SessionDuration, app.SessionDuration, rule.SessionDuration} {
		if d != 0 {
			duration = d
		}
	}
	for _, d := range []time.Duration{app.MaxAge, rule.MaxAge} {
		if d != 0 {
			age = d
		}
	}
	proven := q.Identity.SignedInAt
	if at, ok := q.Identity.Claims["auth_time"].(float64); ok && at < float64(proven.Unix()) {
		proven = time.Unix(int64(at), 0)
	}
	opened := q.Time
	if !q.Opened.IsZero() {
		opened = q.Opened
	}
	c := candidate{rule: rule.Name, rank: 3, strength: strength}
	prefix := ""
	if rule.Purpose && q.Purpose != "INC-1" {
		c.rank, prefix = 2, "purpose "
	}
	tooOld := age != 0 && !opened.Before(proven.Add(age))
	if !q.Time.Before(q.Identity.SignedInAt.Add(duration)) || tooOld || strength {
		c.rank, prefix = 1, "expired "
	}
	c.text = fmt.Sprintf("%s%s/%s %s %v", prefix, app.Name, rule.Name, login, duration)
	return c
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
