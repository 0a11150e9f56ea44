package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/internal/condition"
	"github.com/sshgate/sshgate/sshgate"
)

// whole is a reader as sshgated has it.
var whole = config.Reader{Condition: condition.Compile}

const modelHead = "hostname: gate.example.com\ndata_dir: state\n" + goodSignIn + "\npolicy:\n" // what follows begins in line 5

func TestPolicyModel(t *testing.T) {
	g, err := whole.ParseGateway([]byte(modelHead+`
  groups:
    staff: [{email_domain: example.com}, {policy_group: friends}]
    friends: {email: bob@example.org}
  administrators: [{group: admins}]
  applications:
    - name: a
      hosts: web1
      max_age: 8h
      rules:
        - name: r
          action: allow
          include: [{policy_group: staff}]
          require:
            - acr: [phr, phrh]
            - amr: hwk
            - country: [DE, AT]
            - key_type: hardware
            - key_type: {type: [ssh-ed25519, sk-ssh-ed25519@openssh.com], touched: true, verified: true}
            - time: {days: [mon-fri, sun], from: "08:00", to: "24:00", zone: Europe/Berlin}
          when: 'identity.claims.level > 3'
          logins: deploy
          max_age: 10m
          purpose: true
          channels:
            shell: true
            exec: ["git *", uptime]
            sftp: read
            scp: [read, write]
            git: {read: ["/srv/git/**"], write: team/*}
            subsystems: netconf
            forward: [db1:5432, "10.0.0.0/8:*"]
            unix: /run/app.sock
            listen: true
            agent: true
            x11: true
`), "F")
	if err != nil {
		t.Fatal(err)
	}
	p := g.Policy()
	app := p.Applications[0]
	r := app.Rules[0]
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	type all struct {
		Groups         map[string][]sshgate.Selector
		Administrators []sshgate.Selector
		AppAge, Age    time.Duration
		Purpose        bool
		When           string
		Require        []sshgate.Selector
		Channels       sshgate.Channels
	}
	want := all{
		Groups: map[string][]sshgate.Selector{
			"staff":   {sshgate.EmailDomain{"example.com"}, sshgate.PolicyGroup("friends")},
			"friends": {sshgate.Email{"bob@example.org"}},
		},
		Administrators: []sshgate.Selector{sshgate.Group{"admins"}},
		AppAge:         8 * time.Hour, Age: 10 * time.Minute, Purpose: true, When: "identity.claims.level > 3",
		Require: []sshgate.Selector{
			sshgate.ACR{"phr", "phrh"}, sshgate.AMR{"hwk"}, sshgate.Country{"DE", "AT"},
			sshgate.KeyType{Types: []string{"hardware"}},
			sshgate.KeyType{Types: []string{"ssh-ed25519", "sk-ssh-ed25519@openssh.com"}, Touched: true, Verified: true},
			sshgate.TimeWindow{Weekdays: []time.Weekday{1, 2, 3, 4, 5, 0}, From: 8 * time.Hour, To: 24 * time.Hour, Location: zone},
		},
		Channels: sshgate.Channels{
			Shell: true, Exec: []sshgate.CommandPattern{"git *", "uptime"},
			SFTP: sshgate.Transfer{Read: true}, SCP: sshgate.Transfer{Read: true, Write: true},
			Git:        sshgate.GitAccess{Read: []sshgate.PathPattern{"/srv/git/**"}, Write: []sshgate.PathPattern{"team/*"}},
			Subsystems: []string{"netconf"}, Unix: []sshgate.PathPattern{"/run/app.sock"},
			Listen: true, Agent: true, X11: true,
		},
	}
	for _, s := range []string{"db1:5432", "10.0.0.0/8:*"} {
		d, err := sshgate.ParseDestinationPattern(s)
		if err != nil {
			t.Fatal(err)
		}
		want.Channels.Forward = append(want.Channels.Forward, d)
	}
	got := all{p.Groups, p.Administrators, app.MaxAge, r.MaxAge, r.Purpose, r.When.String(), r.Require, *r.Channels}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b sshgate.DestinationPattern) bool { return a == b }),
		cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestBadPolicyModel(t *testing.T) {
	rule := modelHead + "  applications:\n    - name: a\n      hosts: web1\n      rules:\n        - name: r\n          action: allow\n          include: [{everyone: true}]\n          logins: deploy\n" // next is 13
	tests := []struct{ name, in, want string }{
		{"groups", modelHead + `  groups:
    a b: [{everyone: true}]
    empty: []
    loop: [{policy_group: pool}]
    pool: [{policy_group: loop}]
    lost: [{policy_group: none}]
  administrators: [{policy_group: nil}]
  applications: []
`, `
F:6:5: policy.groups: "a b" is no name for a group; use letters, digits, - and _
F:7:12: policy.groups.empty: is empty, which matches nobody; everybody who signs in is everyone
F:8:11: policy.groups.loop: leads back to itself
F:9:11: policy.groups.pool: leads back to itself
F:10:12: policy.groups.lost[0]: there is no group "none" in the policy's groups
F:11:20: policy.administrators[0]: there is no group "nil" in the policy's groups`},
		{"groups are a list", modelHead + "  groups: [a]\n  applications: []\n", `F:5:11: policy.groups: is a list; expected names, each with a list of selectors`},
		{"selectors", rule + `          require:
            - country: germany
            - key_type: {touched: true}
            - key_type: rsa
            - key_type: {type: ssh-rsa, touched: true}
            - time: {from: "8:00", to: "25:00", days: monday}
            - time: {zone: Mars/Base}
            - acr: ""
`, `
F:14:15: policy.applications[0].rules[0].require[0]: the country "germany" must be two capital letters, as in DE
F:15:25: policy.applications[0].rules[0].require[1].key_type.type: is missing; expected the types of keys, as in hardware
F:16:15: policy.applications[0].rules[0].require[2]: the key type "rsa" is not known; use one of ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, sk-ssh-ed25519@openssh.com, sk-ecdsa-sha2-nistp256@openssh.com, hardware
F:17:15: policy.applications[0].rules[0].require[3]: wants a key that is touched or verified, which only the keys of FIDO tokens are
F:18:21: policy.applications[0].rules[0].require[4].time.zone: is missing; expected whose clock it is, as in Europe/Berlin or UTC
F:18:28: policy.applications[0].rules[0].require[4].time.from: "8:00" is no time of day; expected one from 00:00 to 24:00
F:18:40: policy.applications[0].rules[0].require[4].time.to: "25:00" is no time of day; expected one from 00:00 to 24:00
F:18:55: policy.applications[0].rules[0].require[4].time.days[0]: "monday" is no day of the week; expected one or several, as in mon or mon-fri
F:19:28: policy.applications[0].rules[0].require[5].time.zone: "Mars/Base" is no time zone; expected one as in Europe/Berlin, America/New_York or UTC
F:20:20: policy.applications[0].rules[0].require[6].acr[0]: "" is empty or has space around it`},
		{"channels", rule + `          end_to_end: true
          channels:
            shel: true
            exec: [" "]
            sftp: up
            git: {read: ["a/../b"], write: ["x//y"]}
            subsystems: sftp
            forward: [db1, "db1:0", "10.0.0.1/8:22", "a*:1"]
`, `
F:13:23: policy.applications[0].rules[0].end_to_end: cannot stand beside channels, which the gateway cannot enforce there; write two rules
F:15:13: policy.applications[0].rules[0].channels: unknown key "shel"; did you mean shell?
F:16:20: policy.applications[0].rules[0].channels.exec[0]: the command is empty; expected a command line, in which * stands for arguments
F:17:19: policy.applications[0].rules[0].channels.sftp[0]: "up" is no way for files to go; expected read, write or both
F:18:26: policy.applications[0].rules[0].channels.git.read[0]: the path "a/../b" is not in its shortest form, so that it can match nothing; expected one as in /srv/git/* or team/**
F:18:45: policy.applications[0].rules[0].channels.git.write[0]: the path "x//y" is not in its shortest form, so that it can match nothing; expected one as in /srv/git/* or team/**
F:19:25: policy.applications[0].rules[0].channels.subsystems[0]: sftp has its own setting, sftp, which says which way files may go
F:20:23: policy.applications[0].rules[0].channels.forward[0]: the destination "db1" is not HOST:PORT; expected one as in db1:5432, "*:443", "10.0.0.0/8:*" or "[2001:db8::/32]:22"
F:20:28: policy.applications[0].rules[0].channels.forward[1]: the destination "db1:0" has the port "0", which is neither a number from 1 to 65535 nor *; expected one as in db1:5432, "*:443", "10.0.0.0/8:*" or "[2001:db8::/32]:22"
F:20:37: policy.applications[0].rules[0].channels.forward[2]: the destination "10.0.0.1/8:22" has no address range before its port, as in 10.0.0.0/8; expected one as in db1:5432, "*:443", "10.0.0.0/8:*" or "[2001:db8::/32]:22"
F:20:54: policy.applications[0].rules[0].channels.forward[3]: the destination "a*:1": host pattern "a*" has a * that is not its whole first label; expected one as in db1:5432, "*:443", "10.0.0.0/8:*" or "[2001:db8::/32]:22"`},
		{"deny", modelHead + "  applications:\n    - {name: a, hosts: web1, rules: [{name: r, action: deny, include: [{everyone: true}], max_age: 1h, purpose: true, channels: {shell: true}}, {name: s, action: service, include: [{everyone: true}], ports: 80, purpose: true, channels: {}}]}\n", `
F:6:100: policy.applications[0].rules[0].max_age: has no meaning in a deny rule
F:6:113: policy.applications[0].rules[0].purpose: has no meaning in a deny rule
F:6:129: policy.applications[0].rules[0].channels: has no meaning in a deny rule, which denies all of them; to deny some write them in when
F:6:221: policy.applications[0].rules[1].purpose: has no meaning in a service rule; a machine cannot be asked what it is for
F:6:237: policy.applications[0].rules[1].channels: is about SSH and needs the logins`},
		{"a condition on its line", rule + "          when: identity.emial == 'x'\n", `F:13:25: policy.applications[0].rules[0].when: is no condition: undefined field 'emial'`},
		{"a quoted condition", rule + "          when: \"true && user == 'x'\"\n", `F:13:26: policy.applications[0].rules[0].when: is no condition: undeclared reference to 'user'`},
		{"a condition of several lines", rule + "          when: |\n            true &&\n            identity.emial == 'x'\n", `F:15:21: policy.applications[0].rules[0].when: is no condition: undefined field 'emial'`},
		{"a folded condition", rule + "          when: >\n            true &&\n            identity.emial == 'x'\n", `F:13:17: policy.applications[0].rules[0].when: is no condition: undefined field 'emial' (line 1, character 17 of it)`},
		{"no condition", rule + "          when: [a]\n", `F:13:17: policy.applications[0].rules[0].when: is a list; expected a single value`},
		{"text for a condition", rule + "          when: identity.email\n", `F:13:17: policy.applications[0].rules[0].when: is no condition: yields a value of type string, not yes or no`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := whole.ParseGateway([]byte(tt.in), "F")
			var list *config.Error
			if got != nil || !errors.As(err, &list) {
				t.Fatalf("%v, want a *config.Error", err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), list.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	if _, err := config.ParseGateway([]byte(rule+"          when: 'true'\n"), "F", nil); err == nil || !strings.Contains(err.Error(), "F:13:17: policy.applications[0].rules[0].when: is a condition, which this program does not read") {
		t.Errorf("without a compiler: %v", err)
	}
}
