package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// purposeVariable is the environment variable that says what a connection is for
// where nobody can be asked. It stays at the gateway.
const purposeVariable = "SSHGATE_PURPOSE"

const (
	minPurpose  = 10  // characters
	maxPurpose  = 500 // characters
	purposeTime = 2 * time.Minute
)

var (
	errGivenUp  = errors.New("the person gave up when asked what it is for")
	errNotSaid  = errors.New("the person did not say what it is for in time")
	errTooShort = fmt.Errorf("say it in %d to %d characters", minPurpose, maxPurpose)
)

// purposeHint tells a user whom nobody can ask how to say what it is for.
func purposeHint(a *access) string {
	if a.channel != sshgate.ChannelSession {
		return fmt.Sprintf("say what you need %s for in a session of this connection first", a.target.Origin)
	}
	return fmt.Sprintf(`say what you need %s for, in a terminal or with: ssh -o 'SetEnv=%s="ticket 123"' ...`, a.target.Origin, purposeVariable)
}

// purposeOf returns what a text says, an error where it is none to put on record.
func purposeOf(text string) (string, error) {
	text = strings.TrimSpace(text)
	n := utf8.RuneCountInString(text)
	if !utf8.ValidString(text) || n < minPurpose || n > maxPurpose || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", errTooShort
	}
	return text, nil
}

// purposeFrom reads the variable from an env request. mine tells that it is this
// variable, whatever it holds.
func purposeFrom(req *gossh.Request) (purpose string, mine bool) {
	var m struct{ Name, Value string }
	if req.Type != "env" || gossh.Unmarshal(req.Payload, &m) != nil || m.Name != purposeVariable {
		return "", false
	}
	purpose, _ = purposeOf(m.Value) // what will not do says nothing
	return purpose, true
}

// saying returns the access with what it is for.
func (a *access) saying(purpose string) *access {
	b := *a
	b.purpose, b.said = purpose, ""
	return &b
}

