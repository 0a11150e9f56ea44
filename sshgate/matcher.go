package sshgate

import "slices"

// matcher answers for one request what selectors and rules say of it.
type matcher struct {
	policy *Policy
	req    Request
	// groups holds what the policy's groups say, once asked, and hopeless those
	// that no sign-in helps.
	groups   map[PolicyGroup]truth
	hopeless map[PolicyGroup]bool
}

func (p *Policy) matcher(req Request) *matcher {
	if req.Country == "" && p.CountryOf != nil {
		req.Country = p.CountryOf(req.ClientAddr)
	}
	return &matcher{policy: p, req: req, groups: map[PolicyGroup]truth{}, hopeless: map[PolicyGroup]bool{}}
}

// denies returns the first rule that denies the request, or nil.
func (m *matcher) denies(app *Application) *Rule {
	for i := range app.Rules {
		if rule := &app.Rules[i]; !rule.allows() && m.matches(*rule) {
			return rule
		}
	}
	return nil
}

// matches tells whether the rule matches. What cannot be told does not match a
// rule that allows, and matches one that denies.
func (m *matcher) matches(r Rule) bool {
	t := min(m.any(r.Include), m.all(r.Require), m.any(r.Exclude).not())
	if t != no {
		t = min(t, m.condition(r.When))
	}
	return t == yes || t == unknown && !r.allows()
}

// helps returns the sign-in after which the rule would match, or nil where none
// helps: it does where ACR and AMR under Include and Require are all that is
// missing.
func (m *matcher) helps(r Rule) *StepUp {
	if m.req.Identity.Machine() || m.any(r.Exclude) != no {
		return nil
	}
	var stepUp StepUp
	for _, s := range r.Require {
		if m.selector(s) != yes && (!m.hopes(s, &stepUp) || has(r.Exclude, s)) {
			return nil
		}
	}
	if m.any(r.Include) != yes && !slices.ContainsFunc(r.Include, func(s Selector) bool {
		return !has(r.Exclude, s) && m.hopes(s, &stepUp)
	}) {
		return nil
	}
	if !stepUp.avoid(r.Exclude) || m.condition(r.When) != yes {
		return nil
	}
	return &stepUp
}

// hopes tells whether another sign-in could make the selector match, and notes
// which.
func (m *matcher) hopes(s Selector, stepUp *StepUp) bool {
	if group, ok := s.(PolicyGroup); ok {
		if m.group(group) != no || m.hopeless[group] {
			return false
		}
		for _, member := range m.policy.Groups[string(group)] {
			if m.hopes(member, stepUp) {
				return true
			}
		}
		m.hopeless[group] = true
	}
	return stepUp.add(s)
}

func (m *matcher) condition(c Condition) truth {
	if c == nil {
		return yes
	}
	holds, err := c.Holds(m.req)
	if err != nil {
		return unknown
	}
	return truthOf(holds)
}

func (m *matcher) any(selectors []Selector) truth {
	t := no
	for _, s := range selectors {
		t = max(t, m.selector(s))
	}
	return t
}

func (m *matcher) all(selectors []Selector) truth {
	t := yes
	for _, s := range selectors {
		t = min(t, m.selector(s))
	}
	return t
}

func (m *matcher) selector(s Selector) truth {
	switch s := s.(type) {
	case nil:
		return unknown
	case PolicyGroup:
		return m.group(s)
	}
	return truthOf(s.Matches(m.req))
}

// group returns what a group of the policy says. One that leads back to itself
// cannot be told.
func (m *matcher) group(name PolicyGroup) truth {
	if t, ok := m.groups[name]; ok {
		return t
	}
	selectors, ok := m.policy.Groups[string(name)]
	m.groups[name] = unknown
	if ok {
		m.groups[name] = m.any(selectors)
	}
	return m.groups[name]
}
