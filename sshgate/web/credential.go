package web

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/live"
)

// caller is who makes a request.
type caller struct {
	identity sshgate.Identity
	expires  time.Time // of the credential
	addr     netip.Addr
	shown    sshgate.Credential
	since    live.Moment // before it was looked up
}

// client is the caller as the broker takes it.
func (c caller) client() endtoend.Client {
	return endtoend.Client{
		Identity: c.identity, Addr: c.addr, Connection: sshgate.NewConnectionID(), Renew: "run: sshgate access login",
		Credential: c.shown, Until: c.expires, Since: c.since,
	}
}

// credential is what a request shows of its caller: a token alone, or the ID and
// the secret of a service token.
type credential struct{ id, secret string }

// bearerUser is the user name of clients that know only Basic and have an access
// token.
const bearerUser = "bearer"

// readCredential reads an Authorization header, RFC 6750 section 2.1 and RFC 7617.
// It tells whether there is one at all; one that cannot be read is not none.
func readCredential(header string) (c credential, found bool) {
	scheme, value, _ := strings.Cut(header, " ")
	switch {
	case header == "":
		return credential{}, false
	case strings.EqualFold(scheme, "Bearer"):
		return credential{secret: strings.TrimSpace(value)}, true
	case strings.EqualFold(scheme, "Basic"):
		basic := http.Request{Header: http.Header{"Authorization": {header}}}
		id, secret, ok := basic.BasicAuth()
		if ok && id == bearerUser {
			return credential{secret: secret}, true
		}
		return credential{id: id, secret: secret}, true
	}
	return credential{}, true
}

// authenticate returns who makes the request. status is that of a problem with the
// credential.
func (a *API) authenticate(r *http.Request, status int, headers ...string) (caller, *problem) {
	addr := remoteAddr(r)
	var shown credential
	found := false
	for _, name := range headers {
		if shown, found = readCredential(r.Header.Get(name)); found {
			break
		}
	}
	if !found {
		return caller{}, &problem{status: status, code: "token_required", text: "sign in first, with: sshgate access login; or show a service token"}
	}
	since := a.cfg.Broker.Moment()
	id, expires, err := a.check(r.Context(), shown)
	if err != nil {
		p := ofFailure(err)
		if p.status == http.StatusUnauthorized {
			p.status = status
			if !a.wrong.take(addr) {
				// A good credential of the same address is still taken: behind a NAT or a
				// balancer many have one.
				return caller{}, &tooManyWrong
			}
			p.request = sshgate.NewRequestID()
			a.cfg.Events.Record(sshgate.Event{
				Time: a.cfg.Now(), Kind: sshgate.EventCredential, Request: p.request, ClientAddr: addr, Detail: "refused", Reason: err.Error(),
			})
		}
		return caller{}, &p
	}
	return caller{identity: id, expires: expires, addr: addr, shown: authflow.TokenCredential(shown.secret, id), since: since}, nil
}

func (a *API) check(ctx context.Context, c credential) (sshgate.Identity, time.Time, error) {
	if c.id != "" {
		return a.cfg.Tokens.Service(ctx, sshgate.ServiceTokenID(c.id), c.secret)
	}
	return a.cfg.Tokens.Access(ctx, c.secret)
}

var tooManyWrong = problem{
	status: http.StatusTooManyRequests, code: "too_many", text: "too many credentials from this address were refused; wait a minute",
}

// authenticated serves only callers who are known.
func (a *API) authenticated(serve func(http.ResponseWriter, *http.Request, caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, p := a.authenticate(r, http.StatusUnauthorized, "Authorization")
		if p != nil {
			fail(w, *p)
			return
		}
		serve(w, r, who)
	}
}

// remoteAddr is the client's address, the zero Addr where it has none.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
