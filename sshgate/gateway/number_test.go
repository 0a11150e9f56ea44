package gateway

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// numberLogin is a sign-in that somebody has confirmed, and that wants a number.
type numberLogin struct {
	asked, done chan struct{}
	tries       []string
}

func (l *numberLogin) Prompt() authflow.Prompt {
	return authflow.Prompt{UserCode: "ABCD", VerificationURI: "https://gate/login", VerificationURIComplete: "https://gate/login/ABCD", ExpiresAt: time.Now().Add(time.Minute), Asks: true}
}

func (l *numberLogin) Asked() <-chan struct{} { return l.asked }

func (l *numberLogin) Answer(text string) int {
	l.tries = append(l.tries, text)
	if text == "123456" || len(l.tries) == 3 {
		close(l.done)
		return 0
	}
	return 3 - len(l.tries)
}

func (l *numberLogin) Wait(ctx context.Context) (sshgate.Identity, error) {
	select {
	case <-l.done:
	case <-ctx.Done():
		return sshgate.Identity{}, context.Cause(ctx)
	}
	if l.tries[len(l.tries)-1] != "123456" {
		return sshgate.Identity{}, &authflow.Failure{Code: authflow.CodeAccessDenied, Sentence: "the number was not typed in"}
	}
	id := alice
	id.SignedInAt = time.Now()
	return id, nil
}

func TestTheTerminalIsAskedForTheNumber(t *testing.T) {
	for name, test := range map[string]struct {
		answers []string // the last one again and again
		in      bool
		tries   int
	}{
		"right":       {[]string{"123456"}, true, 1},
		"second try":  {[]string{"1", "123456"}, true, 2},
		"wrong":       {[]string{"1"}, false, 3},
		"no terminal": {[]string{""}, false, 3},
	} {
		t.Run(name, func(t *testing.T) {
			login := &numberLogin{asked: make(chan struct{}), done: make(chan struct{})}
			var asker authflow.Asker
			pending := authflow.NewPending(func(_ context.Context, a authflow.Asker) (authflow.Login, error) {
				asker = a
				return login, nil
			}, 1)
			defer pending.Close()
			b := newBench(t, func(cfg *Config) { cfg.SignIns = pending })
			var shown strings.Builder
			answers := slices.Clone(test.answers)
			close(login.asked)
			key := newSigner(t)
			client, err := b.dial("deploy+web1", gossh.PublicKeys(key), gossh.KeyboardInteractive(func(_, instruction string, questions []string, echos []bool) ([]string, error) {
				shown.WriteString(instruction)
				if len(questions) == 0 {
					return nil, nil
				}
				if questions[0] != "Number on the page: " || !echos[0] {
					t.Errorf("asked %q, echo %v", questions, echos)
				}
				answer := answers[0]
				if len(answers) > 1 {
					answers = answers[1:]
				}
				return []string{answer}, nil
			}))
			if test.in != (err == nil) || len(login.tries) != test.tries {
				t.Errorf("error %v, tries %q", err, login.tries)
			}
			if err == nil {
				client.Close()
			}
			for _, want := range []string{"https://gate/login/ABCD", "type the number here that the page shows"} {
				if !strings.Contains(shown.String(), want) {
					t.Errorf("%q was not shown: %s", want, &shown)
				}
			}
			if asker.Key != gossh.FingerprintSHA256(key.PublicKey()) || asker.Client != "SSH-2.0-Go" || asker.Address.String() != "127.0.0.1" ||
				asker.Target != (sshgate.Target{Login: "deploy", Origin: "web1"}) || asker.Connection == "" {
				t.Errorf("asker %+v", asker)
			}
		})
	}
}

// A remembered sign-in that is not of the kind that a rule requires leads to one that
// the provider is asked for in that kind.
func TestStepUpIsAskedFor(t *testing.T) {
	var asker atomic.Pointer[authflow.Asker]
	var b *bench
	pending := authflow.NewPending(func(_ context.Context, a authflow.Asker) (authflow.Login, error) {
		asker.Store(&a)
		return instantLogin{b}, nil
	}, 1)
	defer pending.Close()
	policy := allow(t, "web1", alice.Email, "deploy")
	policy.Applications[0].Rules[0].Require = []sshgate.Selector{sshgate.ACR{"mfa"}}
	b = newBench(t, func(cfg *Config) {
		cfg.SignIns = pending
		cfg.Policy = func() *sshgate.Policy { return policy }
	})
	key := newSigner(t)
	b.bind(key, time.Now())
	client, err := b.dial("deploy+web1", gossh.PublicKeys(key), gossh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		return make([]string, len(questions)), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if a := asker.Load(); a == nil || !slices.Equal(a.Demands.ACRValues, []string{"mfa"}) {
		t.Errorf("asked %+v", a)
	}
}
