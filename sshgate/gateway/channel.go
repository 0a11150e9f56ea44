package gateway

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gliderlabs/ssh"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// The channel types of RFC 4254 and of OpenSSH's PROTOCOL file.
const (
	typeSession        = "session"
	typeDirectTCP      = "direct-tcpip"
	typeDirectUnix     = "direct-streamlocal@openssh.com"
	typeForwardedTCP   = "forwarded-tcpip"
	typeForwardedUnix  = "forwarded-streamlocal@openssh.com"
	typeX11            = "x11"
	typeAgent          = "auth-agent@openssh.com"
	requestListenTCP   = "tcpip-forward"
	requestListenUnix  = "streamlocal-forward@openssh.com"
	requestCancelTCP   = "cancel-tcpip-forward"
	requestCancelUnix  = "cancel-streamlocal-forward@openssh.com"
	requestKeepalive   = "keepalive@openssh.com"
	requestAgent       = "auth-agent-req@openssh.com"
	requestX11         = "x11-req"
	requestExitStatus  = "exit-status"
	requestExitSignal  = "exit-signal"
	requestShell       = "shell"
	requestExec        = "exec"
	requestSubsystem   = "subsystem"
	maxDetail          = 1024 // bytes of a command that go into an event
	maxRejectionReason = 512  // bytes of an origin's reason that are passed on
)

// handleChannel is called by gliderlabs in a goroutine of its own for every
// channel that a client opens.
func handleChannel(_ *ssh.Server, sc *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	c := ctx.Value(connKey{}).(*conn)
	g := grantOf(sc)
	if g == nil || !c.enter() {
		_ = nc.Reject(gossh.Prohibited, "the connection is closing")
		return
	}
	defer c.work.Done()
	c.ssh.Store(sc)
	defer c.channelDone()
	if int(c.channels.Add(1)) > c.srv.cfg.MaxChannels {
		c.rejectMany(nc, c.tooManyChannels(g.identity))
		return
	}
	c.channel(g, nc)
}

// channel decides on one channel of the client and carries it.
func (c *conn) channel(g *grant, nc gossh.NewChannel) {
	if g.target.Origin == "" && nc.ChannelType() == typeDirectTCP {
		c.jump(g, nc)
		return
	}
	if g.target.Origin == "" && nc.ChannelType() == typeSession && c.srv.cfg.Console != nil {
		c.menu(g, nc)
		return
	}
	kind, activity, err := describe(nc)
	if err != nil {
		_ = nc.Reject(gossh.UnknownChannelType, err.Error())
		return
	}
	leave, limited := c.srv.cfg.Limits.Channel(g.identity, c.addr, kind == sshgate.ChannelSession)
	if limited != nil {
		c.rejectMany(nc, limited)
		return
	}
	defer leave()
	a, denial := c.ask(g, g.target, kind, activity, clip(activity.Destination, maxDetail))
	if denial != nil {
		c.reject(nc, denial)
		return
	}
	if kind == sshgate.ChannelSession && (a.pending() || c.needsAgent(a)) {
		c.sessionAccepted(a, nc)
		return
	}
	up, denial := c.reach(a, nil)
	if denial != nil {
		c.unreached(a)
		c.reject(nc, denial)
		return
	}
	c.join(a, up, nc)
}

// unreached puts on record that a session was allowed in which nothing will run.
func (c *conn) unreached(a *access) {
	if a.channel == sshgate.ChannelSession {
		c.recordDecision(a)
	}
}

// join opens the same channel at the origin and, once it is open, accepts the
// client's: until then the client sends nothing, so no early input is lost. A
// refusal is passed on with the origin's reason.
func (c *conn) join(a *access, up *origin, nc gossh.NewChannel) {
	upstream, upstreamRequests, err := up.conn.OpenChannel(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		c.rejectLike(a, nc, err)
		return
	}
	client, clientRequests, err := nc.Accept()
	if err != nil {
		upstream.Close()
		return
	}
	c.carry(a, up, &pipe{client: client, origin: upstream, clientRequests: c.queue(clientRequests), originRequests: c.queue(upstreamRequests)})
}

// reject tells the client why, and the log the cause.
func (c *conn) reject(nc gossh.NewChannel, denial *sshgate.Denied) {
	c.log.Info("channel refused", "request", denial.RequestID, "type", nc.ChannelType(), "cause", denial.Error())
	_ = nc.Reject(gossh.Prohibited, denial.UserMessage())
}

