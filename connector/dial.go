package connector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// attempt is what came of dialling through one tunnel.
type attempt struct {
	tunnel *tunnel
	conn   Conn
	err    error
}

// dialing is one call of Dial: it tries tunnels in order, the next one when one has
// failed or is slow to answer.
type dialing struct {
	hub     *Hub
	req     DialRequest
	ctx     context.Context // of all attempts
	left    []*tunnel       // not tried yet
	running int
	ended   chan attempt // without a buffer: taken, or the attempt is undone
	unable  map[place]bool
	failure error
}

func (h *Hub) dial(ctx context.Context, req DialRequest) (Conn, error) {
	tunnels, err := h.candidates(req.endpoint())
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, h.timing.dial)
	defer cancel() // ends what is still under way
	d := &dialing{hub: h, req: req, ctx: bounded, left: tunnels, ended: make(chan attempt), unable: map[place]bool{}}
	slow := time.NewTimer(h.timing.hedge)
	defer slow.Stop()
	for d.next() || d.running > 0 {
		select {
		case a := <-d.ended:
			d.running--
			if a.err == nil {
				return a.conn, nil
			}
			d.failed(a)
		case <-slow.C:
		case <-bounded.Done():
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, &Refusal{CodeDialTimeout, fmt.Sprintf("its connector did not answer within %s", h.timing.dial)}
		}
		slow.Reset(h.timing.hedge)
	}
	var refusal *Refusal
	if !errors.As(d.failure, &refusal) {
		return nil, fmt.Errorf("%w: %w", ErrOffline, d.failure) // its tunnels are lost
	}
	return nil, refusal
}

// next starts the next attempt, and tells whether there was one left.
func (d *dialing) next() bool {
	for len(d.left) > 0 {
		t := d.left[0]
		d.left = d.left[1:]
		if d.unable[t.place()] {
			continue
		}
		d.hub.mu.Lock()
		closed := d.hub.closed
		if !closed {
			d.hub.dialing.Add(1)
		}
		d.hub.mu.Unlock()
		if closed {
			d.failure = graver(d.failure, errHubClosed)
			continue
		}
		d.running++
		go d.try(t)
		return true
	}
	return false
}

func (d *dialing) try(t *tunnel) {
	defer d.hub.dialing.Done()
	conn, err := t.dial(d.ctx, d.req)
	select {
	case d.ended <- attempt{t, conn, err}:
	case <-d.ctx.Done():
		if err == nil {
			conn.Close() // another was quicker
		}
	}
}

// failed notes why an attempt came to nothing. Tunnels of one place lead to the same:
// that its origin does not answer is no reason to ask again. Another connector, or a
// replica, may be nearer.
func (d *dialing) failed(a attempt) {
	a.tunnel.log.Warn("dialling an origin failed", "request", d.req.RequestID, "origin", d.req.endpoint().Short(), "err", a.err)
	d.unable[a.tunnel.place()] = isOriginFailure(a.err)
	d.failure = graver(d.failure, a.err)
}

// candidates returns the tunnels that publish the service: those that are not
// suspiciously quiet first, and among them those with few streams.
func (h *Hub) candidates(service sshgate.Endpoint) ([]*tunnel, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.draining {
		return nil, &Refusal{CodeDraining, "the gateway is about to stop"}
	}
	type ranked struct {
		*tunnel
		quiet   bool
		streams int
	}
	var found []ranked
	var changed *Refusal
	others := false
	for t := range h.index.origins[service.Origin] {
		if refusal := t.refused[service]; refusal != nil && refusal.Code == CodeHostKeyChanged {
			changed = refusal
		}
		if _, ok := t.published[service]; ok && !t.draining {
			found = append(found, ranked{t, t.line.silence() > 2*h.timing.heartbeat, t.streams})
		}
		others = others || t.publishes(service.Origin)
	}
	switch {
	case len(found) > 0:
	case changed != nil:
		return nil, changed
	case others:
		return nil, ErrNoService
	default:
		return nil, ErrOffline
	}
	slices.SortFunc(found, func(a, b ranked) int {
		if a.quiet != b.quiet {
			if a.quiet {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.streams, b.streams)
	})
	tunnels := make([]*tunnel, len(found))
	for i, r := range found {
		tunnels[i] = r.tunnel
	}
	return tunnels, nil
}

func isOriginFailure(err error) bool {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.Code {
	case CodeDialRefused, CodeDialTimeout, CodeDialFailed:
		return true
	}
	return false
}

// graver picks the failure that says the most: what an origin answered before
// what a connector did, and that before the loss of a tunnel.
func graver(a, b error) error {
	weight := func(err error) int {
		var refusal *Refusal
		switch {
		case err == nil:
			return 0
		case isOriginFailure(err):
			return 3
		case errors.As(err, &refusal):
			return 2
		}
		return 1
	}
	if weight(b) > weight(a) {
		return b
	}
	return a
}
