package ctl

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate/console"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake runs what a test says.
type fake struct {
	run     func(ctx context.Context, who console.Caller, words []string, out console.Output) int
	refused []string
}

func (f *fake) Run(ctx context.Context, who console.Caller, words []string, out console.Output) int {
	return f.run(ctx, who, words, out)
}

func (f *fake) Refuse(who console.Caller, words []string, out console.Output) int {
	f.refused = append(f.refused, who.Identity.Subject+" "+strings.Join(words, " "))
	fmt.Fprint(out.Stderr, "no")
	return 3
}

// serveFake serves f until the test ends, and returns the socket.
func serveFake(t *testing.T, f *fake) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ctl.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { Serve(ctx, l, f, slog.New(slog.DiscardHandler)) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is left behind")
		}
	})
	return path
}

func TestCommand(t *testing.T) {
	var who console.Caller
	path := serveFake(t, &fake{run: func(_ context.Context, caller console.Caller, words []string, out console.Output) int {
		who = caller
		fmt.Fprintf(out.Stdout, "%q\n", words)
		fmt.Fprint(out.Stderr, "\x00\xff")
		return 42
	}})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	var stdout, stderr bytes.Buffer
	code, err := Call(t.Context(), path, []string{"kill", "a b", "\n"}, &stdout, &stderr)
	if code != 42 || err != nil || stdout.String() != "[\"kill\" \"a b\" \"\\n\"]\n" || stderr.String() != "\x00\xff" {
		t.Errorf("exit %d, %v, %q, %q", code, err, &stdout, &stderr)
	}
	if !who.Local || who.Identity.Issuer != console.LocalIssuer || who.Identity.Subject != fmt.Sprint("uid ", os.Geteuid()) ||
		!strings.Contains(who.Identity.String(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("it was %+v, %s", who, who.Identity)
	}
}

func TestWhoeverLeavesEndsTheCommand(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	path := serveFake(t, &fake{run: func(ctx context.Context, _ console.Caller, _ []string, out console.Output) int {
		fmt.Fprint(out.Stdout, "following")
		close(began)
		<-ctx.Done()
		close(ended)
		return 0
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	var out bytes.Buffer
	if code, err := Call(ctx, path, []string{"events"}, &out, &out); code != console.ExitLeft || err != nil {
		t.Errorf("exit %d, %v", code, err)
	}
	<-ended
}

func TestNobodyAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl.sock")
	if _, err := Call(t.Context(), path, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "no gateway answers on "+path) {
		t.Errorf("without a socket: %v", err)
	}
	// Left behind by a gateway that was killed.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Call(t.Context(), path, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "no gateway answers") {
		t.Errorf("with a socket left behind: %v", err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another gateway answers") {
		t.Errorf("a second one: %v", err)
	}
	again.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("in place of a file: %v", err)
	}
	if _, err := Listen("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long path: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	path := serveFake(t, &fake{run: func(context.Context, console.Caller, []string, console.Output) int {
		t.Error("it was run")
		return 0
	}})
	for _, text := range []string{"", "\n", "garbage\n", `{"words":5}` + "\n", strings.Repeat("x", 1<<17)} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(text)) // the server may have left
		_ = conn.(*net.UnixConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
			t.Errorf("%.20q was answered: %v", text, err)
		}
		conn.Close()
	}
}

// TestGatewayGoes ends it during a command.
func TestGatewayGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fake{run: func(ctx context.Context, _ console.Caller, _ []string, _ console.Output) int {
		cancel()
		<-ctx.Done()
		return 0
	}}
	var serving sync.WaitGroup
	serving.Go(func() { Serve(ctx, l, f, slog.New(slog.DiscardHandler)) })
	if code, err := Call(t.Context(), path, []string{"events"}, nil, nil); code != 0 || err != nil {
		t.Errorf("exit %d, %v", code, err)
	}
	serving.Wait()
}