// rejectMany tells the client which limit is reached.
func (c *conn) rejectMany(nc gossh.NewChannel, denied *sshgate.Denied) {
	_ = nc.Reject(gossh.ResourceShortage, ascii(denied.UserMessage()))
}

func (c *conn) tooManyChannels(id sshgate.Identity) *sshgate.Denied {
	return c.srv.cfg.Limits.Refuse(sshgate.LimitChannels, id, c.addr,
		fmt.Sprintf("this connection has %d channels open, no more are allowed", c.srv.cfg.MaxChannels))
}

// rejectLike passes the origin's refusal on as it is: "no more sessions" of a
// sshd, the "Connection refused" of a forward.
func (c *conn) rejectLike(a *access, nc gossh.NewChannel, err error) {
	c.log.Info("channel refused by the origin", "request", a.id, "type", nc.ChannelType(), "cause", err)
	var refused *gossh.OpenChannelError
	if errors.As(err, &refused) {
		_ = nc.Reject(refused.Reason, ascii(clip(refused.Message, maxRejectionReason)))
		return
	}
	_ = nc.Reject(gossh.ConnectionFailed, c.dialFailure(a, errOriginGone).UserMessage())
}

// describe says what a channel of the client is for.
func describe(nc gossh.NewChannel) (channel sshgate.Channel, a sshgate.Activity, err error) {
	switch nc.ChannelType() {
	case typeSession:
		return sshgate.ChannelSession, a, nil
	case typeDirectTCP:
		m, err := parseDirectTCP(nc)
		if err != nil {
			return "", a, err
		}
		return sshgate.ChannelForward, forwardTo(sshgate.ActivityForward, m.Host, m.Port), nil
	case typeDirectUnix:
		var m struct {
			Path     string
			Reserved string
			Unused   uint32
		}
		if err := gossh.Unmarshal(nc.ExtraData(), &m); err != nil {
			return "", a, errors.New("malformed direct-streamlocal request")
		}
		return sshgate.ChannelUnix, sshgate.Activity{Kind: sshgate.ActivityUnix, Destination: m.Path}, nil
	}
	return "", a, fmt.Errorf("channels of type %q are not carried", ascii(clip(nc.ChannelType(), 64)))
}

// directTCP is the data of a direct-tcpip channel, RFC 4254 section 7.2.
type directTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

func parseDirectTCP(nc gossh.NewChannel) (m directTCP, err error) {
	if gossh.Unmarshal(nc.ExtraData(), &m) != nil {
		return m, errors.New("malformed direct-tcpip request")
	}
	return m, nil
}

// channelFromOrigin carries a channel that the origin opens: the far end of -R,
// the agent, X11. The client must have asked it for that kind before.
func (c *conn) channelFromOrigin(up *origin, nc gossh.NewChannel) {
	a := c.lentTo(up, nc.ChannelType())
	sc := c.ssh.Load()
	if a == nil || sc == nil {
		_ = nc.Reject(gossh.Prohibited, "the client has not asked for this")
		if c.uncalled.Add(1) == 1 {
			c.log.Warn("the origin opened a channel that the client has not asked for", "type", ascii(clip(nc.ChannelType(), 64)))
		}
		return
	}
	if !c.srv.cfg.Policy().Decide(c.again(a)).Allowed {
		_ = nc.Reject(gossh.Prohibited, "it is no longer allowed")
		return
	}
	defer c.channelDone()
	identity := a.grant.identity
	if int(c.channels.Add(1)) > c.srv.cfg.MaxChannels {
		_ = nc.Reject(gossh.ResourceShortage, "too many channels")
		_ = c.tooManyChannels(identity)
		return
	}
	leave, denied := c.srv.cfg.Limits.Channel(identity, c.addr, false)
	if denied != nil {
		_ = nc.Reject(gossh.ResourceShortage, "too many channels")
		return
	}
	defer leave()
	client, clientRequests, err := sc.OpenChannel(nc.ChannelType(), nc.ExtraData())
	if err != nil {
		var refused *gossh.OpenChannelError
		if errors.As(err, &refused) {
			_ = nc.Reject(refused.Reason, clip(refused.Message, maxRejectionReason))
		} else {
			_ = nc.Reject(gossh.ConnectionFailed, "the client is gone")
		}
		return
	}
	upstream, upstreamRequests, err := nc.Accept()
	if err != nil {
		client.Close()
		return
	}
	opened := *a
	opened.channel = openedBy[nc.ChannelType()]
	opened.detail = "opened by the origin"
	c.carry(&opened, up, &pipe{client: client, origin: upstream, clientRequests: c.queue(clientRequests), originRequests: c.queue(upstreamRequests)})
}

