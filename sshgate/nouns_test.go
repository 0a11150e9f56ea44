package sshgate_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

func TestIdentity(t *testing.T) {
	verified, unverified := alice(), bob()
	if got := verified.VerifiedEmail(); got != "alice@example.com" {
		t.Errorf("verified: %q", got)
	}
	if got := unverified.VerifiedEmail(); got != "" {
		t.Errorf("not verified: %q", got)
	}
	if verified.String() != "alice@example.com" || unverified.String() != "bob-1" {
		t.Errorf("names are %q and %q", verified, unverified)
	}
	renamed := verified
	renamed.Email, renamed.EmailVerified, renamed.Groups = "a.smith@example.com", false, nil
	if renamed.Key() != verified.Key() {
		t.Error("another address makes another person")
	}
	elsewhere := verified
	elsewhere.Issuer = "https://other.example.com"
	if elsewhere.Key() == verified.Key() {
		t.Error("the same subject at another provider is the same person")
	}
}

// A stored identity is decided like a fresh one.
func TestIdentitySurvivesJSON(t *testing.T) {
	data, err := json.Marshal(alice())
	if err != nil {
		t.Fatal(err)
	}
	var stored sshgate.Identity
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	policy := companyPolicy()
	for _, target := range []string{"root+db1", "+a.lab.example.com", "+hsm"} {
		if before, after := policy.Decide(ask(alice(), target)), policy.Decide(ask(stored, target)); before != after {
			t.Errorf("%s: %+v, stored %+v", target, before, after)
		}
	}
}

func TestDenied(t *testing.T) {
	cause := errors.New("no rule of application \"db\" allows bob")
	denied := &sshgate.Denied{RequestID: "r-abc", Sentence: "you may not connect there", Cause: cause}
	if got := denied.UserMessage(); got != "you may not connect there (request r-abc)" {
		t.Errorf("for the user: %q", got)
	}
	if denied.Error() != cause.Error() || !errors.Is(denied, cause) {
		t.Errorf("for the log: %q", denied)
	}
	denied.Cause = nil
	if denied.Error() != denied.Sentence {
		t.Errorf("without a cause: %q", denied)
	}
}

func TestIDs(t *testing.T) {
	form := regexp.MustCompile(`^[rc]-[2-9a-km-np-z]{10}$`)
	seen := map[string]bool{}
	for range 1000 {
		for _, id := range []string{string(sshgate.NewRequestID()), string(sshgate.NewConnectionID())} {
			if !form.MatchString(id) || seen[id] {
				t.Fatalf("%q is taken, or has not the form %v", id, form)
			}
			seen[id] = true
		}
	}
}

func TestEventJSON(t *testing.T) {
	data, err := json.Marshal(sshgate.Event{Time: noon, Kind: sshgate.EventLoginStart})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(data), `{"time":"2026-05-04T12:00:00Z","kind":"login.start"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	event := sshgate.Event{
		Time: noon, Kind: sshgate.EventSessionEnd, ClientAddr: netip.MustParseAddr("192.0.2.7"), Duration: time.Second,
	}.By(alice())
	data, err = json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"issuer":"https://idp.example.com"`, `"subject":"alice-1"`, `"identity":"alice@example.com"`,
		`"client":"192.0.2.7"`, `"duration":1000000000`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %s", data, want)
		}
	}
}
