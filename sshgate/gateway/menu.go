package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/console"
	"github.com/sshgate/sshgate/sshgate/console/picker"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
)

// Console answers those who name no origin. *console.Console is one.
type Console interface {
	// RunLine runs a command line and returns its exit status.
	RunLine(ctx context.Context, who console.Caller, line string, out console.Output) int
	// Pick lets somebody pick a target; where none was, code is the exit status.
	Pick(ctx context.Context, who console.Caller, term picker.Terminal) (target sshgate.Target, rest []byte, code int)
}

const (
	requestPTY          = "pty-req"
	requestWindowChange = "window-change"
	requestEnv          = "env"
)

// menu is a session with the gateway itself, until it goes on to an origin.
type menu struct {
	conn     *conn
	grant    *grant
	client   gossh.Channel
	requests *requestQueue
	input    *input
	// before are the requests up to the one that starts something, which an origin
	// gets again.
	before []*gossh.Request
	env    []string

	mu   sync.Mutex // guards what follows
	pty  *ptyRequest
	size chan picker.Size // the latest that was not taken; holds one
}

// ptyRequest is RFC 4254 section 6.2's.
type ptyRequest struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}

// windowChange is RFC 4254 section 6.7's.
type windowChange struct{ Columns, Rows, Width, Height uint32 }

// menu carries a session of a client that names no origin.
func (c *conn) menu(g *grant, nc gossh.NewChannel) {
	if denial := c.stillGood(g); denial != nil {
		c.reject(nc, denial)
		return
	}
	if denial := c.signedIn(g, sshgate.NewRequestID()); denial != nil {
		c.reject(nc, denial)
		return
	}
	client, incoming, err := nc.Accept()
	if err != nil {
		return
	}
	m := &menu{
		conn: c, grant: g, client: client, requests: c.queue(incoming), input: &input{conn: c, from: client},
		size: make(chan picker.Size, 1),
	}
	start := m.untilStart()
	if start == nil {
		client.Close()
		return
	}
	m.serve(start)
}

// untilStart answers the client's requests until one starts something, which it
// returns; nil where the client has closed the channel before.
func (m *menu) untilStart() *gossh.Request {
	for req := range m.requests.waiting { // their bytes stay on account: before is kept
		switch {
		case startsCommand(req):
			return req
		case len(m.before) >= maxQueuedRequests:
			m.conn.cutOff(errRequestFlood)
			return nil
		default:
			_ = req.Reply(m.take(req), nil) // fails only with the connection
		}
	}
	return nil
}

// take keeps a request for the origin that may come, and tells whether the client
// may rely on it.
func (m *menu) take(req *gossh.Request) bool {
	switch req.Type {
	case requestPTY:
		var p ptyRequest
		if gossh.Unmarshal(req.Payload, &p) != nil {
			return false
		}
		m.mu.Lock()
		m.pty = &p
		m.mu.Unlock()
	case requestWindowChange:
		return m.resize(req)
	case requestEnv:
		var e struct{ Name, Value string }
		if gossh.Unmarshal(req.Payload, &e) != nil {
			return false
		}
		if e.Name == "NO_COLOR" || e.Name == "COLORTERM" {
			m.env = append(m.env, e.Name+"="+e.Value)
		}
	case requestAgent, requestX11:
	default:
		return false
	}
	m.before = append(m.before, req)
	return true
}

// resize notes the terminal's new size.
func (m *menu) resize(req *gossh.Request) bool {
	var w windowChange
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pty == nil || gossh.Unmarshal(req.Payload, &w) != nil {
		return false
	}
	m.pty.Columns, m.pty.Rows, m.pty.Width, m.pty.Height = w.Columns, w.Rows, w.Width, w.Height
	select {
	case <-m.size: // nobody has taken the one before
	default:
	}
	m.size <- m.pty.chars()
	return true
}

func (p *ptyRequest) chars() picker.Size {
	return picker.Size{Width: int(min(p.Columns, 1<<16)), Height: int(min(p.Rows, 1<<16))}
}

// serve runs the command, or lets the user pick where to go and goes there.
func (m *menu) serve(start *gossh.Request) {
	_ = start.Reply(true, nil) // before any output; fails only with the connection
	if start.Type == requestSubsystem {
		// Refused, clients would leave before they show why.
		tell(m.client, "there are no files here; name an origin: "+m.conn.loginAt())
		m.end(m.conn.ctx, console.ExitUsage)
		return
	}
	ctx, cancel := context.WithCancelCause(m.conn.ctx)
	defer cancel(nil)
	defer m.conn.srv.cfg.Live.Add(m.grant.since, live.Holding{
		Credential: m.grant.credential, Until: m.grant.until, End: func(ending *live.Ending) { cancel(ending) },
	})()
	stop, stopped := m.watch(cancel)
	term := m.terminal()
	if start.Type == requestShell && term != nil && term.Usable() && m.conn.mayPick() {
		target, rest, code := m.conn.srv.cfg.Console.Pick(ctx, m.caller(), *term)
		m.conn.donePicking()
		stop()
		<-stopped
		if target.Origin != "" {
			m.input.unread(rest)
			m.proceed(start, target)
			return
		}
		m.end(ctx, code)
		return
	}
	line := ""
	if start.Type == requestExec {
		var e struct{ Command string }
		if gossh.Unmarshal(start.Payload, &e) == nil {
			line = e.Command
		}
	}
	out := console.Output{Stdout: m.client, Stderr: m.client.Stderr()}
	if term != nil {
		out = console.Output{Stdout: picker.RawWriter{W: m.client}, Stderr: picker.RawWriter{W: m.client.Stderr()}}
		m.conn.start(func() { m.interrupts(ctx, cancel) })
	}
	code := m.conn.srv.cfg.Console.RunLine(ctx, m.caller(), line, out)
	stop()
	<-stopped
	m.end(ctx, code)
}

