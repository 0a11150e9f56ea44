package connector

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// hostKeys is what an agent knows of its origins' host keys.
type hostKeys struct {
	scanned chan struct{} // closed when each SSH server was looked at once

	mu      sync.Mutex // guards what follows
	order   []sshgate.Endpoint
	keys    map[sshgate.OriginName][]string
	scans   map[sshgate.OriginName]scan // the last look at each
	pending map[sshgate.OriginName]bool // not looked at yet
	changed chan struct{}               // closed, and replaced, at each change
}

// scan is the outcome of a look at an SSH server.
type scan struct {
	at  time.Time
	err error
}

func newHostKeys(origins []Origin) *hostKeys {
	k := &hostKeys{
		scanned: make(chan struct{}),
		keys:    make(map[sshgate.OriginName][]string),
		scans:   make(map[sshgate.OriginName]scan),
		pending: make(map[sshgate.OriginName]bool),
		changed: make(chan struct{}),
	}
	for _, o := range origins {
		k.order = append(k.order, o.endpoint())
		if o.isSSH() {
			k.pending[o.Name] = true
		}
	}
	if len(k.pending) == 0 {
		close(k.scanned)
	}
	return k
}

// publish replaces what to register.
func (k *hostKeys) publish(origins []Origin) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.order = nil
	for _, o := range origins {
		k.order = append(k.order, o.endpoint())
	}
	k.change()
}

// forget drops what is known of an origin's keys.
func (k *hostKeys) forget(name sshgate.OriginName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, name)
	delete(k.scans, name)
	k.looked(name)
}

// looked notes that an origin was looked at, or never will be. The caller holds mu.
func (k *hostKeys) looked(name sshgate.OriginName) {
	if !k.pending[name] {
		return
	}
	delete(k.pending, name)
	if len(k.pending) == 0 {
		close(k.scanned)
	}
}

// change wakes those who registered what is no longer true. The caller holds mu.
func (k *hostKeys) change() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// current returns what to register, and a channel that is closed when that is
// no longer true.
func (k *hostKeys) current() ([]wireOrigin, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	origins := make([]wireOrigin, len(k.order))
	for i, service := range k.order {
		origins[i] = wireOrigin{Name: string(service.Origin), HostKeys: []string{}}
		if service.Port == sshgate.SSHPort {
			origins[i].HostKeys = append(origins[i].HostKeys, k.keys[service.Origin]...)
		} else {
			origins[i].Port = service.Port
		}
	}
	return origins, k.changed
}

// update notes the outcome of a scan. Without keys the last ones stay: an SSH
// server that is down has not changed them. It tells whether they changed.
func (k *hostKeys) update(ctx context.Context, name sshgate.OriginName, scan scan, keys []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if ctx.Err() != nil {
		return false // of an address that is no longer the origin's
	}
	k.looked(name)
	k.scans[name] = scan
	if keys == nil || slices.Equal(keys, k.keys[name]) {
		return false
	}
	k.keys[name] = keys
	k.change()
	return true
}

// watchHostKeys reads the host keys of one origin again and again until ctx is
// done. It scans while it holds one of the slots.
func (a *Agent) watchHostKeys(ctx context.Context, o Origin, slots chan struct{}) {
	log := a.log.With("origin", o.Name, "address", o.Address)
	retry := a.newBackOff(a.timing.rescanFirst, a.timing.rescanMost)
	answers := true
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		keys, err := ScanHostKeys(ctx, o.Address, a.cfg.DialOrigin)
		<-slots
		if ctx.Err() != nil {
			return
		}
		// Several connectors started together should not stay in step.
		wait := a.timing.rescan - time.Duration(rand.Int64N(int64(a.timing.rescan)/10+1))
		changed := a.keys.update(ctx, o.Name, scan{at: a.cfg.Now(), err: err}, slices.DeleteFunc(keys, func(key string) bool { return len(key) > maxHostKey }))
		switch {
		case err != nil:
			wait = retry.NextBackOff()
			if answers {
				log.Warn("the origin's SSH server does not answer; the origin is published all the same", "err", err)
			}
		case changed:
			log.Info("host keys of the origin were read", "keys", len(keys))
		case !answers:
			log.Info("the origin's SSH server answers again")
		}
		if answers = err == nil; answers {
			retry.Reset()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}
