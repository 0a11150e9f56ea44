//go:build linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// site is one of the networks that a relay joins.
type site struct {
	*netns
	address netip.Addr
	prefix  netip.Prefix // all addresses that lead here
	device  *os.File
}

// path is what becomes of the packets from one site to another. The zero path lets
// all of them pass.
type path struct {
	dark  bool          // none arrives
	port  uint16        // none arrives that is from or to this TCP port
	loss  float64       // the share that is lost, at random
	delay time.Duration // of each
}

// relay carries packets between sites, in the order in which they came.
type relay struct {
	sites []*site
	lanes map[[2]*site]chan parcel
	tasks sync.WaitGroup

	mu            sync.Mutex
	paths         map[[2]*site]path
	carried, lost int // packets that passed, and that were lost
}

type parcel struct {
	due  time.Time
	data []byte
}

// laneLength is how many packets may be on the way between two sites. What comes on
// top is lost, as in a router.
const laneLength = 1000

// newRelay joins so many new sites, by IPv6 alone or by IPv4.
func newRelay(t testing.TB, sites int, v6 bool) *relay {
	t.Helper()
	r := &relay{lanes: make(map[[2]*site]chan parcel), paths: make(map[[2]*site]path)}
	for i := range sites {
		s := &site{netns: newNetns(t), prefix: netip.MustParsePrefix(fmt.Sprintf("10.213.%d.0/24", i+1))}
		if v6 {
			s.prefix = netip.MustParsePrefix(fmt.Sprintf("fd10:213:0:%d::/64", i+1))
		}
		s.device = s.tun(t)
		s.ip(t, "link", "set", tunName, "up")
		s.address = s.prefix.Addr()
		s.move(t)
		r.sites = append(r.sites, s)
	}
	for _, from := range r.sites {
		for _, to := range r.sites {
			lane := make(chan parcel, laneLength)
			r.lanes[[2]*site{from, to}] = lane
			r.tasks.Go(func() { deliver(lane, to.device) })
		}
	}
	var readers sync.WaitGroup
	for _, s := range r.sites {
		readers.Go(func() { r.read(s) })
	}
	t.Cleanup(func() {
		for _, s := range r.sites {
			s.device.Close()
		}
		readers.Wait()
		for _, lane := range r.lanes {
			close(lane)
		}
		r.tasks.Wait()
	})
	return r
}

// move gives the site's device the next address of its prefix.
func (s *site) move(t testing.TB) {
	t.Helper()
	if s.address != s.prefix.Addr() {
		s.ip(t, "addr", "del", s.cidr(), "dev", tunName)
	}
	s.address = s.address.Next()
	s.ip(t, "addr", "add", s.cidr(), "dev", tunName)
	family := "-4"
	if s.address.Is6() {
		family = "-6"
	}
	s.ip(t, family, "route", "replace", "default", "dev", tunName) // it went with the last address
}

func (s *site) cidr() string { return netip.PrefixFrom(s.address, s.prefix.Bits()).String() }

// set changes the path from one site to another, one way.
func (r *relay) set(from, to *site, p path) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paths[[2]*site{from, to}] = p
}

// between changes both ways.
func (r *relay) between(a, b *site, p path) {
	r.set(a, b, p)
	r.set(b, a, p)
}

// read takes what the site sends until its device is closed.
func (r *relay) read(from *site) {
	for {
		data := make([]byte, 2048) // longer than any packet of a device's default MTU
		n, err := from.device.Read(data)
		if err != nil {
			return
		}
		p, ok := parsePacket(data[:n])
		i := slices.IndexFunc(r.sites, func(s *site) bool { return s.prefix.Contains(p.destination) })
		if !ok || i < 0 {
			continue
		}
		way := [2]*site{from, r.sites[i]}
		delay, passes := r.passes(way, p)
		if !passes {
			continue
		}
		select {
		case r.lanes[way] <- parcel{time.Now().Add(delay), data[:n]}:
		default:
		}
	}
}

// passes decides about a packet.
func (r *relay) passes(way [2]*site, p packet) (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	on := r.paths[way]
	if on.dark || on.port != 0 && (on.port == p.from || on.port == p.to) || rand.Float64() < on.loss {
		r.lost++
		return 0, false
	}
	r.carried++
	return on.delay, true
}

// counts returns how many packets passed, and how many were lost.
func (r *relay) counts() (carried, lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carried, r.lost
}

func deliver(lane <-chan parcel, to *os.File) {
	for p := range lane {
		time.Sleep(time.Until(p.due))
		_, _ = to.Write(p.data) // a device that is closed or full loses it
	}
}

// packet is what the relay looks at.
type packet struct {
	destination netip.Addr
	from, to    uint16 // TCP ports, 0 in others
}

// parsePacket reads the headers of IPv4 (RFC 791), IPv6 (RFC 8200) and TCP (RFC 9293).
func parsePacket(data []byte) (p packet, ok bool) {
	const tcp = 6
	var header, protocol int
	switch {
	case len(data) >= 20 && data[0]>>4 == 4:
		header, protocol = int(data[0]&0xf)*4, int(data[9])
		p.destination = netip.AddrFrom4([4]byte(data[16:20]))
	case len(data) >= 40 && data[0]>>4 == 6:
		header, protocol = 40, int(data[6])
		p.destination = netip.AddrFrom16([16]byte(data[24:40]))
	default:
		return p, false
	}
	if protocol == tcp && len(data) >= header+4 {
		p.from, p.to = binary.BigEndian.Uint16(data[header:]), binary.BigEndian.Uint16(data[header+2:])
	}
	return p, true
}
