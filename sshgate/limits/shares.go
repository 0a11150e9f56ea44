package limits

import "sync"

// shares counts what each key has, up to a bound. Keys that have nothing are not
// kept.
type shares[K comparable] struct {
	most int

	mu    sync.Mutex
	taken map[K]int
}

func newShares[K comparable](most int) *shares[K] {
	return &shares[K]{most: most, taken: make(map[K]int)}
}

// take takes one for the key, and tells whether there was one left.
func (s *shares[K]) take(key K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[key] >= s.most {
		return false
	}
	s.taken[key]++
	return true
}

func (s *shares[K]) give(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[key]--; s.taken[key] <= 0 {
		delete(s.taken, key)
	}
}

// use returns how many keys have something, and how much the greediest has.
func (s *shares[K]) use() (keys, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.taken {
		most = max(most, n)
	}
	return len(s.taken), most
}
