package gateway

import (
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	gossh "golang.org/x/crypto/ssh"
)

// jump carries a connection that the client itself speaks with a service of an
// origin, end to end: ssh -J, ssh -W, and ssh -L on a connection that names no
// origin.
func (c *conn) jump(g *grant, nc gossh.NewChannel) {
	m, err := parseDirectTCP(nc)
	if err != nil {
		_ = nc.Reject(gossh.Prohibited, err.Error())
		return
	}
	since := c.srv.cfg.Live.Moment()
	if denial := c.stillGood(g); denial != nil {
		c.reject(nc, denial)
		return
	}
	if denial := c.signedIn(g, sshgate.NewRequestID()); denial != nil {
		event := sshgate.Event{Kind: sshgate.EventDecision, Request: denial.RequestID, Key: g.key, Channel: sshgate.ChannelEndToEnd, Detail: clip(m.Host, maxDetail), Reason: denial.Error()}
		c.record(event.By(g.identity))
		c.reject(nc, denial)
		return
	}
	passage, denial := c.srv.broker.Open(c.ctx, endtoend.Client{
		Identity: g.identity, Key: g.key, Proof: g.proof, Addr: c.addr, Connection: c.id, Renew: c.renewal(g.target),
		Credential: g.credential, Until: g.until, Since: since,
	}, m.Host, m.Port)
	if denial != nil {
		c.reject(nc, denial)
		return
	}
	client, requests, err := nc.Accept()
	if err != nil {
		passage.Close()
		return
	}
	defer client.Close()
	carried := make(chan struct{})
	c.start(func() {
		gossh.DiscardRequests(requests)
		// The client has closed the channel, which reads like a half-close.
		waitFor(carried, closeHold)
		passage.Close()
	})
	if err := passage.Carry(c.ctx, client); err != nil {
		c.log.Debug("an end-to-end connection failed", "request", passage.ID, "err", err)
	}
	close(carried)
}

// renewal says how to sign in again.
func (c *conn) renewal(target sshgate.Target) string {
	return "end this connection and run: ssh " + c.srv.commandFor(target)
}
