package web

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	triesAtOnce  = 20              // credentials that an address may get wrong at once,
	triesEvery   = 3 * time.Second // and then one in this time
	maxAddresses = 10_000          // whose failures are counted
)

// tries bounds how many credentials an address gets wrong. A token has 256 bits,
// so this is about noise and load more than about guessing.
type tries struct {
	mu     sync.Mutex
	limits map[netip.Addr]*rate.Limiter
}

func newTries() *tries { return &tries{limits: make(map[netip.Addr]*rate.Limiter)} }

// network is what counts as one address: a /64 of IPv6 is one customer.
func network(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return addr
}

func (t *tries) allowed(addr netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := t.limits[network(addr)]
	return limit == nil || limit.Tokens() >= 1
}

func (t *tries) failed(addr netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	addr = network(addr)
	limit := t.limits[addr]
	if limit == nil {
		t.makeRoom()
		limit = rate.NewLimiter(rate.Every(triesEvery), triesAtOnce)
		t.limits[addr] = limit
	}
	limit.Allow()
}

// makeRoom forgets the addresses that have nothing to answer for any more, and
// when there are none of these, any.
func (t *tries) makeRoom() {
	if len(t.limits) < maxAddresses {
		return
	}
	for addr, limit := range t.limits {
		if limit.Tokens() >= triesAtOnce {
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
