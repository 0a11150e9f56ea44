// Package live decides again about connections that are open: when the policy
// changes, when what somebody got in by is taken back, and when the time of a sign-in
// is over. Those that are no longer allowed are ended, all others are left alone.
//
// Make a Register with New, have it Run, and Add what is open. The package closes
// nothing itself: each Holding brings its own end.
package live

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

// Credentials knows what lets people in.
type Credentials interface {
	// Credentials returns all that let somebody in now, and when each ends.
	Credentials(context.Context) (map[sshgate.Credential]time.Time, error)
}

// Recorder takes events for the record. *audit.Log is one.
type Recorder interface {
	Record(sshgate.Event)
}

// Config is what a Register needs. Fields without a default must be set.
type Config struct {
	Policy      func() *sshgate.Policy // the rules in force now
	Credentials Credentials
	// Check tells why a credential is no longer good, or until when it is, zero for no
	// end of its own, as *authflow.Tokens does.
	Check  func(context.Context, sshgate.Credential) (time.Time, error)
	Events Recorder

	Log *slog.Logger     // default: nothing is logged
	Now func() time.Time // default time.Now
}

// Ending is why something that was open has to end. It is the cause with which
// contexts of it are cancelled.
type Ending struct {
	Sentence string // for the user, to complete "your access to web1 has ended: "
	Cause    string // for the record
}

func (e *Ending) Error() string { return e.Cause }

// The sentences of an Ending, besides those of authflow.
const (
	policyChanged = "the access policy has changed"
	signInExpired = "your sign-in has expired"
)

// Holding is something that is open: a channel, a listener, a passage, or a whole
// connection.
type Holding struct {
	// Request is what the policy allowed, and Decision its answer. A Request without
	// an origin is a connection's: the policy is not asked, and nothing is recorded.
	Request  sshgate.Request
	Decision sshgate.Decision
	// Credential is what its owner got in by, and Until when that ends; zero where
	// nothing is kept.
	Credential sshgate.Credential
	Until      time.Time
	// Event is what the record says of it.
	Event sshgate.Event
	// End is called once at the most, perhaps after it was removed. It must not
	// block.
	End func(*Ending)
}

// Moment is a state of policy and credentials. Take one before asking either.
type Moment struct {
	policy *sshgate.Policy
	state  uint64
}

// Register holds what is open. A nil *Register holds nothing and ends nothing.
type Register struct {
	cfg Config

	state  atomic.Uint64 // counts the looks at the credentials
	policy atomic.Bool   // a pass has to ask the policy
	kick   chan struct{} // holds a value when a pass is due
	wake   chan struct{} // holds a value when the first end has moved

	mu   sync.Mutex // guards what follows
	open entries
}

// New checks the configuration and returns a register that does not run yet.
func New(cfg Config) (*Register, error) {
	if cfg.Policy == nil || cfg.Credentials == nil || cfg.Check == nil || cfg.Events == nil {
		return nil, errors.New("live: a required part of the configuration is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Register{cfg: cfg, kick: make(chan struct{}, 1), wake: make(chan struct{}, 1)}, nil
}

// Moment returns the present state.
func (r *Register) Moment() Moment {
	if r == nil {
		return Moment{}
	}
	return Moment{policy: r.cfg.Policy(), state: r.state.Load()}
}

// Add takes in what was allowed in the state since. What has changed meanwhile is
// made up for. Call remove when it is closed.
func (r *Register) Add(since Moment, h Holding) (remove func()) {
	if r == nil {
		return func() {}
	}
	e := &entry{Holding: h}
	if e.asksPolicy() {
		e.policyEnd = h.Request.Identity.SignedInAt.Add(h.Decision.SessionDuration)
	}
	r.mu.Lock()
	heap.Push(&r.open, e)
	first := r.open[0] == e
	r.mu.Unlock()
	if first {
		signal(r.wake)
	}
	switch now := r.Moment(); {
	case now.policy != since.policy:
		r.PolicyChanged()
	case now.state != since.state:
		r.StateChanged()
	}
	return func() { r.remove(e) }
}

// PolicyChanged has all that is open decided about again, soon. It does not wait.
func (r *Register) PolicyChanged() {
	if r != nil {
		r.policy.Store(true)
		signal(r.kick)
	}
}

// StateChanged has the credentials of all that is open looked up again, soon. It does
// not wait.
func (r *Register) StateChanged() {
	if r != nil {
		signal(r.kick)
	}
}

// Open returns how much is open.
func (r *Register) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// signal leaves a value for whoever waits; one is enough.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	// retryAfter is when a look at the credentials that failed is repeated.
	retryAfter = time.Second
	// policyEvery is how often the policy is asked without a reason: its rules may
	// depend on the time of day.
	policyEvery = time.Minute
)

// Run decides whenever there is reason to, until ctx is done. There is one pass at a
// time; reasons that come meanwhile share the next one.
func (r *Register) Run(ctx context.Context) {
	end := time.NewTimer(0)
	defer end.Stop()
	minute := time.NewTicker(policyEvery)
	defer minute.Stop()
	retry := time.NewTimer(retryAfter)
	retry.Stop()
	defer retry.Stop()
	for {
		end.Reset(r.untilFirstEnd())
		select {
		case <-ctx.Done():
			return
		case <-minute.C:
			r.policy.Store(true)
			r.pass(ctx)
		case <-retry.C:
			r.StateChanged()
		case <-r.kick:
			if !r.pass(ctx) {
				// Nobody is ended for what cannot be looked up.
				retry.Reset(retryAfter)
			}
		case <-r.wake:
		case <-end.C:
			r.passEnds(ctx)
		}
	}
}

// untilFirstEnd is bounded: the clock may be set, and the machine may sleep.
func (r *Register) untilFirstEnd() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := policyEvery
	if len(r.open) > 0 {
		if end := r.open[0].end(); !end.IsZero() {
			wait = min(wait, end.Sub(r.cfg.Now()))
		}
	}
	return max(wait, 0)
}

