package connector

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// ErrOffline is what Dial returns when no connector publishes the origin.
var ErrOffline = errors.New("the origin is offline")

// ErrNoService is what Dial returns when connectors publish the origin, but
// nothing at the port.
var ErrNoService = errors.New("the origin has no such service")

// Registration is a connector's wish to publish one origin.
type Registration struct {
	// Connector is the common name in the connector's certificate.
	Connector string
	// Origin is one that the certificate permits.
	Origin sshgate.OriginName
	// Port tells the services of an origin apart; 22 is SSH.
	Port uint16
	// HostKeys are the origin's host keys in authorized_keys form without a
	// comment. There are none while its SSH server is down, and none of other
	// services.
	HostKeys []string
	// RemoteAddr is where the connector's connection comes from.
	RemoteAddr netip.AddrPort
}

// Certificate is the certificate of a connector, which the CA has signed.
type Certificate struct {
	Connector string // the common name
	Serial    string // hexadecimal, lower case
	Remote    netip.AddrPort
}

// HubConfig is what a Hub needs.
type HubConfig struct {
	// Admit decides whether an origin may be published as reported. Required.
	// A *Refusal refuses it for that reason. Any other error means that there
	// is no answer now: the connector is told to ask again, and an origin that
	// it publishes with the same keys stays published. Admit is called
	// concurrently, with a context that ends after ten seconds.
	Admit func(ctx context.Context, reg Registration) error
	// Check decides whether a connector's certificate is still good, when it
	// connects and at each Recheck. A *Refusal ends the tunnel, or keeps it from
	// being opened. Any other error means that there is no answer now: then nobody
	// new is let in, and who is connected stays. Nil lets all in.
	Check func(ctx context.Context, cert Certificate) error
	// Events takes origin.up and origin.down events, in order, one at a time.
	// Nil drops them. It must not call the hub.
	Events func(sshgate.Event)
	// Log is for what the gateway's operator should know. Nil discards.
	Log *slog.Logger
	// Now is the clock for certificates and event times. Default time.Now.
	Now func() time.Time
	// MaxTunnels is how many connections of connectors are served at a time.
	// Default 16384. One connector has at most 64 of them.
	MaxTunnels int
	// MaxStreamsPerTunnel is how many origin connections a tunnel carries at a
	// time. Default 512. Each can hold up to 4 MiB in memory that its reader
	// has not taken yet.
	MaxStreamsPerTunnel int
}

const (
	defaultMaxTunnels       = 16384
	defaultMaxStreams       = 512
	maxTunnelsPerConnector  = 64
	maxConnectorNameForLogs = 64
)

// Hub is the gateway's end of all tunnels. Hand it the connections that
// negotiated ALPN with Serve, and reach origins with Dial.
type Hub struct {
	cfg    HubConfig
	log    *slog.Logger
	timing timing

	ctx     context.Context // done once Close is called
	cancel  context.CancelCauseFunc
	serving sync.WaitGroup // calls of Serve
	dialing sync.WaitGroup // attempts of Dial, which may outlast it

	// announcing is held over a change of what is published and its events, so
	// that they come in order. It is locked before mu.
	announcing sync.Mutex

	mu       sync.Mutex
	closed   bool
	draining bool
	drained  chan struct{} // closed when draining and without streams
	tunnels  map[*tunnel]bool
	index    index
	streams  int // of all tunnels
	dials    uint64
	failures uint64
}

// NewHub returns a hub without tunnels. Close it when done.
func NewHub(cfg HubConfig) (*Hub, error) {
	if cfg.Admit == nil {
		return nil, errors.New("connector: HubConfig.Admit is missing")
	}
	if cfg.Events == nil {
		cfg.Events = func(sshgate.Event) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.MaxTunnels = cmp.Or(cfg.MaxTunnels, defaultMaxTunnels)
	cfg.MaxStreamsPerTunnel = cmp.Or(cfg.MaxStreamsPerTunnel, defaultMaxStreams)
	h := &Hub{
		cfg:     cfg,
		log:     orDiscard(cfg.Log),
		timing:  defaultTiming(),
		drained: make(chan struct{}),
		tunnels: make(map[*tunnel]bool),
		index:   newIndex(),
	}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	return h, nil
}

var errHubClosed = errors.New("the gateway has stopped")

// Serve owns one connector's connection until its tunnel ends, ctx is done, or
// the hub is closed, and returns why. The connection must have completed its
// handshake, negotiated ALPN, and shown a certificate that was verified.
func (h *Hub) Serve(ctx context.Context, conn *tls.Conn) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		conn.NetConn().Close()
		return errHubClosed
	}
	h.serving.Add(1)
	h.mu.Unlock()
	defer h.serving.Done()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.ctx, func() { cancel(context.Cause(h.ctx)) })()
	t, err := h.newTunnel(conn)
	if err != nil {
		conn.NetConn().Close()
		return err
	}
	return t.serve(ctx, cancel)
}

