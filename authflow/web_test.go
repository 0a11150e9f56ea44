package authflow

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// newWeb returns a web flow at a fake, and a Pending over it.
func newWeb(t *testing.T, change func(*WebConfig)) (*Web, *Pending) {
	t.Helper()
	cfg := WebConfig{OIDC: newFake(t).oidc(nil), URL: "https://gate.example.com", Always: true}
	if change != nil {
		change(&cfg)
	}
	w := NewWeb(cfg)
	p := NewPending(w.Start, 10)
	t.Cleanup(p.Close)
	return w, p
}

func confirming(cfg *WebConfig) { cfg.ConfirmCode = true }

func joinAs(t *testing.T, p *Pending, key, client string) *Ticket {
	t.Helper()
	ticket, err := p.Join(t.Context(), key, Asker{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ticket.Leave)
	return ticket
}

var someone = sshgate.Identity{Issuer: "https://idp.example.com", Subject: "u-1"}

func isAsked(ticket *Ticket) bool {
	synctest.Wait()
	select {
	case <-ticket.Asked():
		return true
	default:
		return false
	}
}

func isDone(ticket *Ticket) bool {
	synctest.Wait()
	select {
	case <-ticket.Done():
		return true
	default:
		return false
	}
}

func TestWebConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newWeb(t, nil)
		first, second := joinAs(t, p, "key", "one"), joinAs(t, p, "key", "two")
		prompt := first.Prompt()
		if prompt != second.Prompt() || prompt.VerificationURIComplete != "https://gate.example.com/login/"+prompt.UserCode || prompt.Asks {
			t.Fatalf("prompts %+v and %+v", prompt, second.Prompt())
		}
		l := w.Find(strings.ToLower(strings.ReplaceAll(prompt.UserCode, "-", " ")))
		if l == nil || l.Asker.Client != "one" || !l.Open() || w.Find("BCDF-GHJK") != nil || w.Find("") != nil {
			t.Fatalf("found %+v", l)
		}
		if first.Asked() != nil || first.Answer("000000") != 0 || isDone(first) {
			t.Error("a question although none was configured")
		}
		if number, err := l.Confirm(someone); err != nil || number != "" {
			t.Fatalf("confirm: %q, %v", number, err)
		}
		for _, ticket := range []*Ticket{first, second} {
			if !isDone(ticket) {
				t.Fatal("a connection still waits")
			}
			if id, err := ticket.Result(); err != nil || id.Subject != "u-1" {
				t.Errorf("got %+v, %v", id, err)
			}
		}
		if _, err := l.Confirm(someone); !errors.Is(err, ErrOver) {
			t.Errorf("a second confirm: %v", err)
		}
		if err := l.Deny(someone, false); !errors.Is(err, ErrOver) || !l.Succeeded() || l.Open() {
			t.Errorf("a denial after the confirm: %v", err)
		}
		if w.Find(l.Code) != nil {
			t.Error("the sign-in is over and can be found")
		}
	})
}

func TestWebDeniedExpiredLeft(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*WebLogin, *Ticket)
		code string
	}{
		"denied":  {func(l *WebLogin, _ *Ticket) { _ = l.Deny(someone, true) }, CodeAccessDenied},
		"expired": {func(*WebLogin, *Ticket) { time.Sleep(webLifetime) }, CodeExpired},
		"left":    {func(_ *WebLogin, ticket *Ticket) { ticket.Leave() }, CodeCancelled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := newWeb(t, nil)
				ticket := joinAs(t, p, "key", "")
				l := w.Find(ticket.Prompt().UserCode)
				test.end(l, ticket)
				if !isDone(ticket) {
					t.Fatal("it goes on")
				}
				_, err := ticket.Result()
				wantFailure(t, err, test.code)
				if _, err := l.Confirm(someone); !errors.Is(err, ErrOver) || l.Succeeded() || l.Open() {
					t.Errorf("a confirm after the end: %v", err)
				}
			})
		})
	}
}

func TestWebNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newWeb(t, confirming)
		first, second := joinAs(t, p, "key", ""), joinAs(t, p, "key", "")
		l := w.Find(first.Prompt().UserCode)
		if !first.Prompt().Asks || second.Asked() != nil || isAsked(first) {
			t.Fatal("who is to be asked, and when?")
		}
		if left := first.Answer("123456"); left != answerTries {
			t.Errorf("an answer before the question: %d left", left)
		}
		number, err := l.Confirm(someone)
		if err != nil || len(number) != 6 || !isAsked(first) || isDone(first) || !l.Asking() {
			t.Fatalf("confirm: %q, %v", number, err)
		}
		if _, err := l.Confirm(someone); !errors.Is(err, ErrOver) {
			t.Errorf("a second confirm: %v", err)
		}
		if second.Answer(number) != 0 || isDone(first) {
			t.Error("another connection answered")
		}
		if left := first.Answer(""); left != 2 || isDone(first) {
			t.Errorf("%d left", left)
		}
		if left := first.Answer(" " + number[:3] + " " + number[3:] + "\n"); left != 0 {
			t.Errorf("the right number: %d left", left)
		}
		if !isDone(first) || !isDone(second) {
			t.Fatal("it goes on")
		}
		if id, err := second.Result(); err != nil || id.Subject != "u-1" {
			t.Errorf("got %+v, %v", id, err)
		}
	})
}

