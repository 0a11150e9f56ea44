package web

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"golang.org/x/crypto/ssh"
)

// certificateTTL is how long a certificate for end-to-end SSH is good for.
const certificateTTL = 10 * time.Minute

// certificateRequest is the body of a request for a certificate.
type certificateRequest struct {
	PublicKey string `json:"public_key"`
	Hostname  string `json:"hostname"`
	Login     string `json:"login"`

	key ssh.PublicKey
}

// certificate signs the caller's own key for the logins that the policy permits.
func (a *API) certificate(w http.ResponseWriter, r *http.Request, who caller) {
	ask, p := readCertificateRequest(r)
	if p != nil {
		fail(w, *p)
		return
	}
	req, err := a.certificateQuestion(who, ask)
	event := sshgate.Event{
		Time: a.cfg.Now(), Kind: sshgate.EventCredential, Request: sshgate.NewRequestID(), ClientAddr: who.addr,
		Key: ssh.FingerprintSHA256(ask.key), Origin: req.Target.Origin, Login: req.Target.Login, Detail: "certificate",
	}.By(who.identity)
	if err != nil {
		event.Reason = err.Error()
		a.cfg.Events.Record(event)
		fail(w, ofDenial(endtoend.NotThere(event.Request, req.Target.Origin, err)))
		return
	}
	decision := a.cfg.Policy().Decide(req)
	logins, _ := a.cfg.Policy().Logins(req)
	event.Application, event.Rule, event.Reason = decision.Application, decision.Rule, decision.Reason
	event.Allowed = decision.Allowed && len(logins) > 0
	a.cfg.Events.Record(event)
	switch reason := errors.New(decision.Reason); {
	case decision.Expired:
		fail(w, ofDenial(endtoend.Expired(event.Request, who.client().Renew, reason)))
	case !decision.Allowed && decision.Purpose:
		fail(w, ofDenial(endtoend.NeedsPurpose(event.Request, req.Target.Origin, reason)))
	case !event.Allowed:
		fail(w, ofDenial(endtoend.NotThere(event.Request, req.Target.Origin, reason)))
	default:
		a.certify(w, who, ask.key, logins, event.Request, who.identity.SignedInAt.Add(decision.SessionDuration))
	}
}

// certificateQuestion is what to ask the policy.
func (a *API) certificateQuestion(who caller, ask certificateRequest) (sshgate.Request, error) {
	endpoint, err := sshgate.ParseEndpoint(ask.Hostname)
	req := a.request(who, endpoint.Origin, sshgate.ChannelEndToEnd, 0)
	switch {
	case err != nil:
		return req, err
	case endpoint.Port != sshgate.SSHPort:
		return req, errors.New("certificates are for SSH alone")
	case ask.Login != "":
		req.Target.Login, err = sshgate.ParseLogin(ask.Login)
	}
	return req, err
}

// certify answers with a certificate, which ends with the sign-in at the latest.
func (a *API) certify(w http.ResponseWriter, who caller, key ssh.PublicKey, logins []sshgate.Login, id sshgate.RequestID, until time.Time) {
	now := a.cfg.Now()
	ttl := min(certificateTTL, until.Sub(now), who.expires.Sub(now))
	// As in sessions the identity comes last.
	cert, err := a.cfg.CA.Certify(key, logins, fmt.Sprintf("request=%s identity=%s", id, printable(who.identity.String())), now, ttl)
	if err != nil {
		a.cfg.Log.Error("a certificate could not be signed", "request", id, "err", err)
		fail(w, problem{status: http.StatusServiceUnavailable, code: "unavailable", text: "the certificate could not be signed", request: id})
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"certificate": keyLine(cert), "logins": logins,
		"valid_after":  time.Unix(int64(cert.ValidAfter), 0).UTC().Format(time.RFC3339),
		"valid_before": time.Unix(int64(cert.ValidBefore), 0).UTC().Format(time.RFC3339),
	})
}

// certifiable are the kinds of keys that certificates are signed for.
var certifiable = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
}

func readCertificateRequest(r *http.Request) (ask certificateRequest, _ *problem) {
	bad := func(text string) (certificateRequest, *problem) {
		p := badRequest(text)
		return ask, &p
	}
	if p := readJSON(r, &ask); p != nil {
		return ask, p
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(ask.PublicKey))
	switch {
	case err != nil || len(options) > 0 || len(rest) > 0:
		return bad("public_key is not one line in authorized_keys form, as in ssh-ed25519 AAAA...")
	case !slices.Contains(certifiable, key.Type()):
		return bad("public_key is a " + printable(key.Type()) + "; use ssh-ed25519, ecdsa-sha2-nistp256 or their sk- forms")
	}
	ask.key = key
	return ask, nil
}
