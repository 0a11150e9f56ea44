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
	v := validator{names: map[string]string{}, hosts: map[HostPattern]string{}}
	if p.SessionDuration < 0 {
		v.problem("session_duration", "is negative")
	}
	for i, app := range p.Applications {
		v.application(fmt.Sprintf("applications[%d]", i), app)
	}
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
	switch rule.Action {
	case Allow, Service:
		v.logins(path, rule)
		if i := slices.IndexFunc(rule.Ports, func(port uint16) bool { return port == 0 || port == SSHPort }); i >= 0 {
			v.problem(fmt.Sprintf("%s.ports[%d]", path, i), "%d is no port of a service other than SSH; for SSH use logins and end_to_end", rule.Ports[i])
		}
	case Deny:
		if len(rule.Logins) > 0 {
			v.problem(path+".logins", "has no meaning in a deny rule, which denies every login")
		}
		if rule.SessionDuration > 0 {
			v.problem(path+".session_duration", "has no meaning in a deny rule")
		}
		if rule.EndToEnd {
			v.problem(path+".end_to_end", "has no meaning in a deny rule")
		}
		if len(rule.Ports) > 0 {
			v.problem(path+".ports", "has no meaning in a deny rule, which denies every port")
		}
	case "":
		v.problem(path+".action", "is missing; use allow, service or deny")
	default:
		v.problem(path+".action", "%q is not an action; use allow, service or deny", rule.Action)
	}
	v.selectors(path+".include", rule.Include)
	v.selectors(path+".require", rule.Require)
	v.selectors(path+".exclude", rule.Exclude)
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
	}
}

// selectorProblem says why a selector of this package can not match as meant,
// or nothing. Selectors of other packages answer for themselves.
func selectorProblem(s Selector) string {
	switch s := s.(type) {
	case nil:
		return "is no selector"
	case Email:
		return valuesProblem("address", s, func(email string) bool {
			at := strings.LastIndexByte(email, '@')
			return at > 0 && at < len(email)-1 && !strings.ContainsAny(email, " \t\r\n")
		}, "must be a whole e-mail address, as in alice@example.com")
	case EmailDomain:
		return valuesProblem("domain", s, func(domain string) bool {
			return domain != "" && !strings.ContainsAny(domain, "@* \t\r\n") && domain[0] != '.'
		}, "must be what follows the @ of an address, as in example.com")
	case ServiceTokenNamed:
		return valuesProblem("service token", s, func(name string) bool { return name != "" }, "must not be empty")
	case WorkloadNamed:
		return valuesProblem("workload", s, func(name string) bool { return name != "" }, "must not be empty")
	case Group:
		return valuesProblem("group", s, func(group string) bool { return group != "" }, "must not be empty")
	case Claim:
		if _, err := ParseClaimPath(string(s.Path)); err != nil {
			return err.Error()
		}
		return valuesProblem("value", s.Values, func(value string) bool { return value != "" }, "must not be empty")
	case Address:
		if len(s) == 0 {
			return "names no address range"
		}
		for _, prefix := range s {
			if !prefix.IsValid() || prefix.Addr().Is4In6() || prefix != prefix.Masked() {
				return fmt.Sprintf("the address range %v can not match as written", prefix)
			}
		}
	}
	return ""
}

// valuesProblem says what is wrong with the values of a selector: that there
// are none, or that one is not valid.
func valuesProblem(noun string, values []string, valid func(string) bool, expected string) string {
	if len(values) == 0 {
		return "names no " + noun
	}
	i := slices.IndexFunc(values, func(value string) bool { return !valid(value) })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("the %s %q %s", noun, values[i], expected)
}
