package sshgate_test

import (
	"strings"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

func TestParseTarget(t *testing.T) {
	tests := []struct {
		user, login, origin string
	}{
		{"", "", ""},
		{"alice", "alice", ""},
		{"alice.b_c-d", "alice.b_c-d", ""},
		// Every separator that survives some client.
		{"deploy+web1", "deploy", "web1"},
		{"deploy@web1", "deploy", "web1"},
		{"deploy:web1", "deploy", "web1"},
		{"deploy%web1", "deploy", "web1"},
		{"deploy~web1", "deploy", "web1"},
		{"deploy web1", "deploy", "web1"}, // what `ssh ssh://deploy+web1@gate` sends
		// The default login.
		{"+web1", "", "web1"},
		{"@web1", "", "web1"},
		{" web1", "", "web1"},
		// The origin is the longest suffix of DNS characters.
		{"deploy+web1.example.com", "deploy", "web1.example.com"},
		{"deploy+web1.example.com.", "deploy", "web1.example.com"},
		{"deploy+WEB1.Example.COM", "deploy", "web1.example.com"},
		{"Deploy+web1", "Deploy", "web1"},
		{"deploy+10.0.0.1", "deploy", "10.0.0.1"},
		{"deploy+host_1", "deploy", "host_1"},
		{"a@corp+web1", "a@corp", "web1"},
		{"a+b+web1", "a+b", "web1"},
		{"a+b@web1", "a+b", "web1"},
		{"a~b%c+web1", "a~b%c", "web1"},
		{"++web1", "+", "web1"},
		{"a=b+web1", "a=b", "web1"},
		// A whole 64 byte login and a whole 63 byte label.
		{strings.Repeat("a", 64) + "+" + strings.Repeat("b", 63), strings.Repeat("a", 64), strings.Repeat("b", 63)},
	}
	for _, tt := range tests {
		got, err := sshgate.ParseTarget(tt.user)
		want := sshgate.Target{Login: sshgate.Login(tt.login), Origin: sshgate.OriginName(tt.origin)}
		if err != nil || got != want {
			t.Errorf("ParseTarget(%q) = %+v, %v, want %+v", tt.user, got, err, want)
		}
	}
}

func TestParseTargetRefuses(t *testing.T) {
	tests := []struct {
		user, want string
	}{
		{"deploy#web1", `"#" is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy/web1", `"/" is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy,web1", `"," is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy\tweb1", `"\t" is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy\x00web1", `"\x00" is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy\u00e9web1", `"\xa9" is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy+\u212aelvin", `"\xaa" is not a separator in the user name; use LOGIN+ORIGIN`},
		{"deploy+", "the origin's name is empty; use LOGIN+ORIGIN"},
		{"+", "the origin's name is empty; use LOGIN+ORIGIN"},
		{"deploy+.", "the origin's name is empty; use LOGIN+ORIGIN"},
		{"deploy+web1..", `origin "web1." has an empty label; use LOGIN+ORIGIN`},
		{"deploy+a..b", `origin "a..b" has an empty label; use LOGIN+ORIGIN`},
		{"deploy+-web1", `origin "-web1" has a label that begins or ends with a hyphen; use LOGIN+ORIGIN`},
		{"deploy+web1-", `origin "web1-" has a label that begins or ends with a hyphen; use LOGIN+ORIGIN`},
		{"deploy+" + strings.Repeat("a", 64), `origin "` + strings.Repeat("a", 64) + `" has a label longer than 63 bytes; use LOGIN+ORIGIN`},
		{"deploy+" + strings.Repeat("a.", 127) + "a", "the origin's name is longer than 253 bytes; use LOGIN+ORIGIN"},
		{strings.Repeat("a", 65) + "+web1", "the login is longer than 64 bytes"},
		{strings.Repeat("a", 513), "the user name is longer than 512 bytes; use LOGIN+ORIGIN"},
		{"-oProxyCommand=x+web1", `the login begins with "-"`},
		{"~root+web1", `the login begins with "~"`},
		{"..+web1", `the login ".." is a directory`},
		{"root:x+web1", `the login "root:x" has a character that is not allowed in account names`},
		{"a b+web1", `the login "a b" has a character that is not allowed in account names`},
		{"$(id)+web1", `the login "$(id)" has a character that is not allowed in account names`},
		{"a\x1b[2J+web1", `the login "a\x1b[2J" has a character that is not allowed in account names`},
		{"\u0430lice+web1", `the login "аlice" has a character that is not allowed in account names`},
	}
	for _, tt := range tests {
		got, err := sshgate.ParseTarget(tt.user)
		if err == nil {
			t.Errorf("ParseTarget(%q) = %+v, want error %q", tt.user, got, tt.want)
		} else if err.Error() != tt.want {
			t.Errorf("ParseTarget(%q): %q, want %q", tt.user, err, tt.want)
		}
	}
}

func TestParseOriginName(t *testing.T) {
	longest := strings.Repeat("a.", 126) + "a" // 253 bytes
	for in, want := range map[string]sshgate.OriginName{
		"web1":             "web1",
		"Web1.Example.COM": "web1.example.com",
		"web1.":            "web1",
		longest:            sshgate.OriginName(longest),
		longest + ".":      sshgate.OriginName(longest),
	} {
		if got, err := sshgate.ParseOriginName(in); err != nil || got != want {
			t.Errorf("ParseOriginName(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	// The Kelvin sign and the dotted capital I become ASCII, in part, when they
	// are lowered.
	for _, in := range []string{"", ".", "..", ".web1", "we b1", "web1/", "*.lab", "\u212aelvin", "\u0130stanbul", longest + "a"} {
		if got, err := sshgate.ParseOriginName(in); err == nil {
			t.Errorf("ParseOriginName(%q) = %q, want an error", in, got)
		}
	}
}

func TestTargetString(t *testing.T) {
	for want, target := range map[string]sshgate.Target{
		"":            {},
		"alice":       {Login: "alice"},
		"+web1":       {Origin: "web1"},
		"deploy+web1": {Login: "deploy", Origin: "web1"},
	} {
		if got := target.String(); got != want {
			t.Errorf("%#v.String() = %q, want %q", target, got, want)
		}
	}
}
