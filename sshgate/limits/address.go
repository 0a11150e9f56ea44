package limits

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// barred is how many times its failures an address may owe before even its
// connections are refused.
const barred = 4

// Startup counts an SSH connection in that has not signed in; leave counts it out
// and may be called again. A refused one should be closed at once.
func (l *Limits) Startup(addr netip.Addr) (leave func(), denied *sshgate.Denied) {
	network, limited := l.cfg.Networks.of(addr)
	if limited && l.failures.owes(network, l.cfg.Now()) >= float64(barred*l.cfg.Failures.Count) {
		return nil, l.refuseAddress(sshgate.LimitFailures, addr, "too many failed attempts from this address; wait a few minutes")
	}
	switch limit := l.startups.take(network, limited); limit {
	case "":
		return sync.OnceFunc(func() { l.startups.give(network, limited) }), nil
	case sshgate.LimitAddressStartups:
		return nil, l.refuseAddress(limit, addr, "too many connections from this address wait for a sign-in")
	default:
		return nil, l.refuseAddress(limit, addr, "too many connections wait for a sign-in; try again in a moment")
	}
}

// TLS counts a connection to the TLS port in that is no tunnel, as Startup does.
func (l *Limits) TLS(addr netip.Addr) (leave func(), denied *sshgate.Denied) {
	network, limited := l.cfg.Networks.of(addr)
	if limited && !l.tls.take(network) {
		return nil, l.refuseAddress(sshgate.LimitAddressTLS, addr, "too many connections from this address")
	}
	return sync.OnceFunc(func() {
		if limited {
			l.tls.give(network)
		}
	}), nil
}

// Failure counts something that came to nothing, weighted against a refused
// credential, which weighs 1.
func (l *Limits) Failure(addr netip.Addr, weight int) {
	if network, limited := l.cfg.Networks.of(addr); limited {
		most := barred*l.cfg.Failures.Count + l.cfg.Failures.Count // so that it ends soon after the failures do
		l.failures.charge(network, l.cfg.Now(), weight, most)
	}
}

// Failed refuses an address that has used up its failures. Ask it before what
// can fail is looked at; something good that is known already need not ask.
func (l *Limits) Failed(addr netip.Addr) *sshgate.Denied {
	network, limited := l.cfg.Networks.of(addr)
	if !limited {
		return nil
	}
	over := l.failures.owes(network, l.cfg.Now()) - float64(l.cfg.Failures.Count-1)
	if over <= 0 {
		return nil
	}
	wait := time.Duration(over * float64(l.cfg.Failures.Each()))
	return l.refuseAddress(sshgate.LimitFailures, addr, "too many failed attempts from this address; "+waitFor(wait))
}

// SignIn counts the start of a sign-in, unless the address has failed too often.
func (l *Limits) SignIn(addr netip.Addr) *sshgate.Denied {
	if denied := l.Failed(addr); denied != nil {
		return denied
	}
	network, limited := l.cfg.Networks.of(addr)
	if limited && !l.signIns.take(network, l.cfg.Now()) {
		return l.refuseAddress(sshgate.LimitSignIns, addr, "too many sign-ins were started from this address; "+waitFor(l.cfg.SignIns.Each()))
	}
	return nil
}

// Pending counts a sign-in in that waits for somebody; leave counts it out and
// may be called again. Those who share a sign-in name the same key and count as
// one; the empty key shares with nobody.
func (l *Limits) Pending(addr netip.Addr, key string) (leave func(), denied *sshgate.Denied) {
	network, limited := l.cfg.Networks.of(addr)
	if !limited {
		return func() {}, nil
	}
	if l.pending.join(network, key) {
		return sync.OnceFunc(func() { l.pending.leave(network, key) }), nil
	}
	if denied := l.SignIn(addr); denied != nil {
		return nil, denied
	}
	if !l.pending.start(network, key) {
		return nil, l.refuseAddress(sshgate.LimitAddressPending, addr,
			fmt.Sprintf("too many sign-ins from this address wait for their browser (%d at most); complete or end one, or try again in a few minutes", l.cfg.PendingPerAddress))
	}
	return sync.OnceFunc(func() { l.pending.leave(network, key) }), nil
}

// waitFor says for how long, in whole minutes: that is all that is of use.
func waitFor(d time.Duration) string {
	if d <= time.Minute {
		return "wait a minute"
	}
	return fmt.Sprintf("wait %d minutes", (d+time.Minute-1)/time.Minute)
}
