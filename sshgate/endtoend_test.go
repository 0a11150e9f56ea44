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
	open := Rule{Name: "open", Action: Allow, Include: []Selector{Everyone{}}, Logins: []LoginTemplate{deploy}, EndToEnd: true}
	closed := Rule{Name: "closed", Action: Allow, Include: []Selector{Everyone{}}, Logins: []LoginTemplate{deploy}}
	short := Rule{Name: "short", Action: Allow, Include: []Selector{Everyone{}}, Logins: []LoginTemplate{deploy}, SessionDuration: time.Minute, EndToEnd: true}
	limited := open
	limited.Channels = &Channels{Shell: true}
	deny := Rule{Name: "deny", Action: Deny, Include: []Selector{Everyone{}}}
	for name, test := range map[string]struct {
		rules   []Rule
		allowed bool
		expired bool
		reason  string
	}{
		"a rule can allow it":                           {[]Rule{open}, true, false, "cannot be enforced"},
		"a rule does not unless it says so":             {[]Rule{closed}, false, false, "does not allow end-to-end"},
		"one that does not leaves it to the others":     {[]Rule{closed, open}, true, false, ""},
		"in any order":                                  {[]Rule{open, closed}, true, false, ""},
		"one with limits does not, whatever it says":    {[]Rule{limited}, false, false, "does not allow end-to-end"},
		"a deny rule wins":                              {[]Rule{open, deny}, false, false, ""},
		"a sign-in that is too old is told from denial": {[]Rule{short}, false, true, ""},
	} {
		policy := &Policy{Applications: []Application{{Name: "app", Hosts: []HostPattern{host}, Rules: test.rules}}}
		d := policy.Decide(request)
		if d.Allowed != test.allowed || d.Expired != test.expired || !strings.Contains(d.Reason, test.reason) || d.Login != "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// A session is bound by the logins of any rule.
	session := request
	session.Channel, session.Target.Login = ChannelSession, "deploy"
	policy := &Policy{Applications: []Application{{Name: "app", Hosts: []HostPattern{host}, Rules: []Rule{closed}}}}
	if d := policy.Decide(session); !d.Allowed || d.Login != "deploy" {
		t.Errorf("a session: %+v", d)
	}
}
