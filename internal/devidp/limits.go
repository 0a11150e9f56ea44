package devidp

import (
	"sync"
	"time"
)

const (
	limitWindow  = 10 * time.Minute
	maxPerUser   = 10 // wrong passwords for one address in a window
	maxPerClient = 50 // wrong passwords and codes from one network address
)

// limits counts failures, so that passwords and user codes can't be guessed
// (RFC 8628 section 5.1).
type limits struct {
	now func() time.Time

	mu     sync.Mutex
	counts map[string]failures
}

type failures struct {
	n     int
	until time.Time // end of the window
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, counts: make(map[string]failures)}
}

// exceeded tells whether key has failed max times in its window.
func (l *limits) exceeded(key string, max int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.counts[key]; ok && l.now().Before(f.until) {
		return f.n >= max
	}
	return len(l.counts) >= maxEntries && !l.prune()
}

// fail counts one failure of each key.
func (l *limits) fail(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		f, ok := l.counts[key]
		if !ok || !l.now().Before(f.until) {
			f = failures{until: l.now().Add(limitWindow)}
		}
		f.n++
		l.counts[key] = f
	}
}

// prune forgets windows that ended and tells whether that made room. The caller
// holds l.mu.
func (l *limits) prune() bool {
	now := l.now()
	for key, f := range l.counts {
		if !now.Before(f.until) {
			delete(l.counts, key)
		}
	}
	return len(l.counts) < maxEntries
}
