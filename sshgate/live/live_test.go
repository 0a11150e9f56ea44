package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a policy, credentials and a record.
type world struct {
	mu     sync.Mutex
	policy *sshgate.Policy
	good   map[sshgate.Credential]time.Time
	broken error
	looks  int // at all credentials
	checks int // of a single one
	events []sshgate.Event
	ended  []string
}

func (w *world) Credentials(context.Context) (map[sshgate.Credential]time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	good := make(map[sshgate.Credential]time.Time)
	for c, until := range w.good {
		if time.Now().Before(until) {
			good[c] = until
		}
	}
	return good, w.broken
}

func (w *world) check(_ context.Context, c sshgate.Credential) (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checks++
	until, ok := w.good[c]
	if until.Equal(endless) {
		return time.Time{}, nil
	}
	switch {
	case w.broken != nil:
		return time.Time{}, &authflow.Failure{Code: authflow.CodeUnavailable, Sentence: "not now", Err: w.broken}
	case !ok:
		return time.Time{}, &authflow.Failure{Code: authflow.CodeSignInRevoked, Sentence: "your sign-in was revoked"}
	}
	return until, nil
}

func (w *world) Record(e sshgate.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// change changes the world.
func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// take returns what has ended since, with why.
func (w *world) take() (ended []string) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	ended, w.ended = w.ended, nil
	slices.Sort(ended)
	return ended
}

func rules(t testing.TB, emails ...string) *sshgate.Policy {
	t.Helper()
	host, err := sshgate.ParseHostPattern("*")
	if err != nil {
		t.Fatal(err)
	}
	login, err := sshgate.ParseLoginTemplate("deploy")
	if err != nil {
		t.Fatal(err)
	}
	app := sshgate.Application{Name: "all", Hosts: []sshgate.HostPattern{host}}
	for _, email := range emails {
		app.Rules = append(app.Rules, sshgate.Rule{
			Name: email, Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Email{email}}, Logins: []sshgate.LoginTemplate{login},
		})
	}
	return &sshgate.Policy{SessionDuration: time.Hour, Applications: []sshgate.Application{app}}
}

func credential(who string) sshgate.Credential {
	return sshgate.Credential{Key: "SHA256:" + who, Identity: sshgate.IdentityKey{Issuer: "idp", Subject: who}}
}

// start returns a register that runs. Call it inside a bubble.
func (w *world) start(t *testing.T) *Register {
	t.Helper()
	r, err := New(Config{
		Policy:      func() *sshgate.Policy { w.mu.Lock(); defer w.mu.Unlock(); return w.policy },
		Credentials: w, Check: w.check, Events: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// holding is one of the person's, whose sign-in is of now and kept for two hours.
func (w *world) holding(who string) Holding {
	email := who + "@example.com"
	id := sshgate.Identity{Issuer: "idp", Subject: who, Email: email, EmailVerified: true, SignedInAt: time.Now()}
	until := id.SignedInAt.Add(2 * time.Hour)
	w.change(func() { w.good[credential(who)] = until })
	return Holding{
		Request:    sshgate.Request{Identity: id, Target: sshgate.Target{Origin: "web1"}, Channel: sshgate.ChannelSession, Time: time.Now()},
		Decision:   sshgate.Decision{Allowed: true, SessionDuration: time.Hour},
		Credential: credential(who), Until: until, Event: sshgate.Event{Request: sshgate.RequestID(who)},
		End: func(ending *Ending) {
			w.change(func() { w.ended = append(w.ended, who+": "+ending.Sentence) })
		},
	}
}

func newWorld(t testing.TB, emails ...string) *world {
	return &world{policy: rules(t, emails...), good: make(map[sshgate.Credential]time.Time)}
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestPolicyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com", "bob@example.com")
		r := w.start(t)
		defer r.Add(r.Moment(), w.holding("alice"))()
		defer r.Add(r.Moment(), w.holding("bob"))()
		r.PolicyChanged()
		expect(t, "nothing has changed", w.take())
		w.change(func() { w.policy = rules(t, "bob@example.com") })
		r.PolicyChanged()
		expect(t, "a rule has gone", w.take(), "alice: the access policy has changed")
		if r.Open() != 1 || len(w.events) != 1 {
			t.Fatalf("%d open, events %+v", r.Open(), w.events)
		}
		if e := w.events[0]; e.Kind != sshgate.EventDecision || e.Allowed || e.Request != "alice" || e.Application != "all" || !strings.Contains(e.Reason, "no rule of application") || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
		r.PolicyChanged()
		expect(t, "once", w.take())
	})
}

// TestChangeWhileItOpens: what changes between the answer and Add counts.
func TestChangeWhileItOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com")
		r := w.start(t)
		defer r.Add(r.Moment(), w.holding("bystander"))() // or no pass looks at anything
		since := r.Moment()
		h := w.holding("alice")
		w.change(func() { w.policy = rules(t) })
		r.PolicyChanged()
		w.take()
		defer r.Add(since, h)()
		expect(t, "the policy", w.take(), "alice: the access policy has changed")

		w.change(func() { w.policy = rules(t, "alice@example.com") })
		since, h = r.Moment(), w.holding("alice")
		w.change(func() { delete(w.good, credential("alice")) })
		r.StateChanged()
		w.take()
		defer r.Add(since, h)()
		expect(t, "the credential", w.take(), "alice: your sign-in was revoked")
	})
}

func TestCredentialTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com", "bob@example.com")
		r := w.start(t)
		defer r.Add(r.Moment(), w.holding("alice"))()
		defer r.Add(r.Moment(), w.holding("bob"))()
		whole := w.holding("alice")
		whole.Request, whole.Decision = sshgate.Request{}, sshgate.Decision{}
		defer r.Add(r.Moment(), whole)()
		r.StateChanged()
		expect(t, "nothing has changed", w.take())
		if w.checks != 0 {
			t.Errorf("%d were looked up one by one", w.checks)
		}
		w.change(func() { w.broken = errors.New("no disk"); delete(w.good, credential("alice")) })
		r.StateChanged()
		expect(t, "nobody can tell", w.take())
		w.change(func() { w.broken = nil })
		time.Sleep(2 * retryAfter)
		expect(t, "then it can be looked up", w.take(), "alice: your sign-in was revoked", "alice: your sign-in was revoked")
		if len(w.events) != 1 { // none of the whole connection's
			t.Errorf("events %+v", w.events)
		}
	})
}

func TestTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com", "bob@example.com")
		r := w.start(t)
		defer r.Add(r.Moment(), w.holding("alice"))()
		short := w.holding("bob")
		short.Until = time.Now().Add(10 * time.Minute)
		w.change(func() { w.good[short.Credential] = short.Until })
		defer r.Add(r.Moment(), short)()
		time.Sleep(10*time.Minute - time.Millisecond)
		expect(t, "before", w.take())
		time.Sleep(time.Millisecond)
		expect(t, "the credential's end", w.take(), "bob: your sign-in has expired")
		// Of what is given more time in the meantime nothing ends.
		longer := rules(t, "alice@example.com")
		longer.SessionDuration = 90 * time.Minute
		w.change(func() { w.policy = longer })
		time.Sleep(80*time.Minute - time.Millisecond)
		expect(t, "longer", w.take())
		time.Sleep(time.Millisecond)
		expect(t, "the session duration's end", w.take(), "alice: your sign-in has expired")
	})
}

// endless stands for a credential that ends and lets stay whom it let in.
var endless = time.Date(2000, 1, 1, 0, 1, 0, 5, time.UTC) // a minute after a bubble begins

// TestCredentialForTheBeginning is a job's: its connections outlive it.
func TestCredentialForTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com")
		r := w.start(t)
		h := w.holding("alice")
		h.Until = endless
		w.change(func() { w.good[h.Credential] = endless })
		defer r.Add(r.Moment(), h)()
		time.Sleep(10 * time.Minute)
		r.StateChanged()
		expect(t, "after its end", w.take())
		time.Sleep(50 * time.Minute)
		expect(t, "the session duration's end", w.take(), "alice: your sign-in has expired")
	})
}

// TestEndsThoughTheStoreIsGone: that a sign-in ends needs no looking up.
func TestEndsThoughTheStoreIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com")
		r := w.start(t)
		h := w.holding("alice")
		h.Until = time.Now().Add(time.Minute)
		defer r.Add(r.Moment(), h)()
		w.change(func() { w.broken = errors.New("no disk") })
		time.Sleep(time.Minute)
		expect(t, "its end", w.take(), "alice: your sign-in has expired")
	})
}

func TestRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "alice@example.com")
		r := w.start(t)
		remove := r.Add(r.Moment(), w.holding("alice"))
		remove()
		remove()
		w.change(func() { w.policy = rules(t) })
		r.PolicyChanged()
		time.Sleep(3 * time.Hour)
		expect(t, "what is closed", w.take())
		if r.Open() != 0 || w.looks != 0 {
			t.Errorf("%d open, %d looks at the credentials", r.Open(), w.looks)
		}
		var none *Register
		none.PolicyChanged()
		none.StateChanged()
		none.Add(none.Moment(), w.holding("alice"))()
	})
}

// TestManyEnds goes through an order that a heap has to keep.
func TestManyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start(t)
		for i := range 100 {
			h := w.holding(fmt.Sprint(i))
			h.Request = sshgate.Request{}
			h.Until = time.Now().Add(time.Duration(i*37%100+1) * time.Second)
			w.change(func() { w.good[h.Credential] = h.Until })
			defer r.Add(r.Moment(), h)()
		}
		for range 100 {
			time.Sleep(time.Second)
			if ended := w.take(); len(ended) != 1 {
				t.Fatalf("ended: %q", ended)
			}
		}
	})
}

// BenchmarkPass is one look at ten thousand channels, policy and credentials, of which
// all may stay.
func BenchmarkPass(b *testing.B) {
	const n = 10_000
	w := newWorld(b, "alice@example.com", "bob@example.com")
	r, err := New(Config{Policy: func() *sshgate.Policy { return w.policy }, Credentials: w, Check: w.check, Events: w})
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		h := w.holding(fmt.Sprintf("person%d", i))
		h.Request.Identity.Email = "bob@example.com"
		r.Add(r.Moment(), h)
	}
	b.ReportAllocs()
	for b.Loop() {
		r.policy.Store(true)
		r.pass(context.Background())
	}
	if r.Open() != n || w.checks > 0 {
		b.Fatalf("%d open, %d checks", r.Open(), w.checks)
	}
}
