package web

import (
	"context"
	"errors"
	"net/netip"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

// AddressLimits bounds what an address takes of the API. *limits.Limits is one.
type AddressLimits interface {
	// Pending counts a sign-in in that waits for somebody; leave counts it out.
	Pending(addr netip.Addr, key string) (leave func(), denied *sshgate.Denied)
	// SignIn counts the start of a sign-in that takes no place of its own.
	SignIn(addr netip.Addr) *sshgate.Denied
	// Failure notes something that came to nothing, and Failed refuses those with
	// too many of them.
	Failure(addr netip.Addr, weight int)
	Failed(addr netip.Addr) *sshgate.Denied
	// Refuse puts on record what the server itself refused.
	Refuse(limit sshgate.Limit, id sshgate.Identity, addr netip.Addr, sentence string) *sshgate.Denied
}

// wrongCode is what a wrong code of a machine weighs: it is short enough to guess.
const wrongCode = 5

// ConnLimits bounds the connections of an address. *limits.Limits is one.
type ConnLimits interface {
	// TLS counts a connection in that is no tunnel; leave counts it out and may be
	// called again.
	TLS(addr netip.Addr) (leave func(), denied *sshgate.Denied)
	Refuse(limit sshgate.Limit, id sshgate.Identity, addr netip.Addr, sentence string) *sshgate.Denied
}

// signIn is a ticket that counts among those of its address.
type signIn struct {
	*authflow.Ticket
	leave  func()
	failed func() // notes that it came to nothing
}

// Leave gives the ticket back.
func (s *signIn) Leave() {
	s.Ticket.Leave()
	s.leave()
}

// startSignIn starts one for the address, as far as the limits allow.
func (a *API) startSignIn(ctx context.Context, asker authflow.Asker) (*signIn, *problem) {
	addr := asker.Address
	leave, denied := a.cfg.Limits.Pending(addr, "")
	if denied != nil {
		p := ofDenial(denied)
		return nil, &p
	}
	ticket, err := a.cfg.SignIns.Join(ctx, "", asker)
	if err == nil {
		return &signIn{Ticket: ticket, leave: leave, failed: func() { a.cfg.Limits.Failure(addr, 1) }}, nil
	}
	leave()
	if failure, ok := errors.AsType[*authflow.Failure](err); ok && failure.Code == authflow.CodeTooMany {
		_ = a.cfg.Limits.Refuse(sshgate.LimitPending, sshgate.Identity{}, addr, failure.Sentence)
	}
	p := ofSignIn(err)
	return nil, &p
}
