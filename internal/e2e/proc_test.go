package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// output collects what a process prints and wakes those who wait for a text.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed and replaced at every write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// wait returns what find yields once it yields something.
func (o *output) wait(ctx context.Context, find func(string) string) (string, error) {
	for {
		o.mu.Lock()
		found, changed := find(o.buf.String()), o.changed
		o.mu.Unlock()
		if found != "" {
			return found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("%w; it printed:\n%s", ctx.Err(), o)
		}
	}
}

// proc is a daemon of a test.
type proc struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	err  error // of the process's end; read after done
}

// start runs a daemon until the test ends.
func start(t testing.TB, name string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, cmd: exec.Command(name, args...), out: newOutput(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		out := p.out.String()
		if strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic:") {
			t.Errorf("%s %v printed:\n%s", filepath.Base(name), args, out)
		} else if t.Failed() {
			t.Logf("%s %v printed:\n%s", filepath.Base(name), args, tail(out, 6000))
		}
	})
	return p
}

// stop ends the process and waits until it is gone.
func (p *proc) stop(sig syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Errorf("%s did not end after %v", p.cmd.Path, sig)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "..." + s[len(s)-n:]
}

// eventually waits until ok returns nil.
func eventually(t testing.TB, what string, d time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, d, err)
		}
		time.Sleep(10 * time.Millisecond) // polls a process of its own
	}
}

// lastPort is the port that freePort handed out last.
var lastPort atomic.Int32

// freePort returns a port that nobody listens on and that it hands out once. It is
// below those that the kernel gives to whoever asks for any (32768 and up), so that it
// stays free for the process that is told to use it.
func freePort(t testing.TB) int {
	t.Helper()
	const first, most = 20_000, 10_000
	lastPort.CompareAndSwap(0, int32(os.Getpid()%most)) // other runs at the same time
	for range most {
		port := first + int(lastPort.Add(1))%most
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
