package interrupt

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

// TestMain is also the program under test: it waits for the first signal and
// then sends itself the second before anybody could have given signals back.
func TestMain(m *testing.M) {
	if os.Getenv("INTERRUPT_TEST") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := Context(syscall.SIGTERM, syscall.SIGHUP)
	_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
	<-ctx.Done()
	if os.Getenv("INTERRUPT_TEST") == "twice" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {} // until the signal
	}
	stop()
	fmt.Print("stopped")
}

func TestFirstSignalEndsTheContext(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INTERRUPT_TEST=once")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "stopped" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestSecondSignalEndsTheProcess(t *testing.T) {
	for range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "INTERRUPT_TEST=twice")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Fatalf("%q, %v", out, err)
		}
	}
}

func TestStopGivesSignalsBack(t *testing.T) {
	ctx, stop := Context(syscall.SIGUSR1)
	stop()
	if ctx.Err() == nil {
		t.Error("the context goes on")
	}
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR1)
	defer signal.Stop(caught)
	_ = syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	<-caught
}
