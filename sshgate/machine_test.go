package sshgate

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// machinePolicy has a rule for each kind of identity.
func machinePolicy(t *testing.T) *Policy {
	t.Helper()
	host, err := ParseHostPattern("db1")
	if err != nil {
		t.Fatal(err)
	}
	var templates []LoginTemplate
	for _, s := range []string{"deploy", "${claims.unix}", "*"} {
		template, err := ParseLoginTemplate(s)
		if err != nil {
			t.Fatal(err)
		}
		templates = append(templates, template)
	}
	return &Policy{Applications: []Application{{Name: "db", Hosts: []HostPattern{host}, Rules: []Rule{
		{Name: "people", Action: Allow, Include: []Selector{Everyone{}}, Logins: templates[:2], EndToEnd: true},
		{Name: "root", Action: Allow, Include: []Selector{Group{"root"}}, Logins: templates[2:]},
		{Name: "databases", Action: Allow, Include: []Selector{Group{"dba"}}, Ports: []uint16{5432}},
		{Name: "backup", Action: Service, Include: []Selector{ServiceTokenNamed{"backup", "st-abc"}}, Logins: templates[:1], Ports: []uint16{5432}},
		{Name: "ci", Action: Service, Include: []Selector{WorkloadNamed{"ci"}}, Logins: templates[2:]},
	}}}}
}

var (
	machineNow = time.Unix(1_800_000_000, 0)
	person     = Identity{Issuer: "https://idp", Subject: "1", Name: "backup", SignedInAt: machineNow, Claims: map[string]any{"unix": "al"}}
	dba        = Identity{Issuer: "https://idp", Subject: "2", Groups: []string{"dba", "root"}, SignedInAt: machineNow}
	backup     = Identity{Kind: ServiceToken, Issuer: ServiceIssuer, Subject: "st-1", Name: "backup", SignedInAt: machineNow}
	renamed    = Identity{Kind: ServiceToken, Issuer: ServiceIssuer, Subject: "st-abc", Name: "other", SignedInAt: machineNow}
	stranger   = Identity{Kind: ServiceToken, Issuer: ServiceIssuer, Subject: "st-2", Name: "ci", SignedInAt: machineNow}
	job        = Identity{Kind: Workload, Issuer: "https://ci", Subject: "repo:x", Name: "ci", SignedInAt: machineNow}
	fakeJob    = Identity{Kind: Workload, Issuer: "https://ci", Subject: "st-abc", Name: "backup", SignedInAt: machineNow}
)

func TestMachinesAndPeople(t *testing.T) {
	policy := machinePolicy(t)
	if err := policy.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		id      Identity
		login   Login
		channel Channel
		port    uint16
		rule    string // that allows; empty: denied
	}{
		{person, "", ChannelSession, 0, "people"},
		{person, "deploy", ChannelEndToEnd, 0, "people"},
		{person, "", ChannelTCP, 5432, ""},
		{dba, "", ChannelTCP, 5432, "databases"},
		{dba, "", ChannelTCP, 5433, ""},
		{dba, "", ChannelTCP, SSHPort, ""},
		{dba, "", ChannelTCP, 0, ""},
		{backup, "", ChannelSession, 0, "backup"},
		{backup, "root", ChannelSession, 0, ""},
		{backup, "", ChannelTCP, 5432, "backup"},
		{backup, "", ChannelEndToEnd, 0, ""},
		{renamed, "", ChannelSession, 0, "backup"},
		{stranger, "", ChannelSession, 0, ""},
		{stranger, "x", ChannelSession, 0, ""},
		{job, "anybody", ChannelSession, 0, "ci"},
		{job, "", ChannelSession, 0, ""},
		{fakeJob, "", ChannelSession, 0, ""},
	} {
		d := policy.Decide(Request{Identity: test.id, Target: Target{Origin: "db1", Login: test.login}, Channel: test.channel, Port: test.port, Time: machineNow})
		if d.Allowed != (test.rule != "") || d.Allowed && d.Rule != test.rule {
			t.Errorf("%s as %q by %s %d: %+v, want rule %q", test.id, test.login, test.channel, test.port, d, test.rule)
		}
	}
}

