package devidp

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"sync"
	"time"
)

const (
	sessionCookie   = "devidp"
	sessionLifetime = time.Hour
)

// session is what the provider knows about a browser.
type session struct {
	id         string // the cookie's value
	csrf       string // what its forms must carry
	expires    time.Time
	code       string // user code in normal form that was entered, or ""
	subject    string // who signed in, or ""
	signedInAt time.Time
}

// checkCSRF tells whether a request has the token of the session's forms.
func (s session) checkCSRF(r *http.Request) bool {
	return subtle.ConstantTimeCompare([]byte(r.PostFormValue("csrf")), []byte(s.csrf)) == 1
}

// sessions holds them by cookie, for an hour, maxEntries at most.
type sessions struct {
	now    func() time.Time
	secure bool // the cookie is for https alone

	mu   sync.Mutex
	byID map[string]session
}

func newSessions(now func() time.Time, secure bool) *sessions {
	return &sessions{now: now, secure: secure, byID: make(map[string]session)}
}

// get returns the session of the request's cookie.
func (s *sessions) get(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return session{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byID[cookie.Value]
	return found, ok && s.now().Before(found.expires)
}

// open returns the session of the request, or a new one. It is false when there
// is no room.
func (s *sessions) open(w http.ResponseWriter, r *http.Request) (session, bool) {
	if found, ok := s.get(r); ok {
		return found, true
	}
	return s.renew(w, session{})
}

// renew stores a session under a new cookie and token in place of the old, as
// is due whenever its rights change: who planted the old cookie has nothing.
func (s *sessions) renew(w http.ResponseWriter, old session) (session, bool) {
	fresh := old
	fresh.id, fresh.csrf = rand.Text(), rand.Text()
	fresh.expires = s.now().Add(sessionLifetime)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, old.id)
	if len(s.byID) >= maxEntries {
		s.prune()
	}
	if len(s.byID) >= maxEntries {
		return session{}, false
	}
	s.byID[fresh.id] = fresh
	http.SetCookie(w, &http.Cookie{
		Name:     sessionCookie,
		Value:    fresh.id,
		Path:     "/",
		MaxAge:   int(sessionLifetime / time.Second),
		HttpOnly: true,
		Secure:   s.secure,
		SameSite: http.SameSiteLaxMode, // Strict would lose it on the way from a link
	})
	return fresh, true
}

// save stores a changed session.
func (s *sessions) save(changed session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byID[changed.id]; ok {
		s.byID[changed.id] = changed
	}
}

// prune forgets what expired. The caller holds s.mu.
func (s *sessions) prune() {
	now := s.now()
	for id, one := range s.byID {
		if !now.Before(one.expires) {
			delete(s.byID, id)
		}
	}
}
