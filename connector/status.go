package connector

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
)

// Status is what an agent is doing, and what it has done since it was made. All of
// it is of one moment but for the bytes, which go on being counted. It holds no
// secret; names and addresses of the origins' network it does.
type Status struct {
	Gateway  string          `json:"gateway"`  // HOST:PORT
	Stopping bool            `json:"stopping"` // Shutdown was called
	Tunnels  []TunnelStatus  `json:"tunnels"`  // that are registered, by slot and age
	Down     []SlotStatus    `json:"down"`     // slots without a tunnel that takes streams
	Origins  []ServiceStatus `json:"origins"`  // all that is published, by name and port
	Streams  int             `json:"streams"`  // connections to origins
	Totals   Totals          `json:"totals"`
}

// Connected tells whether the gateway can open connections through the agent.
func (s Status) Connected() bool { return !s.Stopping && s.Up() > 0 }

// Up is the number of tunnels that take streams.
func (s Status) Up() int {
	up := 0
	for _, t := range s.Tunnels {
		if !t.Draining {
			up++
		}
	}
	return up
}

// TunnelStatus is one registered tunnel.
type TunnelStatus struct {
	Slot     int       `json:"slot"` // from 0; a drained tunnel shares it with its successor
	ID       string    `json:"id"`   // the gateway's name for it
	Remote   string    `json:"remote"`
	Since    time.Time `json:"since"`
	Streams  int       `json:"streams"`
	Draining bool      `json:"draining"` // it ends with its last stream
}

// SlotStatus is a slot that has no tunnel.
type SlotStatus struct {
	Slot int `json:"slot"`
	// Failures is how many attempts in a row have failed.
	Failures int `json:"failures"`
	// Error is why the last tunnel ended or could not be opened; empty at first.
	Error string `json:"error,omitempty"`
	// Next is when it is tried again; zero while it is being tried.
	Next time.Time `json:"next,omitzero"`
}

// OriginState is the gateway's last word on a service.
type OriginState string

// The states of a service.
const (
	OriginAccepted OriginState = "accepted"
	OriginRefused  OriginState = "refused"
	OriginWaiting  OriginState = "waiting" // for an answer, or for a tunnel
)

// ServiceStatus is one service that is published.
type ServiceStatus struct {
	Name    sshgate.OriginName `json:"name"`
	Port    uint16             `json:"port"` // 22 is SSH
	Network string             `json:"network"`
	Address string             `json:"address"`
	State   OriginState        `json:"state"`
	// Code, Reason and Advice are set when it is refused.
	Code   Code   `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	Advice string `json:"advice,omitempty"`
	// Scan is the last look at an SSH server; nil for other services, and before
	// the first.
	Scan *ScanStatus `json:"scan,omitempty"`
}

// ScanStatus is what is known of an SSH server.
type ScanStatus struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"` // empty when it answered
	// HostKeys are those that it had when it last answered.
	HostKeys []HostKey `json:"host_keys"`
}

// HostKey names a host key.
type HostKey struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"` // SHA256:...
}

// Totals are counts since the agent was made.
type Totals struct {
	Opened uint64 `json:"tunnels_opened"`
	// Lost are tunnels that ended although neither end had asked for it.
	Lost   uint64 `json:"tunnels_lost"`
	Failed uint64 `json:"connect_failures"` // attempts to open one
	Served uint64 `json:"served"`           // connections to origins
	// Refused are streams that the agent refused, by code. A connection that the
	// gateway gave up before the origin answered counts nowhere.
	Refused  map[Code]uint64 `json:"refused"`
	BytesIn  uint64          `json:"bytes_in"`  // to origins
	BytesOut uint64          `json:"bytes_out"` // from origins
	// Dials is how long it took to connect to origins, where that succeeded.
	Dials Histogram `json:"dials"`
}

// Histogram is a distribution of durations in seconds.
type Histogram struct {
	Bounds []float64 `json:"bounds"` // the buckets' upper ends
	Counts []uint64  `json:"counts"` // of each bucket, and of all that is beyond
	Sum    float64   `json:"sum"`
}

// dialBounds are the buckets of Totals.Dials: a local network to the time limit.
var dialBounds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// slot is one of the tunnels that an agent keeps.
type slot struct {
	up       bool
	failures int
	err      string
	next     time.Time
}

// counts are guarded by the agent's mutex.
type counts struct {
	opened, lost, failed uint64
	refused              map[Code]uint64
	dials                []uint64
	dialSeconds          float64
}

func newCounts() counts {
	return counts{refused: make(map[Code]uint64), dials: make([]uint64, len(dialBounds)+1)}
}

