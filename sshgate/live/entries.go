package live

import (
	"container/heap"
	"time"
)

// entry is a Holding in the register. Its times are guarded by the register's mu,
// though only Run, in whose goroutine they change, reads them without.
type entry struct {
	Holding
	policyEnd time.Time // of the policy's session duration; zero: none
	index     int       // in entries; -1 once it was removed
}

func (e *entry) asksPolicy() bool { return e.Request.Target.Origin != "" }

// end returns when the time of e is over, zero where it never is.
func (e *entry) end() time.Time {
	if e.policyEnd.IsZero() || !e.Until.IsZero() && e.Until.Before(e.policyEnd) {
		return e.Until
	}
	return e.policyEnd
}

// remove takes e out, and tells whether it was in.
func (r *Register) remove(e *entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.index < 0 {
		return false
	}
	heap.Remove(&r.open, e.index)
	return true
}

// move changes the times of e.
func (r *Register) move(e *entry, change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := e.end()
	change()
	if e.index >= 0 && !e.end().Equal(before) {
		heap.Fix(&r.open, e.index)
	}
}

// due returns the entries whose time is over by now.
func (r *Register) due(now time.Time) (due []*entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// What hangs below an entry of the heap ends no earlier.
	for look := []int{0}; len(look) > 0; {
		i := look[len(look)-1]
		look = look[:len(look)-1]
		if i >= len(r.open) {
			continue
		}
		if end := r.open[i].end(); !end.IsZero() && !now.Before(end) {
			due = append(due, r.open[i])
			look = append(look, 2*i+1, 2*i+2)
		}
	}
	return due
}

// entries are a heap, the first to end on top.
type entries []*entry

func (s entries) Len() int { return len(s) }

func (s entries) Less(i, j int) bool {
	a, b := s[i].end(), s[j].end()
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}

func (s entries) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

func (s *entries) Push(x any) {
	e := x.(*entry)
	e.index = len(*s)
	*s = append(*s, e)
}

func (s *entries) Pop() any {
	last := len(*s) - 1
	e := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	e.index = -1
	return e
}
