package authflow

import (
	"context"
	"errors"
	"sync"

	"github.com/sshgate/sshgate/sshgate"
)

// Login is a sign-in that was started: a *DeviceLogin or a *WebLogin.
type Login interface {
	// Prompt returns what to show.
	Prompt() Prompt
	// Wait returns who signed in, or why nobody did. It ends soon after ctx.
	Wait(ctx context.Context) (sshgate.Identity, error)
}

// asking is a Login that can end with a question to whoever began it: a *WebLogin.
type asking interface {
	Asked() <-chan struct{}
	Answer(text string) (left int)
}

// Pending holds the sign-ins that are under way and lets connections share
// them: a client that opens many at once asks its user once.
type Pending struct {
	start func(context.Context, Asker) (Login, error)
	max   int

	ctx    context.Context // of all sign-ins; ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // the goroutines of run

	mu      sync.Mutex // guards all below, and signIn.members
	running int
	byKey   map[string]*signIn // those that can be joined
	closed  bool
}

// signIn is one sign-in with those who wait for it.
type signIn struct {
	key    string
	asker  Asker // of whoever began it
	cancel context.CancelCauseFunc

	// Guarded by Pending.mu.
	members  int
	asks     bool // it ends with a question
	orphaned bool // the one who could answer it left

	started  chan struct{} // closed when login and prompt, or startErr, are set
	login    Login
	prompt   Prompt
	startErr error

	done chan struct{} // closed when identity or err is set
	id   sshgate.Identity
	err  error
}

// NewPending returns a Pending that starts sign-ins with start, of which no
// more than max are under way at a time. start must heed its context.
func NewPending(start func(context.Context, Asker) (Login, error), max int) *Pending {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Pending{start: start, max: max, ctx: ctx, cancel: cancel, byKey: make(map[string]*signIn)}
}

// Join returns a ticket for the sign-in of key, which it starts unless one is
// under way. The empty key shares with nobody. Join returns once there is
// something to show, or ctx ends; ctx ends nothing but this call. An error is a
// *Failure, or what start returned. The asker that people are shown is the one who
// began it.
//
// Whoever gets a ticket must Leave.
func (p *Pending) Join(ctx context.Context, key string, asker Asker) (*Ticket, error) {
	s, first, err := p.enter(key, asker)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.started:
	case <-ctx.Done():
		p.leave(s, first)
		return nil, cancelled(ctx)
	}
	if s.startErr != nil {
		p.leave(s, first)
		return nil, s.startErr
	}
	return &Ticket{pending: p, signIn: s, first: first}, nil
}

// enter counts the caller in at the sign-in of key, starting it if need be.
func (p *Pending) enter(key string, asker Asker) (s *signIn, first bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, fail(CodeClosed, nil)
	}
	if s, ok := p.byKey[key]; ok {
		s.members++
		return s, false, nil
	}
	if p.running >= p.max {
		return nil, false, fail(CodeTooMany, nil)
	}
	ctx, cancel := context.WithCancelCause(p.ctx)
	s = &signIn{key: key, asker: asker, members: 1, cancel: cancel, started: make(chan struct{}), done: make(chan struct{})}
	if key != "" {
		p.byKey[key] = s
	}
	p.running++
	p.wg.Go(func() { p.run(ctx, s) })
	return s, true, nil
}

// run sees one sign-in through. Its context is Pending's own, not that of the
// one who came first.
func (p *Pending) run(ctx context.Context, s *signIn) {
	defer s.cancel(nil)
	login, err := p.start(ctx, s.asker)
	if err != nil {
		p.finish(s)
		s.startErr, s.err = orCause(ctx, err), orCause(ctx, err)
		close(s.started)
		close(s.done)
		return
	}
	s.login, s.prompt = login, login.Prompt()
	if a, ok := login.(asking); ok && a.Asked() != nil {
		p.mu.Lock()
		s.asks = true
		p.endOrphan(s)
		p.mu.Unlock()
	}
	close(s.started)
	s.id, s.err = login.Wait(ctx)
	p.finish(s)
	s.err = orCause(ctx, s.err)
	close(s.done)
}

// orCause replaces an error that comes of the context's end by the reason.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return cancelled(ctx)
	}
	return err
}

// finish takes a sign-in that is over out of the books, so that the next to
// come starts a new one.
func (p *Pending) finish(s *signIn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	p.hide(s)
}

// hide makes s not joinable. The caller holds p.mu.
func (p *Pending) hide(s *signIn) {
	if p.byKey[s.key] == s {
		delete(p.byKey, s.key)
	}
}

// leave counts one out; the last one out ends the sign-in, as does the first one in
// where nobody else can answer its question.
func (p *Pending) leave(s *signIn, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.members--
	s.orphaned = s.orphaned || first
	p.endOrphan(s)
	if s.members == 0 {
		p.hide(s)
		s.cancel(fail(CodeCancelled, errors.New("everybody who waited for it left")))
	}
}

// endOrphan ends a sign-in whose question nobody can answer. The caller holds p.mu.
func (p *Pending) endOrphan(s *signIn) {
	if s.asks && s.orphaned {
		p.hide(s)
		s.cancel(&Failure{Code: CodeCancelled, Sentence: "the connection that began this sign-in has ended; try again"})
	}
}

// Waiting returns how many sign-ins are under way.
func (p *Pending) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

// Close ends every sign-in and waits until they are gone. Tickets get a
// CodeClosed failure, as do later Joins.
func (p *Pending) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(fail(CodeClosed, nil))
	p.wg.Wait()
}

// Ticket is one caller's part in a sign-in.
type Ticket struct {
	pending *Pending
	signIn  *signIn
	first   bool // it began the sign-in
	leave   sync.Once
}

// Prompt returns what to show.
func (t *Ticket) Prompt() Prompt { return t.signIn.prompt }

// Done is closed when the sign-in is over, whichever way.
func (t *Ticket) Done() <-chan struct{} { return t.signIn.done }

// Result returns who signed in, or why nobody did, a *Failure as a rule. Call
// it after Done.
func (t *Ticket) Result() (sshgate.Identity, error) {
	select {
	case <-t.signIn.done:
		return t.signIn.id, t.signIn.err
	default:
		return sshgate.Identity{}, errors.New("the sign-in is still under way")
	}
}

// Asked is closed when the holder is to be asked for the number that the person's
// page shows. It is nil where that never happens, and for all but the one who began
// the sign-in.
func (t *Ticket) Asked() <-chan struct{} {
	if a, ok := t.signIn.login.(asking); ok && t.first {
		return a.Asked()
	}
	return nil
}

// Answer takes the number, and returns how many tries are left: 0 when the sign-in
// is over, of which Done and Result tell more.
func (t *Ticket) Answer(text string) (left int) {
	if t.Asked() == nil {
		return 0
	}
	return t.signIn.login.(asking).Answer(text)
}

// Leave gives the ticket back. It disturbs the others who wait only where they need
// its holder's answer; the last one to leave ends the sign-in. More calls do nothing.
func (t *Ticket) Leave() {
	t.leave.Do(func() { t.pending.leave(t.signIn, t.first) })
}
