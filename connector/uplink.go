package connector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/sync/errgroup"
)

// uplink is the connector's end of one tunnel.
type uplink struct {
	link
	agent    *Agent
	slot     int
	log      *slog.Logger
	answered chan time.Duration // when to register again, from each answer
	up       chan struct{}      // closed at the first registration
	moved    chan struct{}      // closed when the gateway asks for another tunnel
	retired  chan struct{}      // closed when another tunnel has taken its place
	idle     chan struct{}      // closed when finishing and without streams
	serving  sync.WaitGroup     // goroutines of streams

	mu        sync.Mutex
	since     time.Time         // of the first registration, zero before
	id        string            // the gateway's name for the tunnel
	aborts    map[uint32]func() // of the streams being served, by their number
	refusing  bool              // new streams
	finishing bool              // end when the last stream has
	lastEnd   time.Time         // of a stream, zero before
}

// open connects to the gateway and begins the tunnel.
func (a *Agent) open(ctx context.Context, log *slog.Logger) (*uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timing.gatewayDial)
	defer cancel()
	defer context.AfterFunc(a.stopping, cancel)()
	raw, err := a.cfg.DialGateway(ctx, tcpNetwork, a.cfg.Gateway)
	if err != nil {
		return nil, fmt.Errorf("connecting to the gateway: %w", err)
	}
	conn := tls.Client(raw, a.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connecting to the gateway: %w", err)
	}
	if conn.ConnectionState().NegotiatedProtocol != ALPN {
		raw.Close()
		return nil, fmt.Errorf("%s does not speak %s; %s", a.cfg.Gateway, ALPN, gatewayNotOurTLSHint)
	}
	u := &uplink{
		agent:    a,
		log:      log,
		answered: make(chan time.Duration, 1),
		up:       make(chan struct{}),
		moved:    make(chan struct{}),
		retired:  make(chan struct{}),
		idle:     make(chan struct{}),
		aborts:   make(map[uint32]func()),
	}
	u.line, u.timing = newLine(conn), a.timing
	if u.session, err = yamux.Client(u.line, muxConfig(log)); err != nil {
		raw.Close()
		return nil, fmt.Errorf("starting yamux: %w", err)
	}
	return u, nil
}

var (
	errUnanswered  = errors.New("the gateway did not answer the registration in time")
	errControlOver = errors.New("the gateway ended the control stream")
	errFlooded     = errors.New("the gateway keeps too many streams open")
)

// run serves the tunnel until it ends, and returns the reason.
func (u *uplink) run(ctx context.Context) error {
	stop := onDone(ctx, u.close)
	defer func() {
		stop()
		u.close()
		u.serving.Wait()
		if !u.registeredAt().IsZero() {
			u.agent.left(u)
		}
		if u.isMoved() {
			u.agent.lingering.Add(-1)
		}
	}()
	control, err := u.session.OpenStream()
	if err != nil {
		u.close()
		return u.accept(ctx) // which knows why the session ended
	}
	u.use(control)
	group, alive := errgroup.WithContext(ctx)
	stopAlive := onDone(alive, u.close)
	group.Go(func() error { return u.accept(alive) })
	group.Go(func() error { return u.listen(control) })
	group.Go(func() error { return u.publish(alive) })
	group.Go(func() error { return u.beat(alive) })
	group.Go(func() error { return u.watch(alive) })
	group.Go(func() error {
		select {
		case <-alive.Done():
			return nil
		case <-u.idle:
			return u.leave(alive)
		}
	})
	err = group.Wait()
	stopAlive()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	u.log.Debug("a tunnel has ended", "cause", err)
	return err
}

// accept takes the gateway's streams. What it returns is why the session ended.
func (u *uplink) accept(ctx context.Context) error {
	for {
		stream, err := u.session.AcceptStream()
		if err != nil {
			return fmt.Errorf("the connection to the gateway broke: %w", err)
		}
		if u.session.NumStreams() > u.agent.cfg.MaxStreams+streamBacklog {
			return errFlooded
		}
		u.serving.Go(func() { u.serve(ctx, stream) })
	}
}

// listen takes control messages.
func (u *uplink) listen(control *yamux.Stream) error {
	for {
		msg, err := readControl(control)
		if err != nil {
			return u.unlessClosed(fmt.Errorf("%w: %w", errControlOver, err))
		}
		switch msg := msg.(type) {
		case *registeredMessage:
			select {
			case u.answered <- u.registered(msg):
			default: // publish has yet to look at the answer before
			}
		case *refusedMessage:
			return fmt.Errorf("the gateway refused the tunnel: %w", received(msg.Code, msg.Reason))
		case *drainMessage:
			u.move(printable(msg.Reason, maxReason))
		case *abortMessage:
			u.abort(msg.Stream)
		}
	}
}

