package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/config"
)

// testedPolicy ends where its tests begin, in line 39.
const testedPolicy = `hostname: gate.example.com
data_dir: state
` + goodSignIn + `
workloads:
  - {name: job, issuer: "https://ci.example.com", claims: {ref: main}}
policy:
  applications:
    - name: web
      hosts: web1
      rules:
        - name: ops
          action: allow
          include: [{group: ops}]
          require: [{acr: phr}]
          logins: [deploy, root]
        - name: devs
          action: allow
          include: [{email_domain: example.com}]
          require: [{address: 10.0.0.0/8}, {time: {from: "08:00", to: "18:00", zone: UTC}}]
          when: identity.claims.level > 3
          logins: deploy
          purpose: true
          session_duration: 1h
          channels: {exec: uptime, sftp: read, forward: "db1:5432"}
        - name: jump
          action: allow
          include: [{claim: {name: realm.roles, values: admin}}]
          logins: deploy
          end_to_end: true
          ports: 5432
        - name: machines
          action: service
          include: [{service_token: backup}, {workload: job}]
          logins: backup
        - name: guests
          action: deny
          include: [{country: XX}, {key_type: ssh-rsa}]
  tests:
`

func TestPolicyTests(t *testing.T) {
	g, err := whole.ParseGateway([]byte(testedPolicy+`
    - {name: a, who: {groups: ops, claims: {acr: phr}}, origin: web1, expect: allow, rule: ops, as: deploy}
    - {name: b, who: {groups: ops}, origin: web1, login: root, shell: true, expect: expired, rule: ops}
    - {name: c, who: {groups: ops, claims: {acr: phr}, signed_in: 12h}, origin: web1, expect: expired}
    - {name: d, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}}, origin: web1, expect: purpose, rule: devs}
    - {name: e, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}}, origin: web1, purpose: x, command: uptime, expect: allow}
    - {name: f, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}}, origin: web1, purpose: x, command: id, expect: deny}
    - {name: g, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}}, origin: web1, purpose: x, subsystem: sftp, files: read, expect: allow}
    - {name: h, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}}, origin: web1, purpose: x, forward: "db1:5432", expect: allow}
    - {name: i, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}}, origin: web1, purpose: x, forward: "db2:5432", expect: deny}
    - {name: j, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}, time: "2026-01-05T18:00:00Z"}, origin: web1, purpose: x, expect: deny}
    - {name: k, who: {email: a@example.com, email_verified: false, address: 10.1.1.1, claims: {level: 4}}, origin: web1, expect: deny}
    - {name: l, who: {email: a@example.com, address: 10.1.1.1, claims: {level: 4}, signed_in: 1h}, origin: web1, purpose: x, expect: expired}
    - {name: m, who: {claims: {realm: {roles: [user, admin]}}}, origin: web1, end_to_end: true, expect: allow, rule: jump}
    - {name: n, who: {claims: {realm: {roles: [user, admin]}}}, origin: web1, port: 5432, expect: allow}
    - {name: o, who: {claims: {realm: {roles: [user]}}}, origin: web1, port: 5432, expect: deny}
    - {name: p, who: {service_token: backup}, origin: web1, expect: allow, as: backup}
    - {name: q, who: {workload: job}, origin: web1, expect: allow, rule: machines}
    - {name: r, who: {groups: ops, claims: {acr: phr}, country: XX}, origin: web1, expect: deny, rule: guests}
    - {name: s, who: {groups: ops, claims: {acr: phr}, key_type: ssh-rsa}, origin: web1, expect: deny, rule: guests}
    - {name: t, who: {groups: ops}, origin: web2, expect: deny, because: nobody has it}
`), "F")
	if err != nil {
		t.Fatal(err)
	}
	if g.PolicyTests() != 20 {
		t.Errorf("%d tests", g.PolicyTests())
	}
}

func TestPolicyTestsFail(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"the answer", `    - {name: a, who: {groups: dev}, origin: web1, expect: allow, because: they asked}`,
			`F:39:14: policy.tests[0].name: the test "a" fails: expected allow, got deny: no rule of application "web" allows "somebody" (it must be so because: they asked)`},
		{"the rule", `    - {name: a, who: {groups: ops, claims: {acr: phr}}, origin: web1, expect: allow, rule: devs, as: root}`,
			`F:39:14: policy.tests[0].name: the test "a" fails: expected the rule devs, got ops; expected the login root, got deploy: rule "ops" allows "somebody" as deploy; rule "devs": it includes email_domain: example.com, and the request is none of these`},
		{"the files", `    - {name: a, who: {groups: ops, claims: {acr: phr}}, origin: web1, subsystem: sftp, expect: allow, files: read}`,
			`F:39:14: policy.tests[0].name: the test "a" fails: expected files read, got read and write: rule "ops" allows "somebody" as deploy`},
		{"what is missing", `    - {}`, `
F:39:7: policy.tests[0].expect: is missing; expected allow, deny, expired (after another sign-in) or purpose (once told what for)
F:39:7: policy.tests[0].name: is missing; the report names what failed
F:39:7: policy.tests[0].origin: is missing; expected where they want to go
F:39:7: policy.tests[0].who: is missing; expected who asks, as in {email: alice@example.com, groups: [ops]}`},
		{"nonsense", `    - {name: a, who: {service_token: x, workload: y, claims: [a], time: noon, address: x}, origin: web1, shell: false, command: id, expect: yes}`, `
F:39:7: policy.tests[0]: asks for 2 things at once; write a test for each
F:39:22: policy.tests[0].who: is a service token and a workload; keep one
F:39:62: policy.tests[0].who.claims: is a list; expected claims with their values
F:39:73: policy.tests[0].who.time: "noon" is no time; expected one as in 2026-01-05T12:00:00+01:00
F:39:88: policy.tests[0].who.address: "x" is no IP address
F:39:113: policy.tests[0].shell: has no meaning as false; leave it out
F:39:141: policy.tests[0].expect: "yes" is no answer; expected allow, deny, expired (after another sign-in) or purpose (once told what for)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := whole.ParseGateway([]byte(testedPolicy+tt.in+"\n"), "F")
			var list *config.Error
			if got != nil || !errors.As(err, &list) {
				t.Fatalf("%v, want a *config.Error", err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), list.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
