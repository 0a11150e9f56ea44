// Package audit keeps the record of who did what: a Log takes events and hands
// each to every Sink.
//
// Make one with NewLog, call Record, and Close it last of all. The record never
// stands in the way of access: a sink that fails or hangs costs its own events,
// which Failures counts, and at most a moment of the caller's time. Whoever
// wants a gateway without a record to stop has to watch that count.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	// patience is how long Record waits for slow sinks.
	patience = 100 * time.Millisecond

	// queueLength is how many events wait for one slow sink before further
	// ones are lost to it.
	queueLength = 1024

	// complainEvery is the least time between two log lines about the failures
	// of one sink.
	complainEvery = 10 * time.Second
)

// Sink writes events somewhere. A Log calls Write from one goroutine, one event
// after the other. A Sink that panics is treated as one that fails.
type Sink interface {
	Write(sshgate.Event) error
}

// Log hands events to sinks. Make one with NewLog.
type Log struct {
	now      func() time.Time
	writers  []*writer
	failures atomic.Uint64

	// mu guards closed, and with it the queues: who sends holds it for
	// reading, who closes them for writing.
	mu     sync.RWMutex
	closed bool
	done   chan struct{} // closed when every writer has ended
}

// NewLog returns a log that writes to the sinks until Close. now stamps events
// that have no time; nil means time.Now. errLog is told when a sink fails; it
// must not lead back into a sink. Nil means that nobody is told.
func NewLog(now func() time.Time, errLog *slog.Logger, sinks ...Sink) *Log {
	if now == nil {
		now = time.Now
	}
	if errLog == nil {
		errLog = slog.New(slog.DiscardHandler)
	}
	l := &Log{now: now, done: make(chan struct{})}
	var running sync.WaitGroup
	for _, sink := range sinks {
		w := &writer{sink: sink, queue: make(chan entry, queueLength), failures: &l.failures, errLog: errLog}
		l.writers = append(l.writers, w)
		running.Go(w.run)
	}
	go func() {
		running.Wait()
		close(l.done)
	}()
	return l
}

// Record writes the event, stamped with the time where it has none. When it
// returns, every sink that is well has the event; it waits no longer than a
// tenth of a second for the others. After Close the event is lost, and counted.
func (l *Log) Record(e sshgate.Event) {
	if e.Time.IsZero() {
		e.Time = l.now()
	}
	written := make(chan struct{}, len(l.writers)) // a late writer must not block on it
	waitFor := l.send(entry{event: e, written: written})
	if waitFor == 0 {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for range waitFor {
		select {
		case <-written:
		case <-timer.C:
			return
		}
	}
}

// send queues the entry for every sink and returns how many have taken it.
func (l *Log) send(e entry) (taken int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, w := range l.writers {
		if l.closed {
			w.fail(e.event, errClosed)
			continue
		}
		select {
		case w.queue <- e:
			taken++
		default:
			w.fail(e.event, errQueueFull)
		}
	}
	return taken
}

// Failures returns how many events were lost so far, counted once for each sink
// that has not got it.
func (l *Log) Failures() uint64 { return l.failures.Load() }

// Close writes what is still queued and ends the log. It waits for that until
// ctx ends, and then returns an error; a sink that hangs is left behind. Further
// calls wait likewise.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		for _, w := range l.writers {
			close(w.queue)
		}
	}
	l.mu.Unlock()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write the last audit events: %w", ctx.Err())
	}
}

var (
	errClosed    = errors.New("the log is closed")
	errQueueFull = errors.New("too many events wait for the sink")
)

// entry is an event on its way to one sink.
type entry struct {
	event   sshgate.Event
	written chan<- struct{} // gets one value when the sink is done with it
}

// writer feeds one sink.
type writer struct {
	sink     Sink
	queue    chan entry
	failures *atomic.Uint64
	errLog   *slog.Logger

	mu         sync.Mutex // guards the rest
	complained time.Time  // when errLog was last told
	untold     int        // failures since
}

func (w *writer) run() {
	for e := range w.queue {
		if err := w.write(e.event); err != nil {
			w.fail(e.event, err)
		}
		e.written <- struct{}{}
	}
}

// write is sink.Write, with a panic made an error.
func (w *writer) write(e sshgate.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the sink panicked: %v", p)
		}
	}()
	return w.sink.Write(e)
}

// fail counts a lost event and tells errLog, though not of each one when there
// are many: a full disk must not be filled further with complaints about it.
func (w *writer) fail(e sshgate.Event, err error) {
	w.failures.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.untold++
	// The log's own clock may stand still or belong to a test; this is only
	// about how often to complain.
	if now := time.Now(); now.Sub(w.complained) >= complainEvery {
		w.errLog.Error("an audit event was lost", "sink", fmt.Sprintf("%T", w.sink),
			"kind", e.Kind, "lost", w.untold, "err", err)
		w.complained, w.untold = now, 0
	}
}
