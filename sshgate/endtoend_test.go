package sshgate

import (
	"strings"
	"testing"
	"time"
)

func TestEndToEndRules(t *testing.T) {
	host, err := ParseHostPattern("web1")
	if err != nil {
		t.Fatal(err)
	}
	deploy, err := ParseLoginTemplate("deploy")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	alice := Identity{Issuer: "https://idp", Subject: "1", Email: "a@example.com", EmailVerified: true, SignedInAt: now.Add(-time.Hour)}
	request := Request{Identity: alice, Target: Target{Origin: "web1"}, Channel: ChannelEndToEnd, Time: now}
	open := Rule{Name: "open", Action: Allow, Include: []Selector{Everyone{}}, Logins: []LoginTemplate{deploy}}
	closed := Rule{Name: "closed", Action: Allow, Include: []Selector{Everyone{}}, Logins: []LoginTemplate{deploy}, NoEndToEnd: true}
	short := Rule{Name: "short", Action: Allow, Include: []Selector{Everyone{}}, Logins: []LoginTemplate{deploy}, SessionDuration: time.Minute}
	deny := Rule{Name: "deny", Action: Deny, Include: []Selector{Everyone{}}}
	for name, test := range map[string]struct {
		rules   []Rule
		allowed bool
		expired bool
		reason  string
	}{
		"a rule allows it unless it says otherwise":     {[]Rule{open}, true, false, "cannot be enforced"},
		"a rule can forbid it":                          {[]Rule{closed}, false, false, "does not allow end-to-end"},
		"one that forbids it leaves it to the others":   {[]Rule{closed, open}, true, false, ""},
		"in any order":                                  {[]Rule{open, closed}, true, false, ""},
		"a deny rule wins":                              {[]Rule{open, deny}, false, false, ""},
		"a sign-in that is too old is told from denial": {[]Rule{short}, false, true, ""},
	} {
		policy := &Policy{Applications: []Application{{Name: "app", Hosts: []HostPattern{host}, Rules: test.rules}}}
		d := policy.Decide(request)
		if d.Allowed != test.allowed || d.Expired != test.expired || !strings.Contains(d.Reason, test.reason) || d.Login != "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// The login of a session stays bound by the rule that forbids end to end.
	session := request
	session.Channel, session.Target.Login = ChannelSession, "deploy"
	policy := &Policy{Applications: []Application{{Name: "app", Hosts: []HostPattern{host}, Rules: []Rule{closed}}}}
	if d := policy.Decide(session); !d.Allowed || d.Login != "deploy" {
		t.Errorf("a session: %+v", d)
	}
}
