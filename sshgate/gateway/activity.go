package gateway

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	gossh "golang.org/x/crypto/ssh"
)

// exitRefused is what a session that the policy refuses ends with, a shell's
// status for what cannot be run.
const exitRefused = 126

// passedOn are the requests on a session that need no decision. What is neither
// among them nor decided on is refused: another server may start something at a
// name that nobody here knows.
var passedOn = map[string]bool{
	"pty-req":         true,
	"env":             true, // the origin's sshd has a list of those it takes (AcceptEnv)
	"window-change":   true,
	"signal":          true,
	"break":           true, // RFC 4335
	"xon-xoff":        true,
	"eow@openssh.com": true,
}

// judge asks the policy about an activity in the channel of a, under a's request
// id. It records nothing. Within a session the login is the one that it was opened
// with.
func (c *conn) judge(a *access, activity sshgate.Activity, detail string) *access {
	b := *a
	b.activity, b.detail = activity, detail
	if b.purpose == "" {
		b.purpose, b.said = c.keptPurpose()
	}
	target := a.target
	if a.decision.Login != "" {
		target.Login = a.decision.Login
	}
	req := c.request(a.grant, target, a.channel)
	req.Activity, req.Purpose = activity, b.purpose
	policy := c.srv.cfg.Policy()
	if b.decision = policy.Decide(req); b.said != "" && b.decision.Application != b.said {
		// What was said for another application does not count here.
		b.purpose, b.said, req.Purpose = "", "", ""
		b.decision = policy.Decide(req)
	}
	b.request = req
	return &b
}

// pending tells that only what it is for is missing.
func (a *access) pending() bool {
	return !a.decision.Allowed && a.decision.Purpose && !a.decision.Expired
}

// recordDecision puts the policy's answer on record.
func (c *conn) recordDecision(a *access) {
	event := a.event(sshgate.EventDecision)
	event.Allowed, event.Reason = a.decision.Allowed, a.decision.Reason
	c.record(event)
}

// refusal is what the user reads of a decision that does not allow. inside tells
// that a session is open already, so that the origin is no secret.
func (c *conn) refusal(a *access, inside bool) *sshgate.Denied {
	cause := errors.New(a.decision.Reason)
	switch {
	case a.decision.Expired:
		return endtoend.Expired(a.id, c.renewal(a.target), cause)
	case a.pending():
		return &sshgate.Denied{RequestID: a.id, Code: sshgate.DenialPolicy, Sentence: purposeHint(a), Cause: cause}
	case inside || a.decision.Rule == "" && c.reachesOtherwise(a):
		return &sshgate.Denied{RequestID: a.id, Code: sshgate.DenialPolicy, Sentence: "you may not " + mayNot(a), Cause: cause}
	}
	return endtoend.NotThere(a.id, a.target.Origin, cause)
}

// reachesOtherwise tells whether the rules let these people do something else at
// the origin, so that its name is no secret to them.
func (c *conn) reachesOtherwise(a *access) bool {
	return c.srv.cfg.Policy().Extent(a.request) != sshgate.Extent{}
}

// mayNot names the activity to the user.
func mayNot(a *access) string {
	name, to := a.target.Origin, ascii(clip(a.activity.Destination, maxCommand))
	switch a.activity.Kind {
	case sshgate.ActivityShell:
		return fmt.Sprintf("open a shell on %s", name)
	case sshgate.ActivityExec:
		return fmt.Sprintf("run this command on %s", name)
	case sshgate.ActivitySFTP:
		return fmt.Sprintf("use sftp on %s", name)
	case sshgate.ActivitySCP:
		if a.activity.Write {
			return fmt.Sprintf("copy files to %s with the old scp protocol", name)
		}
		return fmt.Sprintf("copy files from %s with the old scp protocol", name)
	case sshgate.ActivityGit:
		if a.activity.Write {
			return fmt.Sprintf("push to this repository on %s", name)
		}
		return fmt.Sprintf("read this repository on %s", name)
	case sshgate.ActivitySubsystem:
		return fmt.Sprintf("use this subsystem on %s", name)
	case sshgate.ActivityForward, sshgate.ActivityUnix:
		return fmt.Sprintf("forward to %s from %s", to, name)
	case sshgate.ActivityListen:
		return fmt.Sprintf("listen on %s", name)
	case sshgate.ActivityAgent:
		return fmt.Sprintf("lend your agent to %s", name)
	case sshgate.ActivityX11:
		return fmt.Sprintf("lend your display to %s", name)
	}
	return fmt.Sprintf("open a session on %s", name)
}

