package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// exitLost is what a client gets as exit status when its session ended without
// one: OpenSSH's own for a broken connection.
const exitLost = 255

// answerHold is how long a request may wait for its answer until it is known
// whether the client offers its agent.
const answerHold = 500 * time.Millisecond

// maxCommand is how much of a command an event shows.
const maxCommand = 800 // bytes; with the rest of the detail below maxDetail

// session is a channel to the origin that the client asked for, while it lasts.
type session struct {
	conn *conn
	// access is under which the session runs: as it was opened, then as what runs
	// in it was allowed. It changes with pipe.answering held.
	access *access
	up     *origin
	pipe   *pipe
	start  time.Time

	// detail is what was started, and open that its start is recorded and its
	// end is not. They belong to the goroutine that passes the client's requests
	// on, and to carry after it.
	detail   string
	open     bool
	terminal bool // the client has one

	// release takes it out of what is decided about again. It changes as access does.
	release func()

	ended atomic.Pointer[live.Ending] // why it is no longer allowed, nil while it is
	done  chan struct{}               // closed when nothing of it is left

	mu   sync.Mutex // guards what follows
	exit string     // how it ended, "" while it has not
	said bool       // the last words
}

// carry runs p until both its sides are closed, with an event at either end.
func (c *conn) carry(a *access, up *origin, p *pipe) {
	s := &session{conn: c, access: a, up: up, pipe: p, start: c.srv.cfg.Now(), detail: a.detail, done: make(chan struct{})}
	p.lost = func() bool { return up.link.lost.Load() || s.ended.Load() != nil }
	if a.channel == sshgate.ChannelSession {
		p.sending = s.sending
		p.answered = s.answered
		p.received = s.received
		p.beforeClose = s.beforeClose
		p.started = make(chan struct{})
	} else {
		s.recordStart()
	}
	s.hold()
	p.run()
	s.release()
	close(s.done)
	if s.open {
		reason := ""
		if ending := s.ended.Load(); ending != nil {
			reason = ending.Cause
		} else if s.exit == "" && p.lost() {
			reason = s.lossReason()
		}
		s.recordEnd(reason)
	}
}

// hold has the session decided about again, from now on as what its access is.
func (s *session) hold() {
	before := s.release
	s.release = s.conn.srv.cfg.Live.Add(s.access.since, s.conn.holding(s.access, s.end))
	if before != nil {
		before()
	}
}

// sending sees the client's requests before the origin does: nothing reaches it
// that is not allowed, and nothing is started that is not on record.
func (s *session) sending(req *gossh.Request) bool {
	switch {
	case startsCommand(req):
		if !s.mayStart(req) {
			return false
		}
		s.detail = s.access.detail
		s.recordStart()
		return true
	case req.Type == requestAgent:
		if s.mayLend(sshgate.ActivityAgent, typeAgent) {
			return true
		}
	case req.Type == requestX11:
		if s.mayLend(sshgate.ActivityX11, typeX11) {
			return true
		}
	case passedOn[req.Type]:
		if purpose, mine := purposeFrom(req); mine { // the origin has no use for it
			if !s.open {
				s.access = s.access.saying(purpose)
			}
			_ = req.Reply(!s.open, nil) // fails only with the connection
			return false
		}
		s.terminal = s.terminal || req.Type == "pty-req"
		return true
	}
	_ = req.Reply(false, nil) // fails only with the connection
	return false
}

