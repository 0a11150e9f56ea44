package enrolment_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	"github.com/sshgate/sshgate/sshgate/enrolment"
	"github.com/sshgate/sshgate/sshgate/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	machineAddr = netip.MustParseAddr("192.0.2.7")
	personAddr  = netip.MustParseAddr("10.0.0.1")
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func patterns(texts ...string) []sshgate.HostPattern {
	var all []sshgate.HostPattern
	for _, text := range texts {
		all = append(all, must(sshgate.ParseHostPattern(text)))
	}
	return all
}

// clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// hooked is the store, with a hook before a certificate is noted.
type hooked struct {
	*store.SQLite
	before func()
	err    error // of everything
}

func (h *hooked) AddConnector(ctx context.Context, rec sshgate.ConnectorRecord) error {
	if h.before != nil {
		h.before()
	}
	return errors.Join(h.err, h.SQLite.AddConnector(ctx, rec))
}

func (h *hooked) Connectors(ctx context.Context) ([]sshgate.ConnectorRecord, error) {
	recs, err := h.SQLite.Connectors(ctx)
	return recs, errors.Join(h.err, err)
}

// bench is a desk with a store and a CA, whose clock the test sets.
type bench struct {
	*enrolment.Desk
	t      *testing.T
	clock  *clock
	store  *hooked
	ca     *connector.CA
	events *audit.Recorder
	policy *sshgate.Policy
}

// newBench has a policy that lets those in ops hand out web1, web2 and *.lab, and
// everybody in 10.0.0.0/8 *.desk.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{now: time.Now().Truncate(time.Second)}, events: audit.NewRecorder(10_000)}
	b.store = &hooked{SQLite: must(store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "db"), nil))}
	b.ca = must(connector.OpenCA(filepath.Join(t.TempDir(), "ca"), b.clock.Now))
	b.policy = &sshgate.Policy{SessionDuration: time.Hour, Publish: []sshgate.PublishRule{
		{Name: "ops", Include: []sshgate.Selector{sshgate.Group{"ops"}}, Hostnames: patterns("web1", "web2", "*.lab")},
		{Name: "desks", Include: []sshgate.Selector{sshgate.Everyone{}}, Require: []sshgate.Selector{sshgate.Address{netip.MustParsePrefix("10.0.0.0/8")}}, Hostnames: patterns("*.desk")},
	}}
	b.Desk = must(enrolment.New(enrolment.Config{
		Policy: func() *sshgate.Policy { return b.policy }, CA: b.ca, Store: b.store, Events: b.events, CertificateTTL: 30 * 24 * time.Hour, Now: b.clock.Now,
	}))
	t.Cleanup(func() {
		b.Close()
		b.store.Close()
	})
	return b
}

// person is somebody of ops who has just signed in.
func (b *bench) person(name string) enrolment.Person {
	return enrolment.Person{Address: personAddr, Identity: sshgate.Identity{
		Issuer: "https://idp.test", Subject: "s-" + name, Email: name + "@example.com", EmailVerified: true, Groups: []string{"ops"}, SignedInAt: b.clock.Now(),
	}}
}

func wish(name string, hostnames ...string) enrolment.Wish {
	request, _, err := connector.NewRequest()
	if err != nil {
		panic(err)
	}
	return enrolment.Wish{Request: request, Name: name, Machine: "box.example.com", Software: "sshgate/1", Hostnames: patterns(hostnames...), Address: machineAddr}
}

// ask has a wish wait.
func (b *bench) ask(w enrolment.Wish) (*enrolment.Pending, string) {
	b.t.Helper()
	p, code, err := b.Ask(w)
	if err != nil {
		b.t.Fatal(err)
	}
	return p, code
}

// yes has the person hand the hostnames out.
func (b *bench) yes(p *enrolment.Pending, who string, hostnames ...string) error {
	return b.Approve(b.t.Context(), p, enrolment.Approval{Person: b.person(who), Hostnames: patterns(hostnames...)})
}

// letIn lets a connector in, which must do.
func (b *bench) letIn(who, name string, hostnames ...string) *x509.Certificate {
	b.t.Helper()
	p, code := b.ask(wish(name))
	if err := b.yes(p, who, hostnames...); err != nil {
		b.t.Fatalf("%s lets %s in: %v", who, name, err)
	}
	cert, err := b.Wait(b.t.Context(), code)
	if err != nil {
		b.t.Fatal(err)
	}
	return cert
}

// token makes a join token.
func (b *bench) token(name string, uses int, hostnames ...string) (hash []byte, id sshgate.JoinTokenID) {
	b.t.Helper()
	id = sshgate.NewJoinTokenID()
	sum := sha256.Sum256([]byte(id))
	err := b.store.AddJoinToken(b.t.Context(), sshgate.JoinTokenRecord{
		ID: id, Hash: sum[:], Connector: name, Hostnames: hostnames, Uses: uses, CreatedAt: b.clock.Now(), ExpiresAt: b.clock.Now().Add(time.Hour),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return sum[:], id
}

func (b *bench) revoke(nameOrSerial string) {
	b.t.Helper()
	if _, err := b.store.RevokeConnectors(b.t.Context(), nameOrSerial, b.clock.Now()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) claim(origin sshgate.OriginName, name string) {
	b.t.Helper()
	if owner, err := b.store.ClaimOrigin(b.t.Context(), origin, name, b.clock.Now()); err != nil || owner != name {
		b.t.Fatalf("%s claims %s: it is %q's, %v", name, origin, owner, err)
	}
}

// last returns the event that was recorded last.
func (b *bench) last() sshgate.Event {
	all := b.events.Events()
	return all[len(all)-1]
}

// wantRefused checks an error's code, and a piece of its sentence.
func wantRefused(t *testing.T, err error, code, piece string) {
	t.Helper()
	var refused *enrolment.Refused
	if !errors.As(err, &refused) || refused.Code != code || !strings.Contains(refused.Sentence, piece) {
		t.Errorf("%#v, want %s with %q", err, code, piece)
	}
}
