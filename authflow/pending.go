package authflow

import (
	"context"
	"errors"
	"sync"

	"github.com/sshgate/sshgate/sshgate"
)

// Login is a sign-in that was started: a *DeviceLogin.
type Login interface {
	// Prompt returns what to show.
	Prompt() Prompt
	// Wait returns who signed in, or why nobody did. It ends soon after ctx.
	Wait(ctx context.Context) (sshgate.Identity, error)
}

// Pending holds the sign-ins that are under way and lets connections share
// them: a client that opens many at once asks its user once.
type Pending struct {
	start func(context.Context) (Login, error)
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
	key     string
	members int // guarded by Pending.mu
	cancel  context.CancelCauseFunc

	started  chan struct{} // closed when prompt or startErr is set
	prompt   Prompt
	startErr error

	done chan struct{} // closed when identity or err is set
	id   sshgate.Identity
	err  error
}

// NewPending returns a Pending that starts sign-ins with start, of which no
// more than max are under way at a time. start must heed its context.
func NewPending(start func(context.Context) (Login, error), max int) *Pending {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Pending{start: start, max: max, ctx: ctx, cancel: cancel, byKey: make(map[string]*signIn)}
}

// Join returns a ticket for the sign-in of key, which it starts unless one is
// under way. The empty key shares with nobody. Join returns once there is
// something to show, or ctx ends; ctx ends nothing but this call. An error is a
// *Failure, or what start returned.
//
// Whoever gets a ticket must Leave.
func (p *Pending) Join(ctx context.Context, key string) (*Ticket, error) {
	s, err := p.enter(key)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.started:
	case <-ctx.Done():
		p.leave(s)
		return nil, cancelled(ctx)
	}
	if s.startErr != nil {
		p.leave(s)
		return nil, s.startErr
	}
	return &Ticket{pending: p, signIn: s}, nil
}

// enter counts the caller in at the sign-in of key, starting it if need be.
func (p *Pending) enter(key string) (*signIn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fail(CodeClosed, nil)
	}
	if s, ok := p.byKey[key]; ok {
		s.members++
		return s, nil
	}
	if p.running >= p.max {
		return nil, fail(CodeTooMany, nil)
	}
	ctx, cancel := context.WithCancelCause(p.ctx)
	s := &signIn{key: key, members: 1, cancel: cancel, started: make(chan struct{}), done: make(chan struct{})}
	if key != "" {
		p.byKey[key] = s
	}
	p.running++
	p.wg.Go(func() { p.run(ctx, s) })
	return s, nil
}

// run sees one sign-in through. Its context is Pending's own, not that of the
// one who came first.
func (p *Pending) run(ctx context.Context, s *signIn) {
	defer s.cancel(nil)
	login, err := p.start(ctx)
	if err != nil {
		p.finish(s)
		s.startErr, s.err = orCause(ctx, err), orCause(ctx, err)
		close(s.started)
		close(s.done)
		return
	}
	s.prompt = login.Prompt()
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

// leave counts one out; the last one out ends the sign-in.
func (p *Pending) leave(s *signIn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.members--
	if s.members == 0 {
		p.hide(s)
		s.cancel(fail(CodeCancelled, errors.New("everybody who waited for it left")))
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

// Leave gives the ticket back. It never disturbs the others who wait; the last
// one to leave ends the sign-in. More calls do nothing.
func (t *Ticket) Leave() {
	t.leave.Do(func() { t.pending.leave(t.signIn) })
}