// answered sees what the origin said to them.
func (s *session) answered(req *gossh.Request, ok bool, err error) {
	switch {
	case ok || err != nil || !req.WantReply && !startsCommand(req):
	case startsCommand(req):
		s.recordEnd("refused by the origin")
		if !req.WantReply && s.terminal && s.access.decision.Purpose { // it was granted when the person was asked
			tell(s.pipe.client, fmt.Sprintf("%s refused the session", s.access.target.Origin))
			sendExit(s.pipe.client, exitLost)
			_ = s.pipe.client.Close() // fails only with the channel
		}
		if s.conn.isPicked(s.up) { // the client was told that it runs
			tell(s.pipe.client, fmt.Sprintf("%s refused the session (request %s)", s.access.target.Origin, s.access.id))
			_ = s.pipe.origin.Close() // fails where the origin closed first
		}
	case req.Type == requestAgent:
		s.conn.unlend(s.up, typeAgent)
	case req.Type == requestX11:
		s.conn.unlend(s.up, typeX11)
	}
}

func (s *session) recordStart() {
	s.open = true
	start := s.access.event(sshgate.EventSessionStart)
	start.Detail = s.detail
	s.conn.record(start)
	s.conn.srv.running.add(s, s.detail, start.Time)
}

func (s *session) recordEnd(reason string) {
	s.open = false
	s.conn.srv.running.remove(s)
	end := s.access.event(sshgate.EventSessionEnd)
	end.Detail, end.Exit, end.Reason = s.detail, s.exit, reason
	end.BytesIn, end.BytesOut = s.pipe.in.Load(), s.pipe.out.Load()
	end.Duration = s.conn.srv.cfg.Now().Sub(s.start)
	s.conn.record(end)
}

// describeStart says what a session was started for: "shell", "exec COMMAND",
// "subsystem NAME".
func describeStart(req *gossh.Request) string {
	if req.Type == requestShell {
		return requestShell
	}
	var m struct{ Text string }
	if gossh.Unmarshal(req.Payload, &m) != nil {
		return req.Type
	}
	if len(m.Text) <= maxCommand {
		return req.Type + " " + m.Text
	}
	// What is cut off can still be told: by whoever has the whole.
	return fmt.Sprintf("%s %s (%d bytes, SHA-256 %x)", req.Type, clip(m.Text, maxCommand), len(m.Text), sha256.Sum256([]byte(m.Text)))
}

// received sees the origin's requests before the client does.
func (s *session) received(req *gossh.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch req.Type {
	case requestExitStatus:
		var m struct{ Status uint32 }
		if gossh.Unmarshal(req.Payload, &m) == nil {
			s.exit = strconv.FormatUint(uint64(m.Status), 10)
		}
	case requestExitSignal:
		var m struct {
			Signal     string
			CoreDumped bool
			Error      string
			Lang       string
		}
		if gossh.Unmarshal(req.Payload, &m) == nil {
			s.exit = "signal " + clip(m.Signal, 32)
		}
	}
}

// beforeClose gives a session that ends without an exit status one, never 0,
// and tells the user when it was cut off.
func (s *session) beforeClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said || s.exit != "" && s.ended.Load() == nil {
		return
	}
	s.said = true
	if s.pipe.lost() {
		tell(s.pipe.client, fmt.Sprintf("%s (request %s)", s.lossReason(), s.access.id))
	}
	sendExit(s.pipe.client, exitLost)
}

func (s *session) lossReason() string {
	if ending := s.ended.Load(); ending != nil {
		return fmt.Sprintf("your access to %s has ended: %s", s.access.target.Origin, ascii(ending.Sentence))
	}
	if s.up.link.cause.Load() != nil {
		return fmt.Sprintf("the connection to %s was lost: the gateway no longer lets its connector in", s.access.target.Origin)
	}
	if errors.Is(context.Cause(s.conn.ctx), errShuttingDown) {
		return "the gateway is shutting down, the session has ended"
	}
	return fmt.Sprintf("the connection to %s was lost", s.access.target.Origin)
}

// tell writes a line of the gateway's own to the session's standard error.
func tell(ch gossh.Channel, text string) {
	_, _ = io.WriteString(ch.Stderr(), "\r\nsshgate: "+text+"\r\n") // fails only with the channel
}

func sendExit(ch gossh.Channel, status uint32) {
	_, _ = ch.SendRequest(requestExitStatus, false, gossh.Marshal(struct{ Status uint32 }{status}))
}

