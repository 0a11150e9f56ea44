package limits

import (
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// maxKeys bounds the keys of one bucket table.
const maxKeys = 10_000

// evictionLooks is how many keys are compared to find the one to forget.
const evictionLooks = 16

// buckets holds for every key when it will have all its times again. The distance
// of that from now is what the key owes; it shrinks by itself.
type buckets[K comparable] struct {
	rate sshgate.Rate

	mu   sync.Mutex
	full map[K]time.Time
}

func newBuckets[K comparable](rate sshgate.Rate) *buckets[K] {
	return &buckets[K]{rate: rate, full: make(map[K]time.Time)}
}

// owes returns how many times the key has used, in times.
func (b *buckets[K]) owes(key K, now time.Time) float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used(key, now).Seconds() / b.rate.Each().Seconds()
}

// used is what the key owes. The caller holds b.mu.
func (b *buckets[K]) used(key K, now time.Time) time.Duration {
	full, ok := b.full[key]
	if !ok {
		return 0
	}
	return max(full.Sub(now), 0)
}

// take takes one time, and tells whether there was one.
func (b *buckets[K]) take(key K, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	used := b.used(key, now)
	if used+b.rate.Each() > time.Duration(b.rate.Count)*b.rate.Each() {
		return false
	}
	b.put(key, now, used+b.rate.Each())
	return true
}

// charge takes so many times, whether or not they are left. The key then owes no
// more than most.
func (b *buckets[K]) charge(key K, now time.Time, times, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	each := b.rate.Each()
	b.put(key, now, min(b.used(key, now)+time.Duration(times)*each, time.Duration(most)*each))
}

// put notes what the key owes. The caller holds b.mu.
func (b *buckets[K]) put(key K, now time.Time, used time.Duration) {
	if _, known := b.full[key]; !known && len(b.full) >= maxKeys {
		b.evict(now)
	}
	b.full[key] = now.Add(used)
}

// evict forgets some that owe nothing, or the one that owes least of a few. The
// order of a map is random, so nobody can choose whom. The caller holds b.mu.
func (b *buckets[K]) evict(now time.Time) {
	var least K
	var when time.Time
	looks := 0
	for key, full := range b.full {
		if !full.After(now) {
			delete(b.full, key)
		} else if when.IsZero() || full.Before(when) {
			least, when = key, full
		}
		if looks++; looks == evictionLooks {
			break
		}
	}
	if len(b.full) >= maxKeys {
		delete(b.full, least)
	}
}

// empty returns how many keys have no time left.
func (b *buckets[K]) empty(now time.Time) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := time.Duration(b.rate.Count-1) * b.rate.Each()
	for _, full := range b.full {
		if full.Sub(now) > all {
			n++
		}
	}
	return n
}
