package limits

import (
	"net/netip"
	"sync"
)

// waiting is the sign-ins that wait, by network.
type waiting struct {
	most int // of one network

	mu        sync.Mutex
	byNetwork map[netip.Prefix]*waiters
}

// waiters are the sign-ins of one network.
type waiters struct {
	signIns int
	shared  map[string]int // by key, how many share it
}

func newWaiting(most int) *waiting {
	return &waiting{most: most, byNetwork: make(map[netip.Prefix]*waiters)}
}

// join counts one in at a sign-in that is there, and tells whether it is.
func (w *waiting) join(network netip.Prefix, key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.byNetwork[network]
	if key == "" || in == nil || in.shared[key] == 0 {
		return false
	}
	in.shared[key]++
	return true
}

// start counts a sign-in in, and tells whether there may be one more.
func (w *waiting) start(network netip.Prefix, key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.byNetwork[network]
	if in == nil {
		in = &waiters{shared: make(map[string]int)}
		w.byNetwork[network] = in
	}
	if key != "" && in.shared[key] > 0 { // another was faster
		in.shared[key]++
		return true
	}
	if in.signIns >= w.most {
		return false
	}
	in.signIns++
	if key != "" {
		in.shared[key] = 1
	}
	return true
}

func (w *waiting) leave(network netip.Prefix, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.byNetwork[network]
	if key != "" {
		if in.shared[key]--; in.shared[key] > 0 {
			return
		}
		delete(in.shared, key)
	}
	if in.signIns--; in.signIns == 0 {
		delete(w.byNetwork, network)
	}
}
