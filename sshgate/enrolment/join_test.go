package enrolment_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
)

func TestAskRefuses(t *testing.T) {
	b := newBench(t)
	many := wish("a")
	for i := range 101 {
		many.Hostnames = append(many.Hostnames, patterns(fmt.Sprintf("h%d.lab", i))...)
	}
	bad, forged := wish("a"), wish("a")
	bad.Request = []byte("nonsense")
	forged.Request[len(forged.Request)-1] ^= 1
	for name, w := range map[string]enrolment.Wish{"hostnames": many, "no request": {}, "bad request": bad, "not its key": forged, "a name": wish("A"), "a long name": wish(strings.Repeat("a", 65))} {
		_, _, err := b.Ask(w)
		if err == nil {
			t.Errorf("%s: taken in", name)
			continue
		}
		wantRefused(t, err, enrolment.CodeBadRequest, "")
	}
}

// What a machine says of itself is one short line of text, whatever it was.
func TestMachineIsText(t *testing.T) {
	b := newBench(t)
	for machine, name := range map[string]string{
		"Web_1.Example.COM": "web_1", "": "connector", "\x1b[2Jéclair\r\n": "2j-clair", "...": "connector", strings.Repeat("a", 300): strings.Repeat("a", 64),
	} {
		w := wish("")
		w.Machine, w.Software = machine, machine
		p, _ := b.ask(w)
		if p.Name != name {
			t.Errorf("%q is called %q, want %q", machine, p.Name, name)
		}
		for _, text := range []string{p.Machine, p.Software, b.last().Detail} {
			if len(text) > 200 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q", text)
			}
		}
	}
}

func TestUserCodes(t *testing.T) {
	b := newBench(t)
	p, _ := b.ask(wish("a"))
	for _, typed := range []string{p.UserCode, strings.ToLower(p.UserCode), strings.ReplaceAll(p.UserCode, "-", " "), " " + p.UserCode + "\n"} {
		if found, err := b.Find(typed); err != nil || found != p {
			t.Errorf("%q: %v", typed, err)
		}
	}
	for _, typed := range []string{"", "BBBB-BBBB", p.UserCode[:8], p.UserCode + "B", "😀"} {
		if _, err := b.Find(typed); err == nil {
			t.Errorf("%q is found", typed)
		}
	}
}

// A wish that nobody answers ends, and so does the answer that nobody fetches.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		p, code := b.ask(wish("a", "web1"))
		time.Sleep(enrolment.Lifetime - time.Second)
		synctest.Wait()
		if _, err := b.Find(p.UserCode); err != nil {
			t.Errorf("before its end: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		_, err := b.Wait(t.Context(), code)
		wantRefused(t, err, enrolment.CodeExpired, "nobody")
		wantRefused(t, b.yes(p, "alice", "web1"), enrolment.CodeUnknown, "")
		if e := b.events.Events()[1]; e.Allowed || e.Reason != "nobody answered in time" || e.Identity != "connector a" {
			t.Errorf("on record: %+v", e)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		_, err = b.Wait(t.Context(), code)
		wantRefused(t, err, enrolment.CodeUnknown, "")
	})
}

func TestTooManyWait(t *testing.T) {
	b := newBench(t)
	desk := must(enrolment.New(enrolment.Config{Policy: func() *sshgate.Policy { return b.policy }, CA: b.ca, Store: b.store, Events: b.events, MaxPending: 1}))
	defer desk.Close()
	if _, _, err := desk.Ask(wish("a")); err != nil {
		t.Fatal(err)
	}
	_, _, err := desk.Ask(wish("b"))
	wantRefused(t, err, enrolment.CodeTooMany, "")
}

