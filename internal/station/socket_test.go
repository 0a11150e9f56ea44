package station

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sshgate/sshgate/connector"
)

func TestDefaultSocket(t *testing.T) {
	for _, test := range []struct {
		runtime, own string
		uid          int
		want         string
	}{
		{"/run/a:/run/b", "/run/user/7", 7, "/run/a/status.sock"},
		{"/run/a", "", 0, "/run/a/status.sock"},
		{"", "/run/user/0", 0, "/run/sshgate-connector/status.sock"},
		{"relative", "/run/user/7", 7, "/run/user/7/sshgate-connector/status.sock"},
		{"", "relative", 7, ""},
		{"", "", 7, ""},
	} {
		env := func(name string) string {
			return map[string]string{"RUNTIME_DIRECTORY": test.runtime, "XDG_RUNTIME_DIR": test.own}[name]
		}
		if got := DefaultSocket(env, test.uid); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestFindSocket(t *testing.T) {
	dir := t.TempDir()
	env := func(name string) string { return map[string]string{"XDG_RUNTIME_DIR": dir}[name] }
	if got := FindSocket(env, 7); got != systemSocket {
		t.Errorf("without one of the user's own: %s", got)
	}
	l, err := Listen(filepath.Join(dir, "sshgate-connector", "status.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := FindSocket(env, 7); got != l.Addr().String() {
		t.Errorf("with one: %s", got)
	}
}

func TestListen(t *testing.T) {
	socket, _ := serve(t, connector.Status{})
	info, err := os.Lstat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if dir, err := os.Stat(filepath.Dir(socket)); err != nil || dir.Mode().Perm()&0o022 != 0 {
		t.Errorf("%v %v", dir.Mode(), err)
	}
	if l, err := Listen(socket); err == nil || !strings.Contains(err.Error(), "another connector answers on "+socket) {
		t.Errorf("taken: %v %v", l, err)
	}
	if code, _ := get(t, socket, "/healthz"); code != 200 {
		t.Errorf("the first no longer answers: %d", code)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file: %v", err)
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Error("the file was touched")
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "such", "directory")); err == nil {
		t.Error("two directories are missing")
	}
	if _, err := Listen("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long path: %v", err)
	}
}

// leaveStale leaves a socket behind as a process does that is killed.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.sock")
	leaveStale(t, path)
	// Of those that start at the same time one gets it.
	var wg sync.WaitGroup
	var got atomic.Int64
	listeners := make(chan net.Listener, 10)
	for range cap(listeners) {
		wg.Go(func() {
			if l, err := Listen(path); err == nil {
				got.Add(1)
				listeners <- l
			} else if !strings.Contains(err.Error(), "another connector answers") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(listeners)
	if got.Load() != 1 {
		t.Errorf("%d have it", got.Load())
	}
	for l := range listeners {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
		} else {
			conn.Close()
		}
		l.Close()
	}
}

// Whoever may read the directory can lock it; that must not keep a connector waiting.
func TestListenInALockedDirectory(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "status.sock")); err == nil || !strings.Contains(err.Error(), "locking") {
		t.Errorf("got %v", err)
	}
}

func TestGetFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.sock")
	if _, _, err := Get(t.Context(), path, "/status"); err == nil {
		t.Error("there is no socket")
	}
	leaveStale(t, path)
	if _, _, err := Get(t.Context(), path, "/status"); err == nil {
		t.Error("nobody answers")
	}
}
