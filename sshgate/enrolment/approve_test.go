package enrolment_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
)

// What people may hand out, and what of it a machine gets.
func TestApprove(t *testing.T) {
	for name, tt := range map[string]struct {
		asked, given []string
		change       func(*enrolment.Approval)
		rule, code   string
	}{
		"what it asks for":            {asked: []string{"web1", "*.lab"}, given: []string{"web1", "*.lab"}, rule: "ops"},
		"some of it":                  {asked: []string{"web1", "web2"}, given: []string{"web2"}, rule: "ops"},
		"twice":                       {asked: []string{"web1", "web1"}, given: []string{"web1", "web1"}, rule: "ops"},
		"a name of a wildcard":        {given: []string{"a.b.lab"}, rule: "ops"},
		"a wildcard in a wildcard":    {given: []string{"*.b.lab"}, rule: "ops"},
		"by two rules":                {given: []string{"web1", "a.desk"}, rule: "ops, desks"},
		"nothing":                     {asked: []string{"web1"}, code: enrolment.CodeBadRequest},
		"more than it asks for":       {asked: []string{"web1"}, given: []string{"web1", "web2"}, code: enrolment.CodeBadRequest},
		"less of a wildcard":          {asked: []string{"*.lab"}, given: []string{"a.lab"}, code: enrolment.CodeBadRequest},
		"a wildcard for a name":       {asked: []string{"web1"}, given: []string{"*"}, code: enrolment.CodeBadRequest},
		"what no rule names":          {asked: []string{"web3"}, given: []string{"web3"}, code: enrolment.CodeDenied},
		"everything":                  {asked: []string{"*"}, given: []string{"*"}, code: enrolment.CodeDenied},
		"the domain of a wildcard":    {given: []string{"lab"}, code: enrolment.CodeDenied},
		"one of two":                  {given: []string{"web1", "web3"}, code: enrolment.CodeDenied},
		"a bad name":                  {given: []string{"web1"}, change: func(y *enrolment.Approval) { y.Name = "A b" }, code: enrolment.CodeBadRequest},
		"from outside":                {given: []string{"a.desk"}, change: func(y *enrolment.Approval) { y.Address = machineAddr }, code: enrolment.CodeDenied},
		"not of ops":                  {given: []string{"web1"}, change: func(y *enrolment.Approval) { y.Identity.Groups = nil }, code: enrolment.CodeDenied},
		"a machine":                   {given: []string{"web1"}, change: func(y *enrolment.Approval) { y.Identity.Kind = sshgate.ServiceToken }, code: enrolment.CodeDenied},
		"after the sign-in's end":     {given: []string{"web1"}, change: func(y *enrolment.Approval) { y.Identity.SignedInAt = time.Now().Add(-2 * time.Hour) }, code: enrolment.CodeDenied},
		"by nobody":                   {given: []string{"web1"}, change: func(y *enrolment.Approval) { y.Identity = sshgate.Identity{} }, code: enrolment.CodeDenied},
		"with another name than asks": {given: []string{"web1"}, change: func(y *enrolment.Approval) { y.Name = "other" }, rule: "ops"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			p, code := b.ask(wish("", tt.asked...))
			yes := enrolment.Approval{Person: b.person("alice"), Hostnames: patterns(tt.given...)}
			if tt.change != nil {
				tt.change(&yes)
			}
			err := b.Approve(t.Context(), p, yes)
			event := b.last()
			if event.Kind != sshgate.EventEnrolment || event.Subject != yes.Identity.Subject || event.Rule != tt.rule && tt.code == "" || event.Allowed != (tt.code == "") ||
				event.ClientAddr != machineAddr || yes.Identity.Subject != "" && !strings.Contains(event.Detail, "answered from "+yes.Address.String()) {
				t.Errorf("on record: %+v", event)
			}
			recs := must(b.store.Connectors(t.Context()))
			if tt.code != "" {
				wantRefused(t, err, tt.code, "")
				if len(recs) != 0 {
					t.Errorf("noted: %+v", recs)
				}
				if _, err := b.Find(p.UserCode); err != nil {
					t.Errorf("it waits no longer: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			cert := must(b.Wait(t.Context(), code))
			b.checkIssued(cert, recs, yes)
		})
	}
}

// checkIssued compares a certificate with its record and who let it in.
func (b *bench) checkIssued(cert *x509.Certificate, recs []sshgate.ConnectorRecord, yes enrolment.Approval) {
	b.t.Helper()
	want := slices.Compact(slices.Clone(yes.Hostnames))
	if len(recs) != 1 || !slices.Equal(patterns(cert.DNSNames...), want) || !slices.Equal(patterns(recs[0].Hostnames...), want) {
		b.t.Fatalf("%v, noted %+v", cert.DNSNames, recs)
	}
	name := yes.Name
	if name == "" {
		name = "box"
	}
	rec := recs[0]
	if cert.Subject.CommonName != name || rec.Connector != name || rec.Serial != cert.SerialNumber.Text(16) || rec.Via != sshgate.ViaSignIn || rec.Machine != "box.example.com" ||
		rec.Address != machineAddr || !rec.ApprovedBy(yes.Identity) || !rec.ExpiresAt.Equal(cert.NotAfter) || cert.NotAfter.Sub(b.clock.Now()) != 30*24*time.Hour {
		b.t.Errorf("%s until %s, noted %+v", cert.Subject, cert.NotAfter, rec)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: b.ca.Pool(), CurrentTime: b.clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		b.t.Error(err)
	}
	if !strings.Contains(b.last().Reason, rec.Serial) {
		b.t.Errorf("on record: %+v", b.last())
	}
}

func TestOffer(t *testing.T) {
	b := newBench(t)
	p, _ := b.ask(wish("", "web1", "web3"))
	offer := must(b.Offer(t.Context(), p, b.person("alice"), ""))
	if want := []enrolment.Asked{{Hostname: patterns("web1")[0], Rule: "ops"}, {Hostname: patterns("web3")[0]}}; !slices.Equal(offer.Asked, want) || offer.Domains != nil {
		t.Errorf("%+v", offer)
	}
	open, _ := b.ask(wish(""))
	offer = must(b.Offer(t.Context(), open, b.person("alice"), ""))
	if !slices.Equal(offer.Domains, patterns("web1", "web2", "*.lab", "*.desk")) || !slices.Equal(offer.Proposed, []sshgate.OriginName{"box.lab", "box.desk"}) || !offer.Replica.IsZero() {
		t.Errorf("%+v", offer)
	}
	outside := b.person("eve")
	outside.Identity.Groups, outside.Address = nil, machineAddr
	_, err := b.Offer(t.Context(), p, outside, "")
	wantRefused(t, err, enrolment.CodeDenied, "no publish rule")
	if e := b.last(); e.Allowed || e.Identity != "eve@example.com" || !strings.Contains(e.Reason, "no publish rule") {
		t.Errorf("on record: %+v", e)
	}
	b.policy.Publish = nil
	_, err = b.Offer(t.Context(), p, b.person("alice"), "")
	wantRefused(t, err, enrolment.CodeDenied, "no publish rule")
	wantRefused(t, b.yes(p, "alice", "web1"), enrolment.CodeDenied, "web1")
}

func TestNamesAndReplicas(t *testing.T) {
	b := newBench(t)
	first := b.letIn("alice", "rack", "web1")
	p, code := b.ask(wish("rack"))
	wantRefused(t, b.yes(p, "bob", "web2"), enrolment.CodeNameTaken, "another connector is called rack")
	replica := enrolment.Approval{Person: b.person("bob"), Hostnames: patterns("web2"), Replica: true}
	wantRefused(t, b.Approve(t.Context(), p, replica), enrolment.CodeNameTaken, "another connector is called rack")
	wantRefused(t, b.yes(p, "alice", "web1"), enrolment.CodeNameTaken, "say that this is a replica")
	if got := must(b.Offer(t.Context(), p, b.person("alice"), "")).Replica; got.IsZero() {
		t.Error("alice is not told that it may be a replica of hers")
	}
	if got := must(b.Offer(t.Context(), p, b.person("bob"), "")).Replica; !got.IsZero() {
		t.Error("bob is told that it may be a replica of his")
	}
	replica.Person, replica.Hostnames = b.person("alice"), patterns("web1")
	if err := b.Approve(t.Context(), p, replica); err != nil {
		t.Fatal(err)
	}
	if second := must(b.Wait(t.Context(), code)); second.Subject.CommonName != "rack" || second.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Errorf("the replica: %v", second.Subject)
	}
	other, _ := b.ask(wish("other"))
	if got := must(b.Offer(t.Context(), other, b.person("alice"), "rack")).Replica; got.IsZero() {
		t.Error("alice is not told of the name that she chose")
	}
}

// A hostname belongs to who has a certificate for it, or published it first.
func TestHostnamesOfOthers(t *testing.T) {
	b := newBench(t)
	b.letIn("alice", "one", "web1", "*.lab")
	p, _ := b.ask(wish("two"))
	wantRefused(t, b.yes(p, "alice", "web1"), enrolment.CodeOwned, "sshgated connector revoke one")
	if err := b.yes(p, "alice", "a.lab"); err != nil {
		t.Errorf("a name in a wildcard that another has: %v", err)
	}
	b.claim("b.lab", "one")
	p, _ = b.ask(wish("three"))
	wantRefused(t, b.yes(p, "bob", "b.lab"), enrolment.CodeOwned, "sshgated connector release b.lab")
	if err := b.store.ReleaseOrigin(t.Context(), "b.lab"); err != nil {
		t.Fatal(err)
	}
	if err := b.yes(p, "bob", "b.lab"); err != nil {
		t.Errorf("what was released: %v", err)
	}
	b.claim("c.lab", "one")
	b.revoke("one")
	b.letIn("bob", "four", "web1", "c.lab")
}

func TestApproveAtOnce(t *testing.T) {
	b := newBench(t)
	var errs [8]error
	var all sync.WaitGroup
	for i := range errs {
		p, _ := b.ask(wish("same"))
		all.Go(func() { errs[i] = b.yes(p, string(rune('a'+i)), "*.lab") })
	}
	all.Wait()
	granted := 0
	for _, err := range errs {
		if err == nil {
			granted++
			continue
		}
		wantRefused(t, err, enrolment.CodeNameTaken, "")
	}
	if granted != 1 || len(must(b.store.Connectors(t.Context()))) != 1 {
		t.Errorf("%d were granted the same name", granted)
	}
}

func TestAnsweredOnce(t *testing.T) {
	b := newBench(t)
	p, code := b.ask(wish("a", "web1"))
	if err := b.yes(p, "alice", "web1"); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, b.yes(p, "alice", "web1"), enrolment.CodeUnknown, "")
	n := len(b.events.Events())
	b.Deny(p, b.person("bob"), true)
	if len(b.events.Events()) != n {
		t.Errorf("a denial that changes nothing is on record: %+v", b.last())
	}
	one, two := must(b.Wait(t.Context(), code)), must(b.Wait(t.Context(), code))
	if !one.Equal(two) {
		t.Error("fetched again, it is another certificate")
	}

	p, code = b.ask(wish("b", "web2"))
	b.Deny(p, b.person("alice"), true)
	if e := b.last(); e.Allowed || e.Subject != "s-alice" || !strings.Contains(e.Reason, "suspicious") {
		t.Errorf("on record: %+v", e)
	}
	wantRefused(t, b.yes(p, "alice", "web2"), enrolment.CodeUnknown, "")
	_, err := b.Wait(t.Context(), code)
	wantRefused(t, err, enrolment.CodeDenied, "said no")
	if strings.Contains(err.Error(), "alice") {
		t.Errorf("the machine is told who looked at it: %v", err)
	}
}

