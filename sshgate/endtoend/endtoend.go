// Package endtoend joins a client's own bytes to a service of an origin: the one
// way for ssh -J, for CONNECT on the TLS port, and for whatever else brings a
// stream and an identity. It asks the policy, dials through the tunnel, copies, and
// puts all of it on record.
//
// Make a Broker with New, Open a Passage for each stream, and Carry the stream.
// The package resolves no name and dials no address: a host is the name of an
// origin or nothing.
package endtoend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
)

// Tunnel reaches origins through their connectors. *connector.Hub is one.
type Tunnel interface {
	Dial(ctx context.Context, req connector.DialRequest) (connector.Conn, error)
}

// HostKeyPins keeps the host keys that origins are known by.
type HostKeyPins interface {
	HostKeys(ctx context.Context, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error)
}

// Quotas bounds what one identity has open. *limits.Limits is one. A leave counts
// out what was counted in, and may be called again.
type Quotas interface {
	Connection(id sshgate.Identity, addr netip.Addr) (leave func(), denied *sshgate.Denied)
	Channel(id sshgate.Identity, addr netip.Addr, session bool) (leave func(), denied *sshgate.Denied)
}

// Recorder takes events for the record. *audit.Log is one.
type Recorder interface {
	Record(sshgate.Event)
}

// Config is what a Broker needs. Fields without a default must be set.
type Config struct {
	Policy   func() *sshgate.Policy // the rules in force now
	Tunnel   Tunnel
	HostPins HostKeyPins
	Events   Recorder
	// Live ends passages that are no longer allowed. Nil: they go on.
	Live   *live.Register
	Quotas Quotas // default: nobody is bounded

	DialTimeout time.Duration    // to reach a service; default 30s
	Now         func() time.Time // default time.Now
}

// Broker opens passages. It is safe for concurrent use.
type Broker struct {
	cfg Config

	mu       sync.Mutex // guards what follows
	draining bool
	open     int // passages
	live     map[*Passage]carried
	drained  chan struct{} // closed when draining and none is open
}

// New checks the configuration and returns a broker.
func New(cfg Config) (*Broker, error) {
	if cfg.Policy == nil || cfg.Tunnel == nil || cfg.HostPins == nil || cfg.Events == nil {
		return nil, errors.New("endtoend: a required part of the configuration is missing")
	}
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 30*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Broker{cfg: cfg, drained: make(chan struct{}), live: make(map[*Passage]carried)}, nil
}

// Drain refuses further passages and waits until those that are open have ended or
// ctx is done, whose error it then returns.
func (b *Broker) Drain(ctx context.Context) error {
	b.mu.Lock()
	first := !b.draining
	b.draining = true
	if first && b.open == 0 {
		close(b.drained)
	}
	b.mu.Unlock()
	select {
	case <-b.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Passages returns how many are open.
func (b *Broker) Passages() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

func (b *Broker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return false
	}
	b.open++
	return true
}

func (b *Broker) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open--; b.draining && b.open == 0 {
		close(b.drained)
	}
}

// Client is who brings a stream.
type Client struct {
	Identity   sshgate.Identity
	Key        string      // fingerprint of the SSH key that was proven, "" where none was
	Proof      sshgate.Key // what is known of that key
	Addr       netip.Addr
	Connection sshgate.ConnectionID
	// Alone says that the stream is a connection of its own to the gateway, which
	// counts as one of the identity's.
	Alone bool
	// Renew says how to sign in again, as in "run: sshgate access login".
	Renew string
	// Credential is what the client got in by, Until when that ends, and Since the
	// moment before it was found good.
	Credential sshgate.Credential
	Until      time.Time
	Since      live.Moment
}

// Moment returns the state of policy and credentials, for Client.Since.
func (b *Broker) Moment() live.Moment { return b.cfg.Live.Moment() }

// maxDetail is how much of a host that a client sent goes into an event.
const maxDetail = 300 // bytes; a name has 253

