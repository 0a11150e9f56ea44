package audit

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sshgate/sshgate/sshgate"
)

// Recorder keeps the latest events in memory, for tests and for looking at a
// running gateway. It is a Sink; it also has the Record method of a Log, to stand
// in for one. Make one with NewRecorder.
type Recorder struct {
	size int

	mu      sync.Mutex
	events  []sshgate.Event // the latest, oldest first
	changed chan struct{}   // closed and replaced when events changes
}

// NewRecorder returns a recorder that keeps the last size events. A size below
// one means 1024.
func NewRecorder(size int) *Recorder {
	if size < 1 {
		size = 1024
	}
	return &Recorder{size: size, changed: make(chan struct{})}
}

// Write keeps the event. It never fails.
func (r *Recorder) Write(e sshgate.Event) error {
	r.Record(e)
	return nil
}

// Record keeps the event as it is: it stamps no time.
func (r *Recorder) Record(e sshgate.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == r.size {
		r.events = slices.Delete(r.events, 0, 1)
	}
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// Events returns the events that are kept, oldest first.
func (r *Recorder) Events() []sshgate.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Wait returns the first event kept for which match holds, waiting for one
// until ctx ends; the error then names the kinds that came instead.
func (r *Recorder) Wait(ctx context.Context, match func(sshgate.Event) bool) (sshgate.Event, error) {
	for {
		r.mu.Lock()
		events, changed := slices.Clone(r.events), r.changed
		r.mu.Unlock()
		if i := slices.IndexFunc(events, match); i >= 0 {
			return events[i], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			kinds := make([]sshgate.EventKind, len(events))
			for i, e := range events {
				kinds[i] = e.Kind
			}
			return sshgate.Event{}, fmt.Errorf("wait for an audit event, got only %v: %w", kinds, ctx.Err())
		}
	}
}
