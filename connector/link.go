package connector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// timing holds every wait of the protocol, so that tests can shorten them.
type timing struct {
	heartbeat    time.Duration // between two alive messages
	silence      time.Duration // without a byte received: the tunnel is dead
	register     time.Duration // from the connection to the registration's answer
	header       time.Duration // for a stream's header to arrive
	originDial   time.Duration // connecting to an origin
	dial         time.Duration // Hub.Dial
	hedge        time.Duration // in it, for a tunnel's answer before another is tried, too
	admit        time.Duration // one call of HubConfig.Admit
	controlWrite time.Duration // for the other end to take a control message
	farewell     time.Duration // for the other end to leave first
	gatewayDial  time.Duration // connecting to the gateway, TLS included
	retryFirst   time.Duration // back-off between connections: its first wait,
	retryMost    time.Duration // its longest,
	retryDrained time.Duration // the longest to a gateway that is about to stop,
	stable       time.Duration // and how long a tunnel must last to reset it
	firstScan    time.Duration // how long the first registration waits for host keys
	rescan       time.Duration // between two looks at an origin's host keys
	rescanFirst  time.Duration // the same after a failure: the first wait,
	rescanMost   time.Duration // and the longest
	askAgain     time.Duration // registering again after a refusal as unavailable
}

func defaultTiming() timing {
	return timing{
		heartbeat:    4 * time.Second,
		silence:      12 * time.Second,
		register:     10 * time.Second,
		header:       10 * time.Second,
		originDial:   10 * time.Second,
		dial:         15 * time.Second,
		hedge:        1500 * time.Millisecond,
		admit:        10 * time.Second,
		controlWrite: 30 * time.Second,
		farewell:     3 * time.Second,
		gatewayDial:  15 * time.Second,
		retryFirst:   500 * time.Millisecond,
		retryMost:    30 * time.Second,
		retryDrained: 3 * time.Second,
		stable:       30 * time.Second,
		firstScan:    8 * time.Second,
		rescan:       5 * time.Minute,
		rescanFirst:  2 * time.Second,
		rescanMost:   time.Minute,
		askAgain:     15 * time.Second,
	}
}

// streamWindow is how much one stream may have in flight, in bytes. At a round
// trip of 50 ms yamux's default of 256 KiB would cap a stream at 5 MB/s.
const streamWindow = 4 << 20

// streamBacklog is how many streams may wait to be accepted.
const streamBacklog = 256

// muxConfig returns the parameters of yamux.
//
// yamux's own keepalive is off: its pings wait in line behind the data, so that
// an upload over a slow line would be taken for a dead one. See link.watch.
// StreamCloseTimeout is off because it runs from a half-close: it would cut a
// transfer in the other direction that takes longer. What it is for, a stream
// that nobody reads any more, is the abort message's job.
// StreamOpenTimeout is off because it ends the whole session; Hub.Dial bounds
// the wait for one stream. ConnectionWriteTimeout bounds how long one write may
// wait for the others before it; that the line is dead shows long before.
func muxConfig(log *slog.Logger) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          streamBacklog,
		EnableKeepAlive:        false,
		KeepAliveInterval:      math.MaxInt64, // unused, but yamux refuses 0
		ConnectionWriteTimeout: 2 * time.Minute,
		MaxStreamWindowSize:    streamWindow,
		StreamOpenTimeout:      0,
		StreamCloseTimeout:     0,
		Logger:                 muxLogger{log},
	}
}

// muxLogger passes on what yamux logs. All of it is detail: whatever ends a
// tunnel is also returned as an error.
type muxLogger struct{ log *slog.Logger }

func (l muxLogger) Print(v ...any)                 { l.write(fmt.Sprint(v...)) }
func (l muxLogger) Println(v ...any)               { l.write(fmt.Sprintln(v...)) }
func (l muxLogger) Printf(format string, v ...any) { l.write(fmt.Sprintf(format, v...)) }
func (l muxLogger) write(text string)              { l.log.Debug(strings.TrimSpace(text)) }

var (
	errSilent    = errors.New("the other end has gone silent")
	errDrained   = errors.New("the tunnel was drained")
	errUnstarted = errors.New("the tunnel has no control stream yet")
)

// link is what the two ends of a tunnel have in common: the yamux session, the
// control stream and the watch over the line.
type link struct {
	session *yamux.Session
	line    *line
	timing  timing

	sending sync.Mutex    // held while a control message is written; guards
	control *yamux.Stream // which is nil at first
}

// use makes the stream the control stream.
func (l *link) use(control *yamux.Stream) {
	l.sending.Lock()
	defer l.sending.Unlock()
	l.control = control
}

// close ends the session and all of its streams, at once. It is idempotent. It is the
// line that is closed, and the session with it, see line.
func (l *link) close() {
	_ = l.line.Close() // ends in any case
	<-l.session.CloseChan()
	_ = l.session.Close() // always nil; waits for the streams' end
}

