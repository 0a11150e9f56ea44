// Package ctl carries commands of the console over a unix socket on the gateway's
// own machine: Listen and Serve at the gateway, Call at sshgated ctl. Whoever
// connects is known by the kernel's word alone (SO_PEERCRED), so it works while
// nobody can sign in.
//
// A connection is one command: a line of JSON with its words, then lines of JSON
// with what it prints, and a last one with its exit status.
package ctl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/console"
)

const (
	longestPath  = 103 // of a socket: unix(7) allows 107, other systems 103
	probeTimeout = 2 * time.Second
	sendTimeout  = 30 * time.Second // for the request, and for each line of the answer
	maxRequest   = 64 << 10         // bytes
	maxLine      = 1 << 20          // bytes of one line of the answer
)

// Runner runs commands. *console.Console is one.
type Runner interface {
	Run(ctx context.Context, who console.Caller, words []string, out console.Output) int
	Refuse(who console.Caller, words []string, out console.Output) int
}

type request struct {
	Words []string `json:"words"`
}

type line struct {
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	Exit   *int   `json:"exit,omitempty"`
}

// Listen opens the socket at path, for its owner alone. One that nobody answers on
// is what a gateway left behind that was killed, and is replaced.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > longestPath {
		return nil, fmt.Errorf("the path of the socket %s is longer than %d bytes", path, longestPath)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and is not a socket", path)
	default:
		conn, err := net.DialTimeout("unix", path, probeTimeout)
		if err == nil {
			conn.Close()
			return nil, fmt.Errorf("another gateway answers on %s", path)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("%s may be another gateway's: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve runs what comes until ctx is done. It closes l, which removes the socket.
func Serve(ctx context.Context, l *net.UnixListener, run Runner, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer l.Close()
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			log.Error("accepting a local command failed", "err", err)
			time.Sleep(time.Second) // out of file descriptors, most likely
			continue
		}
		all.Go(func() {
			defer conn.Close()
			if err := serve(ctx, conn, run); err != nil && ctx.Err() == nil {
				log.Warn("a local command failed", "err", err)
			}
		})
	}
}

func serve(ctx context.Context, conn *net.UnixConn, run Runner) error {
	uid, pid, err := peer(conn)
	if err != nil {
		return fmt.Errorf("asking who connected: %w", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(sendTimeout)) // fails only with the connection
	var req request
	in := bufio.NewReader(io.LimitReader(conn, maxRequest))
	data, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(data, &req)
	}
	if err != nil {
		return fmt.Errorf("reading a command of process %d: %w", pid, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = conn.SetReadDeadline(time.Time{})
	var watching sync.WaitGroup
	watching.Go(func() {
		_, _ = io.Copy(io.Discard, conn) // until whoever asked has left
		cancel()
	})
	defer watching.Wait()
	defer conn.Close()

	s := &sender{conn: conn, enc: json.NewEncoder(conn)}
	who, out := caller(uid, pid), console.Output{Stdout: writer(s.stdout), Stderr: writer(s.stderr)}
	code := 0
	if uid == 0 || uid == os.Geteuid() {
		code = run.Run(ctx, who, req.Words, out)
	} else {
		code = run.Refuse(who, req.Words, out)
	}
	return s.send(line{Exit: &code})
}

// caller is who runs the process on the other end.
func caller(uid, pid int) console.Caller {
	name := "process " + strconv.Itoa(pid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username + ", " + name
	}
	return console.Caller{Local: true, Identity: sshgate.Identity{
		Issuer: console.LocalIssuer, Subject: "uid " + strconv.Itoa(uid), Claims: map[string]any{"preferred_username": name},
	}}
}

// sender writes the lines of an answer.
type sender struct {
	conn *net.UnixConn
	mu   sync.Mutex // guards enc
	enc  *json.Encoder
}

func (s *sender) send(l line) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(sendTimeout)) // fails only with the connection
	return s.enc.Encode(l)
}

func (s *sender) stdout(p []byte) error { return s.send(line{Stdout: p}) }
func (s *sender) stderr(p []byte) error { return s.send(line{Stderr: p}) }

type writer func(p []byte) error

func (w writer) Write(p []byte) (int, error) {
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Call runs a command at the gateway that serves the socket, and returns its exit
// status.
func Call(ctx context.Context, path string, words []string, stdout, stderr io.Writer) (code int, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return 0, fmt.Errorf("no gateway answers on %s; is it running?", path)
	case errors.Is(err, fs.ErrPermission):
		return 0, fmt.Errorf("only root and the gateway's user may use %s", path)
	case err != nil:
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(request{words}); err != nil {
		return 0, fmt.Errorf("sending the command to the gateway: %w", err)
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return 0, fmt.Errorf("reading the gateway's answer: %w", err)
		}
		if l.Exit != nil {
			return *l.Exit, nil
		}
		if _, err := stdout.Write(l.Stdout); err != nil {
			return 0, err
		}
		if _, err := stderr.Write(l.Stderr); err != nil {
			return 0, err
		}
	}
	switch {
	case ctx.Err() != nil:
		return console.ExitLeft, nil
	case lines.Err() != nil:
		return 0, fmt.Errorf("reading the gateway's answer: %w", lines.Err())
	}
	return 0, errors.New("the gateway ended before the command did")
}
