package config_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/internal/condition"
)

// What a hostile file costs is bounded, and it is told why.
func TestBounds(t *testing.T) {
	var aliases, merges strings.Builder
	aliases.WriteString("policy:\n  applications:\n    - name: x\n      hosts: &h [" + strings.Repeat("a, ", 1000) + "a]\n")
	aliases.WriteString("    - &a {name: y, hosts: *h, rules: []}\n" + strings.Repeat("    - *a\n", 10_000))
	merges.WriteString("metrics: &m0 {listen: x, a: b}\n")
	for i := range 7 {
		fmt.Fprintf(&merges, "m%d: &m%d {<<: [%s*m%d]}\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*m%d, ", i), 20), i)
	}
	merges.WriteString("ssh: *m7\n")
	nested := func(open, end string, n int) string {
		return "ssh: " + strings.Repeat(open, n) + strings.Repeat(end, n)
	}
	var rules, groups strings.Builder
	rules.WriteString("policy:\n  applications:\n    - name: x\n      hosts: a\n      rules:\n        - &r {name: y, action: allow, include: &e [{everyone: true}], require: *e, logins: a}\n" + strings.Repeat("        - *r\n", 10_000))
	rules.WriteString("  tests:\n    - &t {name: x, who: {}, origin: a, expect: allow}\n" + strings.Repeat("    - *t\n", 1000))
	groups.WriteString("policy:\n  applications: []\n  groups:\n")
	for i := range 20_000 {
		fmt.Fprintf(&groups, "    g%d: {policy_group: g%d}\n", i, i+1)
	}
	tests := []struct {
		name, in, want string
	}{
		{"many rules", rules.String(), "names must differ"},
		{"many groups", groups.String(), "policy.groups: has 20000 groups; expected at most 1000"},
		{"aliases", aliases.String(), "the file has more than 100000 values once its aliases are followed"},
		{"merges", merges.String(), "the file has more than 100000 values once its aliases are followed"},
		{"an alias of itself", "policy: {applications: &a [{name: x, hosts: *a, rules: *a}]}", "policy.applications[0].hosts[0]: is a mapping; expected a single value"},
		{"deep lists", nested("[", "]", 100_000), "is not valid YAML: exceeded max depth of 10000"},
		{"lists as deep as the parser goes", nested("[", "]", 9_000), "ssh: is a list"},
		{"deep mappings", nested("{a: ", "}", 9_000), `ssh: unknown key "a"`},
		{"many unknown keys", strings.Repeat("abcdefgh: 1\n", 80_000), "79904 more problems are not shown"},
		{"one long key", strings.Repeat("k", 1000) + ": 1", `unknown key "` + strings.Repeat("k", 64) + `"...;`},
		{"one long value", "hostname: " + strings.Repeat("k", 1_000_000), `hostname: "` + strings.Repeat("k", 64) + `"... is not a host name`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			_, err := config.ParseGateway([]byte(tt.in), "gateway.yaml", nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%.300v, want %s", err, tt.want)
			}
			// Far more than it takes, far less than it would without bounds.
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			var list *config.Error
			if errors.As(err, &list) && len(list.Problems) > 101 {
				t.Errorf("%d problems", len(list.Problems))
			}
		})
	}
}

func fuzzDir(f *testing.F) string {
	dir := badDir(f)
	write(f, dir, "oidc-client-secret", "x", 0o600)
	write(f, dir, "switch1.key", "x", 0o600)
	write(f, dir, "connector.crt", "x", 0o600)
	write(f, dir, "connector.key", "x", 0o600)
	write(f, dir, "gateway-ca.crt", "x", 0o600)
	return dir
}

func FuzzParseGateway(f *testing.F) {
	f.Add([]byte(config.ExampleGateway))
	f.Add([]byte(smallestGateway))
	f.Add([]byte(testedPolicy + "    - {name: a, who: {groups: ops, claims: {acr: phr}}, origin: web1, expect: allow, rule: ops}\n"))
	f.Add([]byte(modelHead + "  groups: {a: [{policy_group: b}], b: [{policy_group: a}]}\n  applications: [{name: a, hosts: a, rules: [{name: r, action: deny, include: [{policy_group: a}], when: 'x'}]}]\n"))
	f.Add([]byte("a: &a {<<: [*a, *a]}\nssh: *a\nhostname: *b\n"))
	f.Add([]byte("ssh: [::1]:22\n---\n\xff"))
	f.Add([]byte("policy: {applications: {name: x, hosts: '*', rules: {name: y, action: allow, include: {everyone: true}, logins: '*'}}}"))
	file := filepath.Join(fuzzDir(f), "gateway.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := config.Reader{Env: func(string) string { return "x" }, Condition: condition.Compile}.ParseGateway(data, file)
		if checkError(t, g == nil, err, file) {
			return
		}
		if err := g.Policy().Validate(); err != nil {
			t.Fatalf("a policy that loads is not valid: %v", err)
		}
		for _, w := range g.Warnings() {
			if w.File != file || w.Line < 1 || w.Column < 1 || w.Field == "" || w.Text == "" {
				t.Fatalf("a warning without a place: %+v", w)
			}
		}
		if g.Hostname == "" || g.DataDir == "" || g.SignIn.Issuer == "" || g.SSH.Advertise == "" {
			t.Fatalf("a configuration that loads lacks what is required: %+v", g)
		}
	})
}

func FuzzParseConnector(f *testing.F) {
	f.Add([]byte(config.ExampleConnector))
	f.Add([]byte("gateway: x\norigins: {name: a, url: ssh://b}\n"))
	f.Add([]byte("gateway: '[::1]'\norigins: [{name: a, url: 'ssh://[::1]:2'}]\n"))
	file := filepath.Join(fuzzDir(f), "connector.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := config.ParseConnector(data, file, nil)
		if checkError(t, k == nil, err, file) {
			return
		}
		if k.Gateway == "" || k.ServerName == "" || len(k.Origins) == 0 || k.Origins[0].URL.Port() == "" {
			t.Fatalf("a configuration that loads lacks what is required: %+v", k)
		}
	})
}

// checkError tells whether parsing failed. Every problem must have its place.
func checkError(t *testing.T, none bool, err error, file string) bool {
	t.Helper()
	if (err == nil) == none {
		t.Fatalf("value %v, error %v", !none, err)
	}
	if err == nil {
		return false
	}
	var list *config.Error
	if !errors.As(err, &list) || len(list.Problems) == 0 {
		t.Fatalf("the error has no problems: %v", err)
	}
	for _, p := range list.Problems {
		if p.File != file || p.Line < 1 || p.Column < 1 || p.Text == "" {
			t.Fatalf("a problem without its place: %+v", p)
		}
	}
	return true
}