// Screens take memory: where too many pick at once, the next get the list.
const (
	maxPicking       = 100 // on all connections
	maxPickingOfConn = 4
)

func (c *conn) mayPick() bool {
	own, all := c.picking.Add(1), c.srv.picking.Add(1)
	if own <= maxPickingOfConn && all <= maxPicking {
		return true
	}
	c.donePicking()
	return false
}

func (c *conn) donePicking() {
	c.picking.Add(-1)
	c.srv.picking.Add(-1)
}

// watch goes on answering requests, and cancels when the client closes the
// channel, until stop is called.
func (m *menu) watch(cancel context.CancelCauseFunc) (stop func(), stopped <-chan struct{}) {
	quit, done := make(chan struct{}), make(chan struct{})
	m.conn.work.Go(func() { // the caller is one that the connection waits for
		defer close(done)
		for {
			select {
			case req, ok := <-m.requests.waiting:
				if !ok {
					cancel(errClientGone)
					return
				}
				m.requests.bytes.Add(-int64(len(req.Payload)))
				_ = req.Reply(req.Type == requestWindowChange && m.resize(req), nil) // fails only with the connection
			case <-quit:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(quit) }), done
}

var errInterrupted = errors.New("interrupted")

// interrupts waits for a Ctrl-C: where there is a terminal, the gateway is what
// has to make an interrupt of it.
func (m *menu) interrupts(ctx context.Context, cancel context.CancelCauseFunc) {
	buf := make([]byte, 256)
	for {
		n, err := m.input.Read(ctx, buf)
		if bytes.IndexByte(buf[:n], 3) >= 0 {
			cancel(errInterrupted)
			return
		}
		if err != nil {
			return
		}
	}
}

// terminal is where the user sits, nil where the client has none.
func (m *menu) terminal() *picker.Terminal {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pty == nil {
		return nil
	}
	return &picker.Terminal{In: m.input, Out: picker.RawWriter{W: m.client}, Type: m.pty.Term, Env: m.env, Size: m.pty.chars(), Resize: m.size}
}

func (m *menu) caller() console.Caller {
	return console.Caller{Identity: m.grant.identity, Key: m.grant.key, SignIn: m.grant.credential.Key, Addr: m.conn.addr, Connection: m.conn.id}
}

// end ends the session with an exit status.
func (m *menu) end(ctx context.Context, code int) {
	m.conn.start(m.requests.discard)
	var ending *live.Ending
	switch {
	case errors.Is(context.Cause(ctx), errInterrupted):
		code = console.ExitLeft
	case errors.Is(context.Cause(m.conn.ctx), errShuttingDown):
		tell(m.client, "the gateway is shutting down, the session has ended")
		code = exitLost
	case errors.As(context.Cause(ctx), &ending):
		tell(m.client, "your session has ended: "+ascii(ending.Sentence))
		code = max(code, console.ExitNotAllowed)
	}
	sendExit(m.client, uint32(code))
	_ = m.client.CloseWrite() // fails where the client closed first, as the next
	_ = m.client.Close()
}

// proceed carries the session on to the target, as if the client had named it.
func (m *menu) proceed(start *gossh.Request, target sshgate.Target) {
	c := m.conn
	a, denial := c.ask(m.grant, target, sshgate.ChannelSession, sshgate.Activity{}, "")
	if denial == nil {
		_, _ = fmt.Fprintf(m.client, "sshgate: going to %s\r\n", target) // fails only with the channel
		denial = c.carryPicked(a, m, start)
	}
	if denial != nil {
		c.log.Info("session refused", "request", denial.RequestID, "cause", denial.Error())
		tell(m.client, denial.UserMessage())
		m.end(c.ctx, exitLost)
	}
}

// carryPicked carries the session to an origin that the user picked, on a
// connection of its own: the next session may pick another.
func (c *conn) carryPicked(a *access, m *menu, start *gossh.Request) *sshgate.Denied {
	early, offered := m.replay(start)
	var keys *agentKeys
	if offered && c.srv.cfg.Origins(a.target.Origin).Method == AgentAuth {
		keys = &agentKeys{conn: c}
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DialTimeout)
	defer cancel()
	up, denial := c.dialOrigin(ctx, a, keys)
	keys.close()
	if denial != nil {
		return denial
	}
	defer c.leavePicked(up)
	upstream, upstreamRequests, err := up.conn.OpenChannel(typeSession, nil)
	if err != nil {
		return c.dialFailure(a, err)
	}
	c.carry(a, up, &pipe{
		client: rejoined{m.client, m.input}, origin: upstream,
		clientRequests: m.requests, originRequests: c.queue(upstreamRequests), early: early,
	})
	return nil
}

// replay returns the client's requests for the origin, with the terminal's size of
// now. They were answered already. offered tells that the client's agent is among
// them.
func (m *menu) replay(start *gossh.Request) (early []*gossh.Request, offered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, req := range append(m.before, start) {
		payload := req.Payload
		if req.Type == requestPTY {
			payload = gossh.Marshal(m.pty)
		}
		offered = offered || req.Type == requestAgent
		early = append(early, &gossh.Request{Type: req.Type, Payload: payload})
	}
	return early, offered
}

// loginAt is what to type to name an origin.
func (c *conn) loginAt() string {
	return "ssh " + c.srv.commandFor(sshgate.Target{Login: "LOGIN", Origin: "ORIGIN"})
}