func TestJoin(t *testing.T) {
	b := newBench(t)
	hash, id := b.token("", 2, "web1", "*.lab")
	cert, err := b.Join(t.Context(), hash, wish("", "a.lab"))
	if err != nil || cert.Subject.CommonName != "box" || !slices.Equal(cert.DNSNames, []string{"a.lab"}) {
		t.Fatalf("%v, %v", cert, err)
	}
	rec := must(b.store.Connector(t.Context(), cert.SerialNumber.Text(16)))
	if rec.Via != sshgate.ViaToken || rec.JoinToken != id || rec.ApproverSubject != "" || rec.Machine != "box.example.com" || rec.Address != machineAddr {
		t.Errorf("noted: %+v", rec)
	}
	if e := b.last(); !e.Allowed || e.Kind != sshgate.EventEnrolment || e.Identity != "connector box" || !strings.Contains(e.Detail, string(id)) || !strings.Contains(e.Detail, "a.lab") {
		t.Errorf("on record: %+v", e)
	}
	_, err = b.Join(t.Context(), hash, wish("")) // its name is another's now
	wantRefused(t, err, enrolment.CodeNameTaken, "--name")
	_, err = b.Join(t.Context(), hash, wish("other", "web2"))
	wantRefused(t, err, enrolment.CodeDenied, "not for web2, only for web1 *.lab")
	_, err = b.Join(t.Context(), hash, wish("other", "*"))
	wantRefused(t, err, enrolment.CodeDenied, "")
	cert, err = b.Join(t.Context(), hash, wish("other")) // refusals cost nothing
	if err != nil || !slices.Equal(cert.DNSNames, []string{"web1", "*.lab"}) {
		t.Fatalf("all that the token has: %v, %v", cert, err)
	}
	fixed, _ := b.token("fleet", 2, "*.fleet")
	for range 2 {
		if cert, err := b.Join(t.Context(), fixed, wish("mine")); err != nil || cert.Subject.CommonName != "fleet" {
			t.Errorf("a token with a name: %v, %v", cert, err)
		}
	}
}

// A token that is no longer good says the same whatever is wrong with it, and what is
// asked: who has an old one learns no names.
func TestJoinWithABadToken(t *testing.T) {
	b := newBench(t)
	b.letIn("alice", "taken", "web2")
	spent, _ := b.token("", 1, "web1")
	if _, err := b.Join(t.Context(), spent, wish("one")); err != nil {
		t.Fatal(err)
	}
	revoked, id := b.token("", 1, "web1")
	if err := b.store.RevokeJoinToken(t.Context(), id, b.clock.Now()); err != nil {
		t.Fatal(err)
	}
	expired, _ := b.token("", 1, "web1")
	b.clock.pass(time.Hour)
	for name, hash := range map[string][]byte{"spent": spent, "revoked": revoked, "expired": expired, "none": nil, "unknown": make([]byte, 32), "short": {1}} {
		for _, w := range []enrolment.Wish{wish("two"), wish("taken"), wish("two", "web2")} {
			_, err := b.Join(t.Context(), hash, w)
			wantRefused(t, err, enrolment.CodeBadToken, "sshgated connector token create")
			if e := b.last(); e.Allowed || e.Kind != sshgate.EventEnrolment || e.ClientAddr != machineAddr || strings.HasSuffix(e.Detail, "join token ") {
				t.Errorf("%s, on record: %+v", name, e)
			}
		}
	}
	if n := len(must(b.store.Connectors(t.Context()))); n != 2 {
		t.Errorf("%d certificates are noted", n)
	}
}

func TestJoinAtOnce(t *testing.T) {
	b := newBench(t)
	hash, _ := b.token("", 3, "*.lab")
	var errs [8]error
	var all sync.WaitGroup
	for i := range errs {
		w := wish(fmt.Sprintf("m%d", i))
		all.Go(func() { _, errs[i] = b.Join(t.Context(), hash, w) })
	}
	all.Wait()
	in := 0
	for _, err := range errs {
		if err == nil {
			in++
			continue
		}
		wantRefused(t, err, enrolment.CodeBadToken, "")
	}
	if in != 3 {
		t.Errorf("%d joined with a token for 3", in)
	}
}

