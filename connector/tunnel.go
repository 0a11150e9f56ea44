package connector

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// tunnel is the gateway's end of one connector's connection.
type tunnel struct {
	link
	hub       *Hub
	log       *slog.Logger
	id        string
	connector string
	instance  string // tells the replicas of a connector apart
	permitted []sshgate.HostPattern
	names     []string // what permitted was made of, for messages
	remote    netip.AddrPort
	expires   time.Time // the connector's certificate
	serial    string
	fail      context.CancelCauseFunc
	expelled  atomic.Pointer[Refusal] // why it was shut out, nil where it was not

	work sync.WaitGroup // what start started

	// Guarded by hub.mu.
	published map[sshgate.Endpoint]publication
	refused   map[sshgate.Endpoint]*Refusal
	streams   int
	draining  bool // dial nothing through it, end it with its last stream
	closed    bool // start nothing any more
}

// publishes tells whether the tunnel has any service of the origin. It is called
// with hub.mu held.
func (t *tunnel) publishes(origin sshgate.OriginName) bool {
	for name := range t.published {
		if name.Origin == origin {
			return true
		}
	}
	return false
}

// place is where tunnels come from: a process of a connector.
type place struct{ connector, instance string }

func (t *tunnel) place() place { return place{t.connector, t.instance} }

// publication is a service as a connector published it.
type publication struct {
	hostKeys []string
	since    time.Time
}

// newTunnel checks who is at the other end and starts yamux.
func (h *Hub) newTunnel(conn *tls.Conn) (*tunnel, error) {
	state := conn.ConnectionState()
	switch {
	case !state.HandshakeComplete:
		return nil, errors.New("the TLS handshake is not complete")
	case state.Version < tls.VersionTLS13:
		return nil, errors.New("the connection is not TLS 1.3")
	case state.NegotiatedProtocol != ALPN:
		return nil, fmt.Errorf("the connection did not negotiate %s", ALPN)
	case len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0:
		return nil, errors.New("the connector showed no certificate that could be verified")
	}
	cert := state.PeerCertificates[0]
	t := &tunnel{
		hub:       h,
		id:        "t-" + strings.ToLower(rand.Text()[:10]),
		connector: printable(cert.Subject.CommonName, maxConnectorNameForLogs),
		names:     cert.DNSNames,
		expires:   cert.NotAfter,
		serial:    cert.SerialNumber.Text(16),
	}
	if t.connector == "" {
		return nil, errors.New("the connector's certificate has no common name")
	}
	if !h.cfg.Now().Before(t.expires) {
		return nil, fmt.Errorf("the certificate of connector %s has expired", t.connector)
	}
	for _, name := range cert.DNSNames {
		pattern, err := sshgate.ParseHostPattern(name)
		if err != nil {
			return nil, fmt.Errorf("the certificate of connector %s: %w", t.connector, err)
		}
		t.permitted = append(t.permitted, pattern)
	}
	if addr, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		t.remote = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
	t.log = h.log.With("tunnel", t.id, "connector", t.connector, "remote", t.remote)
	t.line = newLine(conn)
	t.timing = h.timing
	session, err := yamux.Server(t.line, muxConfig(t.log))
	if err != nil {
		return nil, fmt.Errorf("starting yamux: %w", err)
	}
	t.session = session
	return t, nil
}

var (
	errUnregistered = errors.New("the connector did not register in time")
	errSecondStream = errors.New("the connector opened a second stream")
	errGone         = errors.New("the connector has gone")
)

// serve runs the tunnel until it ends. cancel ends ctx with the reason.
func (t *tunnel) serve(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	t.fail = cancel
	stop := onDone(ctx, t.close)
	refusal, err := t.hub.add(t)
	defer func() {
		cancel(err)
		t.shut()
		t.hub.remove(t, err.Error())
		stop()
		t.close()
		t.work.Wait()
	}()
	if err != nil {
		return err
	}
	if refusal == nil {
		refusal = t.check(ctx)
	}
	control, err := t.open(ctx, refusal)
	if err != nil {
		return t.cause(ctx, err)
	}
	t.log.Info("a connector is connected")
	err = t.run(ctx, control)
	t.log.Info("a connector is gone", "cause", err)
	return err
}

func (t *tunnel) certificate() Certificate {
	return Certificate{Connector: t.connector, Serial: t.serial, Remote: t.remote}
}

