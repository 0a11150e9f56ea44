package sshgate_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

func byEmail(email string) sshgate.Request {
	return sshgate.Request{Identity: sshgate.Identity{Subject: "1", Email: email, EmailVerified: true}}
}

func TestEmailSelectors(t *testing.T) {
	unverified := byEmail("alice@example.com")
	unverified.Identity.EmailVerified = false
	alice, domain := sshgate.Email{"Alice@Example.com"}, sshgate.EmailDomain{"Example.com"}
	tests := []struct {
		name     string
		selector sshgate.Selector
		request  sshgate.Request
		want     bool
	}{
		{"same", alice, byEmail("alice@example.com"), true},
		{"other case", alice, byEmail("ALICE@EXAMPLE.COM"), true},
		{"not verified", alice, unverified, false},
		{"other person", alice, byEmail("malice@example.com"), false},
		{"other domain", alice, byEmail("alice@example.org"), false},
		{"prefix", alice, byEmail("alice@example.com.evil.org"), false},
		{"none", alice, byEmail(""), false},
		{"none, and an empty selector value", sshgate.Email{""}, byEmail(""), false},
		{"Kelvin sign is no k", sshgate.Email{"kate@example.com"}, byEmail("\u212aate@example.com"), false},
		{"long s is no s", sshgate.Email{"sam@example.com"}, byEmail("\u017fam@example.com"), false},
		{"any of several", sshgate.Email{"bob@example.com", "alice@example.com"}, byEmail("alice@example.com"), true},
		{"empty list", sshgate.Email{}, byEmail("alice@example.com"), false},

		{"domain", domain, byEmail("alice@example.com"), true},
		{"domain in other case", domain, byEmail("alice@EXAMPLE.com"), true},
		{"domain not verified", domain, unverified, false},
		{"subdomain", domain, byEmail("alice@lab.example.com"), false},
		{"suffix of the domain", domain, byEmail("alice@notexample.com"), false},
		{"parent domain", sshgate.EmailDomain{"lab.example.com"}, byEmail("alice@example.com"), false},
		{"domain in the local part", domain, byEmail("alice@example.com@evil.org"), false},
		{"last @ counts", domain, byEmail(`"a@evil.org"@example.com`), true},
		{"no local part", domain, byEmail("@example.com"), false},
		{"no domain", sshgate.EmailDomain{""}, byEmail("alice@"), false},
		{"no @", domain, byEmail("example.com"), false},
		{"Kelvin sign in the domain", sshgate.EmailDomain{"kde.org"}, byEmail("a@\u212ade.org"), false},
	}
	for _, tt := range tests {
		if got := tt.selector.Matches(tt.request); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestGroup(t *testing.T) {
	request := sshgate.Request{Identity: sshgate.Identity{Subject: "1", Groups: []string{"ops", "dev"}}}
	for group, want := range map[string]bool{"ops": true, "dev": true, "Ops": false, "op": false, "": false} {
		if got := (sshgate.Group{group}).Matches(request); got != want {
			t.Errorf("group %q: %v, want %v", group, got, want)
		}
	}
	if !(sshgate.Group{"x", "dev"}).Matches(request) {
		t.Error("a list of groups does not match a member of its second")
	}
}

func TestClaim(t *testing.T) {
	const token = `{
		"department": "eng", "employee": true, "level": 7, "ratio": 1.5, "huge": 9007199254740993,
		"teams": ["a", "b", 3, null, {"x": 1}], "none": null, "empty": "",
		"realm": {"roles": ["admin", "user"], "name": "main", "deep": {"er": "x"}},
		"https://example.com/team": "blue",
		"dotted.name": "whole", "dotted": {"name": "parts"}
	}`
	var claims map[string]any
	if err := json.Unmarshal([]byte(token), &claims); err != nil {
		t.Fatal(err)
	}
	claims["number"] = json.Number("12345678901234567890")
	request := sshgate.Request{Identity: sshgate.Identity{Subject: "1", Claims: claims}}
	tests := []struct {
		path, value string
		want        bool
	}{
		{"department", "eng", true},
		{"department", "Eng", false},
		{"department", "en", false},
		{"employee", "true", true},
		{"employee", "false", false},
		{"level", "7", true},
		{"level", "7.0", false},
		{"ratio", "1.5", true},
		{"number", "12345678901234567890", true},
		{"huge", "9007199254740992", false}, // float64 makes it that number
		{"huge", "9007199254740993", false},
		{"teams", "a", true},
		{"teams", "3", true},
		{"teams", "c", false},
		{"teams", "null", false},
		{"none", "null", false},
		{"none", "", false},
		{"missing", "", false},
		{"realm.roles", "admin", true},
		{"realm.roles", "root", false},
		{"realm.name", "main", true},
		{"realm.deep.er", "x", true},
		{"realm.deep", "x", false},
		{"realm", "main", false},
		{"realm.name.more", "main", false},
		{"department.x", "eng", false},
		{"https://example.com/team", "blue", true},
		{"dotted.name", "whole", true},
		{"dotted.name", "parts", false},
	}
	for _, tt := range tests {
		path, err := sshgate.ParseClaimPath(tt.path)
		if err != nil {
			t.Errorf("ParseClaimPath(%q): %v", tt.path, err)
			continue
		}
		if got := (sshgate.Claim{Path: path, Values: []string{tt.value}}).Matches(request); got != tt.want {
			t.Errorf("claim %s = %s: %v, want %v", tt.path, tt.value, got, tt.want)
		}
	}
}

func TestParseClaimPathRefuses(t *testing.T) {
	for _, path := range []string{
		"", ".", "a..b", ".a", "a.", "a b", "a}", "${a}", "a\"", "caf\u00e9", "a\n",
		"email", "Email", "user.email", "https://example.com/email", "urn:x:email",
	} {
		if got, err := sshgate.ParseClaimPath(path); err == nil {
			t.Errorf("ParseClaimPath(%q) = %q, want an error", path, got)
		}
	}
	for _, path := range []string{"email_verified", "emails_ok", "preferred_username"} {
		if _, err := sshgate.ParseClaimPath(path); err != nil {
			t.Errorf("ParseClaimPath(%q): %v", path, err)
		}
	}
}

func TestAddress(t *testing.T) {
	tests := []struct {
		prefix, addr string
		want         bool
	}{
		{"10.0.0.0/8", "10.255.0.1", true},
		{"10.0.0.0/8", "11.0.0.1", false},
		{"10.0.0.0/8", "::ffff:10.0.0.1", true},
		{"10.0.0.1/32", "10.0.0.1", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "10.0.0.1", false},
		{"2001:db8::/32", "2001:db8:1::1", true},
		{"2001:db8::/32", "2001:db9::1", false},
		{"fe80::/10", "fe80::1%eth0", true},
	}
	for _, tt := range tests {
		selector := sshgate.Address{netip.MustParsePrefix(tt.prefix)}
		if got := selector.Matches(sshgate.Request{ClientAddr: netip.MustParseAddr(tt.addr)}); got != tt.want {
			t.Errorf("%s in %s: %v, want %v", tt.addr, tt.prefix, got, tt.want)
		}
	}
	everywhere := sshgate.Address{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	if everywhere.Matches(sshgate.Request{}) {
		t.Error("a request without an address is in a range")
	}
}

func TestEveryone(t *testing.T) {
	if !(sshgate.Everyone{}).Matches(byEmail("")) {
		t.Error("somebody is not everyone")
	}
	if (sshgate.Everyone{}).Matches(sshgate.Request{}) {
		t.Error("nobody is everyone")
	}
}