func TestRenew(t *testing.T) {
	b := newBench(t)
	leaf := b.letIn("alice", "rack", "web1", "*.lab")
	request := enrolment.Wish{Request: wish("").Request, Address: machineAddr}
	b.clock.pass(15*24*time.Hour - time.Second)
	_, err := b.Renew(t.Context(), leaf, request)
	wantRefused(t, err, enrolment.CodeTooEarly, "second half")
	b.clock.pass(time.Second)
	b.policy.Publish = nil // renewal asks no person
	cert, err := b.Renew(t.Context(), leaf, enrolment.Wish{Request: request.Request, Name: "evil", Machine: "evil", Hostnames: patterns("*"), Address: machineAddr})
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "rack" || !slices.Equal(cert.DNSNames, leaf.DNSNames) || cert.NotAfter.Sub(b.clock.Now()) != 30*24*time.Hour {
		t.Errorf("renewed: %s %v until %s", cert.Subject, cert.DNSNames, cert.NotAfter)
	}
	if want := must(x509.ParseCertificateRequest(request.Request)); string(cert.RawSubjectPublicKeyInfo) != string(want.RawSubjectPublicKeyInfo) {
		t.Error("it is for another key")
	}
	before, rec := must(b.store.Connector(t.Context(), leaf.SerialNumber.Text(16))), must(b.store.Connector(t.Context(), cert.SerialNumber.Text(16)))
	if rec.Via != sshgate.ViaRenewal || rec.Renews != before.Serial || !rec.ApprovedBy(b.person("alice").Identity) || rec.Approver != before.Approver || rec.Machine != before.Machine {
		t.Errorf("noted: %+v", rec)
	}
	if e := b.last(); !e.Allowed || e.Identity != "connector rack" || !strings.Contains(e.Reason, before.Serial) || !strings.Contains(e.Reason, rec.Serial) || !strings.Contains(e.Detail, "box.example.com") {
		t.Errorf("on record: %+v", e)
	}
	_, err = b.Renew(t.Context(), cert, enrolment.Wish{Request: []byte("x")})
	wantRefused(t, err, enrolment.CodeTooEarly, "")
	b.clock.pass(20 * 24 * time.Hour)
	_, err = b.Renew(t.Context(), cert, enrolment.Wish{Request: []byte("x")})
	wantRefused(t, err, enrolment.CodeBadRequest, "PKCS#10")
	_, err = b.Renew(t.Context(), leaf, request) // the handshake was before its end
	wantRefused(t, err, enrolment.CodeEnded, "has expired")
}

func TestRenewRevoked(t *testing.T) {
	b := newBench(t)
	leaf := b.letIn("alice", "rack", "web1")
	b.clock.pass(20 * 24 * time.Hour)
	b.store.before = func() { b.revoke("rack") } // just now
	_, err := b.Renew(t.Context(), leaf, wish(""))
	wantRefused(t, err, enrolment.CodeRevoked, "sshgate connector login --force")
	b.store.before = nil
	_, err = b.Renew(t.Context(), leaf, wish(""))
	wantRefused(t, err, enrolment.CodeRevoked, "")
	if e := b.last(); e.Allowed || !strings.Contains(e.Reason, "not renewed") {
		t.Errorf("on record: %+v", e)
	}
	if n := len(must(b.store.Connectors(t.Context()))); n != 1 {
		t.Errorf("%d certificates are noted", n)
	}
}

// A certificate that was issued before they were noted is renewed, and noted then.
func TestRenewUnnoted(t *testing.T) {
	b := newBench(t)
	leaf := must(b.ca.SignConnector(wish("").Request, "old", []string{"web1"}, 10*24*time.Hour))
	b.clock.pass(6 * 24 * time.Hour)
	cert, err := b.Renew(t.Context(), leaf, wish(""))
	if err != nil {
		t.Fatal(err)
	}
	if life := cert.NotAfter.Sub(b.clock.Now()); life < 10*24*time.Hour || life > 10*24*time.Hour+time.Hour {
		t.Errorf("good for %s", life)
	}
	rec := must(b.store.Connector(t.Context(), cert.SerialNumber.Text(16)))
	if rec.Connector != "old" || rec.Renews != leaf.SerialNumber.Text(16) || rec.ApproverSubject != "" {
		t.Errorf("noted: %+v", rec)
	}
}

// What goes on record lets nobody in.
func TestNothingSecretOnRecord(t *testing.T) {
	b := newBench(t)
	p, device := b.ask(wish("a", "web1"))
	if err := b.yes(p, "alice", "web1"); err != nil {
		t.Fatal(err)
	}
	denied, device2 := b.ask(wish("b", "web2"))
	b.Deny(denied, b.person("alice"), false)
	hash, _ := b.token("", 1, "*.lab")
	_, err1 := b.Join(t.Context(), hash, wish("c"))
	_, err2 := b.Join(t.Context(), hash, wish("d"))
	if err1 != nil || err2 == nil {
		t.Fatal(errors.Join(err1, err2))
	}
	if n := len(b.events.Events()); n != 6 {
		t.Errorf("%d events, want 6", n)
	}
	for _, e := range b.events.Events() {
		text := fmt.Sprintf("%+v", e)
		for _, secret := range []string{device, device2, p.UserCode, denied.UserCode, fmt.Sprintf("%x", hash), string(hash)} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is on record: %s", text)
			}
		}
		if e.Time.IsZero() || e.Request == "" || e.ClientAddr != machineAddr {
			t.Errorf("incomplete: %s", text)
		}
	}
}
