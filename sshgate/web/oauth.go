package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

const (
	clientID       = "sshgate"
	grantDevice    = "urn:ietf:params:oauth:grant-type:device_code"    // RFC 8628 section 3.4
	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693 section 2.1
	typeJWT        = "urn:ietf:params:oauth:token-type:jwt"            // RFC 8693 section 3
	typeIDToken    = "urn:ietf:params:oauth:token-type:id_token"
	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	workloadAccess = 15 * time.Minute // how long a workload's access token is good for
)

// metadata is RFC 8414.
func (a *API) metadata(w http.ResponseWriter, _ *http.Request) {
	grants := []string{grantDevice}
	if a.cfg.Workloads() != nil {
		grants = append(grants, grantExchange)
	}
	answer(w, http.StatusOK, map[string]any{
		"issuer":                                a.cfg.URL,
		"device_authorization_endpoint":         a.cfg.URL + "/oauth/device_authorization",
		"token_endpoint":                        a.cfg.URL + "/oauth/token",
		"revocation_endpoint":                   a.cfg.URL + "/oauth/revoke",
		"grant_types_supported":                 grants,
		"response_types_supported":              []string{},
		"token_endpoint_auth_methods_supported": []string{"none"},
	})
}

// oauthProblem is an error of RFC 6749 section 5.2.
func oauthProblem(code, text string) problem {
	return problem{status: http.StatusBadRequest, code: code, text: text}
}

// form reads the body. Parameters in the address are not taken: they would end up
// in logs.
func form(r *http.Request) (url.Values, *problem) {
	if err := r.ParseForm(); err != nil {
		p := oauthProblem("invalid_request", "the form cannot be read")
		return nil, &p
	}
	if id := r.PostForm.Get("client_id"); id != "" && id != clientID {
		p := oauthProblem("invalid_client", "the client_id is "+clientID)
		return nil, &p
	}
	return r.PostForm, nil
}

// deviceAuthorization starts a sign-in, RFC 8628 section 3.1.
func (a *API) deviceAuthorization(w http.ResponseWriter, r *http.Request) {
	values, p := form(r)
	if p != nil {
		fail(w, *p)
		return
	}
	if !a.signIns.take(remoteAddr(r)) {
		fail(w, problem{status: http.StatusTooManyRequests, code: "too_many", text: "too many sign-ins were started from this address; wait a minute"})
		return
	}
	ticket, err := a.cfg.SignIns.Join(r.Context(), "")
	if err != nil {
		fail(w, ofSignIn(err))
		return
	}
	d := &device{ticket: ticket, addr: remoteAddr(r), connection: sshgate.NewConnectionID(), since: a.cfg.Now()}
	code, err := a.devices.add(d)
	if err != nil {
		ticket.Leave()
		fail(w, ofSignIn(err))
		return
	}
	event := d.event(a.cfg.Now(), sshgate.EventLoginStart)
	if endpoint, err := sshgate.ParseEndpoint(values.Get("hostname")); err == nil {
		event.Origin = endpoint.Origin
	}
	a.cfg.Events.Record(event)
	prompt := ticket.Prompt()
	body := map[string]any{
		"device_code":      code,
		"user_code":        prompt.UserCode,
		"verification_uri": prompt.VerificationURI,
		"expires_in":       int(prompt.ExpiresAt.Sub(a.cfg.Now()).Seconds()),
		"interval":         int(pollInterval.Seconds()),
	}
	if prompt.VerificationURIComplete != "" {
		body["verification_uri_complete"] = prompt.VerificationURIComplete
	}
	answer(w, http.StatusOK, body)
}

// token answers the two grants.
func (a *API) token(w http.ResponseWriter, r *http.Request) {
	values, p := form(r)
	if p != nil {
		fail(w, *p)
		return
	}
	switch grant := values.Get("grant_type"); grant {
	case grantDevice:
		a.deviceToken(w, r, values.Get("device_code"))
	case grantExchange:
		a.exchange(w, r, values)
	case "":
		fail(w, oauthProblem("invalid_request", "grant_type is missing"))
	default:
		fail(w, oauthProblem("unsupported_grant_type", "this grant_type is not supported"))
	}
}

