package sshgate

import (
	"fmt"
	"maps"
	"slices"
)

// channels checks the limits of a rule that allows.
func (v *validator) channels(path string, rule Rule) {
	c := rule.Channels
	if c == nil {
		return
	}
	if rule.EndToEnd {
		v.problem(path+".end_to_end", "cannot stand beside channels, which the gateway cannot enforce there; write two rules")
	}
	if len(rule.Logins) == 0 {
		v.problem(path+".channels", "is about SSH and needs the logins")
	}
	path += ".channels"
	for i, p := range c.Exec {
		if _, err := ParseCommandPattern(string(p)); err != nil {
			v.problem(fmt.Sprintf("%s.exec[%d]", path, i), "%v", err)
		}
	}
	v.paths(path+".git.read", c.Git.Read)
	v.paths(path+".git.write", c.Git.Write)
	v.paths(path+".unix", c.Unix)
	for i, name := range c.Subsystems {
		switch name {
		case "":
			v.problem(fmt.Sprintf("%s.subsystems[%d]", path, i), "is empty")
		case "sftp":
			v.problem(fmt.Sprintf("%s.subsystems[%d]", path, i), "sftp has its own setting, sftp, which says which way files may go")
		}
	}
	for i, p := range c.Forward {
		if p == (DestinationPattern{}) {
			v.problem(fmt.Sprintf("%s.forward[%d]", path, i), "is empty")
		}
	}
}

func (v *validator) paths(path string, patterns []PathPattern) {
	for i, p := range patterns {
		if _, err := ParsePathPattern(string(p)); err != nil {
			v.problem(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
}

// groups checks the policy's groups: that each has selectors, and that none leads
// back to itself.
func (v *validator) groups(groups map[string][]Selector) {
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		path := "groups." + name
		if name == "" {
			v.problem("groups", "has a group without a name")
		}
		if len(groups[name]) == 0 {
			v.problem(path, "is empty, which matches nobody; everybody who signs in is everyone")
		}
		v.selectors(path, groups[name])
		if v.reaches(name, name, map[string]bool{}) {
			v.problem(path, "leads back to itself")
		}
	}
}

// reaches tells whether a group names the other one, by way of others or not.
func (v *validator) reaches(from, to string, seen map[string]bool) bool {
	for _, s := range v.policy.Groups[from] {
		group, ok := s.(PolicyGroup)
		if !ok || seen[string(group)] {
			continue
		}
		seen[string(group)] = true
		if string(group) == to || v.reaches(string(group), to, seen) {
			return true
		}
	}
	return false
}
