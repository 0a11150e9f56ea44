package config_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
)

func TestWorkloads(t *testing.T) {
	got, err := config.ParseGateway([]byte(smallestGateway+`
workloads:
  - name: deploy-job
    issuer: https://token.actions.githubusercontent.com
    claims:
      repository: acme/app
      ref: [refs/heads/main, "refs/tags/*"]
      run_attempt: 1
  - {name: k8s, issuer: "http://127.0.0.1:8080/", audience: sshgate, claims: {sub: "system:serviceaccount:ci:deploy"}}
`), filepath.Join(t.TempDir(), "F"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Workload{
		{
			Name: "deploy-job", Issuer: "https://token.actions.githubusercontent.com", Audience: "https://gate.example.com",
			Claims: map[sshgate.ClaimPath][]string{"repository": {"acme/app"}, "ref": {"refs/heads/main", "refs/tags/*"}, "run_attempt": {"1"}},
		},
		{
			Name: "k8s", Issuer: "http://127.0.0.1:8080/", Audience: "sshgate",
			Claims: map[sshgate.ClaimPath][]string{"sub": {"system:serviceaccount:ci:deploy"}},
		},
	}
	if diff := cmp.Diff(want, got.Workloads); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	got, err = config.ParseGateway([]byte(`
hostname: "2001:db8::1"
data_dir: state
sign_in: {issuer: https://idp.example.com, client_id: x}
policy: {applications: []}
workloads: {name: a, issuer: https://ci.example.com, claims: {sub: a}}
`), filepath.Join(t.TempDir(), "F"), nil)
	if err != nil || got.Workloads[0].Audience != "https://[2001:db8::1]" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBadWorkloads(t *testing.T) {
	// What follows begins in line 6.
	const head = "hostname: gate.example.com\ndata_dir: state\n" + goodSignIn + "\npolicy: {applications: []}\nworkloads:\n"
	const entry = "  - {name: a, issuer: https://ci.example.com, claims: {"
	const why = "without one any job of that platform gets in, whoever runs it; name what only yours have, as in repository: acme/app"
	tests := []struct{ name, in, want string }{
		{"nothing in it", head + "  - {}\n", `
F:6:5: workloads[0].claims: is missing; ` + why + `
F:6:5: workloads[0].issuer: is missing; expected the platform's URL, as in https://token.actions.githubusercontent.com
F:6:5: workloads[0].name: is missing; expected what the policy calls it, as in deploy-job`},
		{"no claims", head + "  - {name: a, issuer: https://ci.example.com}\n", `F:6:5: workloads[0].claims: is missing; ` + why},
		{"empty claims", head + entry + "}}\n", `F:6:55: workloads[0].claims: is empty; ` + why},
		{"claims without a value", head + "  - {name: a, issuer: https://ci.example.com, claims: }\n", `F:6:55: workloads[0].claims: is empty; ` + why},
		{"claims are a list", head + "  - {name: a, issuer: https://ci.example.com, claims: [sub]}\n", `F:6:55: workloads[0].claims: is a list; expected claims and their values, as in repository: acme/app`},
		{"a claim without values", head + entry + "sub: []}}\n", `F:6:61: workloads[0].claims.sub: has no values; expected those that match`},
		{"null", head + entry + "sub: }}\n", `F:6:61: workloads[0].claims.sub: has no value; give it one or remove the key`},
		{"twice", head + entry + "sub: a, sub: b}}\n", `F:6:64: workloads[0].claims: "sub" is set a second time; it is in line 6 already`},
		{"every value", head + entry + "sub: [a, \"*\"]}}\n", `F:6:65: workloads[0].claims.sub[1]: matches every value, and so any job of the platform; write what comes before the *`},
		{"a star within", head + entry + "sub: a*b}}\n", `F:6:61: workloads[0].claims.sub[0]: "a*b" has a * that is not at its end, where alone it has a meaning`},
		{"two stars", head + entry + "sub: a**}}\n", `F:6:61: workloads[0].claims.sub[0]: "a**" has a * that is not at its end, where alone it has a meaning`},
		{"a claim of all", head + entry + "iss: https://ci.example.com}}\n", `F:6:56: workloads[0].claims: the claim "iss" tells no job of the platform from another; the issuer and the audience have settings of their own`},
		{"an address", head + entry + "email: a@b.c}}\n", `F:6:56: workloads[0].claims: the claim "email" may be an address that nobody verified`},
		{"a mapping", head + entry + "sub: {a: b}}}\n", `F:6:61: workloads[0].claims.sub[0]: is a mapping; expected a single value`},
		{"plain http", head + "  - {name: a, issuer: http://ci.example.com, claims: {sub: a}}\n", `F:6:23: workloads[0].issuer: the issuer "http://ci.example.com" is not reached through https; expected an https URL, as in https://token.actions.githubusercontent.com`},
		{"a name", head + "  - {name: a b, issuer: https://ci.example.com, claims: {sub: a}}\n", `F:6:12: workloads[0].name: "a b" is not a name of up to 64 letters, digits and . _ -; expected what the policy calls it, as in deploy-job`},
		{"an unknown key", head + "  - {name: a, issuer: https://ci.example.com, claims: {sub: a}, audiences: x}\n", `F:6:65: workloads[0]: unknown key "audiences"; did you mean audience?`},
		{"a name twice", head + entry + "sub: a}}\n" + entry + "sub: b}}\n", `F:7:12: workloads[1].name: "a" is the name of workloads[0] too; names must differ`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			g, err := config.ParseGateway([]byte(tt.in), filepath.Join(dir, "F"), nil)
			checkProblems(t, dir, g == nil, err, tt.want)
		})
	}
}

func TestWorkloadSelectors(t *testing.T) {
	const before = "hostname: gate.example.com\ndata_dir: state\n" + goodSignIn + "\n"
	const workloads = "workloads: [{name: deploy-job, issuer: https://ci.example.com, claims: {sub: a}}]\n"
	policy := func(rule string) string {
		return "policy:\n  applications:\n    - name: x\n      hosts: web1\n      rules:\n        - {name: r, logins: root, action: service, " + rule + "}\n"
	}
	const path = "policy.applications[0].rules[0]."
	tests := []struct{ name, in, want string }{
		{"known", before + workloads + policy("include: {workload: deploy-job}, exclude: {workload: [deploy-job]}"), ""},
		{"declared later", before + policy("include: {workload: deploy-job}") + workloads, ""},
		{"none there are", before + policy("include: {workload: deploy-job}"),
			`F:9:72: ` + path + `include[0].workload[0]: no workload is named "deploy-job"; add it under workloads`},
		{"a slip", before + workloads + policy("include: [{workload: [deploy-job, deploy-jobs]}]"),
			`F:10:86: ` + path + `include[0].workload[1]: no workload is named "deploy-jobs"; did you mean deploy-job?`},
		{"in require and exclude", before + workloads + policy("include: {everyone: true}, require: {workload: a}, exclude: {workload: b}"), `
F:10:99: ` + path + `require[0].workload[0]: no workload is named "a"; add it under workloads
F:10:123: ` + path + `exclude[0].workload[0]: no workload is named "b"; add it under workloads`},
		{"a workload that did not decode", before + "workloads: [{name: deploy job}]\n" + policy("include: {workload: deploy-job}"), `
F:4:13: workloads[0].claims: is missing; without one any job of that platform gets in, whoever runs it; name what only yours have, as in repository: acme/app
F:4:13: workloads[0].issuer: is missing; expected the platform's URL, as in https://token.actions.githubusercontent.com
F:4:20: workloads[0].name: "deploy job" is not a name of up to 64 letters, digits and . _ -; expected what the policy calls it, as in deploy-job`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			g, err := config.ParseGateway([]byte(tt.in), filepath.Join(dir, "F"), nil)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			checkProblems(t, dir, g == nil, err, tt.want)
		})
	}
}
