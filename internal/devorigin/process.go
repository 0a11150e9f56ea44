//go:build unix

package devorigin

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"sync"
	"syscall"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// hangUpGrace is how long processes have to end after SIGHUP when the client is
// gone; then they are killed.
const hangUpGrace = 2 * time.Second

// account is the account that runs this process.
type account struct{ name, home, shell, path string }

func currentAccount() (account, error) {
	u, err := user.Current()
	if err != nil {
		return account{}, fmt.Errorf("look up the account: %w", err)
	}
	return account{
		name:  u.Username,
		home:  cmp.Or(os.Getenv("HOME"), u.HomeDir, "/"),
		shell: cmp.Or(os.Getenv("SHELL"), "/bin/sh"),
		path:  cmp.Or(os.Getenv("PATH"), "/usr/local/bin:/usr/bin:/bin"),
	}, nil
}

// process is what a session runs.
type process struct {
	cmd *exec.Cmd
	// Either the pipes are set, or tty, the controlling end of the terminal.
	stdin          io.WriteCloser
	stdout, stderr io.ReadCloser
	tty            *terminal

	copying sync.WaitGroup // output
	input   sync.WaitGroup // input

	mu     sync.Mutex // guards ended: no signal goes to a process id that is free again
	ended  bool
	killer *time.Timer // set by hangUp
	err    error       // of cmd.Wait
}

// start starts the command, or a login shell when it is empty.
func (s *session) start(command string) (*process, error) {
	who, err := currentAccount()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(who.shell, "-c", command)
	if command == "" {
		cmd = exec.Command(who.shell, "-l")
	}
	cmd.Dir = s.cfg.Dir
	p := &process{cmd: cmd}
	if s.terminal != nil {
		err = p.startOnTerminal(s, who)
	} else {
		err = p.startOnPipes(s, who)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", who.shell, err)
	}
	return p, nil
}

func (p *process) startOnPipes(s *session, who account) (err error) {
	p.cmd.Env = s.environment(who, "")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return err
	}
	if p.stderr, err = p.cmd.StderrPipe(); err != nil {
		return err
	}
	return p.cmd.Start() // closes the pipes when it fails
}

func (p *process) startOnTerminal(s *session, who account) error {
	tty, slave, err := openTerminal(s.terminal)
	if err != nil {
		return err
	}
	defer slave.Close()
	p.cmd.Env = s.environment(who, slave.Name())
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		return errors.Join(err, tty.Close())
	}
	p.tty = tty
	return nil
}

// pump passes data between the process and the channel until the process has
// ended and its output is passed on.
func (p *process) pump(ch gossh.Channel) {
	if p.tty != nil {
		p.input.Go(func() { _, _ = io.Copy(p.tty, ch) }) // ends with the channel or the terminal
		p.copying.Go(func() { p.tty.copyTo(ch) })
		p.wait()
		p.tty.unused()
		p.copying.Wait()
		return
	}
	p.input.Go(func() {
		_, _ = io.Copy(p.stdin, ch) // ends with the channel, or when the process reads no more
		p.stdin.Close()
	})
	p.copying.Go(func() { _, _ = io.Copy(ch, p.stdout) })
	p.copying.Go(func() { _, _ = io.Copy(ch.Stderr(), p.stderr) })
	// cmd.Wait closes the pipes, so what they hold goes first. As with sshd, a
	// process in the background that keeps them open keeps the session open.
	p.copying.Wait()
	p.wait()
}

func (p *process) wait() {
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended, p.err = true, err
}

// close releases what is left when the channel is closed.
func (p *process) close() {
	p.mu.Lock()
	if p.killer != nil {
		p.killer.Stop()
	}
	p.mu.Unlock()
	if p.tty != nil {
		p.tty.Close()
	}
	p.input.Wait()
}

// signalByName sends the process group a signal by its name of RFC 4254 section
// 6.10; one that is not known there is ignored.
func (p *process) signalByName(name string) {
	if signal, ok := signals[name]; ok {
		p.signal(signal)
	}
}

func (p *process) signal(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		_ = syscall.Kill(-p.cmd.Process.Pid, signal) // fails when nobody is left
	}
}

// hangUp ends the processes of a client that is gone.
func (p *process) hangUp() {
	p.signal(syscall.SIGHUP)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.killer = time.AfterFunc(hangUpGrace, func() { p.signal(syscall.SIGKILL) })
	}
}

// resize tells the terminal its new size.
func (p *process) resize(size windowChange) {
	if p.tty != nil {
		p.tty.resize(size.Columns, size.Rows, size.Width, size.Height)
	}
}

// exitMessage returns the channel request that says how the process ended, RFC
// 4254 section 6.10.
func (p *process) exitMessage() (request string, payload []byte) {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return "exit-signal", gossh.Marshal(struct {
			Signal   string
			Core     bool
			Message  string
			Language string
		}{Signal: signalName(status.Signal()), Core: status.CoreDump()})
	}
	code := uint32(255)
	if ok && status.Exited() {
		code = uint32(status.ExitStatus())
	}
	return "exit-status", gossh.Marshal(struct{ Status uint32 }{code})
}

// signals are those that RFC 4254 section 6.10 names.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// signalName returns the name for the wire; what the RFC does not name gets the
// name that OpenSSH uses.
func signalName(signal syscall.Signal) string {
	for name, s := range signals {
		if s == signal {
			return name
		}
	}
	return "SIG@openssh.com"
}

// addresses returns the two ends of the connection as "host port".
func (s *session) addresses() (remote, local string, ok bool) {
	r, okRemote := s.conn.RemoteAddr().(*net.TCPAddr)
	l, okLocal := s.conn.LocalAddr().(*net.TCPAddr)
	if !okRemote || !okLocal {
		return "", "", false
	}
	return fmt.Sprintf("%s %d", r.IP, r.Port), fmt.Sprintf("%s %d", l.IP, l.Port), true
}

// portOf returns the port of "host port".
func portOf(addr string) string { return addr[strings.LastIndexByte(addr, ' ')+1:] }
