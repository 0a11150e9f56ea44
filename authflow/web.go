package authflow

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	webLifetime = 10 * time.Minute
	answerTries = 3
)

// Where the pages of the web flow are, behind WebConfig.URL.
const (
	LoginPath    = "/login"
	CallbackPath = "/oauth/callback"
)

// ErrOver says that a sign-in takes no decision any more: it has one, has expired,
// or nobody waits for it.
var ErrOver = errors.New("the sign-in is over")

// WebConfig is what the web flow needs.
type WebConfig struct {
	OIDC *OIDC
	// URL is where browsers reach the gateway, "https://gate.example.com". The
	// provider must take URL + CallbackPath as a redirect URI.
	URL string
	// Always takes the web flow with every provider. Otherwise those with a device
	// flow are asked by that.
	Always bool
	// ConfirmCode has whoever asked answer with a number that the page shows.
	ConfirmCode bool
	// Lifetime is how long a sign-in may take. Default 10 min.
	Lifetime time.Duration
}

// Web signs people in on the gateway's own page: they sign in at the provider by
// authorization code, see who asks, and say yes or no. It has the state; package web
// has the pages.
type Web struct {
	cfg WebConfig

	mu     sync.Mutex
	byCode map[string]*WebLogin // as many as Pending lets start
}

// NewWeb returns a Web.
func NewWeb(cfg WebConfig) *Web {
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = webLifetime
	}
	return &Web{cfg: cfg, byCode: make(map[string]*WebLogin)}
}

// Chosen tells whether sign-ins go by the web flow. An error is a *Failure.
func (w *Web) Chosen(ctx context.Context) (bool, error) {
	at, err := w.cfg.OIDC.discovery.get(ctx)
	if err != nil {
		return false, err
	}
	return w.cfg.Always || at.deviceAuth == "", nil
}

// Start begins a sign-in, by the device flow where the web flow is not Chosen. It is
// what NewPending takes.
func (w *Web) Start(ctx context.Context, asker Asker) (Login, error) {
	chosen, err := w.Chosen(ctx)
	if err != nil {
		return nil, err
	}
	if !chosen {
		return w.cfg.OIDC.StartDevice(ctx)
	}
	now := w.cfg.OIDC.cfg.Now()
	l := &WebLogin{
		Asker: asker, Since: now, ExpiresAt: now.Add(w.cfg.Lifetime),
		web: w, left: answerTries, asked: make(chan struct{}), done: make(chan struct{}),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for l.Code == "" || w.byCode[l.Code] != nil {
		l.Code = sshgate.NewUserCode()
	}
	w.byCode[l.Code] = l
	return l, nil
}

// Find returns the sign-in with the code, as people type it; nil where none waits.
func (w *Web) Find(code string) *WebLogin {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byCode[sshgate.NormalUserCode(code)]
}

func (w *Web) remove(l *WebLogin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byCode, l.Code)
}

// Authorize begins the provider's part for one browser.
func (w *Web) Authorize(ctx context.Context, demands Demands) (*Authorization, error) {
	return w.cfg.OIDC.Authorize(ctx, w.cfg.URL+CallbackPath, demands)
}

// WebLogin is a sign-in on the gateway's page. Its exported fields do not change.
type WebLogin struct {
	Asker            Asker
	Code             string // as the terminal shows it, XXXX-XXXX
	Since, ExpiresAt time.Time

	web   *Web
	asked chan struct{} // closed when the terminal is to answer
	done  chan struct{} // closed when id or err is set

	mu     sync.Mutex // guards what follows
	number string     // that the terminal must answer with; "" before Confirm
	left   int        // tries that it has
	id     sshgate.Identity
	err    error
}

// Prompt returns what to show.
func (l *WebLogin) Prompt() Prompt {
	page := l.web.cfg.URL + LoginPath
	return Prompt{
		UserCode: l.Code, VerificationURI: page, VerificationURIComplete: page + "/" + l.Code,
		ExpiresAt: l.ExpiresAt, Asks: l.web.cfg.ConfirmCode,
	}
}

// Wait returns who signed in and confirmed. Call it once; the sign-in can be found
// until it returns. An error is a *Failure.
func (l *WebLogin) Wait(ctx context.Context) (sshgate.Identity, error) {
	defer l.web.remove(l)
	late := time.NewTimer(l.ExpiresAt.Sub(l.web.cfg.OIDC.cfg.Now()))
	defer late.Stop()
	select {
	case <-l.done:
	case <-late.C:
		l.end(sshgate.Identity{}, fail(CodeExpired, nil))
	case <-ctx.Done():
		l.end(sshgate.Identity{}, cancelled(ctx))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.err
}

// end sets the outcome, unless there is one.
func (l *WebLogin) end(id sshgate.Identity, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endLocked(id, err)
}

func (l *WebLogin) endLocked(id sshgate.Identity, err error) bool {
	if l.over() {
		return false
	}
	l.id, l.err = id, err
	close(l.done)
	return true
}

func (l *WebLogin) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Confirm says yes as the person who has signed in for this very login. Where the
// terminal must answer it returns the number to show, and the login goes on until
// that is typed. It works once; then it is ErrOver.
func (l *WebLogin) Confirm(id sshgate.Identity) (number string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over() || l.number != "":
		return "", ErrOver
	case !l.web.cfg.ConfirmCode:
		l.endLocked(id, nil)
		return "", nil
	}
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		return "", err
	}
	l.id, l.number = id, fmt.Sprintf("%06d", n)
	close(l.asked)
	return l.number, nil
}

// Deny says no. ErrOver where it comes too late.
func (l *WebLogin) Deny(id sshgate.Identity, suspicious bool) error {
	reason := fmt.Errorf("%s said no", printable(id.String(), maxQuote))
	if suspicious {
		reason = fmt.Errorf("%w, and reported it as suspicious", reason)
	}
	failure := fail(CodeAccessDenied, reason)
	failure.Sentence = "the sign-in was denied in the browser"
	if !l.end(sshgate.Identity{}, failure) {
		return ErrOver
	}
	return nil
}

// Open tells whether the login waits for somebody to confirm it.
func (l *WebLogin) Open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.over() && l.number == ""
}

// Asking tells whether the terminal is being asked for the number.
func (l *WebLogin) Asking() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.over() && l.number != ""
}

// Succeeded tells whether the login is over, and somebody signed in.
func (l *WebLogin) Succeeded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over() && l.err == nil
}

// Asked is closed when the terminal is to be asked for the number; nil where it
// never is.
func (l *WebLogin) Asked() <-chan struct{} {
	if !l.web.cfg.ConfirmCode {
		return nil
	}
	return l.asked
}

// Answer takes what was typed in the terminal, and returns how many tries are left;
// 0 when the sign-in is over, whichever way.
func (l *WebLogin) Answer(text string) (left int) {
	text = strings.ReplaceAll(strings.TrimSpace(text), " ", "")
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over():
		return 0
	case l.number == "": // nothing was asked
		return l.left
	case subtle.ConstantTimeCompare([]byte(text), []byte(l.number)) == 1:
		l.endLocked(l.id, nil)
		return 0
	}
	if l.left--; l.left == 0 {
		failure := fail(CodeAccessDenied, errors.New("the number of the page was not typed in"))
		failure.Sentence = "the number that the page shows was not typed in; run the command in a terminal, and try again"
		l.endLocked(sshgate.Identity{}, failure)
	}
	return l.left
}