// add takes the tunnel in. A refusal is for its connector to read; an error
// means that not even that is worth a tunnel's memory.
func (h *Hub) add(t *tunnel) (*Refusal, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	same := h.index.connectors[t.connector]
	if len(h.tunnels) >= 2*h.cfg.MaxTunnels || same >= 2*maxTunnelsPerConnector {
		return nil, errors.New("too many tunnels")
	}
	h.tunnels[t] = true
	h.index.connectors[t.connector]++
	switch {
	case h.draining:
		return &Refusal{CodeDraining, "the gateway is about to stop"}, nil
	case len(h.tunnels) > h.cfg.MaxTunnels:
		return &Refusal{CodeOverloaded, "the gateway serves as many tunnels as it may"}, nil
	case same >= maxTunnelsPerConnector:
		return &Refusal{CodeOverloaded, fmt.Sprintf("this connector has %d tunnels already", same)}, nil
	}
	return nil, nil
}

// publish replaces what the tunnel publishes.
func (h *Hub) publish(t *tunnel, published map[sshgate.Endpoint]publication, refused map[sshgate.Endpoint]*Refusal) {
	h.change(t, "", func() { t.published, t.refused = published, refused })
}

// remove forgets the tunnel. Its connections stay counted until they are closed.
func (h *Hub) remove(t *tunnel, reason string) {
	h.change(t, reason, func() {
		if h.tunnels[t] { // add may have turned it away
			delete(h.tunnels, t)
			less(h.index.connectors, t.connector)
		}
		t.published, t.refused = nil, nil
	})
}

// change applies a change to the tunnel's published origins and announces those
// that came up or went down by it.
func (h *Hub) change(t *tunnel, reason string, apply func()) {
	h.announcing.Lock()
	defer h.announcing.Unlock()
	h.mu.Lock()
	before := t.published
	h.index.remove(t)
	apply()
	h.index.add(t)
	names := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(t.published))
	slices.SortFunc(names, compareEndpoints)
	var events []sshgate.Event
	for _, name := range slices.Compact(names) {
		_, was := before[name]
		_, is := t.published[name]
		elsewhere := h.index.services[name]
		if is {
			elsewhere--
		}
		if was != is && elsewhere == 0 {
			events = append(events, h.event(t, name, is, reason))
		}
	}
	h.mu.Unlock()
	for _, event := range events {
		h.cfg.Events(event)
	}
}

func compareEndpoints(a, b sshgate.Endpoint) int {
	return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Port, b.Port))
}

// refuse records what the tunnel may not publish, when it is refused first. Host
// keys are on record elsewhere.
func (h *Hub) refuse(t *tunnel, refused map[sshgate.Endpoint]*Refusal) {
	h.announcing.Lock()
	defer h.announcing.Unlock()
	h.mu.Lock()
	before := t.refused
	h.mu.Unlock()
	for _, name := range slices.SortedFunc(maps.Keys(refused), compareEndpoints) {
		refusal := refused[name]
		switch refusal.Code {
		case CodeHostKeyChanged, CodeUnavailable:
			continue
		}
		if old := before[name]; old == nil || old.Code != refusal.Code {
			event := h.event(t, name, false, refusal.Reason)
			event.Kind = sshgate.EventRefused
			h.cfg.Events(event)
		}
	}
}

func (h *Hub) event(t *tunnel, name sshgate.Endpoint, up bool, reason string) sshgate.Event {
	kind, detail := sshgate.EventOriginDown, ""
	if up {
		kind, reason = sshgate.EventOriginUp, ""
	}
	if name.Port != sshgate.SSHPort {
		detail = name.String()
	}
	return sshgate.Event{
		Time:       h.cfg.Now(),
		Kind:       kind,
		Identity:   "connector " + t.connector,
		ClientAddr: t.remote.Addr(),
		Origin:     name.Origin,
		Detail:     detail,
		Reason:     reason,
	}
}

// DialRequest asks for a connection to an origin. Everything but Origin is for
// the connector's log.
type DialRequest struct {
	RequestID    sshgate.RequestID
	ConnectionID sshgate.ConnectionID
	Origin       sshgate.OriginName
	Port         uint16 // of the service, as it was registered; 0 means 22, SSH
	Identity     string // of who asks, as Identity.String returns it
	Login        sshgate.Login
	ClientAddr   netip.Addr
}

// endpoint is the service that is asked for.
func (r DialRequest) endpoint() sshgate.Endpoint {
	return sshgate.Endpoint{Origin: r.Origin, Port: cmp.Or(r.Port, sshgate.SSHPort)}
}

