package limits

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	// summaryEvery is how often the refusals after a first one are summed up.
	summaryEvery = time.Minute
	// maxSubjects is how many networks and identities each limit tells apart
	// between two summaries. Those beyond are summed up together.
	maxSubjects = 16
)

// refusals counts what was refused and puts it on record: the first refusal of
// somebody under a limit at once, what follows once a minute as a number.
type refusals struct {
	record   func(sshgate.Event)
	now      func() time.Time
	networks Networks
	total    map[sshgate.Limit]*atomic.Uint64 // not changed

	mu     sync.Mutex // guards what follows
	since  map[subject]*sum
	others map[sshgate.Limit]*sum // beyond maxSubjects
	known  map[sshgate.Limit]int  // in since
	timer  *time.Timer            // runs while since is not empty
	closed bool
	// recording is held by those who record, so that close can wait for them.
	recording sync.WaitGroup
}

// subject is whom a limit refused: an identity, or else a network.
type subject struct {
	limit    sshgate.Limit
	network  netip.Prefix
	identity sshgate.IdentityKey
}

// sum is what was refused since it was last on record, and the last of it.
type sum struct {
	count int
	last  sshgate.Event
}

func newRefusals(record func(sshgate.Event), now func() time.Time, networks Networks) *refusals {
	r := &refusals{
		record: record, now: now, networks: networks, total: make(map[sshgate.Limit]*atomic.Uint64),
		since: make(map[subject]*sum), others: make(map[sshgate.Limit]*sum), known: make(map[sshgate.Limit]int),
	}
	for _, limit := range sshgate.Limits() {
		r.total[limit] = new(atomic.Uint64)
	}
	return r
}

// note counts one refusal.
func (r *refusals) note(limit sshgate.Limit, id sshgate.Identity, addr netip.Addr, request sshgate.RequestID, reason string) {
	if total := r.total[limit]; total != nil {
		total.Add(1)
	}
	who := subject{limit: limit, identity: id.Key()}
	event := sshgate.Event{Time: r.now(), Kind: sshgate.EventLimit, Request: request, ClientAddr: addr, Detail: string(limit), Reason: reason}
	if id.Key() != (sshgate.IdentityKey{}) {
		event = event.By(id)
	} else {
		who.network, _ = r.networks.of(addr)
	}
	if r.first(who, event) {
		r.record(event)
		r.recording.Done()
	}
}

// first tells whether the event is to be on record at once; the caller then owes
// a recording.Done. Otherwise it is in a sum.
func (r *refusals) first(who subject, event sshgate.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if known := r.since[who]; known != nil {
		known.count++
		known.last = event
		return false
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(summaryEvery, r.sumUp)
	}
	if r.known[who.limit] >= maxSubjects {
		rest := r.others[who.limit]
		if rest == nil {
			rest = &sum{}
			r.others[who.limit] = rest
		}
		rest.count++
		event.Request, event.Reason = "", "refusals of other clients"
		rest.last = event
		return false
	}
	r.since[who] = &sum{}
	r.known[who.limit]++
	r.recording.Add(1)
	return true
}

// sumUp records the sums, and forgets whom nothing was refused to since the last
// time.
func (r *refusals) sumUp() {
	r.mu.Lock()
	if r.closed { // which has seen to the rest
		r.mu.Unlock()
		return
	}
	events := r.collect()
	if r.timer = nil; len(r.since) > 0 {
		r.timer = time.AfterFunc(summaryEvery, r.sumUp)
	}
	r.recording.Add(1)
	r.mu.Unlock()
	defer r.recording.Done()
	for _, event := range events {
		r.record(event)
	}
}

// collect takes the sums. The caller holds r.mu.
func (r *refusals) collect() (events []sshgate.Event) {
	for who, sum := range r.since {
		if sum.count == 0 {
			delete(r.since, who)
			r.known[who.limit]--
			continue
		}
		events = append(events, sum.event(r.now()))
		sum.count = 0
	}
	for limit, sum := range r.others {
		events = append(events, sum.event(r.now()))
		delete(r.others, limit)
	}
	return events
}

func (s *sum) event(now time.Time) sshgate.Event {
	e := s.last
	e.Time, e.Count = now, s.count
	e.Reason = fmt.Sprintf("%d more in the last minute: %s", s.count, e.Reason)
	return e
}

func (r *refusals) close() {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	var events []sshgate.Event
	if first {
		events = r.collect()
	}
	r.mu.Unlock()
	for _, event := range events {
		r.record(event)
	}
	r.recording.Wait()
}

func (r *refusals) of(limit sshgate.Limit) uint64 {
	if total := r.total[limit]; total != nil {
		return total.Load()
	}
	return 0
}
