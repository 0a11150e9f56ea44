package limits

import (
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/sshgate/sshgate/sshgate"
)

// startups counts the connections that have not signed in.
type startups struct {
	bound      sshgate.Startups
	perNetwork int
	dice       func() int

	mu        sync.Mutex
	all       int
	byNetwork map[netip.Prefix]int // no more than bound.Full
}

func newStartups(bound sshgate.Startups, perNetwork int) *startups {
	return &startups{
		bound: bound, perNetwork: perNetwork, byNetwork: make(map[netip.Prefix]int),
		dice: func() int { return rand.IntN(100) },
	}
}

// take counts one in, or returns the limit that it would exceed. What a single
// network may have is looked at first: one that floods is told so, and does not
// take part in the drawing of lots.
func (s *startups) take(network netip.Prefix, limited bool) sshgate.Limit {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case limited && s.byNetwork[network] >= s.perNetwork:
		return sshgate.LimitAddressStartups
	case s.all >= s.bound.Start && s.bound.Refuses(s.all, s.dice()):
		return sshgate.LimitStartups
	}
	s.all++
	if limited {
		s.byNetwork[network]++
	}
	return ""
}

func (s *startups) give(network netip.Prefix, limited bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if limited {
		if s.byNetwork[network]--; s.byNetwork[network] <= 0 {
			delete(s.byNetwork, network)
		}
	}
}

func (s *startups) use() (connections, networks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all, len(s.byNetwork)
}