// check says why the connector's certificate is not taken, nil where it is.
func (t *tunnel) check(ctx context.Context) *Refusal {
	if t.hub.cfg.Check == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.timing.admit)
	defer cancel()
	err := t.hub.cfg.Check(ctx, t.certificate())
	var refusal *Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return refusal
	}
	t.log.Error("a connector's certificate could not be checked", "err", err)
	return &Refusal{CodeUnavailable, "the gateway cannot check the certificate right now"}
}

// expel ends a tunnel that is up, at once. Its connector is told why, if it listens.
func (t *tunnel) expel(refusal *Refusal) {
	t.expelled.Store(refusal)
	t.log.Warn("a connector is expelled", "code", refusal.Code, "reason", refusal.Reason)
	limit := time.AfterFunc(t.timing.farewell, func() { t.fail(refusal) })
	defer limit.Stop()
	_ = t.send(refusedMessage{Type: typeRefused, Code: refusal.Code, Reason: refusal.Reason}) // it ends either way
	t.fail(fmt.Errorf("the tunnel was ended: %w", refusal))
}

// lost is what a connection gets whose tunnel is gone.
func (t *tunnel) lost() error {
	if refusal := t.expelled.Load(); refusal != nil {
		return fmt.Errorf("%w: %w", ErrTunnelLost, refusal)
	}
	return ErrTunnelLost
}

// shut makes sure that start starts nothing any more.
func (t *tunnel) shut() {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	t.closed = true
}

// start runs f unless the tunnel is at its end, and tells whether it does. The
// tunnel waits for f.
func (t *tunnel) start(f func()) bool {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	if t.closed {
		return false
	}
	t.work.Go(f)
	return true
}

// open does what comes before the tunnel is of use: the control stream, the
// first registration and its answer.
func (t *tunnel) open(ctx context.Context, refusal *Refusal) (*yamux.Stream, error) {
	limit := time.AfterFunc(t.timing.register, func() { t.fail(errUnregistered) })
	defer limit.Stop()
	control, err := t.session.AcceptStream()
	if err != nil {
		return nil, fmt.Errorf("waiting for the control stream: %w", err)
	}
	t.use(control)
	msg, err := readControl(control)
	if err != nil {
		return nil, fmt.Errorf("waiting for the registration: %w", err)
	}
	first, ok := msg.(*registerMessage)
	switch {
	case refusal != nil:
	case !ok:
		refusal = &Refusal{CodeBadRequest, "the first message must be a registration"}
	case first.Version != protocolVersion:
		refusal = &Refusal{CodeVersion, fmt.Sprintf("this gateway speaks version %d of the tunnel protocol, the connector %d; update the older one", protocolVersion, first.Version)}
	}
	if refusal != nil {
		return nil, t.refuse(ctx, refusal)
	}
	t.instance = printable(first.Instance, maxInstance)
	t.log = t.log.With("software", printable(first.Software, 64), "instance", t.instance)
	return control, t.register(ctx, first)
}

// refuse tells the connector why it may not stay, and leaves it a moment to
// read that and go: to close first could lose the message.
func (t *tunnel) refuse(ctx context.Context, refusal *Refusal) error {
	err := fmt.Errorf("the tunnel was refused: %w", refusal)
	t.log.Warn("a connector was refused", "code", refusal.Code, "reason", refusal.Reason)
	if sendErr := t.send(refusedMessage{Type: typeRefused, Code: refusal.Code, Reason: refusal.Reason}); sendErr != nil {
		return errors.Join(err, sendErr)
	}
	timer := time.NewTimer(t.timing.farewell)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.session.CloseChan():
	case <-ctx.Done():
	}
	return err
}

// cause replaces an error that is only the consequence of ctx being done.
func (t *tunnel) cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// run serves a registered tunnel. It returns the reason of its end.
func (t *tunnel) run(ctx context.Context, control *yamux.Stream) error {
	group, alive := errgroup.WithContext(ctx)
	stop := onDone(alive, t.close)
	group.Go(func() error { return t.beat(alive) })
	group.Go(func() error { return t.watch(alive) })
	group.Go(func() error { return t.listen(alive, control) })
	group.Go(func() error { return t.drainWhenExpired(alive) })
	group.Go(func() error {
		_, err := t.session.AcceptStream()
		if err == nil {
			return errSecondStream
		}
		return fmt.Errorf("%w: %w", errGone, err)
	})
	err := group.Wait()
	stop()
	return t.cause(ctx, err)
}

