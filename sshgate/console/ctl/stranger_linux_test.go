package ctl

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/sshgate/sshgate/sshgate/console"
	"golang.org/x/sys/unix"
)

// TestStranger connects as somebody else to a socket whose mode lets everybody in:
// the kernel's word counts, too.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	f := &fake{run: func(context.Context, console.Caller, []string, console.Output) int {
		t.Error("it was run")
		return 0
	}}
	path := serveFake(t, f)
	for file, mode := range map[string]os.FileMode{path: 0o666, filepath.Dir(path): 0o755, filepath.Dir(filepath.Dir(path)): 0o755} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	var stdout, stderr bytes.Buffer
	var code int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0)); errno != 0 {
			t.Errorf("setresuid: %v", errno)
			return
		}
		code, err = Call(context.Background(), path, []string{"revoke", "alice"}, &stdout, &stderr)
	}()
	<-done
	if code != 3 || err != nil || stderr.String() != "no" || !slices.Equal(f.refused, []string{"uid 65534 revoke alice"}) {
		t.Errorf("exit %d, %v, %q, refused %q", code, err, &stderr, f.refused)
	}
}
