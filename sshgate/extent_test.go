package sshgate

import (
	"testing"
	"time"
)

func TestExtent(t *testing.T) {
	host, err := ParseHostPattern("web1")
	if err != nil {
		t.Fatal(err)
	}
	login := func(s string) []LoginTemplate {
		template, err := ParseLoginTemplate(s)
		if err != nil {
			t.Fatal(err)
		}
		return []LoginTemplate{template}
	}
	anywhere, err := ParseDestinationPattern("*:443")
	if err != nil {
		t.Fatal(err)
	}
	everyone := []Selector{Everyone{}}
	policy := &Policy{Applications: []Application{{Name: "app", Hosts: []HostPattern{host}, Rules: []Rule{
		{Name: "files", Action: Allow, Include: everyone, Logins: login("files"), Channels: &Channels{SFTP: Transfer{Read: true}}},
		{Name: "run", Action: Allow, Include: everyone, Logins: login("deploy"), Channels: &Channels{Exec: []CommandPattern{"uptime"}}},
		{Name: "forward", Action: Allow, Include: everyone, Logins: login("deploy"), Purpose: true, Channels: &Channels{Forward: []DestinationPattern{anywhere}}},
		{Name: "bob", Action: Allow, Include: []Selector{Email{"bob@example.com"}}, Logins: login("deploy")},
		{Name: "robots", Action: Service, Include: everyone, Logins: login("deploy")},
		{Name: "all", Action: Allow, Include: everyone, Logins: login("admin")},
	}}}}
	request := Request{Identity: Identity{Issuer: "https://idp", Subject: "1"}, Channel: ChannelSession, Time: time.Now()}
	for name, test := range map[string]struct {
		origin OriginName
		want   Extent
	}{
		"files":  {"web1", Extent{Session: true}},
		"deploy": {"web1", Extent{Session: true, Terminal: true, Forward: true}},
		"admin":  {"web1", Extent{Session: true, Terminal: true, Shell: true, Forward: true, Agent: true, X11: true}},
		"root":   {"web1", Extent{}},
		"x":      {"web2", Extent{}},
	} {
		request.Target = Target{Origin: test.origin, Login: Login(name)}
		if got := policy.Extent(request); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	request.Identity = Identity{}
	if got := policy.Extent(request); got != (Extent{}) {
		t.Errorf("nobody's extent is %+v", got)
	}
}