// send writes a control message. An error is the end of the tunnel.
func (l *link) send(msg any) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	if l.control == nil {
		return errUnstarted
	}
	if err := l.control.SetWriteDeadline(time.Now().Add(l.timing.controlWrite)); err != nil {
		return err
	}
	return writeFrame(l.control, msg, maxControlFrame)
}

// unlessClosed drops an error that is only the consequence of the session being
// closed. Whoever accepts its streams gets the reason for that.
func (l *link) unlessClosed(err error) error {
	if l.session.IsClosed() {
		return nil
	}
	return err
}

// beat sends an alive message at each interval, so that the other end hears
// something even when nothing is said. It returns when ctx is done.
func (l *link) beat(ctx context.Context) error {
	ticker := time.NewTicker(l.timing.heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := l.send(aliveMessage{Type: typeAlive}); err != nil {
				return l.unlessClosed(fmt.Errorf("sending a sign of life: %w", err))
			}
		}
	}
}

// watch returns an error once nothing has arrived for too long, or nil when ctx
// is done. Any byte counts, and the other end sends alive messages unasked: a
// line that is slow or full in one direction never looks dead.
func (l *link) watch(ctx context.Context) error {
	const looks = 10 // in the time that decides
	ticker := time.NewTicker(l.timing.silence / looks)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if quiet := l.line.silence(); quiet > l.timing.silence {
				l.line.resetOnClose()
				return fmt.Errorf("%w: nothing received for %s", errSilent, quiet.Round(time.Millisecond))
			}
		}
	}
}

// line is a TLS connection that knows when it last received something. The
// time is the monotonic clock's.
//
// It is closed by the time that yamux hears of an error. A yamux session closes its
// connection in the midst of its own end, and until that is through all who read or
// write one of its streams run in circles: at the end of a thousand sessions at once
// these take the processors from those who would finish.
type line struct {
	*tls.Conn
	start  time.Time
	last   atomic.Int64 // nanoseconds after start
	closed atomic.Bool

	broken  chan struct{} // closed at the first error of Read, which is
	readErr error
	once    sync.Once
}

func newLine(conn *tls.Conn) *line {
	return &line{Conn: conn, start: time.Now(), broken: make(chan struct{})}
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.last.Store(int64(time.Since(l.start)))
	}
	if err != nil {
		l.once.Do(func() {
			l.readErr = err
			close(l.broken)
		})
		l.Close()
	}
	return n, err
}

// Write prefers the other end's reason to the plain fact. In TLS 1.3 a client
// learns only after its handshake that its certificate was refused, and may be
// writing by then: the alert is there to be read, while writing says no more
// than "broken pipe".
func (l *line) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	defer l.Close()
	select {
	case <-l.broken:
	case <-time.After(alertWait):
		return n, err
	}
	if isAlert(l.readErr) {
		err = l.readErr
	}
	return n, err
}

// isAlert tells that the other end sent a TLS alert. Package tls has a type for
// that in QUIC only.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// alertWait is how long a failed write waits for the reason.
const alertWait = 500 * time.Millisecond

func (l *line) silence() time.Duration {
	return time.Since(l.start) - time.Duration(l.last.Load())
}

// Close closes the connection below TLS first. tls.Conn.Close alone waits up to
// five seconds for a dead line to take its alert, and meanwhile yamux's readers
// would spin. Nothing is lost: every stream has an end of its own. A second call does
// nothing, and does not wait for the first.
func (l *line) Close() error {
	if !l.closed.CompareAndSwap(false, true) {
		return nil
	}
	err := l.NetConn().Close()
	_ = l.Conn.Close() // what it is for has just failed
	return err
}

// resetOnClose has Close send a RST (RFC 9293 section 3.10.4) and lose what is yet to
// be sent. Where the line is dead in one direction only, the other end learns of it at
// once: a FIN would wait for the retransmission of what nobody acknowledges.
func (l *line) resetOnClose() {
	conn := l.NetConn()
	for {
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = below.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only when it is closed
	}
}

var longAgo = time.Unix(1, 0)

// clockLook is how often waitUntil looks at the clock.
const clockLook = time.Minute

// waitUntil returns true at that time of the day, or false when ctx is done before.
// It looks at the clock now and then: that may have been set, and a timer does not
// count what a machine was suspended.
func waitUntil(ctx context.Context, at time.Time, now func() time.Time) bool {
	for {
		left := at.Sub(now())
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, clockLook))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// onDone calls f when ctx is done. The returned function undoes that; it waits
// for f when that is running and tells whether f has not been called.
func onDone(ctx context.Context, f func()) (stop func() bool) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() bool {
		if cancel() {
			return true
		}
		<-done
		return false
	}
}

// orDiscard returns the logger, or one that writes nothing.
func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// isTimeout tells that a deadline has passed, in yamux or the network.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