// listen takes control messages: registrations, for nothing else is sent by
// connectors of this version.
func (t *tunnel) listen(ctx context.Context, control *yamux.Stream) error {
	// Each registration costs a look into the store for each origin.
	limit := rate.NewLimiter(rate.Every(t.timing.heartbeat/4), 5)
	for {
		msg, err := readControl(control)
		if err != nil {
			return t.unlessClosed(fmt.Errorf("reading the control stream: %w", err))
		}
		renewed, ok := msg.(*registerMessage)
		if !ok {
			continue
		}
		if err := limit.Wait(ctx); err != nil {
			return context.Cause(ctx)
		}
		if err := t.register(ctx, renewed); err != nil {
			return err
		}
	}
}

// drainWhenExpired has the connector come back with its renewed certificate
// once this one is no longer good; what is connected may finish.
func (t *tunnel) drainWhenExpired(ctx context.Context) error {
	if waitUntil(ctx, t.expires, t.hub.cfg.Now) {
		t.log.Warn("the certificate of a connector has expired")
		t.drain("the connector's certificate has expired")
	}
	return nil
}

// drain has the connector open another tunnel; nothing more is dialled on this.
func (t *tunnel) drain(reason string) {
	t.hub.mu.Lock()
	t.draining = true
	t.hub.mu.Unlock()
	if err := t.send(drainMessage{Type: typeDrain, Reason: reason}); err != nil {
		t.fail(err)
	}
}

// checkDrained ends the tunnel when its last stream has ended. The gateway does
// so rather than the connector because it knows when everything received has
// been read. It is called with hub.mu held.
func (t *tunnel) checkDrained() {
	if t.draining && t.streams == 0 {
		t.fail(errDrained)
	}
}

// leave is drain for a connector that registers nothing because it will stop.
func (t *tunnel) leave() {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	t.draining = true
	t.checkDrained()
}

// register replaces what the tunnel publishes, and answers. Its error is the
// end of the tunnel; origins are refused in the answer.
func (t *tunnel) register(ctx context.Context, msg *registerMessage) error {
	answer := registeredMessage{Type: typeRegistered, Tunnel: t.id, Accepted: []string{}, Refused: []wireRefusal{}}
	published := map[sshgate.Endpoint]publication{}
	refused := map[sshgate.Endpoint]*Refusal{}
	if len(msg.Origins) > MaxOrigins {
		return fmt.Errorf("the connector registers %d origins, more than %d", len(msg.Origins), MaxOrigins)
	}
	for _, o := range msg.Origins {
		name, p, refusal := t.admit(ctx, o)
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if _, twice := published[name]; twice && refusal == nil {
			refusal = &Refusal{CodeBadRequest, "the origin is registered twice"}
		}
		if refusal == nil {
			published[name] = p
			answer.Accepted = append(answer.Accepted, o.label())
			continue
		}
		if name.Origin != "" {
			refused[name] = refusal
		}
		t.log.Warn("an origin was refused", "origin", printable(o.label(), maxReason), "code", refusal.Code, "reason", refusal.Reason)
		answer.Refused = append(answer.Refused, wireRefusal{
			Name: o.label(), Code: refusal.Code, Reason: printable(refusal.Reason, maxReason),
		})
	}
	t.hub.refuse(t, refused)
	t.hub.publish(t, published, refused)
	if err := t.send(answer); err != nil {
		return t.unlessClosed(fmt.Errorf("answering the registration: %w", err))
	}
	if len(msg.Origins) == 0 {
		t.leave()
	}
	return nil
}

// admit decides about one service.
func (t *tunnel) admit(ctx context.Context, o wireOrigin) (sshgate.Endpoint, publication, *Refusal) {
	none := publication{}
	name, err := sshgate.NewEndpoint(o.Name, uint32(o.port()))
	if err != nil {
		return sshgate.Endpoint{}, none, &Refusal{CodeBadRequest, err.Error()}
	}
	if name.Port != sshgate.SSHPort && len(o.HostKeys) > 0 {
		return name, none, &Refusal{CodeBadRequest, "a service other than SSH has no host keys"}
	}
	if !slices.ContainsFunc(t.permitted, func(p sshgate.HostPattern) bool { return p.Match(name.Origin) }) {
		reason := fmt.Sprintf("the certificate of connector %s does not name it, only: %s", t.connector, strings.Join(t.names, " "))
		return name, none, &Refusal{CodeNotPermitted, printable(reason, maxReason)}
	}
	keys, err := checkHostKeys(o.HostKeys)
	if err != nil {
		return name, none, &Refusal{CodeBadRequest, err.Error()}
	}
	now := publication{hostKeys: keys, since: t.hub.cfg.Now()}
	t.hub.mu.Lock()
	before, had := t.published[name]
	t.hub.mu.Unlock()
	if had {
		now.since = before.since
	}
	ctx, cancel := context.WithTimeout(ctx, t.timing.admit)
	defer cancel()
	err = t.hub.cfg.Admit(ctx, Registration{Connector: t.connector, Origin: name.Origin, Port: name.Port, HostKeys: keys, RemoteAddr: t.remote})
	var refusal *Refusal
	switch {
	case err == nil:
		return name, now, nil
	case errors.As(err, &refusal):
		return name, none, refusal
	}
	t.log.Error("deciding about an origin failed", "origin", name.Short(), "err", err)
	if had && slices.Equal(before.hostKeys, keys) {
		return name, before, nil // nothing new to decide about
	}
	return name, none, &Refusal{CodeUnavailable, "the gateway cannot check the host keys right now"}
}

