package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
)

const (
	// endingTime is how long a channel that has to end may take to do so by itself,
	// with its last words read.
	endingTime = 300 * time.Millisecond
	// leavingTime is how long a client may take to leave once its channels have ended.
	leavingTime = 700 * time.Millisecond
)

// hold takes the connection in among those that end with what let it in.
func (c *conn) hold(g *grant) {
	if g.credential == (sshgate.Credential{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = append(c.released, c.srv.cfg.Live.Add(g.since, live.Holding{
		Credential: g.credential, Until: g.until, End: func(ending *live.Ending) { c.end(g, ending) },
	}))
	if g.key == "" {
		c.released = append(c.released, func() { c.forget(g.credential.Key) })
	}
}

// forget removes the sign-in of a connection without a key, which ends with it.
func (c *conn) forget(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTime)
	defer cancel()
	if err := c.srv.cfg.Logins.ForgetKey(ctx, name); err != nil && !errors.Is(err, sshgate.ErrNotFound) {
		c.log.Warn("the sign-in of a connection could not be removed", "err", err)
	}
}

// end ends the whole connection, since what let it in is no longer good. Its channels
// are told by their own ends, which come at the same time.
func (c *conn) end(g *grant, ending *live.Ending) {
	idle := c.channels.Load() == 0
	c.log.Info("the connection ends", "cause", ending.Cause)
	if idle {
		event := sshgate.Event{Kind: sshgate.EventDecision, Key: g.key, Origin: g.target.Origin, Login: g.target.Login, Reason: ending.Cause}
		c.record(event.By(g.identity))
	}
	c.start(func() {
		if !idle {
			waitFor(c.gone, leavingTime)
		}
		c.close(ending)
	})
}

// again is the request of a, to be decided about once more: with the login that it
// has, should the default be another now.
func (c *conn) again(a *access) sshgate.Request {
	req := a.request
	req.Target.Login = a.decision.Login
	if req.Opened.IsZero() {
		req.Opened = req.Time
	}
	req.Time = c.srv.cfg.Now()
	return req
}

// holding is a as the register of what is open has it.
func (c *conn) holding(a *access, end func(*live.Ending)) live.Holding {
	event := a.event(sshgate.EventDecision)
	event.Connection, event.ClientAddr = c.id, c.addr
	return live.Holding{
		Request: c.again(a), Decision: a.decision, Credential: a.grant.credential, Until: a.grant.until, Event: event, End: end,
	}
}

// end ends the channel with a word to its user, harder where that is not enough.
func (s *session) end(ending *live.Ending) {
	if !s.ended.CompareAndSwap(nil, ending) {
		return
	}
	s.conn.start(func() { _ = s.pipe.origin.Close() }) // may wait for an origin that stalls
	s.conn.start(func() {
		waitFor(s.done, endingTime)
		if !isClosed(s.done) {
			s.leaveUnended()
			waitFor(s.done, endingTime)
		}
		if !isClosed(s.done) {
			s.conn.cutOff(ending)
		}
	})
}

// leaveUnended closes the client's channel while the origin keeps its own: a command
// without a terminal does not notice that it has to end. Both steps may wait for a
// client that stalls.
func (s *session) leaveUnended() {
	said := make(chan struct{})
	s.conn.start(func() {
		defer close(said)
		if s.pipe.beforeClose != nil {
			s.pipe.beforeClose()
		}
	})
	s.conn.start(func() {
		waitFor(said, endingTime/3)
		_ = s.pipe.client.Close()
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// signedIn says why the sign-in of a person no longer counts, nil while it does. That
// of a machine is stillGood's to judge.
func (c *conn) signedIn(g *grant, id sshgate.RequestID) *sshgate.Denied {
	if g.identity.Kind == sshgate.ServiceToken || g.credential == (sshgate.Credential{}) {
		return nil
	}
	login, err := c.srv.cfg.Logins.KeyLogin(c.ctx, g.credential.Key)
	now := c.srv.cfg.Now()
	switch {
	case err == nil && login.Identity.Key() == g.identity.Key() && now.Before(login.ExpiresAt):
		return nil
	case !now.Before(g.until):
		return endtoend.Expired(id, c.renewal(g.target), fmt.Errorf("the sign-in ended at %s", g.until.UTC().Format(time.RFC3339)))
	case err != nil && !errors.Is(err, sshgate.ErrNotFound):
		return &sshgate.Denied{RequestID: id, Sentence: "your sign-in can't be looked up right now; try again in a moment", Cause: fmt.Errorf("looking up the sign-in: %w", err)}
	}
	return &sshgate.Denied{
		RequestID: id, Code: sshgate.DenialExpired,
		Sentence: "your sign-in was revoked; to sign in again, " + c.renewal(g.target), Cause: errors.New("the sign-in was revoked"),
	}
}

// holdListener takes in what the client has the origin listen on.
func (c *conn) holdListener(a *access, up *origin, cancel gossh.Request) {
	id := cancel.Type + string(cancel.Payload)
	release := c.srv.cfg.Live.Add(a.since, c.holding(a, func(*live.Ending) {
		c.start(func() {
			c.releaseListener(id)
			c.unlend(up, listens[cancel.Type])
			_, _, _ = up.conn.SendRequest(cancel.Type, true, cancel.Payload) // no channel of it is taken any more
		})
	}))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[id] = release
}

// releaseListener takes one out that the client, or the policy, has ended.
func (c *conn) releaseListener(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if release := c.listeners[id]; release != nil {
		release()
		delete(c.listeners, id)
	}
}

// release takes out all that is left of the connection.
func (c *conn) release() {
	c.mu.Lock()
	released := c.released
	for _, release := range c.listeners {
		released = append(released, release)
	}
	c.released, c.listeners = nil, nil
	c.mu.Unlock()
	for _, release := range released {
		release()
	}
}

// cancelRequest is the client's request that would end the listener which req has
// begun and the origin has answered with reply.
func cancelRequest(req *gossh.Request, reply []byte) gossh.Request {
	if req.Type == requestListenUnix {
		return gossh.Request{Type: requestCancelUnix, Payload: req.Payload}
	}
	cancel := gossh.Request{Type: requestCancelTCP, Payload: req.Payload}
	var asked listenTCP
	var given struct{ Port uint32 } // RFC 4254 section 7.1: the one that was chosen
	if gossh.Unmarshal(req.Payload, &asked) == nil && asked.Port == 0 && gossh.Unmarshal(reply, &given) == nil {
		asked.Port = given.Port
		cancel.Payload = gossh.Marshal(asked)
	}
	return cancel
}

// listenTCP is the data of a tcpip-forward request and of the one that cancels it, RFC
// 4254 section 7.1.
type listenTCP struct {
	Host string
	Port uint32
}
