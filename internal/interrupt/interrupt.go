// Package interrupt ends a program by signals: the first asks it to stop, the
// second ends it at once.
package interrupt

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Context returns a context that the first of the signals ends. The second one
// ends the process as if nobody had caught it. Unlike with signal.NotifyContext
// and its stop function none is lost between the two. stop gives the signals
// back; call it once the context is no longer needed.
func Context(signals ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	caught := make(chan os.Signal, 2)
	signal.Notify(caught, signals...)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-caught:
			cancel()
		case <-done:
			return
		}
		select {
		case second := <-caught:
			signal.Reset(second)
			_ = syscall.Kill(syscall.Getpid(), second.(syscall.Signal)) // a process may always signal itself
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		close(done)
		<-ended
		cancel()
	}
}