// pass looks at all that is open, and tells whether the credentials could be looked
// up.
func (r *Register) pass(ctx context.Context) bool {
	r.state.Add(1) // before anything is read, for Add
	asksPolicy := r.policy.Swap(false)
	r.mu.Lock()
	open := slices.Clone(r.open)
	r.mu.Unlock()
	if len(open) == 0 {
		return true
	}
	good, err := r.cfg.Credentials.Credentials(ctx)
	if err != nil && ctx.Err() == nil {
		r.cfg.Log.Error("it could not be looked up who may stay connected; those who are stay", "err", err)
	}
	now, policy := r.cfg.Now(), r.cfg.Policy()
	for _, e := range open {
		if asksPolicy && !r.decide(e, policy, now) {
			continue
		}
		if err == nil && e.Credential != (sshgate.Credential{}) {
			if until, ok := good[e.Credential]; ok {
				r.move(e, func() { e.Until = until })
			} else {
				r.check(ctx, e, now)
			}
		}
	}
	return err == nil
}

// passEnds looks at what has come to its end. Some of it may have been given more
// time.
func (r *Register) passEnds(ctx context.Context) {
	now, policy := r.cfg.Now(), r.cfg.Policy()
	for _, e := range r.due(now) {
		if !r.decide(e, policy, now) || e.Until.IsZero() || now.Before(e.Until) {
			continue
		}
		r.check(ctx, e, now)
	}
}

// decide asks the policy about e, and ends it unless it is allowed.
func (r *Register) decide(e *entry, policy *sshgate.Policy, now time.Time) bool {
	if !e.asksPolicy() {
		return true
	}
	req := e.Request
	req.Time = now
	d := policy.Decide(req)
	if d.Allowed {
		r.move(e, func() { e.policyEnd = req.Identity.SignedInAt.Add(d.SessionDuration) })
		return true
	}
	event := e.Event
	event.Application, event.Rule = d.Application, d.Rule
	ending := &Ending{Sentence: policyChanged, Cause: policyChanged + ": " + d.Reason}
	if d.Expired {
		ending = &Ending{Sentence: signInExpired, Cause: d.Reason}
	}
	r.end(e, event, ending, now)
	return false
}

// check looks up e's credential by itself, and ends e unless it is good or nothing
// can be said.
func (r *Register) check(ctx context.Context, e *entry, now time.Time) {
	until, err := r.cfg.Check(ctx, e.Credential)
	if err == nil && (until.IsZero() || now.Before(until)) {
		r.move(e, func() { e.Until = until })
		return
	}
	over := err == nil || !e.Until.IsZero() && !now.Before(e.Until)
	failure, _ := errors.AsType[*authflow.Failure](err)
	unknown := failure == nil || failure.Code == authflow.CodeUnavailable || failure.Code == authflow.CodeCancelled
	var ending *Ending
	switch {
	case over && (unknown || failure.Code != authflow.CodeTokenExpired):
		ending = &Ending{Sentence: signInExpired, Cause: "the sign-in has expired"}
	case unknown:
		r.cfg.Log.Warn("it could not be looked up whether somebody may stay connected", "request", e.Event.Request, "err", err)
		return
	default:
		ending = &Ending{Sentence: failure.Sentence, Cause: failure.Sentence}
	}
	r.end(e, e.Event, ending, now)
}

// end ends e, once, unless it was removed.
func (r *Register) end(e *entry, event sshgate.Event, ending *Ending, now time.Time) {
	if !r.remove(e) {
		return
	}
	if e.asksPolicy() {
		event.Time, event.Kind, event.Allowed, event.Reason = now, sshgate.EventDecision, false, ending.Cause
		r.cfg.Events.Record(event)
	}
	e.End(ending)
}
