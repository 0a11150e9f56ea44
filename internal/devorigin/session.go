//go:build unix

package devorigin

import (
	"log/slog"
	"slices"
	"strings"
	"sync"

	gossh "golang.org/x/crypto/ssh"
)

const (
	maxEnv      = 64   // variables of a session
	maxEnvValue = 1024 // bytes
)

// session is one session channel, RFC 4254 section 6.
type session struct {
	cfg        *Config
	conn       *gossh.ServerConn
	ch         gossh.Channel
	requests   <-chan *gossh.Request
	mayHavePty bool
	release    func() // gives up the session's place in the connection
	log        *slog.Logger

	env      []string
	terminal *ptyRequest // nil without one
}

// ptyRequest is a pty-req, RFC 4254 section 6.2.
type ptyRequest struct {
	Term          string
	Columns, Rows uint32 // characters
	Width, Height uint32 // pixels
	Modes         string // section 8
}

// windowChange is a window-change, RFC 4254 section 6.7.
type windowChange struct {
	Columns, Rows uint32
	Width, Height uint32
}

// serve answers requests until one starts something, runs that, and closes the
// channel.
func (s *session) serve() {
	defer s.close()
	for req := range s.requests {
		if run := s.prepare(req); run != nil {
			run()
			return
		}
	}
}

// close closes the channel. Its place is free before the client can know, who
// may want it at once.
func (s *session) close() {
	s.release()
	_ = s.ch.Close() // fails only with the connection
}

// prepare answers a request that comes before anything runs. For one that is to
// start something it returns that, unanswered.
func (s *session) prepare(req *gossh.Request) (run func()) {
	switch req.Type {
	case "shell":
		return func() { s.runCommand(req, "") }
	case "exec":
		var exec struct{ Command string }
		if gossh.Unmarshal(req.Payload, &exec) != nil || exec.Command == "" {
			reply(req, false)
			return nil
		}
		return func() { s.runCommand(req, exec.Command) }
	case "subsystem":
		var subsystem struct{ Name string }
		if gossh.Unmarshal(req.Payload, &subsystem) != nil || subsystem.Name != "sftp" {
			reply(req, false)
			return nil
		}
		return func() { s.runSFTP(req) }
	case "pty-req":
		reply(req, s.takePty(req.Payload))
	case "env":
		reply(req, s.takeEnv(req.Payload))
	case "window-change":
		if change, ok := parseWindowChange(req.Payload); ok && s.terminal != nil {
			s.terminal.Columns, s.terminal.Rows = change.Columns, change.Rows
			s.terminal.Width, s.terminal.Height = change.Width, change.Height
		}
	default:
		reply(req, false)
	}
	return nil
}

func (s *session) takePty(payload []byte) bool {
	var pty ptyRequest
	if !s.mayHavePty || s.terminal != nil || gossh.Unmarshal(payload, &pty) != nil || strings.ContainsRune(pty.Term, 0) {
		return false
	}
	s.terminal = &pty
	return true
}

// takeEnv accepts what Debian's sshd does: LANG and LC_*.
func (s *session) takeEnv(payload []byte) bool {
	var env struct{ Name, Value string }
	if gossh.Unmarshal(payload, &env) != nil || len(s.env) >= maxEnv || len(env.Value) > maxEnvValue {
		return false
	}
	if env.Name != "LANG" && !strings.HasPrefix(env.Name, "LC_") {
		return false
	}
	if strings.ContainsAny(env.Name, "=\x00") || strings.ContainsRune(env.Value, 0) {
		return false
	}
	s.env = append(s.env, env.Name+"="+env.Value)
	return true
}

// control answers the requests that come while p runs. It returns when the
// client has closed the channel or is gone.
func (s *session) control(p *process) {
	for req := range s.requests {
		switch req.Type {
		case "window-change":
			if change, ok := parseWindowChange(req.Payload); ok {
				p.resize(change)
			}
		case "signal":
			var signal struct{ Name string }
			if gossh.Unmarshal(req.Payload, &signal) == nil {
				p.signalByName(signal.Name)
			}
		default:
			reply(req, false)
		}
	}
}

// runCommand starts the command, or a shell when it is empty, passes data both
// ways and reports how it ended.
func (s *session) runCommand(req *gossh.Request, command string) {
	p, err := s.start(command)
	if err != nil {
		s.log.Warn("cannot start a process", "err", err)
		reply(req, false)
		return
	}
	reply(req, true)
	if command == "" && s.terminal != nil && s.cfg.Motd != "" {
		s.printMotd()
	}
	var clientGone sync.WaitGroup
	clientGone.Go(func() {
		s.control(p)
		p.hangUp()
	})
	p.pump(s.ch)
	s.reportExit(p)
	s.close() // the client closes its side then, which ends control
	clientGone.Wait()
	p.close()
}

// printMotd writes the message with the line ends of a terminal.
func (s *session) printMotd() {
	text := strings.ReplaceAll(strings.TrimRight(s.cfg.Motd, "\n"), "\n", "\r\n") + "\r\n"
	if _, err := s.ch.Write([]byte(text)); err != nil {
		s.log.Debug("session failed", "err", err)
	}
}

// reportExit sends how the process ended and that no data follows, in that
// order.
func (s *session) reportExit(p *process) {
	request, payload := p.exitMessage()
	if _, err := s.ch.SendRequest(request, false, payload); err != nil {
		s.log.Debug("the client left before the process ended", "err", err)
		return
	}
	_ = s.ch.CloseWrite() // fails only with the connection
}

// reply answers a request that wants an answer. It fails only with the
// connection, which then ends everything else too.
func reply(req *gossh.Request, ok bool) {
	if req.WantReply {
		_ = req.Reply(ok, nil)
	}
}

func parseWindowChange(payload []byte) (change windowChange, ok bool) {
	return change, gossh.Unmarshal(payload, &change) == nil
}

// environment returns the variables of a new process. Those of this process stay
// behind, except PATH: they may hold secrets of the gateway.
func (s *session) environment(who account, ttyName string) []string {
	env := append(slices.Clone(s.env),
		"HOME="+who.home, "USER="+who.name, "LOGNAME="+who.name, "SHELL="+who.shell, "PATH="+who.path)
	if remote, local, ok := s.addresses(); ok {
		env = append(env, "SSH_CLIENT="+remote+" "+portOf(local), "SSH_CONNECTION="+remote+" "+local)
	}
	if ttyName != "" {
		env = append(env, "SSH_TTY="+ttyName)
	}
	if s.terminal != nil && s.terminal.Term != "" {
		env = append(env, "TERM="+s.terminal.Term)
	}
	return env
}
