package audit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sinkFunc is a Sink.
type sinkFunc func(sshgate.Event) error

func (f sinkFunc) Write(e sshgate.Event) error { return f(e) }

func closeLog(t *testing.T, l *audit.Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestRecordReachesEverySinkAtOnce(t *testing.T) {
	a, b := audit.NewRecorder(0), audit.NewRecorder(0)
	l := audit.NewLog(func() time.Time { return noon }, nil, a, b)
	defer closeLog(t, l)
	earlier := noon.Add(-time.Hour)
	l.Record(sshgate.Event{Kind: sshgate.EventLoginStart})
	l.Record(sshgate.Event{Kind: sshgate.EventLoginSuccess, Time: earlier})
	for name, r := range map[string]*audit.Recorder{"first": a, "second": b} {
		events := r.Events()
		if len(events) != 2 || events[0].Kind != sshgate.EventLoginStart || events[1].Kind != sshgate.EventLoginSuccess {
			t.Fatalf("%s sink: got %v right after Record", name, events)
		}
		if !events[0].Time.Equal(noon) || !events[1].Time.Equal(earlier) {
			t.Errorf("%s sink: times %v and %v, want the clock's and the event's own", name, events[0].Time, events[1].Time)
		}
	}
}

func TestWithoutSinks(t *testing.T) {
	l := audit.NewLog(nil, nil)
	l.Record(sshgate.Event{})
	closeLog(t, l)
	if n := l.Failures(); n != 0 {
		t.Errorf("%d failures", n)
	}
}

func TestFailingSinksCostOnlyTheirEvents(t *testing.T) {
	var complaints bytes.Buffer
	good := audit.NewRecorder(0)
	l := audit.NewLog(nil, slog.New(slog.NewTextHandler(&complaints, nil)),
		sinkFunc(func(sshgate.Event) error { return errors.New("the disk is full") }),
		sinkFunc(func(sshgate.Event) error { panic("oops") }),
		good)
	for range 50 {
		l.Record(sshgate.Event{Kind: sshgate.EventDecision})
	}
	closeLog(t, l)
	if n := len(good.Events()); n != 50 {
		t.Errorf("the good sink has %d events, want 50", n)
	}
	if n := l.Failures(); n != 100 {
		t.Errorf("%d failures, want 100", n)
	}
	text := complaints.String()
	if !strings.Contains(text, "the disk is full") || !strings.Contains(text, "oops") {
		t.Errorf("the complaints do not say what is wrong:\n%s", text)
	}
	if n := strings.Count(text, "\n"); n != 2 {
		t.Errorf("%d complaints at once, want one for each sink", n)
	}
}

// TestHangingSink has a sink that hangs: others get every event at once, Record
// waits a moment only, what does not fit into the queue is counted, and the rest
// arrives in order when the sink goes on.
func TestHangingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		slow := audit.NewRecorder(1 << 20)
		var good atomic.Int64
		count := sinkFunc(func(sshgate.Event) error { good.Add(1); return nil })
		l := audit.NewLog(nil, nil, count, sinkFunc(func(e sshgate.Event) error {
			<-release
			return slow.Write(e)
		}))
		const events = 2000
		for i := range events {
			start := time.Now()
			l.Record(sshgate.Event{BytesIn: int64(i)})
			if waited := time.Since(start); waited > 100*time.Millisecond {
				t.Fatalf("Record took %v", waited)
			}
			if n := good.Load(); n != int64(i)+1 {
				t.Fatalf("the good sink has %d events, want %d", n, i+1)
			}
		}
		lost := int(l.Failures())
		if lost == 0 || lost >= events {
			t.Errorf("%d events were lost, want some: the queue is bounded", lost)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want context.DeadlineExceeded", err)
		}
		close(release)
		closeLog(t, l)
		arrived := slow.Events()
		if len(arrived) != events-lost {
			t.Errorf("%d events arrived, %d were lost, of %d", len(arrived), lost, events)
		}
		for i, e := range arrived {
			if e.BytesIn != int64(i) {
				t.Fatalf("event %d arrived in place %d", e.BytesIn, i)
			}
		}
	})
}

func TestRecordAfterClose(t *testing.T) {
	r := audit.NewRecorder(0)
	l := audit.NewLog(nil, nil, r)
	closeLog(t, l)
	closeLog(t, l)
	l.Record(sshgate.Event{})
	if n := l.Failures(); n != 1 || len(r.Events()) != 0 {
		t.Errorf("%d failures and %d events, want 1 and 0", n, len(r.Events()))
	}
}

func TestRecordAndCloseRace(t *testing.T) {
	r := audit.NewRecorder(1 << 20)
	l := audit.NewLog(nil, nil, r)
	const goroutines, each = 8, 100
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				l.Record(sshgate.Event{})
			}
		})
	}
	closeLog(t, l)
	wg.Wait()
	if n := len(r.Events()) + int(l.Failures()); n != goroutines*each {
		t.Errorf("%d events arrived or were counted as lost, want %d", n, goroutines*each)
	}
}

func TestRecorder(t *testing.T) {
	r := audit.NewRecorder(2)
	for _, origin := range []sshgate.OriginName{"a", "b", "c"} {
		r.Record(sshgate.Event{Origin: origin})
	}
	if events := r.Events(); len(events) != 2 || events[0].Origin != "b" || events[1].Origin != "c" {
		t.Errorf("got %v, want the last two", events)
	}
	isD := func(e sshgate.Event) bool { return e.Origin == "d" }
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := r.Wait(ctx, isD); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	go r.Record(sshgate.Event{Origin: "d", Detail: "it"})
	if e, err := r.Wait(t.Context(), isD); err != nil || e.Detail != "it" {
		t.Errorf("got %v, %v", e, err)
	}
}