// Dial connects to a service of an origin through the tunnel with the fewest connections
// that publishes it, or through another where that one fails, or has not answered
// after 1.5 seconds: then the first to answer counts. It waits until ctx is done and no
// longer than 15 seconds.
//
// The error is a *Refusal with the reason where somebody gave one. That
// includes CodeHostKeyChanged when nobody publishes the origin because its host
// keys were refused. Where nobody publishes it at all, or all that do are lost,
// the error is ErrOffline, and ErrNoService where its other services are published.
func (h *Hub) Dial(ctx context.Context, req DialRequest) (Conn, error) {
	conn, err := h.dial(ctx, req)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials++
	if err != nil {
		h.failures++
		return nil, fmt.Errorf("dialling %s: %w", req.endpoint().Short(), err)
	}
	return conn, nil
}

// OriginStatus is what the hub knows of a service of an origin.
type OriginStatus struct {
	Origin sshgate.OriginName
	Port   uint16 // 22 is SSH
	// Connectors are those that publish it, sorted. There are none while it is
	// only refused.
	Connectors []string
	// Tunnels is how many tunnels lead to it.
	Tunnels int
	// HostKeys are those that were admitted, sorted.
	HostKeys []string
	// Since is when the oldest of its tunnels began to publish it.
	Since time.Time
	// Refused is why a connector may not publish it, nil where none was refused.
	Refused *Refusal
}

// Origins returns every service that a connector publishes or tried to, by name
// and port.
func (h *Hub) Origins() []OriginStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := map[sshgate.Endpoint]*OriginStatus{}
	status := func(name sshgate.Endpoint) *OriginStatus {
		if found[name] == nil {
			found[name] = &OriginStatus{Origin: name.Origin, Port: name.Port}
		}
		return found[name]
	}
	for t := range h.tunnels {
		for name, p := range t.published {
			s := status(name)
			s.Tunnels++
			s.Connectors = append(s.Connectors, t.connector)
			s.HostKeys = append(s.HostKeys, p.hostKeys...)
			if s.Since.IsZero() || p.since.Before(s.Since) {
				s.Since = p.since
			}
		}
		for name, refusal := range t.refused {
			status(name).Refused = refusal
		}
	}
	origins := make([]OriginStatus, 0, len(found))
	for _, name := range slices.SortedFunc(maps.Keys(found), compareEndpoints) {
		s := found[name]
		slices.Sort(s.Connectors)
		slices.Sort(s.HostKeys)
		s.Connectors, s.HostKeys = slices.Compact(s.Connectors), slices.Compact(s.HostKeys)
		origins = append(origins, *s)
	}
	return origins
}

// HubStats are counts for monitoring.
type HubStats struct {
	Tunnels      int    // connected now
	Origins      int    // services published now
	Streams      int    // connections to origins now
	Dials        uint64 // calls of Dial so far
	DialFailures uint64 // those that failed
}

// Stats returns the hub's counts.
func (h *Hub) Stats() HubStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return HubStats{
		Tunnels: len(h.tunnels), Origins: len(h.index.services), Streams: h.streams, Dials: h.dials, DialFailures: h.failures,
	}
}

// Recheck has Check look at every tunnel's certificate again and ends those that
// are refused, with what they carry.
func (h *Hub) Recheck(ctx context.Context) {
	if h.cfg.Check == nil {
		return
	}
	h.mu.Lock()
	tunnels := slices.Collect(maps.Keys(h.tunnels))
	h.mu.Unlock()
	for _, t := range tunnels {
		var refusal *Refusal
		if err := h.cfg.Check(ctx, t.certificate()); errors.As(err, &refusal) {
			t.start(func() { t.expel(refusal) })
		}
	}
}

// Drain asks every connector to go elsewhere, refuses what is dialled or
// connects from now on, and waits until the last connection to an origin is
// closed or ctx is done, whose cause it then returns. Close comes after it.
func (h *Hub) Drain(ctx context.Context) error {
	h.mu.Lock()
	first := !h.draining
	h.draining = true
	h.checkDrained()
	tunnels := slices.Collect(maps.Keys(h.tunnels))
	h.mu.Unlock()
	if first {
		for _, t := range tunnels {
			// Not in turn: one may be slow to take it.
			t.start(func() { t.drain("the gateway is about to stop") })
		}
	}
	select {
	case <-h.drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkDrained is called with mu held, when streams or draining changed.
func (h *Hub) checkDrained() {
	if !h.draining || h.streams > 0 {
		return
	}
	select {
	case <-h.drained:
	default:
		close(h.drained)
	}
}

// Close ends all tunnels and waits until every Serve has returned. It is
// idempotent. Connections that Dial returned fail, and should be closed.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel(errHubClosed)
	h.serving.Wait()
	h.dialing.Wait()
	return nil
}
