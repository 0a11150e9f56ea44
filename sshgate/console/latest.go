package console

import (
	"sync"

	"github.com/sshgate/sshgate/sshgate"
)

// Latest keeps the latest events for those who look at a running gateway. It is an
// audit.Sink. Make one with NewLatest.
type Latest struct {
	mu      sync.Mutex
	ring    []sshgate.Event // event n is at n modulo its length
	count   uint64          // events so far
	changed chan struct{}   // closed and replaced when there is another
}

// NewLatest returns one that keeps the last size events.
func NewLatest(size int) *Latest {
	return &Latest{ring: make([]sshgate.Event, max(size, 1)), changed: make(chan struct{})}
}

// Write keeps the event. It never fails.
func (l *Latest) Write(e sshgate.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.count%uint64(len(l.ring))] = e
	l.count++
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// last returns where the last n events begin.
func (l *Latest) last(n int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count - min(uint64(max(n, 0)), l.count, uint64(len(l.ring)))
}

// since returns the events from number first on that are still kept, the number
// of the next to come, and a channel that is closed when it has.
func (l *Latest) since(first uint64) (list []sshgate.Event, next uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.count - min(l.count, uint64(len(l.ring)))
	for n := max(first, oldest); n < l.count; n++ {
		list = append(list, l.ring[n%uint64(len(l.ring))])
	}
	return list, l.count, l.changed
}
