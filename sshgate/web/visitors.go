package web

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	visitorCookie = "__Host-sshgate-enrol" // the prefix binds it to this host and to HTTPS
	visitLength   = 15 * time.Minute
	maxVisitors   = 1000
)

// visitor is a browser whose user signs in to let a machine in, or has. Its fields do
// not change.
type visitor struct {
	id     string
	csrf   string               // stands in the forms of the pages that it was given
	code   string               // of the machine that it is about
	ticket *signIn              // nil where the visitor has signed in already, as identity
	since  sshgate.ConnectionID // names the sign-in in the log
	told   sync.Once            // the sign-in's outcome is on record
	end    *time.Timer

	identity sshgate.Identity
}

// visitors are those who are on the pages, by what their cookie says.
type visitors struct {
	mu     sync.Mutex
	byID   map[string]*visitor
	closed bool
}

func newVisitors() *visitors { return &visitors{byID: make(map[string]*visitor)} }

// add lets somebody in who waits for the ticket's sign-in, nil when there are too
// many. The visit ends by itself.
func (s *visitors) add(ticket *signIn, code string) *visitor {
	return s.enter(&visitor{ticket: ticket, code: code})
}

// addSignedIn lets somebody in who has signed in, nil when there are too many.
func (s *visitors) addSignedIn(id sshgate.Identity, code string) *visitor {
	return s.enter(&visitor{identity: id, code: code})
}

func (s *visitors) enter(v *visitor) *visitor {
	v.id, v.csrf, v.since = rand.Text(), rand.Text(), sshgate.NewConnectionID()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.byID) >= maxVisitors {
		return nil
	}
	s.byID[v.id] = v
	v.end = time.AfterFunc(visitLength, func() {
		if _, over, _ := v.signedIn(); !over {
			v.ticket.failed()
		}
		s.remove(v)
	})
	return v
}

// of returns who makes the request, nil where it has no cookie that is good.
func (s *visitors) of(r *http.Request) *visitor {
	cookie, err := r.Cookie(visitorCookie)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[cookie.Value] // 128 random bits; a map's timing tells nothing of use
}

func (s *visitors) remove(v *visitor) {
	s.mu.Lock()
	found := s.byID[v.id] == v
	delete(s.byID, v.id)
	s.mu.Unlock()
	if found {
		v.leave()
	}
}

func (s *visitors) close() {
	s.mu.Lock()
	s.closed = true
	all := s.byID
	s.byID = make(map[string]*visitor)
	s.mu.Unlock()
	for _, v := range all {
		v.leave()
	}
}

func (v *visitor) leave() {
	v.end.Stop()
	if v.ticket != nil {
		v.ticket.Leave()
	}
}

// setCookie has the browser come back as the visitor.
func (v *visitor) setCookie(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{
		Name: visitorCookie, Value: v.id, Path: "/", MaxAge: int(visitLength.Seconds()),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// sent tells whether the form comes from a page that the visitor was given.
func (v *visitor) sent(r *http.Request) bool {
	return sameText(r.PostFormValue("csrf"), v.csrf)
}

// sameText compares two texts in constant time. Nothing is the same as an empty one.
func sameText(got, want string) bool {
	return want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

// signedIn tells whether the sign-in is over, and how.
func (v *visitor) signedIn() (id sshgate.Identity, over bool, err error) {
	if v.ticket == nil {
		return v.identity, true, nil
	}
	select {
	case <-v.ticket.Done():
		id, err = v.ticket.Result()
		return id, true, err
	default:
		return sshgate.Identity{}, false, nil
	}
}
