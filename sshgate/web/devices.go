package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

const (
	pollInterval = time.Second
	// longPoll is how long a poll waits for the sign-in.
	longPoll = 8 * time.Second
	// abandoned is how long nobody may ask about a sign-in before it is given up.
	abandoned = time.Minute
)

var (
	errPending = errors.New("the sign-in is under way")
	errTooFast = errors.New("the sign-in is asked about too often")
	errAsked   = errors.New("the number of the page is asked for")
	errNoCode  = errors.New("there is no such device code")
)

// device is a sign-in that a client waits for (RFC 8628).
type device struct {
	ticket     *signIn
	addr       netip.Addr
	connection sshgate.ConnectionID // names the sign-in in the log
	since      time.Time

	// Guarded by devices.mu.
	polling bool
	polled  time.Time // when the last poll ended
	idle    *time.Timer
}

func (d *device) event(now time.Time, kind sshgate.EventKind) sshgate.Event {
	return sshgate.Event{Time: now, Kind: kind, Connection: d.connection, ClientAddr: d.addr, Detail: "helper"}
}

// devices are the sign-ins under way, by the hash of their device code: a look
// into memory should yield nothing that anybody could use. How many there can be
// is authflow.Pending's affair.
type devices struct {
	mu     sync.Mutex
	byHash map[[sha256.Size]byte]*device
	closed bool
}

func newDevices() *devices { return &devices{byHash: make(map[[sha256.Size]byte]*device)} }

// add returns the device code of the sign-in.
func (s *devices) add(d *device) (code string, err error) {
	code = rand.Text() + rand.Text() // 260 bits
	hash := sha256.Sum256([]byte(code))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", &authflow.Failure{Code: authflow.CodeClosed, Sentence: "the gateway is shutting down, try again in a moment"}
	}
	s.byHash[hash] = d
	d.idle = time.AfterFunc(abandoned, func() {
		if s.remove(hash, d) {
			d.ticket.failed()
		}
	})
	return code, nil
}

// remove takes the sign-in out and gives its ticket back. It tells whether it was
// there.
func (s *devices) remove(hash [sha256.Size]byte, d *device) bool {
	s.mu.Lock()
	found := s.byHash[hash] == d
	if found {
		delete(s.byHash, hash)
	}
	s.mu.Unlock()
	if found {
		d.idle.Stop()
		d.ticket.Leave()
	}
	return found
}

// poll waits a while for the sign-in of the code to end, and returns it then: once,
// and never again. Otherwise it returns errPending, errTooFast or errNoCode; errAsked
// where the sign-in needs the confirmation and this one is not it.
func (s *devices) poll(ctx context.Context, code, confirmation string) (*device, error) {
	hash := sha256.Sum256([]byte(code))
	d, err := s.begin(hash)
	if err != nil {
		return nil, err
	}
	asked := d.ticket.Asked()
	if confirmation != "" && d.ticket.Answer(confirmation) == 0 {
		asked = nil // it is over, whichever way
	}
	timer := time.NewTimer(longPoll)
	defer timer.Stop()
	result := errPending
	select {
	case <-d.ticket.Done():
		if !s.remove(hash, d) {
			return nil, errNoCode
		}
		return d, nil
	case <-asked:
		result = errAsked
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.polling, d.polled = false, time.Now()
	if s.byHash[hash] == d {
		d.idle.Reset(abandoned)
	}
	return nil, result
}

func (s *devices) begin(hash [sha256.Size]byte) (*device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.byHash[hash]
	switch {
	case d == nil:
		return nil, errNoCode
	case d.polling, time.Since(d.polled) < pollInterval/2:
		return nil, errTooFast
	}
	d.polling = true
	d.idle.Stop()
	return d, nil
}

// close gives all sign-ins up.
func (s *devices) close() {
	s.mu.Lock()
	s.closed = true
	all := s.byHash
	s.byHash = make(map[[sha256.Size]byte]*device)
	s.mu.Unlock()
	for _, d := range all {
		d.idle.Stop()
		d.ticket.Leave()
	}
}