// checkHostKeys returns the keys in their one normal form, sorted.
func checkHostKeys(lines []string) ([]string, error) {
	if len(lines) > maxHostKeys {
		return nil, fmt.Errorf("there are more than %d host keys", maxHostKeys)
	}
	keys := make([]string, 0, len(lines))
	for _, line := range lines {
		if len(line) > maxHostKey {
			return nil, fmt.Errorf("a host key is longer than %d bytes", maxHostKey)
		}
		key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(options) > 0 || len(rest) > 0 {
			return nil, errors.New("a host key is not in the form TYPE BASE64")
		}
		if _, isCert := key.(*ssh.Certificate); isCert {
			return nil, errors.New("a host key is a certificate; report the plain key")
		}
		keys = append(keys, hostKeyLine(key))
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// dial opens a stream for the service. A *Refusal is the connector's answer;
// any other error means that the tunnel is of no use.
func (t *tunnel) dial(ctx context.Context, req DialRequest) (Conn, error) {
	if refusal := t.reserve(); refusal != nil {
		return nil, refusal
	}
	conn, err := t.openStream(ctx)
	if err != nil {
		t.release()
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	stop := onDone(ctx, func() { _ = conn.stream.SetDeadline(longAgo) }) // always nil
	refusal, err := conn.greet(req)
	if !stop() {
		err = context.Cause(ctx)
	}
	switch {
	case err != nil:
		conn.Close()
		return nil, err
	case refusal != nil:
		conn.Close()
		return nil, refusal
	}
	return conn, nil
}

// greet exchanges the stream's header and its answer.
func (c *streamConn) greet(req DialRequest) (*Refusal, error) {
	header := dialHeader{
		RequestID:    string(req.RequestID),
		ConnectionID: string(req.ConnectionID),
		Origin:       string(req.Origin),
		Identity:     printable(req.Identity, maxIdentity),
		Login:        string(req.Login),
	}
	if req.endpoint().Port != sshgate.SSHPort {
		header.Port = req.Port
	}
	if req.ClientAddr.IsValid() {
		header.ClientAddress = req.ClientAddr.String()
	}
	if err := writeFrame(c, header, maxHeaderFrame); err != nil {
		return nil, err
	}
	return readReply(c)
}

// openStream is yamux's Open, which takes no context. The tunnel sees to a
// stream that comes too late.
func (t *tunnel) openStream(ctx context.Context) (*streamConn, error) {
	type result struct {
		conn *streamConn
		err  error
	}
	opened := make(chan result) // without a buffer: sent means taken
	started := t.start(func() {
		stream, err := t.session.OpenStream()
		r := result{err: err}
		if err == nil {
			r.conn = &streamConn{stream: stream, tunnel: t}
		}
		select {
		case opened <- r:
		case <-ctx.Done():
			if err == nil {
				t.adopt() // the caller gives its own slot back
				r.conn.closed.Store(true)
				r.conn.finish()
			}
		}
	})
	if !started {
		return nil, ErrTunnelLost
	}
	select {
	case r := <-opened:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reserve takes one of the tunnel's slots for streams.
func (t *tunnel) reserve() *Refusal {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	switch {
	case t.draining:
		return &Refusal{CodeDraining, "the tunnel is about to end"}
	case t.streams >= t.hub.cfg.MaxStreamsPerTunnel:
		return &Refusal{CodeOverloaded, "its connector carries as many connections as it may"}
	}
	t.streams++
	t.hub.streams++
	return nil
}

// adopt takes a slot for a stream that is there already.
func (t *tunnel) adopt() {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	t.streams++
	t.hub.streams++
}

// release gives a slot back.
func (t *tunnel) release() {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	t.streams--
	t.hub.streams--
	t.checkDrained()
	t.hub.checkDrained()
}
