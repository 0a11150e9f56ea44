package condition_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/condition"
	"github.com/sshgate/sshgate/sshgate"
)

func example() sshgate.Request {
	return sshgate.Request{
		Identity: sshgate.Identity{
			Issuer: "https://idp.example.com", Subject: "1", Email: "alice@example.com", EmailVerified: true,
			Groups: []string{"ops", "dev"},
			Claims: map[string]any{
				"department": "eng", "level": 7.0, "exact": json.Number("3"), "on_call": true,
				"realm": map[string]any{"roles": []any{"admin"}},
			},
			SignedInAt: time.Date(2026, 7, 6, 9, 0, 0, 0, time.UTC),
		},
		Target:     sshgate.Target{Login: "deploy", Origin: "web1"},
		ClientAddr: netip.MustParseAddr("::ffff:10.1.2.3"),
		Channel:    sshgate.ChannelSession,
		Activity:   sshgate.Activity{Kind: sshgate.ActivityExec, Command: "uptime"},
		Time:       time.Date(2026, 7, 6, 10, 0, 0, 0, time.UTC),
		Key:        sshgate.Key{Type: "sk-ssh-ed25519@openssh.com", Touched: true},
		Country:    "DE", Purpose: "INC-42",
	}
}

func TestHolds(t *testing.T) {
	for source, want := range map[string]bool{
		`true`: true,
		`identity.email == "alice@example.com" && identity.email_verified`: true,
		`identity.email.endsWith("@example.org")`:                          false,
		`"ops" in identity.groups`:                                         true,
		`identity.groups.exists(g, g.startsWith("x"))`:                     false,
		`identity.kind == "" && identity.subject == "1"`:                   true,
		`identity.claims.department == "eng"`:                              true,
		`identity.claims.level >= 7 && identity.claims.exact == 3`:         true,
		`identity.claims.on_call`:                                          true,
		`"admin" in identity.claims.realm.roles`:                           true,
		`has(identity.claims.missing) && identity.claims.missing == 1`:     false,
		`request.origin == "web1" && request.login == "deploy"`:            true,
		`request.channel == "session" && request.activity.kind == "exec"`:  true,
		`request.activity.command.matches("^up[a-z]*$")`:                   true,
		`request.activity.write`:                                           false,
		`cidr("10.0.0.0/8").containsIP(request.address)`:                   true,
		`request.time - identity.signed_in < duration("2h")`:               true,
		`request.time.getHours("Europe/Berlin") == 12`:                     true,
		`request.key_type.startsWith("sk-") && request.key_touched`:        true,
		`request.key_verified`:                                             false,
		`request.country in ["DE", "AT"]`:                                  true,
		`request.purpose.matches("^INC-[0-9]+$")`:                          true,
		`request.port == 0`:                                                true,
	} {
		c, err := condition.Compile(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if got, err := c.Holds(example()); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", source, got, err, want)
		}
		if c.String() != source {
			t.Errorf("%s prints as %s", source, c)
		}
	}
}

func TestUnverifiedAddressIsNotThere(t *testing.T) {
	c, err := condition.Compile(`identity.email == ""`)
	if err != nil {
		t.Fatal(err)
	}
	r := example()
	r.Identity.EmailVerified = false
	if holds, err := c.Holds(r); !holds || err != nil {
		t.Errorf("%v, %v", holds, err)
	}
}

func TestCannotBeTold(t *testing.T) {
	for _, source := range []string{
		`identity.claims.missing == "x"`,
		`identity.claims.department`,
		`identity.claims.department > 3`,
		`1 / request.port == 1`,
		`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, a + b + c + d + e + request.port > 0)))))`,
	} {
		c, err := condition.Compile(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if holds, err := c.Holds(example()); err == nil {
			t.Errorf("%s: %v, want an error", source, holds)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, tt := range []struct {
		source, text string
		line, column int
	}{
		{"", "Syntax error", 1, 1},
		{"identity.emial == 'x'", "undefined field 'emial'", 1, 9},
		{"true &&\n  user.email == 'x'", "undeclared reference to 'user'", 2, 3},
		{"identity.email == 3", "no matching overload", 1, 16},
		{"identity.email", "yields a value of type string", 1, 1},
		{"request.activity.destinaton == ''", "undefined field 'destinaton'", 1, 17},
		{"true && (", "Syntax error", 1, 10},
		{strings.Repeat("true && ", 1000) + "true", "size", 1, 1},
	} {
		_, err := condition.Compile(tt.source)
		var at *condition.Error
		if !errors.As(err, &at) {
			t.Errorf("%.40q: %v, want an *Error", tt.source, err)
			continue
		}
		if line, column := at.Place(); !strings.Contains(err.Error(), tt.text) || line != tt.line || column != tt.column {
			t.Errorf("%.40q: %d:%d: %v, want %d:%d: %s", tt.source, line, column, err, tt.line, tt.column, tt.text)
		}
	}
}
