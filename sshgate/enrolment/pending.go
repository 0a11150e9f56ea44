package enrolment

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"net/netip"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Pending is a wish that waits for a person. Its fields do not change.
type Pending struct {
	Wish
	// UserCode stands in the machine's terminal and on the page.
	UserCode  string
	Since     time.Time
	ExpiresAt time.Time

	hash  [sha256.Size]byte
	done  chan struct{} // closed with the result
	timer *time.Timer

	// Set before done is closed, guarded by Desk.mu.
	cert *x509.Certificate
	err  error
}

// userAlphabet has no vowels, so that no words come out, and nothing that is easily
// misread (RFC 8628 section 6.1).
const userAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// newUserCode returns eight letters as XXXX-XXXX, 34 bits.
func newUserCode() string {
	var b strings.Builder
	var random [1]byte
	for b.Len() < 9 {
		if b.Len() == 4 {
			b.WriteByte('-')
		}
		rand.Read(random[:]) // never fails, see crypto/rand
		if n := int(random[0]); n < 256/len(userAlphabet)*len(userAlphabet) {
			b.WriteByte(userAlphabet[n%len(userAlphabet)])
		}
	}
	return b.String()
}

// NormalUserCode reads a user code as people type it.
func NormalUserCode(s string) string {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune(userAlphabet, r) {
			return r
		}
		return -1
	}, strings.ToUpper(s))
	if len(s) != 8 {
		return ""
	}
	return s[:4] + "-" + s[4:]
}

// Ask takes a wish in. deviceCode is for the machine alone, to Wait with. It ends by
// itself after Lifetime.
func (d *Desk) Ask(w Wish) (p *Pending, deviceCode string, err error) {
	if err := w.normalise(); err != nil {
		return nil, "", err
	}
	deviceCode = rand.Text() + rand.Text() // 260 bits
	now := d.cfg.Now()
	p = &Pending{Wish: w, Since: now, ExpiresAt: now.Add(Lifetime), hash: sha256.Sum256([]byte(deviceCode)), done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, "", errClosed
	case len(d.byDevice) >= d.cfg.MaxPending:
		return nil, "", refuse(CodeTooMany, "too many machines wait to be let in; try again in a few minutes")
	}
	for p.UserCode == "" || d.byUser[p.UserCode] != nil {
		p.UserCode = newUserCode()
	}
	d.byUser[p.UserCode], d.byDevice[p.hash] = p, p
	p.timer = time.AfterFunc(Lifetime, func() { d.expire(p) })
	event := d.event(w, "", w.Hostnames)
	event.Allowed = true // asking is
	event.Reason = "asks to be let in"
	d.cfg.Events.Record(event)
	return p, deviceCode, nil
}

var errClosed = refuse(CodeUnavailable, "the gateway is shutting down; try again in a moment")

func (d *Desk) expire(p *Pending) {
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if d.settle(p, nil, refuse(CodeExpired, "nobody answered in time")) {
		d.record(p, sshgate.Event{Reason: "nobody answered in time"})
	}
}

// Find returns the wish with the user code.
func (d *Desk) Find(userCode string) (*Pending, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.byUser[NormalUserCode(userCode)]; p != nil && p.err == nil && p.cert == nil {
		return p, nil
	}
	return nil, errNotWaiting
}

var errNotWaiting = refuse(CodeUnknown, "no machine waits with this code; it may have been answered, or have waited for too long")

// settle ends a wish, once. The machine can still learn how for a while. The caller
// holds d.deciding.
func (d *Desk) settle(p *Pending, cert *x509.Certificate, err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.cert != nil || p.err != nil {
		return false
	}
	p.cert, p.err = cert, err
	p.timer.Stop()
	delete(d.byUser, p.UserCode)
	close(p.done)
	p.timer = time.AfterFunc(collect, func() { d.forget(p) })
	return true
}

// collect is how long the machine may take to fetch the answer.
const collect = 2 * time.Minute

func (d *Desk) forget(p *Pending) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p.timer.Stop()
	delete(d.byUser, p.UserCode)
	delete(d.byDevice, p.hash)
}

// Wait returns the certificate once a person has said yes, or a *Refused. When ctx
// ends first its error is the context's; the wish waits on. An answer can be
// fetched again for two minutes: what carries it may break.
func (d *Desk) Wait(ctx context.Context, deviceCode string) (*x509.Certificate, error) {
	hash := sha256.Sum256([]byte(deviceCode))
	d.mu.Lock()
	p := d.byDevice[hash]
	if p == nil || d.closed {
		d.mu.Unlock()
		return nil, refuse(CodeUnknown, "this enrolment is unknown, was fetched, or has expired")
	}
	d.waiting.Add(1)
	d.mu.Unlock()
	defer d.waiting.Done()
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return p.cert, p.err
}

// Close gives all wishes up and waits for the calls of Wait.
func (d *Desk) Close() {
	d.mu.Lock()
	d.closed = true
	var all []*Pending
	for _, p := range d.byDevice {
		all = append(all, p)
	}
	d.mu.Unlock()
	d.deciding.Lock() // an answer that is under way counts
	for _, p := range all {
		d.settle(p, nil, errClosed)
		d.forget(p)
	}
	d.deciding.Unlock()
	d.waiting.Wait()
}

// Person is who answers, and where from.
type Person struct {
	Identity sshgate.Identity
	Address  netip.Addr
}

func (d *Desk) ask(who Person) sshgate.PublishRequest {
	return sshgate.PublishRequest{Identity: who.Identity, ClientAddr: who.Address, Time: d.cfg.Now()}
}

// record completes an event about a wish and records it. Its address is the machine's,
// that of who answered goes into the detail.
func (d *Desk) record(p *Pending, more sshgate.Event) {
	event := d.event(p.Wish, "", p.Hostnames)
	event.Allowed, event.Rule, event.Reason = more.Allowed, more.Rule, more.Reason
	if more.Subject != "" {
		event.Reason = event.Identity + ": " + event.Reason
		event.Issuer, event.Subject, event.Identity, event.IdentityKind = more.Issuer, more.Subject, more.Identity, more.IdentityKind
	}
	if more.Detail != "" {
		event.Detail = more.Detail
	}
	if more.ClientAddr.IsValid() {
		event.Detail += ", answered from " + more.ClientAddr.String()
	}
	d.cfg.Events.Record(event)
}