// keepPurpose remembers what was said of the application, for the channels to come.
func (c *conn) keepPurpose(a *access) {
	if a.purpose == "" || !a.decision.Purpose {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purpose, c.said = a.purpose, a.decision.Application
}

func (c *conn) keptPurpose() (purpose, said string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.purpose, c.said
}

// learn asks the person what it is for where that is all that is missing, and they
// have a terminal. Nothing has been decided when it returns.
func (c *conn) learn(a *access, client gossh.Channel, terminal bool, req *gossh.Request) (*access, *sshgate.Denied) {
	activity, ok := activityOf(req)
	if !ok || !terminal || req.Type == requestSubsystem { // which no terminal shows
		return a, nil
	}
	b := c.judge(a, activity, describeStart(req))
	if !b.pending() {
		return a, nil
	}
	_ = req.Reply(true, nil) // fails only with the connection; PuTTY sends no input before
	req.WantReply = false
	purpose, err := c.askPurpose(client, a.target.Origin, purposeTime)
	if err != nil {
		b.decision.Reason += ": " + err.Error()
		c.recordDecision(b)
		return nil, &sshgate.Denied{RequestID: a.id, Code: sshgate.DenialPolicy, Sentence: fmt.Sprintf("you did not say what you need %s for", a.target.Origin), Cause: err}
	}
	return a.saying(purpose), nil
}

// askPurpose asks at the terminal and waits for the answer, for limit.
func (c *conn) askPurpose(client gossh.Channel, origin sshgate.OriginName, limit time.Duration) (string, error) {
	if !c.enter() {
		return "", errClientGone
	}
	type result struct {
		purpose string
		err     error
	}
	done := make(chan result, 1)
	go func() {
		// Past the limit this ends with the channel, which the caller closes.
		defer c.work.Done()
		purpose, err := readPurpose(client, fmt.Sprintf("Why do you need %s? (it goes on record): ", origin))
		done <- result{purpose, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.purpose, r.err
	case <-timer.C:
		return "", errNotSaid
	case <-c.ctx.Done():
		return "", context.Cause(c.ctx)
	}
}

// readPurpose asks until the answer will do, three times at most.
func readPurpose(terminal io.ReadWriter, prompt string) (string, error) {
	for range 3 {
		if _, err := io.WriteString(terminal, "\r\n"+prompt); err != nil {
			return "", err
		}
		line, err := readLine(terminal)
		if err != nil {
			return "", err
		}
		_, _ = io.WriteString(terminal, "\r\n") // what fails now fails again below
		purpose, err := purposeOf(line)
		if err == nil {
			return purpose, nil
		}
		_, _ = io.WriteString(terminal, err.Error()+"\r\n")
	}
	return "", errGivenUp
}

// line is what is being typed at a terminal in raw mode.
type line struct {
	runes  []rune
	rest   []byte // the beginning of a character
	escape bool   // inside the sequence of a cursor key or the like
	opened bool   // past the [ or O of one
}

// readLine reads what is typed up to Enter, byte by byte: what is typed ahead
// belongs to the session. It echoes, as a terminal in raw mode does not.
func readLine(terminal io.ReadWriter) (string, error) {
	var l line
	var b [1]byte
	for {
		if _, err := io.ReadFull(terminal, b[:]); err != nil {
			return "", errGivenUp
		}
		switch c := b[0]; {
		case c == '\r' || c == '\n':
			return string(l.runes), nil
		case c == 0x03 || c == 0x04: // Ctrl-C, Ctrl-D
			return "", errGivenUp
		}
		if echo := l.key(b[0]); echo != "" {
			if _, err := io.WriteString(terminal, echo); err != nil {
				return "", err
			}
		}
	}
}

// key takes one byte and returns what the terminal is to show.
func (l *line) key(c byte) (echo string) {
	switch {
	case l.escape:
		if l.opened || c != '[' && c != 'O' {
			l.escape = l.opened && (c < 0x40 || c > 0x7e)
		} else {
			l.opened = true
		}
		return ""
	case c == 0x1b:
		l.escape, l.opened = true, false
		return ""
	case c == 0x7f || c == '\b':
		return l.erase(1)
	case c == 0x15: // Ctrl-U
		return l.erase(len(l.runes))
	case c < ' ':
		return ""
	}
	l.rest = append(l.rest, c)
	if !utf8.FullRune(l.rest) {
		return ""
	}
	r, _ := utf8.DecodeRune(l.rest)
	l.rest = l.rest[:0]
	if r == utf8.RuneError || !unicode.IsPrint(r) || len(l.runes) == maxPurpose {
		return "\a"
	}
	l.runes = append(l.runes, r)
	return string(r)
}

func (l *line) erase(n int) (echo string) {
	n = min(n, len(l.runes))
	l.runes, l.rest = l.runes[:len(l.runes)-n], l.rest[:0]
	return strings.Repeat("\b \b", n)
}

// prepare makes up for a session in which nobody has said yet what it is for: it
// takes the client's requests up to the one that starts something, asks, and
// decides, before the origin is dialled. The access that it returns is that of the
// open session.
func (c *conn) prepare(a *access, client gossh.Channel, requests *requestQueue) (*access, []*gossh.Request, *sshgate.Denied) {
	early := requestsBeforeStart(requests)
	if len(early) == 0 || !startsCommand(early[len(early)-1]) {
		return nil, early, &sshgate.Denied{RequestID: a.id, Sentence: "nothing was to be run", Cause: errors.New("the client started nothing")}
	}
	start := early[len(early)-1]
	for _, req := range early {
		if purpose, mine := purposeFrom(req); mine {
			a = a.saying(purpose)
		}
	}
	terminal := slices.ContainsFunc(early, func(req *gossh.Request) bool { return req.Type == "pty-req" })
	a, denial := c.learn(a, client, terminal, start)
	if denial != nil {
		return nil, early, denial
	}
	if activity, ok := activityOf(start); ok {
		if b := c.judge(a, activity, describeStart(start)); !b.decision.Allowed {
			c.recordDecision(b)
			return nil, early, c.refusal(b, true)
		}
	}
	if a = c.judge(a, sshgate.Activity{}, ""); !a.decision.Allowed {
		c.recordDecision(a)
		return nil, early, c.refusal(a, true)
	}
	return a, early, nil
}

// requestsBeforeStart takes requests until something is started, that one
// included. A client that waits for the answer to one before it goes on gets it
// here: yes to what needs no decision, and no to the rest, which is then forgotten.
func requestsBeforeStart(requests *requestQueue) (early []*gossh.Request) {
	tick := time.NewTicker(answerHold)
	defer tick.Stop()
	for {
		select {
		case req, ok := <-requests.waiting:
			if !ok {
				return early
			}
			early = append(early, req) // on the queue's account, as in requestsUntilStart
			if startsCommand(req) || len(early) == maxQueuedRequests {
				return early
			}
		case <-tick.C:
			early = slices.DeleteFunc(early, func(req *gossh.Request) bool {
				if !req.WantReply {
					return false
				}
				yes := passedOn[req.Type]
				_ = req.Reply(yes, nil) // fails only with the connection
				req.WantReply = false
				return !yes
			})
		}
	}
}
