package web

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

const (
	// visitCookie and the letters of the code are the name of a visit's cookie, so
	// that one browser can have several. The prefix binds it to this host and to
	// HTTPS: no other host and no plain connection can plant one.
	visitCookie   = "__Host-sshgate-login-"
	visitTime     = 10 * time.Minute
	maxVisits     = 2000
	maxVisitsEach = 8 // browsers that are at one sign-in
)

// visit is one browser at one sign-in of the web flow. login is nil where the visitor
// lets a machine in.
type visit struct {
	code  string // of the sign-in, or of the machine
	login *authflow.WebLogin
	auth  *authflow.Authorization // the provider's part
	end   *time.Timer

	// Guarded by visits.mu.
	cookie string // the secret that only this browser has; another one after the sign-in
	csrf   string // stands in the forms of its pages; "" before the sign-in

	// mu guards what follows, and is held while the visitor's answer is taken.
	mu      sync.Mutex
	id      sshgate.Identity // who signed in
	outcome string           // what the visitor said: yes, no, report or late; "" before
	number  string           // to type in the terminal
}

// visits are the browsers at sign-ins.
type visits struct {
	mu      sync.Mutex
	all     map[*visit]struct{}
	byState map[string]*visit // those whom the provider has not sent back
	closed  bool
}

func newVisits() *visits {
	return &visits{all: make(map[*visit]struct{}), byState: make(map[string]*visit)}
}

// add takes a browser in, under a new cookie whatever it had before. It tells whether
// there was room.
func (s *visits) add(v *visit) bool {
	v.cookie = rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	each := 0
	for other := range s.all {
		if other.code == v.code {
			each++
		}
	}
	if s.closed || each >= maxVisitsEach || len(s.all) >= maxVisits {
		return false
	}
	s.all[v], s.byState[v.auth.State] = struct{}{}, v
	v.end = time.AfterFunc(visitTime, func() { s.remove(v) })
	return true
}

// back returns the visit that the browser comes back to from the provider, by the
// state in the address and its cookie: once. known says that there is such a visit,
// of another browser where v is nil.
func (s *visits) back(r *http.Request, state string) (v *visit, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v = s.byState[state] // 130 random bits; a map's timing tells nothing of use
	if v == nil || !v.auth.Is(state) {
		return nil, false
	}
	if !hasCookie(r, v) {
		return nil, true
	}
	delete(s.byState, state)
	return v, true
}

// signedIn notes that the browser's user has signed in. From now on only who has the
// new cookie is that browser: one that was planted before is worth nothing.
func (s *visits) signedIn(v *visit, id sshgate.Identity) {
	v.mu.Lock()
	v.id = id
	v.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	v.cookie, v.csrf = rand.Text(), rand.Text()
}

// of returns the browser's visit to the sign-in with the code, if its user has signed
// in, and what its forms must have; nil otherwise.
func (s *visits) of(r *http.Request, code string) (v *visit, csrf string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.all {
		if v.code == code && v.login != nil && v.csrf != "" && hasCookie(r, v) {
			return v, v.csrf
		}
	}
	return nil, ""
}

// hasCookie tells whether the request is of the visit's browser. The caller holds
// visits.mu.
func hasCookie(r *http.Request, v *visit) bool {
	for _, cookie := range r.CookiesNamed(cookieName(v.code)) {
		if subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(v.cookie)) == 1 {
			return true
		}
	}
	return false
}

func (s *visits) remove(v *visit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, v)
	delete(s.byState, v.auth.State)
	v.end.Stop()
}

func (s *visits) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for v := range s.all {
		v.end.Stop()
	}
	clear(s.all)
	clear(s.byState)
}

func cookieName(code string) string { return visitCookie + strings.ReplaceAll(code, "-", "") }

// setCookie gives the browser the visit's cookie. On the way to the provider and back
// it must be lax, since the provider's page is another site; afterwards no other site
// may have it sent.
func (s *visits) setCookie(w http.ResponseWriter, v *visit, site http.SameSite) {
	s.mu.Lock()
	value := v.cookie
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(v.code), Value: value, Path: "/", MaxAge: int(visitTime.Seconds()),
		Secure: true, HttpOnly: true, SameSite: site,
	})
}
