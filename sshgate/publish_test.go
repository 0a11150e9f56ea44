package sshgate_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

func TestMayPublish(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	policy := &sshgate.Policy{SessionDuration: time.Hour, Publish: []sshgate.PublishRule{
		{Name: "ops", Include: []sshgate.Selector{sshgate.Group{"ops"}}, Exclude: []sshgate.Selector{sshgate.Email{"bob@example.com"}},
			Hostnames: []sshgate.HostPattern{mustPattern("web1"), mustPattern("*.lab")}},
		{Name: "office", Include: []sshgate.Selector{sshgate.Everyone{}}, Require: []sshgate.Selector{sshgate.Address{netip.MustParsePrefix("10.0.0.0/8")}},
			Hostnames: []sshgate.HostPattern{mustPattern("*.desk")}},
	}}
	person := func(email string, groups ...string) sshgate.Identity {
		return sshgate.Identity{Issuer: "https://idp", Subject: email, Email: email, EmailVerified: true, Groups: groups, SignedInAt: now}
	}
	alice, bob := person("alice@example.com", "ops"), person("bob@example.com", "ops")
	machine := alice
	machine.Kind = sshgate.ServiceToken
	nobody := alice
	nobody.Subject = ""
	stale := alice
	stale.SignedInAt = now.Add(-time.Hour)
	inside, outside := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		who      sshgate.Identity
		from     netip.Addr
		hostname string
		want     string
	}{
		{alice, outside, "web1", "ops"},
		{alice, outside, "a.lab", "ops"},
		{alice, outside, "*.x.lab", "ops"},
		{alice, outside, "web2", ""},
		{alice, outside, "*", ""},
		{alice, outside, "a.desk", ""},
		{alice, inside, "a.desk", "office"},
		{bob, outside, "web1", ""},
		{bob, inside, "*.desk", "office"},
		{machine, inside, "web1", ""},
		{nobody, inside, "web1", ""},
		{stale, inside, "web1", ""},
	} {
		rule, ok := policy.MayPublish(sshgate.PublishRequest{Identity: tt.who, ClientAddr: tt.from, Time: now}, mustPattern(tt.hostname))
		if rule != tt.want || ok != (tt.want != "") {
			t.Errorf("%s from %s, %s: %q, %v; want %q", tt.who, tt.from, tt.hostname, rule, ok, tt.want)
		}
	}
	if _, ok := (&sshgate.Policy{}).MayPublish(sshgate.PublishRequest{Identity: alice, Time: now}, mustPattern("web1")); ok {
		t.Error("a policy without rules lets somebody publish")
	}
	if _, ok := policy.MayPublish(sshgate.PublishRequest{Identity: alice}, mustPattern("web1")); ok {
		t.Error("a request without a time is granted")
	}
}

func TestValidatePublish(t *testing.T) {
	policy := &sshgate.Policy{Publish: []sshgate.PublishRule{
		{Name: "a", Include: []sshgate.Selector{sshgate.Everyone{}}, Hostnames: []sshgate.HostPattern{mustPattern("web1")}},
		{Name: "a", Require: []sshgate.Selector{sshgate.ServiceTokenNamed{"x"}}, Exclude: []sshgate.Selector{sshgate.Email{"nonsense"}}},
	}}
	var invalid *sshgate.PolicyError
	if !errors.As(policy.Validate(), &invalid) {
		t.Fatal("it is valid")
	}
	var paths []string
	for _, p := range invalid.Problems {
		paths = append(paths, p.Path)
	}
	slices.Sort(paths)
	if got, want := strings.Join(paths, " "), "publish[1].exclude[0] publish[1].hostnames publish[1].include publish[1].name publish[1].require[0]"; got != want {
		t.Errorf("problems at %s\nwant %s", got, want)
	}
}