// activityOf reads what a request starts. ok is false where it is malformed.
func activityOf(req *gossh.Request) (a sshgate.Activity, ok bool) {
	if req.Type == requestShell {
		return sshgate.Activity{Kind: sshgate.ActivityShell}, true
	}
	var m struct{ Text string }
	if gossh.Unmarshal(req.Payload, &m) != nil {
		return a, false
	}
	if req.Type == requestSubsystem {
		return sshgate.ParseSubsystem(m.Text), true
	}
	return sshgate.ParseCommand(m.Text), true
}

// forwardTo is the destination as the client names it; a name in it is resolved
// by the origin.
func forwardTo(kind sshgate.ActivityKind, host string, port uint32) sshgate.Activity {
	return sshgate.Activity{Kind: kind, Destination: net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))}
}

// mayStart decides on a request that starts something in the session, before the
// origin hears of it.
func (s *session) mayStart(req *gossh.Request) bool {
	activity, ok := activityOf(req)
	if !ok {
		s.refuse(req, &sshgate.Denied{RequestID: s.access.id, Sentence: "the request is malformed", Cause: errors.New("a malformed " + req.Type + " request")})
		return false
	}
	a, denial := s.conn.learn(s.access, s.pipe.client, s.terminal, req)
	if denial == nil {
		a, denial = s.conn.allowStart(a, activity, describeStart(req))
	}
	if denial != nil {
		s.refuse(req, denial)
		return false
	}
	s.access = a
	s.hold()
	s.pipe.files.Store(s.filter())
	return true
}

// filter returns what stands in an SFTP session in which files may not go both
// ways, nil where nothing does. The first refusal for either way is on record.
func (s *session) filter() *sftpFilter {
	a := s.access
	files := a.decision.Files
	if a.activity.Kind != sshgate.ActivitySFTP || files.Read && files.Write {
		return nil
	}
	noted := map[bool]bool{}
	return &sftpFilter{files: files, toClient: s.pipe.client, refused: func(write bool) {
		if noted[write] {
			return
		}
		noted[write] = true
		event := a.event(sshgate.EventDecision)
		event.Reason = fmt.Sprintf("rule %q does not allow sftp to %s", a.decision.Rule, map[bool]string{false: "read", true: "write"}[write])
		s.conn.record(event)
	}}
}

// allowStart decides on what is to run in a session and records it.
func (c *conn) allowStart(a *access, activity sshgate.Activity, detail string) (*access, *sshgate.Denied) {
	since := c.srv.cfg.Live.Moment()
	if denial := c.stillGood(a.grant); denial != nil {
		return nil, denial
	}
	if gone := c.signedIn(a.grant, a.id); gone != nil {
		return nil, gone
	}
	b := c.judge(a, activity, detail)
	c.recordDecision(b)
	if !b.decision.Allowed {
		return nil, c.refusal(b, true)
	}
	c.keepPurpose(b)
	b.since = since
	return b, nil
}

// refuse ends a session whose command may not run. The request is granted, as it
// is where a shell says no: to a failure OpenSSH ends at once with a message of its
// own, and the user would read no sentence and a script get no status.
func (s *session) refuse(req *gossh.Request, denial *sshgate.Denied) {
	s.conn.log.Info("session refused", "request", denial.RequestID, "cause", denial.Error())
	_ = req.Reply(true, nil) // this and the rest fail only with the channel
	tell(s.pipe.client, denial.UserMessage())
	sendExit(s.pipe.client, exitRefused)
	_ = s.pipe.client.Close()
}

// mayLend decides on what a session's client lends to the origin, and lends it. A
// refusal is silent: clients expect a failure here and go on.
func (s *session) mayLend(kind sshgate.ActivityKind, channelType string) bool {
	a := s.conn.judge(s.access, sshgate.Activity{Kind: kind}, "")
	s.conn.recordDecision(a)
	if a.decision.Allowed {
		s.conn.lend(s.up, channelType, a)
	}
	return a.decision.Allowed
}