// publish registers at first, whenever host keys change, and again after a
// while when something was refused. It also ends the tunnel when the agent
// stops, by registering nothing.
func (u *uplink) publish(ctx context.Context) error {
	first := time.NewTimer(u.timing.firstScan)
	defer first.Stop()
	select {
	case <-u.agent.keys.scanned:
	case <-first.C:
	case <-u.agent.stopping.Done():
		u.finish(true)
		return nil
	case <-ctx.Done():
		return nil
	}
	again := time.NewTimer(u.timing.register)
	defer again.Stop()
	for answered := false; ; {
		origins, changed := u.agent.keys.current()
		if err := u.register(origins); err != nil {
			return u.unlessClosed(err)
		}
		for waiting := true; waiting; {
			select {
			case after := <-u.answered:
				answered = true
				again.Reset(after)
			case <-changed:
				waiting = false
			case <-again.C:
				if !answered {
					return errUnanswered
				}
				again.Reset(u.timing.rescan) // unless an answer says otherwise
				waiting = false
			case <-u.agent.stopping.Done():
				return u.withdraw()
			case <-u.retired:
				return u.withdraw()
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// withdraw registers nothing, so that the tunnel ends with its last stream.
func (u *uplink) withdraw() error {
	u.finish(true)
	return u.unlessClosed(u.register([]wireOrigin{}))
}

// retire has the tunnel end with its last stream. It is called once.
func (u *uplink) retire() { close(u.retired) }

func (u *uplink) register(origins []wireOrigin) error {
	err := u.send(registerMessage{
		Type: typeRegister, Version: protocolVersion, Software: u.agent.cfg.Software, Instance: u.agent.instance, Origins: origins,
	})
	if err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	return nil
}

// registered notes the answer to a registration and returns when to ask again.
func (u *uplink) registered(msg *registeredMessage) time.Duration {
	u.mu.Lock()
	first := u.since.IsZero()
	if first {
		u.since, u.id = u.agent.cfg.Now(), printable(msg.Tunnel, 64)
	}
	u.mu.Unlock()
	if first {
		close(u.up)
		u.agent.joined(u)
		u.agent.readyOnce.Do(func() { close(u.agent.ready) })
		u.log.Info("connected", "tunnel", printable(msg.Tunnel, 64), "accepted", len(msg.Accepted), "refused", len(msg.Refused))
	}
	u.agent.logRefusals(u.log, msg)
	again := u.timing.rescan
	for _, r := range msg.Refused {
		if r.Code == CodeUnavailable {
			again = u.timing.askAgain
		}
	}
	return again
}

// logRefusals reports what was refused, once, although every tunnel hears it.
func (a *Agent) logRefusals(log *slog.Logger, msg *registeredMessage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range msg.Accepted {
		if service, err := sshgate.ParseEndpoint(name); err == nil {
			delete(a.refused, service)
			a.accepted[service] = true
		}
	}
	for _, r := range msg.Refused {
		name, err := sshgate.ParseEndpoint(r.Name)
		refusal := *received(r.Code, r.Reason)
		if _, ours := a.origins[name]; err != nil || !ours || a.refused[name] == refusal {
			continue
		}
		a.refused[name] = refusal
		delete(a.accepted, name)
		log.Error("the gateway refuses an origin", "origin", name.Short(), "code", refusal.Code, "reason", refusal.Reason, "what_to_do", advice(refusal.Code))
	}
}

// advice says what to do about an origin that is refused.
func advice(code Code) string {
	switch code {
	case CodeHostKeyChanged:
		return "find out why the origin has another host key; if it was reinstalled on purpose, have the gateway's operator forget the old one"
	case CodeTaken:
		return "choose another name, or have the gateway's operator release it; a second connector for one origin is a replica, with the same connector name"
	case CodeNotPermitted:
		return "have a certificate made that names the origin, with: sshgate connector login --force"
	case CodeUnavailable:
		return "nothing, it is tried again soon; if it lasts, ask the gateway's operator"
	}
	return "ask the gateway's operator"
}

// registeredAt is when the tunnel was first registered, zero before.
func (u *uplink) registeredAt() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.since
}

// move has another tunnel opened in this one's place, which ends with its last
// stream.
func (u *uplink) move(reason string) {
	if u.isMoved() {
		return // asked before
	}
	u.log.Info("the gateway asks for another tunnel in place of this one", "reason", reason)
	many := u.agent.lingering.Add(1) > maxLingering
	close(u.moved)
	u.finish(false)
	if many {
		u.log.Warn("too many old tunnels are still in use; this one is cut")
		u.close()
	}
}

// isMoved tells whether move was called. Only listen calls that.
func (u *uplink) isMoved() bool {
	select {
	case <-u.moved:
		return true
	default:
		return false
	}
}

// finish ends the tunnel when its last stream has ended.
func (u *uplink) finish(refuse bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refusing = u.refusing || refuse
	u.finishing = true
	u.checkIdle()
}

// checkIdle is called with mu held.
func (u *uplink) checkIdle() {
	if !u.finishing || len(u.aborts) > 0 {
		return
	}
	select {
	case <-u.idle:
	default:
		close(u.idle)
	}
}

// leave ends a tunnel that is done. When streams ended just now it lets the
// gateway do so first, which knows when all that it received has been read.
func (u *uplink) leave(ctx context.Context) error {
	u.mu.Lock()
	wait := u.timing.farewell - time.Since(u.lastEnd)
	u.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return errDrained
}

func (u *uplink) abort(stream uint32) {
	u.mu.Lock()
	abort := u.aborts[stream]
	u.mu.Unlock()
	if abort != nil {
		abort()
	}
}