func TestWait(t *testing.T) {
	b := newBench(t)
	_, err := b.Wait(t.Context(), "nonsense")
	wantRefused(t, err, enrolment.CodeUnknown, "")
	p, code := b.ask(wish("a", "web1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Wait(ctx, code); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := b.yes(p, "alice", "web1"); err != nil {
		t.Errorf("after a wait that was given up: %v", err)
	}
	_, code = b.ask(wish("b", "web2"))
	ended := make(chan error, 1)
	go func() {
		_, err := b.Wait(context.Background(), code)
		ended <- err
	}()
	b.Close()
	select {
	case err := <-ended:
		var refused *enrolment.Refused // that the gateway ends, or, to who comes after it, that it knows nothing
		if !errors.As(err, &refused) {
			t.Errorf("who waits when it closes gets %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Close leaves who waits")
	}
	_, _, err = b.Ask(wish("c"))
	wantRefused(t, err, enrolment.CodeUnavailable, "")
	_, err = b.Wait(t.Context(), code)
	wantRefused(t, err, enrolment.CodeUnknown, "")
	b.Close()
}

// A store that fails says nothing of itself to a machine or a page.
func TestStoreFails(t *testing.T) {
	b := newBench(t)
	p, _ := b.ask(wish("a", "web1"))
	hash, _ := b.token("", 1, "web1")
	b.store.err = errors.New("disk on fire")
	_, offered := b.Offer(t.Context(), p, b.person("alice"), "")
	_, joined := b.Join(t.Context(), hash, wish("b"))
	for _, err := range []error{b.yes(p, "alice", "web1"), offered, joined} {
		wantRefused(t, err, enrolment.CodeUnavailable, "try again")
		if strings.Contains(err.Error(), "fire") {
			t.Errorf("%v", err)
		}
	}
	b.store.err = nil
	if err := b.yes(p, "alice", "web1"); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}
