package enrolment_test

import (
	"testing"
	"time"
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
