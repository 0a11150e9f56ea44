package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
)

// AuthMethod is how the gateway signs in at an origin's sshd.
type AuthMethod int

const (
	// CertificateAuth signs a certificate for each connection; the origin
	// trusts the gateway's authority (TrustedUserCAKeys).
	CertificateAuth AuthMethod = iota
	// AgentAuth uses the keys of the agent that the client forwards (ssh -A).
	AgentAuth
	// KeyAuth uses one private key, for servers that can do nothing else.
	KeyAuth
)

// OriginAuth is how the gateway signs in at one origin.
type OriginAuth struct {
	Method AuthMethod
	// Key is KeyAuth's private key.
	Key gossh.Signer
	// CertificateTTL is how long CertificateAuth's certificates are good for,
	// which is how long the origin has to take one. Default 5 minutes.
	CertificateTTL time.Duration
}

const defaultCertificateTTL = 5 * time.Minute

// origin is the connection to the origin's sshd that all channels of a client
// connection share.
type origin struct {
	conn  gossh.Conn
	login sshgate.Login
	link  *originLink
	// extent is what the certificate holds; everything where there is none.
	extent sshgate.Extent
}

// originLink is the network connection to an origin. It knows that it is lost
// before x/crypto ends the channels on it, so that whoever sees a channel end
// can tell an end from a loss.
type originLink struct {
	connector.Conn
	lost  atomic.Bool
	cause atomic.Pointer[connector.Refusal] // why, where its connector was shut out
}

func (l *originLink) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil {
		if refusal, ok := errors.AsType[*connector.Refusal](err); ok {
			l.cause.Store(refusal)
		}
		l.lost.Store(true)
	}
	return n, err
}

// access is a request that the policy allowed.
type access struct {
	id       sshgate.RequestID
	grant    *grant
	target   sshgate.Target
	request  sshgate.Request // what decision answers
	decision sshgate.Decision
	channel  sshgate.Channel
	activity sshgate.Activity
	detail   string
	since    live.Moment // before it was allowed
	// purpose is what the person said it is for, and said the application that
	// they said it of, empty where it counts for any.
	purpose, said string
}

// ask puts a request for one channel to the policy and records the answer, except
// that a session may be opened: what runs in it is asked about later, and recorded
// then. A session that only lacks what it is for is returned pending.
func (c *conn) ask(g *grant, target sshgate.Target, channel sshgate.Channel, activity sshgate.Activity, detail string) (*access, *sshgate.Denied) {
	a := &access{id: sshgate.NewRequestID(), grant: g, target: target, channel: channel, detail: detail, since: c.srv.cfg.Live.Moment()}
	if target.Origin == "" {
		return nil, &sshgate.Denied{
			RequestID: a.id,
			Sentence:  "you are signed in as " + ascii(g.identity.String()) + "; name an origin to go there: ssh " + c.srv.commandFor(sshgate.Target{Login: "LOGIN", Origin: "ORIGIN"}),
			Cause:     errors.New("the client named no origin"),
		}
	}
	if denial := c.stillGood(g); denial != nil {
		return nil, denial
	}
	a = c.judge(a, activity, detail)
	if a.decision.Allowed || a.pending() {
		if gone := c.signedIn(g, a.id); gone != nil {
			a.decision.Allowed, a.decision.Reason = false, gone.Error()
			c.recordDecision(a)
			return nil, gone
		}
	}
	if channel == sshgate.ChannelSession && a.pending() {
		return a, nil
	}
	if !a.decision.Allowed || channel != sshgate.ChannelSession {
		c.recordDecision(a)
	}
	if !a.decision.Allowed {
		return nil, c.refusal(a, false)
	}
	return a, nil
}

// event returns an event about the request.
func (a *access) event(kind sshgate.EventKind) sshgate.Event {
	login := a.decision.Login
	if login == "" {
		login = a.target.Login
	}
	return sshgate.Event{
		Kind:        kind,
		Request:     a.id,
		Key:         a.grant.key,
		Origin:      a.target.Origin,
		Login:       login,
		Channel:     a.channel,
		Activity:    a.activity.Kind,
		Purpose:     a.purpose,
		Detail:      a.detail,
		Application: a.decision.Application,
		Rule:        a.decision.Rule,
	}.By(a.grant.identity)
}

// liveOrigin returns the connection to the origin where there is one already.
func (c *conn) liveOrigin() *origin {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.origin
}

