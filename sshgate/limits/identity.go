package limits

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/sshgate/sshgate/sshgate"
)

// Connection counts a connection of the identity in; leave counts it out and may
// be called again.
func (l *Limits) Connection(id sshgate.Identity, addr netip.Addr) (leave func(), denied *sshgate.Denied) {
	key := id.Key()
	if !l.connections.take(key) {
		return nil, l.Refuse(sshgate.LimitIdentityConns, id, addr,
			fmt.Sprintf("too many connections are open in your name (%d at most); close some", l.cfg.ConnectionsPerIdentity))
	}
	return sync.OnceFunc(func() { l.connections.give(key) }), nil
}

// Channel counts a channel of the identity in, which is a session where it is
// asked to run something or is an SSH connection to an origin.
func (l *Limits) Channel(id sshgate.Identity, addr netip.Addr, session bool) (leave func(), denied *sshgate.Denied) {
	key := id.Key()
	if !l.channels.take(key) {
		return nil, l.Refuse(sshgate.LimitIdentityChannels, id, addr,
			fmt.Sprintf("too many channels are open in your name (%d at most); close some", l.cfg.ChannelsPerIdentity))
	}
	if session && !l.sessions.take(key) {
		l.channels.give(key)
		return nil, l.Refuse(sshgate.LimitIdentitySessions, id, addr,
			fmt.Sprintf("too many sessions are open in your name (%d at most); close some", l.cfg.SessionsPerIdentity))
	}
	return sync.OnceFunc(func() {
		l.channels.give(key)
		if session {
			l.sessions.give(key)
		}
	}), nil
}

// SignedIn counts a completed sign-in of the identity.
func (l *Limits) SignedIn(id sshgate.Identity) *sshgate.Denied {
	if !l.personal.take(id.Key(), l.cfg.Now()) {
		return l.Refuse(sshgate.LimitIdentitySignIns, id, netip.Addr{}, "you have signed in too often; "+waitFor(l.cfg.IdentitySignIns.Each()))
	}
	return nil
}
