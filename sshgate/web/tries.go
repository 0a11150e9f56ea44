package web

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const maxAddresses = 10_000 // that are counted

// tries bounds how often an address may do something: so many times at once, and
// then once in a while.
type tries struct {
	atOnce int
	every  time.Duration

	mu     sync.Mutex
	limits map[netip.Addr]*rate.Limiter
}

func newTries(atOnce int, every time.Duration) *tries {
	return &tries{atOnce: atOnce, every: every, limits: make(map[netip.Addr]*rate.Limiter)}
}

// network is what counts as one address: a /64 of IPv6 is one customer.
func network(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return addr
}

// left tells whether the address has a try left, without taking it.
func (t *tries) left(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := t.limits[network(addr)]
	return limit == nil || limit.Tokens() >= 1
}

// take takes one, and tells whether there was one.
func (t *tries) take(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	addr = network(addr)
	limit := t.limits[addr]
	if limit == nil {
		t.makeRoom()
		limit = rate.NewLimiter(rate.Every(t.every), t.atOnce)
		t.limits[addr] = limit
	}
	return limit.Allow()
}

// makeRoom forgets the addresses that have all their tries again, and
// when there are none of these, any.
func (t *tries) makeRoom() {
	if len(t.limits) < maxAddresses {
		return
	}
	for addr, limit := range t.limits {
		if limit.Tokens() >= float64(t.atOnce) {
			delete(t.limits, addr)
		}
	}
	for addr := range t.limits {
		if len(t.limits) < maxAddresses {
			return
		}
		delete(t.limits, addr)
	}
}