// needsAgent tells that the origin is yet to be entered with the client's own
// agent.
func (c *conn) needsAgent(a *access) bool {
	return c.srv.cfg.Origins(a.target.Origin).Method == AgentAuth && c.liveOrigin() == nil
}

// sessionAccepted carries a session that is accepted before the origin is reached:
// one whose origin is entered with the agent that the client forwards, which it
// offers in a request on the open channel, and one that has yet to say what it is
// for.
func (c *conn) sessionAccepted(a *access, nc gossh.NewChannel) {
	client, incoming, err := nc.Accept()
	if err != nil {
		return
	}
	requests := c.queue(incoming)
	var early []*gossh.Request
	var denial *sshgate.Denied
	var keys *agentKeys
	if a.pending() {
		if a, early, denial = c.prepare(a, client, requests); denial != nil {
			c.turnAway(client, requests, early, denial, exitRefused)
			return
		}
	} else {
		early = requestsUntilStart(requests)
	}
	if slices.ContainsFunc(early, func(req *gossh.Request) bool { return req.Type == requestAgent }) {
		keys = &agentKeys{conn: c}
	}
	up, denial := c.reach(a, keys)
	keys.close() // OpenSSH does not end while the channel is open
	if denial == nil {
		var upstream gossh.Channel
		var upstreamRequests <-chan *gossh.Request
		upstream, upstreamRequests, err = up.conn.OpenChannel(typeSession, nil)
		if err == nil {
			c.carry(a, up, &pipe{client: client, origin: upstream, clientRequests: requests, originRequests: c.queue(upstreamRequests), early: early})
			return
		}
		denial = c.dialFailure(a, err)
	}
	c.unreached(a)
	c.turnAway(client, requests, early, denial, exitLost)
}

// turnAway ends a session that was accepted and leads nowhere.
func (c *conn) turnAway(client gossh.Channel, requests *requestQueue, early []*gossh.Request, denial *sshgate.Denied, status uint32) {
	c.log.Info("session refused", "request", denial.RequestID, "cause", denial.Error())
	for _, req := range early {
		_ = req.Reply(true, nil) // or the client would show its own, lesser error
	}
	c.start(requests.discard)
	tell(client, denial.UserMessage())
	sendExit(client, status)
	client.Close()
}

// requestsUntilStart takes requests until the client's agent is offered or a
// command is started. A client that
// waits for an answer before it goes on is not kept waiting for long.
func requestsUntilStart(requests *requestQueue) (early []*gossh.Request) {
	var impatient <-chan time.Time
	for {
		select {
		case req, ok := <-requests.waiting:
			if !ok {
				return early
			}
			// The bytes stay on the queue's account: early is part of it.
			early = append(early, req)
			if req.Type == requestAgent || startsCommand(req) || len(early) == maxQueuedRequests {
				return early
			}
			if req.WantReply && impatient == nil {
				impatient = time.After(answerHold)
			}
		case <-impatient:
			return early
		}
	}
}

// agentKeys are the keys of the agent that a client forwards, for as long as the
// origin is being entered.
type agentKeys struct {
	conn    *conn
	channel gossh.Channel
}

// signers is called by the handshake with the origin, which signs while the
// channel to the agent is open.
func (k *agentKeys) signers() ([]gossh.Signer, error) {
	ch, requests, err := k.conn.ssh.Load().OpenChannel(typeAgent, nil)
	if err != nil {
		return nil, fmt.Errorf("opening the client's agent: %w", err)
	}
	k.channel = ch
	k.conn.start(func() { gossh.DiscardRequests(requests) })
	signers, err := agent.NewClient(ch).Signers()
	if err != nil {
		return nil, fmt.Errorf("listing the keys of the client's agent: %w", err)
	}
	return signers, nil
}

func (k *agentKeys) close() {
	if k != nil && k.channel != nil {
		k.channel.Close()
	}
}
