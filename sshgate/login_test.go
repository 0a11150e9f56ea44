package sshgate_test

import (
	"strings"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

func mustTemplate(s string) sshgate.LoginTemplate {
	t, err := sshgate.ParseLoginTemplate(s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestLoginTemplateExpand(t *testing.T) {
	id := sshgate.Identity{
		Subject: "1", Email: "alice@example.com", EmailVerified: true,
		Claims: map[string]any{
			"unix": "alice", "posix": map[string]any{"name": "al"}, "https://example.com/unix": "url",
			"root": "root", "Root": "ROOT", "ro": "ro", "ot": "ot", "uid": "1000", "zero": "0", "number": 1000.0, "yes": true,
			"empty": "", "null": nil, "list": []any{"alice"}, "mail": "alice@example.com", "at": "@",
			"style": "root:x", "dash": "-x", "space": "a b", "newline": "alice\n", "long": strings.Repeat("a", 65),
			"path": "../x", "shell": "$(id)", "unicode": "\u0430lice", "reference": "${claims.unix}", "star": "*",
		},
	}
	tests := []struct {
		template string
		want     sshgate.Login // empty: an error
	}{
		{"deploy", "deploy"},
		{"root", "root"}, // somebody wrote it on purpose
		{"1000", "1000"},
		{"a@corp", "a@corp"},
		{"${claims.unix}", "alice"},
		{"${claims.posix.name}", "al"},
		{"${claims.https://example.com/unix}", "url"},
		{"adm-${claims.unix}", "adm-alice"},
		{"${claims.unix}.${claims.posix.name}-x", "alice.al-x"},
		{"u${claims.uid}", "u1000"},
		{"*", ""},
		{"${claims.missing}", ""},
		{"adm-${claims.missing}", ""},
		{"adm-${claims.empty}", ""},
		{"adm-${claims.null}", ""},
		{"adm-${claims.number}", ""},
		{"${claims.yes}", ""},
		{"${claims.list}", ""},
		{"${claims.posix}", ""},
		{"${claims.root}", ""},
		{"${claims.Root}", ""},
		{"${claims.ro}${claims.ot}", ""},
		{"ro${claims.ot}", ""},
		{"${claims.uid}", ""},
		{"${claims.zero}", ""},
		{"0${claims.zero}", ""},
		{"${claims.mail}", ""},
		{"${claims.unix}${claims.at}", ""},
		{"${claims.style}", ""},
		{"${claims.dash}", ""},
		{"${claims.space}", ""},
		{"${claims.newline}", ""},
		{"${claims.long}", ""},
		{"${claims.path}", ""},
		{"${claims.shell}", ""},
		{"${claims.unicode}", ""},
		{"${claims.reference}", ""},
		{"${claims.star}", ""},
	}
	for _, tt := range tests {
		got, err := mustTemplate(tt.template).Expand(id)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v, want %q", tt.template, got, err, tt.want)
		}
	}
	if got, err := (sshgate.LoginTemplate{}).Expand(id); err == nil {
		t.Errorf("the zero template yields %q", got)
	}
}

func TestParseLoginTemplateRefuses(t *testing.T) {
	tests := []struct{ template, want string }{
		{"", "the login is empty"},
		{"${claims.unix", `the login "${claims.unix" has ${ without its }`},
		{"a${", `the login "a${" has ${ without its }`},
		{"${}", "the reference ${} is unknown; use ${claims.NAME}"},
		{"${unix}", "the reference ${unix} is unknown; use ${claims.NAME}"},
		{"${email}", "the reference ${email} is unknown; use ${claims.NAME}"},
		{"${claims.}", "the reference ${claims.}: the claim's name is empty"},
		{"${claims.email}", `the reference ${claims.email}: the claim "email" may be an address that nobody verified`},
		{"${claims.user.email}", `the reference ${claims.user.email}: the claim "user.email" may be an address that nobody verified`},
		{"**", `the login "**" has a character that is not allowed in account names`},
		{"dev*", `the login "dev*" has a character that is not allowed in account names`},
		{"$claims.x", `the login "$claims.x" has a character that is not allowed in account names`},
		{"a b", `the login "a b" has a character that is not allowed in account names`},
		{"-x", `the login begins with "-"`},
		{strings.Repeat("a", 513), "the login is longer than 512 bytes"},
	}
	for _, tt := range tests {
		if _, err := sshgate.ParseLoginTemplate(tt.template); err == nil || err.Error() != tt.want {
			t.Errorf("ParseLoginTemplate(%q): %v, want %q", tt.template, err, tt.want)
		}
	}
}