func TestWebNumberFails(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*WebLogin, *Ticket, string)
		code string
	}{
		"wrong": {func(_ *WebLogin, ticket *Ticket, number string) {
			for range answerTries {
				ticket.Answer("x" + number)
			}
			ticket.Answer(number)
		}, CodeAccessDenied},
		"denied":  {func(l *WebLogin, _ *Ticket, _ string) { _ = l.Deny(someone, true) }, CodeAccessDenied},
		"expired": {func(*WebLogin, *Ticket, string) { time.Sleep(webLifetime) }, CodeExpired},
		"left": {func(_ *WebLogin, ticket *Ticket, number string) {
			ticket.Leave()
			synctest.Wait()
			ticket.Answer(number)
		}, CodeCancelled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, p := newWeb(t, confirming)
				first, second := joinAs(t, p, "key", ""), joinAs(t, p, "key", "")
				l := w.Find(first.Prompt().UserCode)
				number, err := l.Confirm(someone)
				if err != nil {
					t.Fatal(err)
				}
				test.end(l, first, number)
				if !isDone(second) {
					t.Fatal("it goes on")
				}
				id, err := second.Result()
				wantFailure(t, err, test.code)
				if id.Subject != "" {
					t.Errorf("an identity came with the error: %+v", id)
				}
			})
		})
	}
}

// TestWebOrphan: the connection that began a sign-in leaves before there is one to
// show; nobody else could answer.
func TestWebOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWeb(WebConfig{OIDC: newFake(t).oidc(nil), URL: "https://gate.example.com", Always: true, ConfirmCode: true})
		p := NewPending(func(ctx context.Context, a Asker) (Login, error) {
			time.Sleep(time.Second)
			return w.Start(ctx, a)
		}, 10)
		defer p.Close()
		ctx, leave := context.WithCancel(t.Context())
		go func() { _, _ = p.Join(ctx, "key", Asker{}) }()
		synctest.Wait()
		var all sync.WaitGroup
		all.Go(func() {
			ticket := joinAs(t, p, "key", "")
			<-ticket.Done()
			_, err := ticket.Result()
			wantFailure(t, err, CodeCancelled)
		})
		synctest.Wait()
		leave()
		all.Wait()
	})
}

func TestWebChosen(t *testing.T) {
	for _, test := range []struct{ always, device, want bool }{{true, true, true}, {true, false, true}, {false, true, false}, {false, false, true}} {
		f := newFake(t)
		if !test.device {
			delete(f.document, "device_authorization_endpoint")
		}
		w := NewWeb(WebConfig{OIDC: f.oidc(nil), URL: "https://gate.example.com", Always: test.always})
		got, err := w.Chosen(t.Context())
		if err != nil || got != test.want {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
		l, err := w.Start(t.Context(), Asker{})
		if _, web := l.(*WebLogin); err != nil || web != test.want {
			t.Errorf("%+v: started %T, %v", test, l, err)
		}
	}
	f := newFake(t)
	f.intercept = onPath(wellKnown, reply{err: errRefused})
	_, err := NewWeb(WebConfig{OIDC: f.oidc(nil)}).Start(t.Context(), Asker{})
	wantFailure(t, err, CodeProviderUnreachable)
}

// TestWebRace has many confirm, deny and answer at once: one of them counts.
func TestWebRace(t *testing.T) {
	w, p := newWeb(t, nil)
	ticket := joinAs(t, p, "key", "")
	l := w.Find(ticket.Prompt().UserCode)
	var settled atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = l.Confirm(someone)
			} else {
				err = l.Deny(someone, false)
			}
			if err == nil {
				settled.Add(1)
			}
		})
	}
	all.Wait()
	<-ticket.Done()
	if n := settled.Load(); n != 1 {
		t.Errorf("%d settled it, want 1", n)
	}
}

func TestAskerText(t *testing.T) {
	if got := (Asker{Client: "SSH-2.0-x\x1b[31m\u202e" + strings.Repeat("y", 200)}).ClientText(); len(got) != maxClient || !allPrintable(got) {
		t.Errorf("got %q", got)
	}
}