// Open decides whether the client may reach the service at host and port, and
// connects to it. The decision is on record whatever it is. The caller owes the
// passage a Carry or a Close.
func (b *Broker) Open(ctx context.Context, client Client, host string, port uint32) (*Passage, *sshgate.Denied) {
	if !b.enter() {
		return nil, &sshgate.Denied{
			RequestID: sshgate.NewRequestID(), Code: sshgate.DenialClosing,
			Sentence: "the gateway is shutting down; try again in a moment", Cause: errors.New("the gateway drains"),
		}
	}
	giveBack, denial := b.take(client, port)
	if denial != nil {
		b.leave()
		return nil, denial
	}
	p, denial := b.decide(ctx, client, host, port)
	if denial != nil {
		giveBack()
		b.leave()
		return nil, denial
	}
	p.giveBack = giveBack
	return p, nil
}

// take counts the passage among what the client has open. It comes before the
// policy, so that a refusal says nothing about the origin.
func (b *Broker) take(client Client, port uint32) (giveBack func(), denied *sshgate.Denied) {
	if b.cfg.Quotas == nil {
		return func() {}, nil
	}
	leave, denied := b.cfg.Quotas.Channel(client.Identity, client.Addr, port == sshgate.SSHPort)
	if denied != nil || !client.Alone {
		return leave, denied
	}
	hangUp, denied := b.cfg.Quotas.Connection(client.Identity, client.Addr)
	if denied != nil {
		leave()
		return nil, denied
	}
	return func() {
		hangUp()
		leave()
	}, nil
}

func (b *Broker) decide(ctx context.Context, client Client, host string, port uint32) (*Passage, *sshgate.Denied) {
	p := &Passage{broker: b, ID: sshgate.NewRequestID(), client: client, channel: sshgate.ChannelEndToEnd}
	p.detail = clip(net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)), maxDetail)
	endpoint, err := sshgate.NewEndpoint(host, port)
	if err != nil {
		// A name that cannot exist gets the answer of one that does not.
		p.decision.Reason = err.Error()
		p.recordDecision()
		return nil, NotThere(p.ID, sshgate.OriginName(printable(clip(host, 64))), err)
	}
	p.endpoint, p.channel = endpoint, endpoint.Channel()
	p.request = sshgate.Request{
		Identity: client.Identity, Target: sshgate.Target{Origin: endpoint.Origin}, ClientAddr: client.Addr,
		Channel: p.channel, Port: endpoint.Port, Time: b.cfg.Now(), Key: client.Proof,
	}
	p.decision = b.cfg.Policy().Decide(p.request)
	p.recordDecision()
	reason := errors.New(p.decision.Reason)
	switch {
	case p.decision.Expired:
		return nil, Expired(p.ID, client.Renew, reason)
	case !p.decision.Allowed && p.decision.Purpose:
		return nil, NeedsPurpose(p.ID, endpoint.Origin, reason)
	case !p.decision.Allowed:
		return nil, NotThere(p.ID, endpoint.Origin, reason)
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.DialTimeout)
	defer cancel()
	conn, denial := b.Dial(ctx, connector.DialRequest{
		RequestID: p.ID, ConnectionID: client.Connection, Origin: endpoint.Origin, Port: endpoint.Port,
		Identity: client.Identity.String(), ClientAddr: client.Addr,
	})
	if denial != nil {
		return nil, denial
	}
	p.conn = conn
	return p, nil
}

// Dial reaches a service that the policy allowed, in the words that users read. A
// port that nobody publishes, and an SSH server that never was, get the answer of
// what is not allowed.
func (b *Broker) Dial(ctx context.Context, req connector.DialRequest) (connector.Conn, *sshgate.Denied) {
	conn, err := b.cfg.Tunnel.Dial(ctx, req)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, connector.ErrNoService), errors.Is(err, connector.ErrOffline) && b.neverPublished(ctx, req):
		return nil, NotThere(req.RequestID, req.Origin, err)
	}
	return nil, Unreachable(req.RequestID, req.Origin, err, b.cfg.DialTimeout)
}