// openedBy says in events what a channel that the origin opens belongs to.
var openedBy = map[string]sshgate.Channel{
	typeForwardedTCP:  sshgate.ChannelListen,
	typeForwardedUnix: sshgate.ChannelListen,
	typeAgent:         sshgate.ChannelAgent,
	typeX11:           sshgate.ChannelX11,
}

// lending is who may open which channels.
type lending struct {
	origin      *origin
	channelType string
}

// loan lets an origin open channels of one type, since the client has asked it
// for something that does.
type loan struct {
	access *access // of the last that asked
	count  int     // of those that asked and were not refused or taken back
}

func (c *conn) lend(up *origin, channelType string, a *access) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lent[lending{up, channelType}]
	if l == nil {
		l = &loan{}
		c.lent[lending{up, channelType}] = l
	}
	l.access = a
	l.count++
}

// unlend takes one back.
func (c *conn) unlend(up *origin, channelType string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lent[lending{up, channelType}]; l != nil && l.count > 0 {
		l.count--
	}
}

// lentTo returns the request under which the origin may open such a channel, nil
// where there is none.
func (c *conn) lentTo(up *origin, channelType string) *access {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lent[lending{up, channelType}]; l != nil && l.count > 0 {
		return l.access
	}
	return nil
}

// handleGlobalRequest is called by gliderlabs for the client's requests that
// belong to no channel, one after the other.
//
// no-more-sessions@openssh.com is not honoured: x/crypto delivers requests and
// channels through two queues, so which came first is not known.
func handleGlobalRequest(ctx ssh.Context, _ *ssh.Server, req *gossh.Request) (bool, []byte) {
	c := ctx.Value(connKey{}).(*conn)
	sc, _ := ctx.Value(ssh.ContextKeyConn).(*gossh.ServerConn)
	g := grantOf(sc)
	if g == nil || !c.enter() {
		return false, nil
	}
	defer c.work.Done()
	switch req.Type {
	case requestKeepalive:
		return true, nil
	case requestListenTCP, requestListenUnix:
		c.ssh.Store(sc)
		return c.listen(g, req)
	case requestCancelTCP, requestCancelUnix:
		if up := c.liveOrigin(); up != nil {
			ok, payload, err := up.conn.SendRequest(req.Type, true, req.Payload)
			if ok = ok && err == nil; ok {
				c.unlend(up, listens[req.Type])
				c.releaseListener(req.Type + string(req.Payload))
			}
			return ok, payload
		}
	}
	return false, nil
}

// listens says which channels the origin opens for a listener.
var listens = map[string]string{
	requestListenTCP:  typeForwardedTCP,
	requestCancelTCP:  typeForwardedTCP,
	requestListenUnix: typeForwardedUnix,
	requestCancelUnix: typeForwardedUnix,
}

// listen passes on a request for a listener at the origin (ssh -R).
func (c *conn) listen(g *grant, req *gossh.Request) (bool, []byte) {
	activity := sshgate.Activity{Kind: sshgate.ActivityListen}
	if req.Type == requestListenTCP {
		var m listenTCP
		if gossh.Unmarshal(req.Payload, &m) != nil {
			return false, nil
		}
		activity = forwardTo(sshgate.ActivityListen, m.Host, m.Port)
	} else {
		var m struct{ Path string }
		if gossh.Unmarshal(req.Payload, &m) != nil {
			return false, nil
		}
		activity.Destination = m.Path
	}
	a, denial := c.ask(g, g.target, sshgate.ChannelListen, activity, clip(activity.Destination, maxDetail))
	if denial == nil {
		var up *origin
		if up, denial = c.reach(a, nil); denial == nil {
			c.lend(up, listens[req.Type], a) // before the origin can open one
			ok, payload, err := up.conn.SendRequest(req.Type, true, req.Payload)
			if ok = ok && err == nil; !ok {
				c.unlend(up, listens[req.Type])
			} else {
				c.holdListener(a, up, cancelRequest(req, payload))
			}
			return ok, payload
		}
	}
	c.log.Info("listener refused", "request", denial.RequestID, "cause", denial.Error())
	return false, nil
}

// clip bounds a text from outside.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