// closeOrigins ends the connections to origins.
func (c *conn) closeOrigins() {
	c.mu.Lock()
	all := slices.Collect(maps.Keys(c.picked))
	if c.origin != nil {
		all = append(all, c.origin)
	}
	c.mu.Unlock()
	for _, up := range all {
		up.link.Close()
	}
}

func (c *conn) isPicked(up *origin) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.picked[up]
	return ok
}

// leavePicked ends the connection to an origin that a session picked, after that
// session.
func (c *conn) leavePicked(up *origin) {
	c.mu.Lock()
	delete(c.picked, up)
	for l := range c.lent {
		if l.origin == up {
			delete(c.lent, l)
		}
	}
	c.mu.Unlock()
	up.link.Close()
}

// reach returns the connection to the origin, made by the first channel that
// asks. keys are for AgentAuth; nil where no agent is forwarded.
func (c *conn) reach(a *access, keys *agentKeys) (*origin, *sshgate.Denied) {
	before := c.dials.Load()
	c.dialling.Lock()
	defer c.dialling.Unlock()
	up := c.liveOrigin()
	if up == nil && c.dials.Load() != before && keys == nil {
		return nil, c.dialled // it failed while this one waited for its turn
	}
	if up == nil {
		ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DialTimeout)
		defer cancel()
		up, c.dialled = c.dialOrigin(ctx, a, keys)
		c.dials.Add(1)
		if up == nil {
			return nil, c.dialled
		}
	}
	if up.login != a.decision.Login || !holds(up.extent, a.activity) {
		return nil, &sshgate.Denied{
			RequestID: a.id,
			Sentence:  "the access policy has changed; end this connection and connect again",
			Cause:     fmt.Errorf("connected as %q for %+v, the policy now says %q and %v", up.login, up.extent, a.decision.Login, a.activity),
		}
	}
	return up, nil
}

// dialOrigin goes through the tunnel to the origin's sshd, checks its host key
// and signs in.
func (c *conn) dialOrigin(ctx context.Context, a *access, keys *agentKeys) (*origin, *sshgate.Denied) {
	nc, denial := c.srv.broker.Dial(ctx, connector.DialRequest{
		RequestID:    a.id,
		ConnectionID: c.id,
		Origin:       a.target.Origin,
		Login:        a.decision.Login,
		Identity:     a.grant.identity.String(),
		ClientAddr:   c.addr,
	})
	if denial != nil {
		return nil, denial
	}
	extent := c.extent(a)
	config, err := c.clientConfig(ctx, a, keys, extent)
	if err != nil {
		nc.Close()
		return nil, c.dialFailure(a, err)
	}
	// NewClientConn takes no context.
	link := &originLink{Conn: nc}
	stop := context.AfterFunc(ctx, func() {
		nc.Close()
		if keys != nil {
			c.cutOff(errNoAnswer) // the client's agent may be what does not answer
		}
	})
	sc, channels, requests, err := gossh.NewClientConn(link, string(a.target.Origin), config)
	if !stop() {
		err = context.Cause(ctx) // rather than that nc is closed
	}
	if err != nil {
		nc.Close()
		return nil, c.dialFailure(a, err)
	}
	return c.adopt(a, &origin{conn: sc, login: a.decision.Login, link: link, extent: extent}, channels, requests)
}

// adopt makes up the connection's origin, or one of those that its sessions picked,
// and starts what serves it.
func (c *conn) adopt(a *access, up *origin, channels <-chan gossh.NewChannel, requests <-chan *gossh.Request) (*origin, *sshgate.Denied) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		up.link.Close()
		return nil, c.dialFailure(a, errClientGone)
	}
	if a.grant.target.Origin == "" {
		c.picked[up] = struct{}{}
	} else {
		c.origin = up
	}
	c.work.Add(2) // as in enter
	c.mu.Unlock()
	go func() {
		defer c.work.Done()
		c.serveOrigin(up, channels)
	}()
	go func() {
		defer c.work.Done()
		for req := range requests {
			// hostkeys-00@openssh.com is dropped with the rest: the client would
			// check the origin's keys against the gateway's name. To a keepalive
			// any answer will do.
			_ = req.Reply(false, nil) // fails only with the connection
		}
	}()
	return up, nil
}