// deviceToken is a poll of RFC 8628 section 3.4.
func (a *API) deviceToken(w http.ResponseWriter, r *http.Request, code string) {
	d, err := a.devices.poll(r.Context(), code)
	switch {
	case errors.Is(err, errPending):
		fail(w, oauthProblem("authorization_pending", "nobody has completed the sign-in yet"))
		return
	case errors.Is(err, errTooFast):
		fail(w, oauthProblem("slow_down", "the sign-in is asked about too often"))
		return
	case err != nil:
		fail(w, oauthProblem("invalid_grant", "this device code is unknown, was used, or has expired"))
		return
	}
	identity, err := d.ticket.Result()
	if err != nil {
		event := d.event(a.cfg.Now(), sshgate.EventLoginFailure)
		event.Reason = err.Error()
		a.cfg.Events.Record(event)
		fail(w, ofSignIn(err))
		return
	}
	a.cfg.Events.Record(d.event(a.cfg.Now(), sshgate.EventLoginSuccess).By(identity))
	a.issue(w, r, identity, identity.SignedInAt.Add(a.cfg.Policy().LongestSession()), nil)
}

// exchange is RFC 8693: a job's ID token for an access token.
func (a *API) exchange(w http.ResponseWriter, r *http.Request, values url.Values) {
	kind, idToken := values.Get("subject_token_type"), values.Get("subject_token")
	workloads := a.cfg.Workloads()
	switch {
	case workloads == nil:
		fail(w, oauthProblem("unsupported_grant_type", "this gateway has no workloads"))
		return
	case kind != typeJWT && kind != typeIDToken:
		fail(w, oauthProblem("invalid_request", "subject_token_type is "+typeJWT))
		return
	case idToken == "":
		fail(w, oauthProblem("invalid_request", "subject_token is missing"))
		return
	}
	addr := remoteAddr(r)
	if !a.wrong.left(addr) { // before the work of checking it
		fail(w, tooManyWrong)
		return
	}
	event := sshgate.Event{Time: a.cfg.Now(), Kind: sshgate.EventCredential, Request: sshgate.NewRequestID(), ClientAddr: addr, Detail: "ID token"}
	identity, err := workloads.Exchange(r.Context(), idToken)
	if err != nil {
		p := ofSignIn(err)
		if p.status == http.StatusBadRequest {
			p.code = "invalid_grant"
			a.wrong.take(addr)
		}
		event.Reason, p.request = err.Error(), event.Request
		a.cfg.Events.Record(event)
		fail(w, p)
		return
	}
	event.Allowed = true
	a.cfg.Events.Record(event.By(identity))
	a.issue(w, r, identity, a.cfg.Now().Add(workloadAccess), map[string]any{"issued_token_type": typeAccess})
}

// issue answers with an access token.
func (a *API) issue(w http.ResponseWriter, r *http.Request, identity sshgate.Identity, expires time.Time, more map[string]any) {
	token, err := a.cfg.Tokens.Issue(r.Context(), identity, expires)
	if err != nil {
		a.cfg.Log.Error("an access token could not be issued", "identity", identity.String(), "err", err)
		fail(w, problem{status: http.StatusServiceUnavailable, code: authflow.CodeUnavailable, text: "the gateway cannot keep the sign-in right now; try again in a moment"})
		return
	}
	body := map[string]any{
		"access_token": token, "token_type": "Bearer", "identity": printable(identity.String()),
		"expires_in": int(expires.Sub(a.cfg.Now()).Seconds()),
	}
	for name, value := range more {
		body[name] = value
	}
	answer(w, http.StatusOK, body)
}

// revoke is RFC 7009.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) {
	values, p := form(r)
	if p != nil {
		fail(w, *p)
		return
	}
	token := values.Get("token")
	id, _, err := a.cfg.Tokens.Access(r.Context(), token)
	if err == nil {
		err = a.cfg.Tokens.Revoke(r.Context(), token)
		a.cfg.Events.Record(sshgate.Event{
			Time: a.cfg.Now(), Kind: sshgate.EventCredential, ClientAddr: remoteAddr(r), Detail: "access token revoked", Allowed: err == nil,
		}.By(id))
	}
	if p := ofFailure(err); err != nil && p.status == http.StatusServiceUnavailable {
		fail(w, p)
		return
	}
	w.WriteHeader(http.StatusOK) // whether or not there was one, RFC 7009 section 2.2
}

// ofSignIn turns a sign-in that did not happen into a problem.
func ofSignIn(err error) problem {
	p := ofFailure(err)
	if p.status == http.StatusUnauthorized {
		p.status = http.StatusBadRequest
	}
	if strings.HasPrefix(p.text, "the credential") {
		p.text = "the sign-in failed; try again in a moment"
	}
	return p
}
