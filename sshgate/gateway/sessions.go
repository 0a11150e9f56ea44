package gateway

import (
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate/console"
	"github.com/sshgate/sshgate/sshgate/live"
)

// running are the sessions that are on record as started and not as ended.
type running struct {
	mu  sync.Mutex
	all map[*session]console.Session
}

func (r *running) add(s *session, detail string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = make(map[*session]console.Session)
	}
	a := s.access
	r.all[s] = console.Session{
		ID: a.id, Connection: s.conn.id, Identity: a.grant.identity, Key: a.grant.key, Addr: s.conn.addr,
		Origin: a.target.Origin, Login: a.decision.Login, Channel: a.channel, Detail: detail, Since: since,
	}
}

func (r *running) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, s)
}

// Sessions returns the channels that are open to origins now, those that are end to
// end too.
func (s *Server) Sessions() []console.Session {
	s.running.mu.Lock()
	defer s.running.mu.Unlock()
	list := make([]console.Session, 0, len(s.running.all))
	for _, open := range s.running.all {
		list = append(list, open)
	}
	for _, p := range s.broker.Live() {
		list = append(list, console.OfPassage(p))
	}
	return list
}

// End ends the channels for which match holds, with a word to the user of each
// session, and returns how many those were.
func (s *Server) End(match func(console.Session) bool, reason string) int {
	var meant []*session
	s.running.mu.Lock()
	for session, open := range s.running.all {
		if match(open) {
			meant = append(meant, session)
		}
	}
	s.running.mu.Unlock()
	ending := &live.Ending{Sentence: reason, Cause: reason}
	for _, session := range meant {
		session.end(ending)
	}
	n := len(meant)
	for _, p := range s.broker.Live() {
		if match(console.OfPassage(p)) {
			p.End(ending)
			n++
		}
	}
	return n
}
