package enrolment_test

import (
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate/enrolment"
)

// Whoever says no while another says yes comes too late: a certificate that was noted
// reaches its machine.
func TestDenyWhileApproving(t *testing.T) {
	b := newBench(t)
	p, code := b.ask(wish("a", "web1"))
	denied := make(chan struct{})
	b.store.before = func() {
		go func() {
			b.Deny(p, b.person("bob"), false)
			close(denied)
		}()
		select {
		case <-denied:
		case <-time.After(50 * time.Millisecond): // it waits, as it should
		}
	}
	if err := b.yes(p, "alice", "web1"); err != nil {
		t.Errorf("approve: %v", err)
	}
	<-denied
	cert, err := b.Wait(t.Context(), code)
	if err != nil {
		t.Fatalf("the machine got %v, and a certificate is noted", err)
	}
	recs := must(b.store.Connectors(t.Context()))
	if len(recs) != 1 || recs[0].Serial != cert.SerialNumber.Text(16) {
		t.Errorf("noted: %+v", recs)
	}
	if e := b.last(); !e.Allowed || e.Identity != "alice@example.com" {
		t.Errorf("the last event: %+v", e)
	}
}

// Origins belong to a connector's name. Nobody has them by taking the name of one
// whose certificates have expired, or were issued before they were noted.
func TestOwnersNameIsNotFree(t *testing.T) {
	for _, hostname := range []string{"a.lab", "*.lab"} {
		b := newBench(t)
		b.letIn("alice", "rack1", "a.lab")
		b.claim("a.lab", "rack1")
		b.claim("b.lab", "unnoted")
		b.clock.pass(31 * 24 * time.Hour)

		p, _ := b.ask(wish("rack1"))
		wantRefused(t, b.yes(p, "bob", hostname), enrolment.CodeNameTaken, "a.lab belongs to another connector that is called rack1")
		hash, _ := b.token("", 1, "*.lab")
		_, err := b.Join(t.Context(), hash, wish("rack1", hostname))
		wantRefused(t, err, enrolment.CodeNameTaken, "choose another name")
		p2, _ := b.ask(wish("unnoted"))
		wantRefused(t, b.yes(p2, "bob", "*.lab"), enrolment.CodeNameTaken, "b.lab belongs to another connector")

		if err := b.yes(p, "bob", "web1"); err != nil { // which rack1 has never had
			t.Errorf("an expired name without its origins: %v", err)
		}
	}
}

// Who let a connector in may do so again after its end, and anybody once it is revoked.
func TestOwnersNameAgain(t *testing.T) {
	b := newBench(t)
	b.letIn("alice", "rack1", "a.lab")
	b.claim("a.lab", "rack1")
	b.clock.pass(31 * 24 * time.Hour)
	b.letIn("alice", "rack1", "a.lab")
	b.revoke("rack1")
	b.letIn("bob", "rack1", "*.lab")
}

// Of those who have let in connectors of a name, one after the other, the last has the
// origins.
func TestOwnersNameChangesHands(t *testing.T) {
	b := newBench(t)
	b.letIn("alice", "rack1", "web1")
	b.clock.pass(31 * 24 * time.Hour)
	b.letIn("bob", "rack1", "a.lab")
	b.claim("a.lab", "rack1")
	b.clock.pass(31 * 24 * time.Hour)
	p, _ := b.ask(wish("rack1"))
	wantRefused(t, b.yes(p, "alice", "*.lab"), enrolment.CodeNameTaken, "a.lab belongs to another connector")
	b.letIn("bob", "rack1", "a.lab")
}