func (b *Broker) neverPublished(ctx context.Context, req connector.DialRequest) bool {
	if req.Port != 0 && req.Port != sshgate.SSHPort {
		return false // other services leave no trace
	}
	pins, err := b.cfg.HostPins.HostKeys(ctx, req.Origin)
	return err == nil && len(pins) == 0
}

// NotThere is the one answer to a name that does not exist and to one that is not
// allowed, so that names cannot be probed for.
func NotThere(id sshgate.RequestID, name sshgate.OriginName, cause error) *sshgate.Denied {
	return &sshgate.Denied{
		RequestID: id,
		Code:      sshgate.DenialPolicy,
		Sentence:  fmt.Sprintf("there is no origin %q that you may reach this way; check the name and the login, or ask whoever runs the gateway", name),
		Cause:     cause,
	}
}

// Expired is the answer to a sign-in that is too old for the origin. renew says
// how to sign in again.
func Expired(id sshgate.RequestID, renew string, cause error) *sshgate.Denied {
	return &sshgate.Denied{
		RequestID: id,
		Code:      sshgate.DenialExpired,
		Sentence:  "your sign-in has expired; to renew it, " + renew,
		Cause:     cause,
	}
}

// NeedsPurpose is the answer where a rule wants to know what the access is for:
// nobody can be asked here.
func NeedsPurpose(id sshgate.RequestID, name sshgate.OriginName, cause error) *sshgate.Denied {
	return &sshgate.Denied{
		RequestID: id,
		Code:      sshgate.DenialPolicy,
		Sentence:  fmt.Sprintf("%s wants to be told what it is for, and only ssh through the gateway itself can ask: ssh LOGIN+%s@GATEWAY", name, name),
		Cause:     cause,
	}
}

// Unreachable turns an error of the tunnel into what the user reads: which part
// failed and who can mend it.
func Unreachable(id sshgate.RequestID, name sshgate.OriginName, err error, timeout time.Duration) *sshgate.Denied {
	d := &sshgate.Denied{RequestID: id, Code: sshgate.DenialUnreachable, Cause: err}
	var refusal *connector.Refusal
	switch {
	case errors.Is(err, connector.ErrOffline):
		d.Code = sshgate.DenialOffline
		d.Sentence = fmt.Sprintf("%s is offline: no connector publishes it right now", name)
	case errors.As(err, &refusal) && refusal.Code == connector.CodeHostKeyChanged:
		return HostKeyChanged(id, name, err)
	case errors.As(err, &refusal) && refusal.Code == connector.CodeDialTimeout:
		d.Code = sshgate.DenialTimeout
		d.Sentence = fmt.Sprintf("%s cannot be reached by its connector (%s)", name, printable(refusal.Reason))
	case errors.As(err, &refusal):
		d.Sentence = fmt.Sprintf("%s cannot be reached by its connector (%s)", name, printable(refusal.Reason))
	case errors.Is(err, context.DeadlineExceeded):
		d.Code = sshgate.DenialTimeout
		d.Sentence = fmt.Sprintf("%s did not answer within %s", name, timeout)
	default:
		d.Sentence = fmt.Sprintf("%s could not be reached", name)
	}
	return d
}

// HostKeyChanged is the answer where an origin shows another host key than the
// pinned ones.
func HostKeyChanged(id sshgate.RequestID, name sshgate.OriginName, cause error) *sshgate.Denied {
	return &sshgate.Denied{
		RequestID: id,
		Code:      sshgate.DenialHostKey,
		Sentence:  fmt.Sprintf("the host key of %s has changed, so the connection was refused; whoever runs the gateway must look into it", name),
		Cause:     cause,
	}
}

// clip bounds a text from outside.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// printable replaces what a terminal would not show as it stands.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
