package authflow

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// scripted is a Login that ends when told to, or with its context.
type scripted struct {
	answer chan error // nil: success
	ended  atomic.Bool
}

func (s *scripted) Prompt() Prompt { return Prompt{UserCode: "AB-CD"} }

func (s *scripted) Wait(ctx context.Context) (sshgate.Identity, error) {
	defer s.ended.Store(true)
	select {
	case err := <-s.answer:
		if err != nil {
			return sshgate.Identity{}, err
		}
		return sshgate.Identity{Subject: "u-1"}, nil
	case <-ctx.Done():
		return sshgate.Identity{}, ctx.Err()
	}
}

// logins is a start function that hands out scripted logins.
type logins struct {
	delay time.Duration
	err   error

	mu      sync.Mutex
	started []*scripted
}

func (l *logins) start(ctx context.Context, _ Asker) (Login, error) {
	login := &scripted{answer: make(chan error, 1)}
	l.mu.Lock()
	l.started = append(l.started, login)
	l.mu.Unlock()
	select {
	case <-time.After(l.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.err != nil {
		return nil, l.err
	}
	return login, nil
}

func join(t *testing.T, p *Pending, key string) *Ticket {
	t.Helper()
	ticket, err := p.Join(t.Context(), key, Asker{})
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestPendingIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{delay: time.Second}
		p := NewPending(l.start, 10)
		defer p.Close()
		tickets := make(chan *Ticket, 50)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				ticket, err := p.Join(t.Context(), "key", Asker{})
				if err != nil {
					t.Error(err)
					return
				}
				if ticket.Prompt().UserCode != "AB-CD" {
					t.Errorf("prompt %+v", ticket.Prompt())
				}
				tickets <- ticket
			})
		}
		all.Wait()
		close(tickets)
		if len(l.started) != 1 {
			t.Fatalf("%d logins started, want 1", len(l.started))
		}
		first := <-tickets
		if _, err := first.Result(); err == nil {
			t.Error("a result before the end")
		}
		l.started[0].answer <- nil
		for ticket := range tickets {
			<-ticket.Done()
			if id, err := ticket.Result(); err != nil || id.Subject != "u-1" {
				t.Errorf("got %v, %v", id, err)
			}
			ticket.Leave()
		}
		// The one who is still in keeps its result, and nobody joins it.
		again := join(t, p, "key")
		if len(l.started) != 2 {
			t.Errorf("%d logins started, want a second after the first ended", len(l.started))
		}
		if id, err := first.Result(); err != nil || id.Subject != "u-1" {
			t.Errorf("got %v, %v", id, err)
		}
		first.Leave()
		again.Leave()
	})
}

func TestPendingSharesOnlyTheSameKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{}
		p := NewPending(l.start, 10)
		defer p.Close()
		for _, key := range []string{"a", "b", "", ""} {
			defer join(t, p, key).Leave()
		}
		if len(l.started) != 4 {
			t.Errorf("%d logins started, want 4", len(l.started))
		}
	})
}

func TestLastToLeaveEndsTheLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{}
		p := NewPending(l.start, 10)
		defer p.Close()
		starter, second, third := join(t, p, "key"), join(t, p, "key"), join(t, p, "key")
		starter.Leave()
		starter.Leave() // counts once
		starter.Leave()
		second.Leave()
		synctest.Wait()
		if l.started[0].ended.Load() {
			t.Fatal("the login ended while one still waits")
		}
		third.Leave()
		synctest.Wait()
		if !l.started[0].ended.Load() {
			t.Fatal("the login goes on although everybody left")
		}
		<-third.Done()
		_, err := third.Result()
		wantFailure(t, err, CodeCancelled)
		defer join(t, p, "key").Leave()
		if len(l.started) != 2 {
			t.Errorf("%d logins started, want a new one", len(l.started))
		}
	})
}

func TestStarterGoesWhileItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{delay: time.Minute}
		p := NewPending(l.start, 10)
		defer p.Close()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := p.Join(ctx, "key", Asker{})
			gone <- err
		}()
		synctest.Wait()
		joined := make(chan *Ticket)
		go func() { joined <- join(t, p, "key") }()
		synctest.Wait()
		cancel()
		wantFailure(t, <-gone, CodeCancelled)
		ticket := <-joined
		l.started[0].answer <- nil
		<-ticket.Done()
		if id, err := ticket.Result(); err != nil || id.Subject != "u-1" {
			t.Errorf("got %v, %v", id, err)
		}
		ticket.Leave()
	})
}

func TestAllGoWhileItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{delay: time.Hour}
		p := NewPending(l.start, 1)
		defer p.Close()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := p.Join(ctx, "key", Asker{})
		wantFailure(t, err, CodeCancelled)
		synctest.Wait()
		l.delay = 0
		join(t, p, "key").Leave() // there is room again
	})
}

func TestStartFailsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{delay: time.Second, err: fail(CodeProviderUnreachable, errRefused)}
		p := NewPending(l.start, 1)
		defer p.Close()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				_, err := p.Join(t.Context(), "key", Asker{})
				if !errors.Is(err, errRefused) {
					t.Errorf("got %v", err)
				}
			})
		}
		all.Wait()
		if len(l.started) != 1 {
			t.Errorf("%d logins started, want 1", len(l.started))
		}
		l.err = nil
		join(t, p, "key").Leave()
	})
}

func TestPendingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{}
		p := NewPending(l.start, 2)
		defer p.Close()
		a, b := join(t, p, "a"), join(t, p, "")
		_, err := p.Join(t.Context(), "c", Asker{})
		wantFailure(t, err, CodeTooMany)
		join(t, p, "a").Leave() // sharing takes no room
		b.Leave()
		synctest.Wait()
		join(t, p, "c").Leave()
		a.Leave()
	})
}

func TestPendingCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{}
		p := NewPending(l.start, 10)
		ticket := join(t, p, "key")
		l.delay = time.Hour
		starting := make(chan error)
		go func() {
			_, err := p.Join(t.Context(), "other", Asker{})
			starting <- err
		}()
		synctest.Wait()
		p.Close()
		p.Close()
		if !l.started[0].ended.Load() {
			t.Error("Close did not wait for the login")
		}
		wantFailure(t, <-starting, CodeClosed)
		<-ticket.Done()
		_, err := ticket.Result()
		wantFailure(t, err, CodeClosed)
		_, err = p.Join(t.Context(), "key", Asker{})
		wantFailure(t, err, CodeClosed)
		ticket.Leave()
	})
}

// TestPendingUnderLoad lets many come and go at random moments, for the race
// detector and the counters.
func TestPendingUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logins{delay: time.Millisecond}
		p := NewPending(l.start, 1000)
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				time.Sleep(time.Duration(i%17) * time.Millisecond)
				ctx, stop := context.WithTimeout(t.Context(), time.Duration(1+i%5)*time.Millisecond)
				defer stop()
				ticket, err := p.Join(ctx, string(rune('a'+i%3)), Asker{})
				if err != nil {
					return
				}
				time.Sleep(time.Duration(i%3) * time.Millisecond)
				ticket.Leave()
			})
		}
		all.Wait()
		synctest.Wait()
		if p.running != 0 || len(p.byKey) != 0 {
			t.Errorf("%d are running and %d can be joined after all left", p.running, len(p.byKey))
		}
		p.Close()
	})
}

func ExampleNewPending() {
	provider, err := NewOIDC(OIDCConfig{Issuer: "https://idp.example.com", ClientID: "sshgate"})
	if err != nil {
		panic(err)
	}
	logins := NewPending(func(ctx context.Context, _ Asker) (Login, error) { return provider.StartDevice(ctx) }, 1000)
	defer logins.Close()
}
