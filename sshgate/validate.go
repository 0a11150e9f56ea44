package sshgate

import (
	"fmt"
	"slices"
	"strings"
)

// PolicyProblem is one thing that is wrong with a policy.
type PolicyProblem struct {
	// Path leads to it, as in applications[0].rules[2].logins.
	Path string
	// Text says what is wrong and what is expected.
	Text string
}

// PolicyError is what Validate found. It is never empty.
type PolicyError struct {
	Problems []PolicyProblem
}

// Error returns a line for each problem.
func (e *PolicyError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = "policy." + p.Path + ": " + p.Text
	}
	return strings.Join(lines, "\n")
}

// Validate finds what Decide would answer safely but not as its author meant:
// names that are missing or taken, a host pattern that two applications claim,
// rules that can never match or that say what their action has no use for. The
// error is a *PolicyError with everything that it found.
func (p *Policy) Validate() error {
	v := validator{policy: p, names: map[string]string{}, hosts: map[HostPattern]string{}}
	if p.SessionDuration < 0 {
		v.problem("session_duration", "is negative")
	}
	for i, app := range p.Applications {
		v.application(fmt.Sprintf("applications[%d]", i), app)
	}
	v.groups(p.Groups)
	v.selectors("administrators", p.Administrators)
	rules := map[string]string{}
	for i, rule := range p.Publish {
		path := fmt.Sprintf("publish[%d]", i)
		v.name(path+".name", rule.Name, rules)
		v.publish(path, rule)
	}
	if len(v.problems) > 0 {
		return &PolicyError{Problems: v.problems}
	}
	return nil
}

type validator struct {
	policy   *Policy
	problems []PolicyProblem
	names    map[string]string      // of applications, to where they stand
	hosts    map[HostPattern]string // to where they stand
}

func (v *validator) problem(path, format string, args ...any) {
	v.problems = append(v.problems, PolicyProblem{Path: path, Text: fmt.Sprintf(format, args...)})
}

// name checks that a name is there and not taken, in seen, by another.
func (v *validator) name(path, name string, seen map[string]string) {
	first, taken := seen[name]
	switch {
	case name == "":
		v.problem(path, "is missing; the log names what decided")
	case taken:
		v.problem(path, "%q is taken by %s; names must differ", name, first)
	default:
		seen[name] = path
	}
}

func (v *validator) application(path string, app Application) {
	v.name(path+".name", app.Name, v.names)
	if app.SessionDuration < 0 {
		v.problem(path+".session_duration", "is negative")
	}
	if app.MaxAge < 0 {
		v.problem(path+".max_age", "is negative")
	}
	if len(app.Hosts) == 0 {
		v.problem(path+".hosts", "is empty; name the origins that the application is for")
	}
	for i, host := range app.Hosts {
		hostPath := fmt.Sprintf("%s.hosts[%d]", path, i)
		if first, taken := v.hosts[host]; taken {
			v.problem(hostPath, "%q stands in %s too; a pattern belongs to one application", host, first)
			continue
		}
		v.hosts[host] = hostPath
	}
	rules := map[string]string{}
	for i, rule := range app.Rules {
		rulePath := fmt.Sprintf("%s.rules[%d]", path, i)
		v.name(rulePath+".name", rule.Name, rules)
		v.rule(rulePath, rule)
	}
}

func (v *validator) rule(path string, rule Rule) {
	if len(rule.Include) == 0 {
		v.problem(path+".include", "is empty, which matches nobody; everybody who signs in is everyone")
	}
	if rule.SessionDuration < 0 {
		v.problem(path+".session_duration", "is negative")
	}
	if rule.MaxAge < 0 {
		v.problem(path+".max_age", "is negative")
	}
	switch rule.Action {
	case Allow, Service:
		v.logins(path, rule)
		v.channels(path, rule)
		if rule.Action == Service && rule.Purpose {
			v.problem(path+".purpose", "has no meaning in a service rule; a machine cannot be asked what it is for")
		}
		if i := slices.IndexFunc(rule.Ports, func(port uint16) bool { return port == 0 || port == SSHPort }); i >= 0 {
			v.problem(fmt.Sprintf("%s.ports[%d]", path, i), "%d is no port of a service other than SSH; for SSH use logins and end_to_end", rule.Ports[i])
		}
	case Deny:
		v.deny(path, rule)
	case "":
		v.problem(path+".action", "is missing; use allow, service or deny")
	default:
		v.problem(path+".action", "%q is not an action; use allow, service or deny", rule.Action)
	}
	v.selectors(path+".include", rule.Include)
	v.selectors(path+".require", rule.Require)
	v.selectors(path+".exclude", rule.Exclude)
}

// deny checks that a deny rule says nothing of what only others have a use for.
func (v *validator) deny(path string, rule Rule) {
	for _, field := range []struct {
		name  string
		set   bool
		which string
	}{
		{"logins", len(rule.Logins) > 0, ", which denies every login"},
		{"session_duration", rule.SessionDuration > 0, ""},
		{"max_age", rule.MaxAge > 0, ""},
		{"purpose", rule.Purpose, ""},
		{"channels", rule.Channels != nil, ", which denies all of them; to deny some write them in when"},
		{"end_to_end", rule.EndToEnd, ""},
		{"ports", len(rule.Ports) > 0, ", which denies every port"},
	} {
		if field.set {
			v.problem(path+"."+field.name, "has no meaning in a deny rule%s", field.which)
		}
	}
}

func (v *validator) publish(path string, rule PublishRule) {
	if len(rule.Include) == 0 {
		v.problem(path+".include", "is empty, which matches nobody; everybody who signs in is everyone")
	}
	if len(rule.Hostnames) == 0 {
		v.problem(path+".hostnames", "is empty; name what the rule lets people hand out")
	}
	v.selectors(path+".include", rule.Include)
	v.selectors(path+".require", rule.Require)
	v.selectors(path+".exclude", rule.Exclude)
	for _, list := range []struct {
		path      string
		selectors []Selector
	}{{path + ".include", rule.Include}, {path + ".require", rule.Require}, {path + ".exclude", rule.Exclude}} {
		for i, s := range list.selectors {
			switch s.(type) {
			case ServiceTokenNamed, WorkloadNamed:
				v.problem(fmt.Sprintf("%s[%d]", list.path, i), "is about machines; a connector that no person lets in takes a join token, see: sshgated connector token")
			}
		}
	}
}

// logins checks those of a rule that allows. Without any it can allow other
// services than SSH.
func (v *validator) logins(path string, rule Rule) {
	switch {
	case len(rule.Logins) > 0:
	case len(rule.Ports) == 0:
		v.problem(path+".logins", "is empty; a rule that allows names the logins, or ports")
	case rule.EndToEnd:
		v.problem(path+".logins", "is empty; end_to_end is about SSH and needs the logins")
	}
}

func (v *validator) selectors(path string, selectors []Selector) {
	for i, s := range selectors {
		if text := selectorProblem(s); text != "" {
			v.problem(fmt.Sprintf("%s[%d]", path, i), "%s", text)
		}
		if group, ok := s.(PolicyGroup); ok && v.policy.Groups[string(group)] == nil {
			v.problem(fmt.Sprintf("%s[%d]", path, i), "there is no group %q in the policy's groups", group)
		}
	}
}
