package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sshgate/sshgate/config"
)

// configPoll is how often the configuration's file is looked at. A change has to
// stand for one further look, so that a file is not read while it is written.
//
// Looking works where notifications do not: on network file systems, through bind
// mounts, and when the file is a link whose target's folder is swapped, as
// Kubernetes does.
const configPoll = 200 * time.Millisecond

// reloader reads the configuration again when its file changes or on SIGHUP.
type reloader struct {
	path   string
	load   func() (*config.Gateway, error)
	hangup chan os.Signal
	notify func(state string) // tells systemd; nil: there is none
	poll   time.Duration

	read, last fileState // when it was read, and at the last look; used by run alone

	mu  sync.Mutex // guards bad
	bad error      // why the configuration on disk is not in force
}

// newReloader returns a reloader to be made before the configuration is read for the
// first time, so that no change is missed. From here on SIGHUP ends nothing. Close it.
func newReloader(path string, load func() (*config.Gateway, error)) *reloader {
	r := &reloader{path: path, load: load, hangup: make(chan os.Signal, 1), poll: configPoll, read: stateOf(path)}
	r.last = r.read
	signal.Notify(r.hangup, syscall.SIGHUP)
	return r
}

func (r *reloader) close() { signal.Stop(r.hangup) }

// run reads the configuration again whenever there is reason to, until ctx is done.
func (r *reloader) run(ctx context.Context, g *gatewayd) {
	tick := time.NewTicker(r.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.hangup:
			r.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
			r.reload(g, "SIGHUP")
			r.tell(daemon.SdNotifyReady)
		case <-tick.C:
			if r.changed() {
				r.reload(g, "the file has changed")
			}
		}
	}
}

// changed tells whether the file is another than the one that was read, and has
// been since the last look.
func (r *reloader) changed() bool {
	now := stateOf(r.path)
	settled := now.same(r.last)
	r.last = now
	return settled && !now.same(r.read)
}

// reload puts the configuration on disk in force, all of it or nothing.
func (r *reloader) reload(g *gatewayd, why string) {
	r.read = stateOf(r.path) // before it is read: what changes meanwhile is read again
	next, err := r.next(g)
	r.mu.Lock()
	r.bad = err
	r.mu.Unlock()
	if err != nil {
		g.metrics.ConfigRefused()
		g.log.Error("the configuration cannot be used; the one before stays in force", "file", r.path, "why", why, "err", err)
		r.tell("STATUS=The configuration on disk cannot be used; the one before is in force.")
		return
	}
	g.settings.Store(next)
	g.live.PolicyChanged()
	g.metrics.ConfigLoaded(time.Now(), true)
	g.log.Info("the configuration was read again", "file", r.path, "why", why, "applications", len(next.cfg.Policy().Applications))
	if names := g.cfg.TakeRestart(next.cfg); len(names) > 0 {
		g.log.Warn("what these settings say now takes a restart", "settings", names)
	}
	r.tell("STATUS=")
}

// next reads and checks the configuration as the start does.
func (r *reloader) next(g *gatewayd) (*settings, error) {
	cfg, err := r.load()
	if err == nil {
		err = checkKeys(cfg)
	}
	if err != nil {
		return nil, err
	}
	return newSettings(cfg, g.settings.Load(), g.log)
}

// problem returns why the configuration on disk is not in force, nil when it is.
func (r *reloader) problem() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad == nil {
		return nil
	}
	return fmt.Errorf("the configuration on disk cannot be used, the one before is in force: %w", r.bad)
}

func (r *reloader) tell(state string) {
	if r.notify != nil {
		r.notify(state)
	}
}

// fileState tells one content of a file from another, or why there is none.
type fileState struct {
	info os.FileInfo
	err  string
}

// stateOf follows links: what counts is the file that would be read.
func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{err: err.Error()}
	}
	return fileState{info: info}
}

func (s fileState) same(other fileState) bool {
	if s.info == nil || other.info == nil {
		return s.info == other.info && s.err == other.err
	}
	return os.SameFile(s.info, other.info) && s.info.Size() == other.info.Size() && s.info.ModTime().Equal(other.info.ModTime())
}