// traffic counts the bytes of all streams.
type traffic struct{ in, out atomic.Uint64 }

// Status returns what the agent is doing. It takes every lock that the agent's work
// takes, so that its return is a sign of life.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{
		Gateway:  a.cfg.Gateway,
		Stopping: a.isStopping(),
		Tunnels:  []TunnelStatus{},
		Down:     []SlotStatus{},
		Streams:  int(a.streams.Load()),
		Totals:   a.totals(),
	}
	for u := range a.uplinks {
		s.Tunnels = append(s.Tunnels, u.status())
	}
	slices.SortFunc(s.Tunnels, func(x, y TunnelStatus) int {
		return cmp.Or(cmp.Compare(x.Slot, y.Slot), x.Since.Compare(y.Since))
	})
	for n, slot := range a.slots {
		if !slot.up {
			s.Down = append(s.Down, SlotStatus{Slot: n, Failures: slot.failures, Error: slot.err, Next: slot.next})
		}
	}
	s.Origins = a.services(s.Up() > 0)
	return s
}

// totals is called with mu held.
func (a *Agent) totals() Totals {
	return Totals{
		Opened: a.counts.opened, Lost: a.counts.lost, Failed: a.counts.failed,
		Served:  a.served.Load(),
		Refused: maps.Clone(a.counts.refused),
		BytesIn: a.traffic.in.Load(), BytesOut: a.traffic.out.Load(),
		Dials: Histogram{Bounds: slices.Clone(dialBounds), Counts: slices.Clone(a.counts.dials), Sum: a.counts.dialSeconds},
	}
}

// services is called with mu held.
func (a *Agent) services(connected bool) []ServiceStatus {
	scans := a.keys.status()
	list := make([]ServiceStatus, 0, len(a.origins))
	for service, o := range a.origins {
		status := ServiceStatus{Name: service.Origin, Port: service.Port, Network: o.Network, Address: o.Address, State: OriginWaiting}
		refusal, refused := a.refused[service]
		switch {
		case !connected:
		case refused:
			status.State, status.Code, status.Reason, status.Advice = OriginRefused, refusal.Code, refusal.Reason, advice(refusal.Code)
		case a.accepted[service]:
			status.State = OriginAccepted
		}
		if scan, ok := scans[service.Origin]; ok && o.isSSH() {
			status.Scan = &scan
		}
		list = append(list, status)
	}
	slices.SortFunc(list, func(x, y ServiceStatus) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Port, y.Port))
	})
	return list
}

func (u *uplink) status() TunnelStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	return TunnelStatus{
		Slot: u.slot, ID: u.id, Remote: u.line.RemoteAddr().String(), Since: u.since,
		Streams: len(u.aborts), Draining: u.finishing,
	}
}

// status returns what is known of each SSH server that was looked at.
func (k *hostKeys) status() map[sshgate.OriginName]ScanStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	scans := make(map[sshgate.OriginName]ScanStatus, len(k.scans))
	for name, scan := range k.scans {
		status := ScanStatus{At: scan.at, HostKeys: make([]HostKey, 0, len(k.keys[name]))}
		if scan.err != nil {
			status.Error = scan.err.Error()
		}
		for _, line := range k.keys[name] {
			if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil { // written by hostKeyLine
				status.HostKeys = append(status.HostKeys, HostKey{Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)})
			}
		}
		scans[name] = status
	}
	return scans
}

// joined notes that a tunnel is registered.
func (a *Agent) joined(u *uplink) {
	a.connected.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts.opened++
	a.uplinks[u] = true
	if !u.isMoved() { // else another is being opened in its place
		a.slots[u.slot] = slot{up: true}
	}
}

// left notes that a registered tunnel has ended.
func (a *Agent) left(u *uplink) {
	a.connected.Add(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.uplinks, u)
}

// down notes that a slot has no tunnel, why, and when it is tried again.
func (a *Agent) down(n int, err error, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	failures := 0
	switch s := a.slots[n]; {
	case errors.Is(err, errMoved):
	case s.up:
		a.counts.lost++
	default:
		a.counts.failed++
		failures = s.failures + 1
	}
	a.slots[n] = slot{failures: failures, err: err.Error(), next: next}
}

// trying notes that a slot's tunnel is being opened.
func (a *Agent) trying(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slots[n].next = time.Time{}
}

// dialled notes how long an origin took to be connected to.
func (a *Agent) dialled(took time.Duration) {
	bucket, _ := slices.BinarySearch(dialBounds, took.Seconds())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts.dials[bucket]++
	a.counts.dialSeconds += took.Seconds()
}

// refusing notes that a stream is refused.
func (a *Agent) refusing(code Code) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts.refused[code]++
}