// A deny rule is for machines as well as for people.
func TestDenyIsForMachinesToo(t *testing.T) {
	policy := machinePolicy(t)
	rules := &policy.Applications[0].Rules
	*rules = append(*rules, Rule{Name: "nobody", Action: Deny, Include: []Selector{Everyone{}}})
	for _, id := range []Identity{person, dba, backup, job} {
		if d := policy.Decide(Request{Identity: id, Target: Target{Origin: "db1", Login: "deploy"}, Channel: ChannelSession, Time: machineNow}); d.Allowed || d.Rule != "nobody" {
			t.Errorf("%s: %+v", id, d)
		}
	}
}

func TestLogins(t *testing.T) {
	policy := machinePolicy(t)
	for _, test := range []struct {
		id      Identity
		origin  OriginName
		login   Login
		channel Channel
		want    []Login
		any     bool
	}{
		{person, "db1", "", ChannelSession, []Login{"deploy", "al"}, false},
		{person, "db1", "", ChannelEndToEnd, []Login{"deploy", "al"}, false},
		{person, "db1", "al", ChannelEndToEnd, []Login{"al"}, false},
		{person, "db1", "root", ChannelSession, nil, false},
		{person, "other", "", ChannelSession, nil, false},
		{dba, "db1", "", ChannelSession, []Login{"deploy"}, true},
		{dba, "db1", "root", ChannelSession, []Login{"root"}, false},
		{dba, "db1", "", ChannelEndToEnd, []Login{"deploy"}, false},
		{dba, "db1", "root", ChannelEndToEnd, nil, false},
		{backup, "db1", "", ChannelSession, []Login{"deploy"}, false},
		{backup, "db1", "", ChannelEndToEnd, nil, false},
		{job, "db1", "", ChannelSession, nil, true}, // no default, and any
		{job, "db1", "x", ChannelSession, []Login{"x"}, false},
	} {
		got, any := policy.Logins(Request{Identity: test.id, Target: Target{Origin: test.origin, Login: test.login}, Channel: test.channel, Time: machineNow})
		if !slices.Equal(got, test.want) || any != test.any {
			t.Errorf("%s as %q on %s by %s: %q, %v, want %q, %v", test.id, test.login, test.origin, test.channel, got, any, test.want, test.any)
		}
	}
	stale := person
	stale.SignedInAt = machineNow.Add(-DefaultSessionDuration)
	if got, _ := policy.Logins(Request{Identity: stale, Target: Target{Origin: "db1"}, Channel: ChannelSession, Time: machineNow}); got != nil {
		t.Errorf("a sign-in that has expired: %q", got)
	}
}

// What machines are called tells them from people.
func TestNamesOfMachines(t *testing.T) {
	for want, id := range map[string]Identity{"service-token:backup": backup, "workload:ci (repo:x)": job, "1": person} {
		if got := id.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestValidatePorts(t *testing.T) {
	policy := machinePolicy(t)
	rules := policy.Applications[0].Rules
	rules[0].Ports = []uint16{5432, 22}
	rules[2].EndToEnd = true
	rules[4].Logins = nil
	rules[1] = Rule{Name: "deny", Action: Deny, Include: []Selector{ServiceTokenNamed{}}, Ports: []uint16{1}, EndToEnd: true}
	err := policy.Validate()
	for _, want := range []string{
		"rules[0].ports[1]: 22 is no port of a service other than SSH",
		"rules[1].end_to_end: has no meaning in a deny rule",
		"rules[1].ports: has no meaning in a deny rule",
		"rules[1].include[0]: names no service token",
		"rules[2].logins: is empty; end_to_end is about SSH",
		"rules[4].logins: is empty; a rule that allows names the logins, or ports",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}
