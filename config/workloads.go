package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sshgate/sshgate/sshgate"
)

// Workload is a kind of job that gets in with an ID token of the platform that it
// runs on, in place of a stored secret.
type Workload struct {
	// Name is what the policy's workload selectors call it. Required, unique.
	Name string
	// Issuer is the platform's issuer URL, exactly as it stands in its tokens:
	// https, or http on a loopback host. Required.
	Issuer string
	// Audience is what the job asks its token for. Default https:// and the
	// gateway's hostname.
	Audience string
	// Claims must all match, by any of their values. A value that ends in * is
	// the beginning of what matches. At least one is required.
	Claims map[sshgate.ClaimPath][]string
}

// commonClaims hold for every job of a platform, or for any that asks.
var commonClaims = []sshgate.ClaimPath{"iss", "aud", "exp", "nbf", "iat", "jti"}

const needsClaims = "without one any job of that platform gets in, whoever runs it; name what only yours have, as in repository: acme/app"

func workload(dst *Workload) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"name":     parsed(&dst.Name, workloadName, "expected what the policy calls it, as in deploy-job"),
			"issuer":   parsed(&dst.Issuer, issuerURL, "expected an https URL, as in https://token.actions.githubusercontent.com"),
			"audience": text(&dst.Audience),
			"claims":   claims(&dst.Claims),
		}, required{
			"name":   "expected what the policy calls it, as in deploy-job",
			"issuer": "expected the platform's URL, as in https://token.actions.githubusercontent.com",
			"claims": needsClaims,
		})
	}
}

var workloadNamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// workloadName reads a name that is fit for logs and for messages to users.
func workloadName(s string) (string, error) {
	if !workloadNamePattern.MatchString(s) {
		return "", fmt.Errorf("%s is not a name of up to 64 letters, digits and . _ -", quote(s))
	}
	return s, nil
}

// claims decodes a mapping of claims to a value or a list of values.
func claims(dst *map[sshgate.ClaimPath][]string) func(cursor) {
	return func(c cursor) {
		if !isNull(c.node) && c.node.Kind != yaml.MappingNode {
			c.problem("is %s; expected claims and their values, as in repository: acme/app", kindName(c.node))
			return
		}
		fields := schema{}
		result := map[sshgate.ClaimPath][]string{}
		for _, e := range c.entries(0) {
			name, err := claimName(e.key.Value)
			if err != nil {
				at := cursor{doc: c.doc, node: e.key, path: c.path}
				at.problem("%v", err)
				// Known all the same: one problem is enough.
				fields[e.key.Value] = func(cursor) {}
				continue
			}
			fields[e.key.Value] = func(c cursor) {
				var values []string
				list(&values, claimValue)(c)
				if len(values) == 0 && !c.doc.reported(c.path) {
					c.problem("has no values; expected those that match")
				}
				result[name] = values
			}
		}
		c.object(fields, nil)
		if len(fields) == 0 && !c.doc.reported(c.path) {
			c.problem("is empty; %s", needsClaims)
		}
		*dst = result
	}
}

func claimName(s string) (sshgate.ClaimPath, error) {
	name, err := sshgate.ParseClaimPath(s)
	if err != nil {
		return "", err
	}
	if slices.Contains(commonClaims, name) {
		return "", fmt.Errorf("the claim %s tells no job of the platform from another; the issuer and the audience have settings of their own", quote(s))
	}
	return name, nil
}

func claimValue(dst *string) func(cursor) {
	return func(c cursor) {
		var value string
		text(&value)(c)
		switch strings.IndexByte(value, '*') {
		case -1, len(value) - 1:
			if value == "*" {
				c.problem("matches every value, and so any job of the platform; write what comes before the *")
				return
			}
			*dst = value
		default:
			c.problem("%s has a * that is not at its end, where alone it has a meaning", quote(value))
		}
	}
}

// checkWorkloads fills in defaults and reports names that stand twice.
func (g *Gateway) checkWorkloads(c cursor) {
	for i := range g.Workloads {
		w := &g.Workloads[i]
		if w.Audience == "" {
			w.Audience = "https://" + urlHost(g.Hostname)
		}
		first := slices.IndexFunc(g.Workloads, func(other Workload) bool { return other.Name == w.Name })
		if first < i && w.Name != "" {
			c.doc.problemAt(fmt.Sprintf("workloads[%d].name", i), fmt.Sprintf("%s is the name of workloads[%d] too; names must differ", quote(w.Name), first))
		}
	}
}

// urlHost is a host name or an IP address as it stands in a URL.
func urlHost(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// checkWorkloadSelectors reports selectors that name no workload there is.
func (g *Gateway) checkWorkloadSelectors(c cursor) {
	if c.doc.reported("workloads") {
		return // a name may be among what did not decode
	}
	check := func(path string, selectors []sshgate.Selector) {
		for i, selector := range selectors {
			if named, ok := selector.(sshgate.WorkloadNamed); ok {
				g.checkWorkloadNames(c, fmt.Sprintf("%s[%d].workload", path, i), named)
			}
		}
	}
	for name, selectors := range g.policy.Groups {
		check("policy.groups."+name, selectors)
	}
	for a, app := range g.policy.Applications {
		for r, rule := range app.Rules {
			path := fmt.Sprintf("policy.applications[%d].rules[%d].", a, r)
			check(path+"include", rule.Include)
			check(path+"require", rule.Require)
			check(path+"exclude", rule.Exclude)
		}
	}
}

func (g *Gateway) checkWorkloadNames(c cursor, path string, names []string) {
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		known := func(w Workload) bool { return w.Name == name }
		if c.doc.reported(at) || slices.ContainsFunc(g.Workloads, known) {
			continue
		}
		configured := make([]string, len(g.Workloads))
		for j, w := range g.Workloads {
			configured[j] = w.Name
		}
		text := "add it under workloads"
		if hint := nearest(name, configured); hint != "" {
			text = "did you mean " + hint + "?"
		}
		c.doc.problemAt(at, fmt.Sprintf("no workload is named %s; %s", quote(name), text))
	}
}
