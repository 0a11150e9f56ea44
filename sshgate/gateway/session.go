package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// exitLost is what a client gets as exit status when its session ended without
// one: OpenSSH's own for a broken connection.
const exitLost = 255

// maxEarlyRequests bounds the requests that are kept while a session waits for
// its agent.
const maxEarlyRequests = 256

// session is a channel to the origin that the client asked for, while it lasts.
type session struct {
	conn   *conn
	access *access
	up     *origin
	pipe   *pipe
	start  time.Time

	// detail is what was started and recorded that it is; both belong to the
	// goroutine that passes the client's requests on, and to carry after it.
	detail   string
	recorded bool

	mu   sync.Mutex // guards exit
	exit string     // how it ended, "" while it has not
}

// carry runs p until both its sides are closed, with an event at either end.
func (c *conn) carry(a *access, up *origin, p *pipe) {
	s := &session{conn: c, access: a, up: up, pipe: p, start: c.srv.cfg.Now(), detail: a.detail}
	p.lost = up.link.lost.Load
	if a.channel == sshgate.ChannelSession {
		p.sent = s.sent
		p.received = s.received
		p.beforeClose = s.beforeClose
		p.started = make(chan struct{})
	}
	if a.channel != sshgate.ChannelSession {
		s.recordStart()
	}
	p.run()
	if !s.recorded {
		return // nothing was started in it
	}
	end := a.event(sshgate.EventSessionEnd)
	end.Detail, end.Exit = s.detail, s.exit
	end.BytesIn, end.BytesOut = p.in.Load(), p.out.Load()
	end.Duration = c.srv.cfg.Now().Sub(s.start)
	if s.exit == "" && p.lost() {
		end.Reason = s.lossReason()
	}
	c.record(end)
}

// sent sees the client's requests after the origin has answered them.
func (s *session) sent(req *gossh.Request, ok bool) {
	switch req.Type {
	case requestAgent:
		if ok || !req.WantReply {
			s.conn.lend(typeAgent)
		}
	case requestX11:
		if ok || !req.WantReply {
			s.conn.lend(typeX11)
		}
	case requestShell, requestExec, requestSubsystem:
		if ok || !req.WantReply {
			s.detail = describeStart(req)
			s.recordStart()
		}
	}
}

// recordStart is called when it is known what the channel is for.
func (s *session) recordStart() {
	if s.recorded {
		return // RFC 4254 section 6.5 allows one start a session; sshd sees to that
	}
	s.recorded = true
	start := s.access.event(sshgate.EventSessionStart)
	start.Detail = s.detail
	s.conn.record(start)
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
	return req.Type + " " + clip(m.Text, maxDetail)
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
	if s.exit != "" {
		return
	}
	if s.pipe.lost() {
		tell(s.pipe.client, fmt.Sprintf("%s (request %s)", s.lossReason(), s.access.id))
	}
	sendExit(s.pipe.client, exitLost)
}

func (s *session) lossReason() string {
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

// sessionWithAgent carries a session whose origin is entered with the agent that
// the client forwards. The client offers it in a request on the open channel, so
// here, and only here, the channel is accepted before the origin is reached.
func (c *conn) sessionWithAgent(a *access, nc gossh.NewChannel) {
	client, requests, err := nc.Accept()
	if err != nil {
		return
	}
	early, offered := requestsUntilStart(requests)
	var keys *agentKeys
	if offered {
		keys = &agentKeys{conn: c}
	}
	up, denial := c.reach(a, keys)
	keys.close() // OpenSSH does not end while the channel is open
	if denial == nil {
		var upstream gossh.Channel
		var upstreamRequests <-chan *gossh.Request
		upstream, upstreamRequests, err = up.conn.OpenChannel(typeSession, nil)
		if err == nil {
			c.carry(a, up, &pipe{client: client, origin: upstream, clientRequests: requests, originRequests: upstreamRequests, early: early})
			return
		}
		denial = c.dialFailure(a, err)
	}
	c.log.Info("session refused", "request", denial.RequestID, "cause", denial.Error())
	for _, req := range early {
		_ = req.Reply(true, nil) // or the client would show its own, lesser error
	}
	c.start(func() { gossh.DiscardRequests(requests) })
	tell(client, denial.UserMessage())
	sendExit(client, exitLost)
	client.Close()
}

// requestsUntilStart takes requests up to the one that starts a command, and
// tells whether the client's agent was offered among them.
func requestsUntilStart(requests <-chan *gossh.Request) (early []*gossh.Request, offered bool) {
	for req := range requests {
		early = append(early, req)
		offered = offered || req.Type == requestAgent
		if startsCommand(req) || len(early) == maxEarlyRequests {
			break
		}
	}
	return early, offered
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