// serveOrigin takes the channels that the origin opens until it is gone, and then
// ends the client's connection: nothing on it can go on. It does not where a session
// picked the origin, which says itself how it ended.
func (c *conn) serveOrigin(up *origin, channels <-chan gossh.NewChannel) {
	for ch := range channels {
		if !c.enter() {
			_ = ch.Reject(gossh.ConnectionFailed, "the connection is closing")
			continue
		}
		go func() {
			defer c.work.Done()
			c.channelFromOrigin(up, ch)
		}()
	}
	err := up.conn.Wait()
	if c.isPicked(up) {
		c.log.Warn("the connection to a picked origin ended", "err", err)
	}
	if c.liveOrigin() != up {
		return
	}
	if c.ctx.Err() == nil {
		c.log.Warn("the connection to the origin ended", "err", err)
	}
	c.cancel(errOriginGone)
	c.closeSoon(errOriginGone)
}

// clientConfig is how the gateway presents itself to the origin.
func (c *conn) clientConfig(ctx context.Context, a *access, keys *agentKeys, extent sshgate.Extent) (*gossh.ClientConfig, error) {
	pins, err := c.srv.cfg.HostPins.HostKeys(ctx, a.target.Origin)
	if err != nil {
		return nil, fmt.Errorf("looking up the origin's host keys: %w", err)
	}
	auth, err := c.originAuth(a, keys, extent)
	if err != nil {
		return nil, err
	}
	known, err := parsePins(pins)
	if err != nil {
		return nil, err
	}
	return &gossh.ClientConfig{
		Config:            transport(),
		User:              string(a.decision.Login),
		Auth:              []gossh.AuthMethod{auth},
		HostKeyCallback:   known.check,
		HostKeyAlgorithms: known.algorithms(),
		ClientVersion:     "SSH-2.0-" + c.srv.cfg.Version,
	}, nil
}

func (c *conn) originAuth(a *access, keys *agentKeys, extent sshgate.Extent) (gossh.AuthMethod, error) {
	how := c.srv.cfg.Origins(a.target.Origin)
	switch how.Method {
	case KeyAuth:
		return gossh.PublicKeys(how.Key), nil
	case AgentAuth:
		if keys == nil {
			return nil, errNeedsAgent
		}
		return gossh.PublicKeysCallback(keys.signers), nil
	}
	ttl := how.CertificateTTL
	if ttl <= 0 {
		ttl = defaultCertificateTTL
	}
	// The identity comes last: what a provider lets people call themselves must
	// not pass for a session.
	keyID := fmt.Sprintf("session=%s request=%s identity=%s", c.id, a.id, ascii(a.grant.identity.String()))
	signer, err := c.srv.cfg.CA.sign(a.decision.Login, keyID, c.srv.cfg.Now(), ttl, extensions(extent))
	if err != nil {
		return nil, err
	}
	return gossh.PublicKeys(signer), nil
}

var errNoAnswer = errors.New("the origin, or the client's agent, did not answer in time")

var errNeedsAgent = errors.New("the origin takes the keys of a forwarded agent only, and none is forwarded")

// dialFailure turns an error on the way to the origin into what the user reads:
// which part failed and who can mend it.
func (c *conn) dialFailure(a *access, err error) *sshgate.Denied {
	name, login := a.target.Origin, a.decision.Login
	var keyError *hostKeyError
	var unopened *gossh.OpenChannelError
	var sentence string
	switch {
	case errors.As(err, &keyError) && keyError.changed:
		return endtoend.HostKeyChanged(a.id, name, err)
	case errors.As(err, &keyError):
		sentence = fmt.Sprintf("the host key of %s is not known yet; its connector reports it once the ssh server there answers", name)
	case errors.As(err, &unopened):
		sentence = fmt.Sprintf("%s refused the session: %s", name, ascii(clip(unopened.Message, maxRejectionReason)))
	case errors.Is(err, errNeedsAgent):
		sentence = fmt.Sprintf("%s takes the keys of your own agent; connect with: ssh -A %s", name, c.srv.commandFor(a.target))
	case isAuthFailure(err):
		sentence = fmt.Sprintf("%s did not let the gateway in as %s; does that account exist there, and does its sshd trust the gateway's authority (TrustedUserCAKeys)?", name, login)
	default:
		return endtoend.Unreachable(a.id, name, err, c.srv.cfg.DialTimeout)
	}
	return &sshgate.Denied{RequestID: a.id, Code: sshgate.DenialUnreachable, Sentence: sentence, Cause: err}
}

// isAuthFailure tells that the origin's sshd ended authentication. x/crypto has
// no error type for it.
func isAuthFailure(err error) bool {
	return strings.Contains(err.Error(), "unable to authenticate")
}
