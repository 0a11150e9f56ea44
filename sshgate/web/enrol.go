package web

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
	"golang.org/x/crypto/ssh"
)

// enrolPath is where people let machines in.
const enrolPath = "/enrol"

// wish is the body of a request to let a connector in.
type wish struct {
	Request   []byte   `json:"request"` // PKCS#10 in DER
	Name      string   `json:"name"`
	Machine   string   `json:"machine"`
	Software  string   `json:"software"`
	Hostnames []string `json:"hostnames"`
}

// readJSON reads the one JSON object that the body must be.
func readJSON(r *http.Request, into any) *problem {
	decoder := json.NewDecoder(r.Body)
	err := decoder.Decode(into)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
	}
	p := badRequest("the body is not the JSON object that is expected")
	return &p
}

func (b wish) parse(addr netip.Addr) (enrolment.Wish, *problem) {
	w := enrolment.Wish{Request: b.Request, Name: b.Name, Machine: b.Machine, Software: b.Software, Address: addr}
	for _, text := range b.Hostnames {
		h, err := sshgate.ParseHostPattern(text)
		if err != nil {
			p := badRequest(err.Error())
			return w, &p
		}
		w.Hostnames = append(w.Hostnames, h)
	}
	return w, nil
}

// enrol takes a machine's wish: with a join token the answer is its certificate,
// without one where a person can say yes (RFC 8628 section 3.2).
func (a *API) enrol(w http.ResponseWriter, r *http.Request) {
	var body wish
	p := readJSON(r, &body)
	var asked enrolment.Wish
	if p == nil {
		asked, p = body.parse(remoteAddr(r))
	}
	if p != nil {
		fail(w, *p)
		return
	}
	if shown, found := readCredential(r.Header.Get("Authorization")); found {
		a.join(w, r, asked, shown)
		return
	}
	if !a.signIns.take(remoteAddr(r)) {
		fail(w, problem{status: http.StatusTooManyRequests, code: "too_many", text: "too many sign-ins were started from this address; wait a minute"})
		return
	}
	pending, code, err := a.cfg.Enrolment.Ask(asked)
	if err != nil {
		fail(w, ofRefusal(err))
		return
	}
	page := a.cfg.URL + enrolPath
	answer(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": pending.UserCode, "verification_uri": page,
		"verification_uri_complete": page + "?code=" + pending.UserCode,
		"expires_in":                int(pending.ExpiresAt.Sub(a.cfg.Now()).Seconds()), "interval": int(pollInterval.Seconds()),
	})
}

func (a *API) join(w http.ResponseWriter, r *http.Request, asked enrolment.Wish, shown credential) {
	addr := remoteAddr(r)
	if !a.wrong.left(addr) {
		fail(w, tooManyWrong)
		return
	}
	hash, err := authflow.ParseJoinToken(shown.secret)
	if err != nil || shown.id != "" {
		hash = nil // which no token has; Join says no and has it on record
	}
	cert, err := a.cfg.Enrolment.Join(r.Context(), hash, asked)
	if err != nil {
		p := ofRefusal(err)
		if p.status == http.StatusUnauthorized {
			a.wrong.take(addr)
		}
		fail(w, p)
		return
	}
	a.enrolled(w, cert)
}

// enrolled answers with a certificate, and with what a connector should know.
func (a *API) enrolled(w http.ResponseWriter, cert *x509.Certificate) {
	answer(w, http.StatusOK, map[string]any{
		"certificate": string(connector.EncodeCertificate(cert)), "connector": cert.Subject.CommonName, "hostnames": cert.DNSNames,
		"expires_at": cert.NotAfter.UTC(), "user_ca": keyLine(a.cfg.CA.PublicKey()),
	})
}

// enrolmentAnswer is a machine's question whether somebody has said yes (RFC 8628
// section 3.4). It is held back for a while.
func (a *API) enrolmentAnswer(w http.ResponseWriter, r *http.Request) {
	var body struct {
		DeviceCode string `json:"device_code"`
	}
	if p := readJSON(r, &body); p != nil {
		fail(w, *p)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), longPoll)
	defer cancel()
	cert, err := a.cfg.Enrolment.Wait(ctx, body.DeviceCode)
	switch {
	case err != nil && ctx.Err() != nil:
		fail(w, oauthProblem("authorization_pending", "nobody has answered yet"))
	case err != nil:
		fail(w, ofRefusal(err))
	default:
		a.enrolled(w, cert)
	}
}

// ofRefusal turns the desk's no into a problem.
func ofRefusal(err error) problem {
	var refused *enrolment.Refused
	if !errors.As(err, &refused) {
		return problem{status: http.StatusServiceUnavailable, code: "unavailable", text: "the gateway cannot answer right now; try again in a moment"}
	}
	status, ok := map[string]int{
		enrolment.CodeBadToken:    http.StatusUnauthorized,
		enrolment.CodeRevoked:     http.StatusForbidden,
		enrolment.CodeEnded:       http.StatusForbidden,
		enrolment.CodeNameTaken:   http.StatusConflict,
		enrolment.CodeOwned:       http.StatusConflict,
		enrolment.CodeTooMany:     http.StatusTooManyRequests,
		enrolment.CodeUnavailable: http.StatusServiceUnavailable,
	}[refused.Code]
	if !ok {
		status = http.StatusBadRequest
	}
	return problem{status: status, code: refused.Code, text: refused.Sentence}
}

// certified serves only connectors, who show their certificate in the TLS
// handshake.
func (a *API) certified(serve func(http.ResponseWriter, *http.Request, *x509.Certificate)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			fail(w, problem{status: http.StatusUnauthorized, code: "certificate_required", text: "show a connector's certificate in the TLS handshake"})
			return
		}
		leaf := r.TLS.VerifiedChains[0][0]
		if !a.cfg.Now().Before(leaf.NotAfter) { // the connection is older
			fail(w, ofRefusal(enrolment.ErrEnded))
			return
		}
		addr, _ := netip.ParseAddrPort(r.RemoteAddr) // for the record only
		err := a.cfg.CheckConnector(r.Context(), connector.Certificate{
			Connector: leaf.Subject.CommonName, Serial: leaf.SerialNumber.Text(16), Remote: addr,
		})
		var refusal *connector.Refusal
		switch {
		case errors.As(err, &refusal):
			fail(w, problem{status: http.StatusForbidden, code: enrolment.CodeRevoked, text: refusal.Reason})
		case err != nil:
			a.cfg.Log.Error("a connector's certificate could not be checked", "err", err)
			fail(w, ofRefusal(err))
		default:
			serve(w, r, leaf)
		}
	}
}

// renew replaces a connector's certificate.
func (a *API) renew(w http.ResponseWriter, r *http.Request, leaf *x509.Certificate) {
	var body wish
	if p := readJSON(r, &body); p != nil {
		fail(w, *p)
		return
	}
	cert, err := a.cfg.Enrolment.Renew(r.Context(), leaf, enrolment.Wish{Request: body.Request, Address: remoteAddr(r)})
	if err != nil {
		fail(w, ofRefusal(err))
		return
	}
	a.enrolled(w, cert)
}

// probeLogins are accounts that most machines have.
var probeLogins = []sshgate.Login{"root", "nobody"}

// aboutConnector is what a connector may know of itself. The certificate in it is
// for the question whether an origin's sshd trusts the user CA, which RFC 4252
// section 7 lets it ask without a signature: nobody has the key.
func (a *API) aboutConnector(w http.ResponseWriter, r *http.Request, leaf *x509.Certificate) {
	logins := probeLogins
	if text := r.URL.Query().Get("login"); text != "" {
		login, err := sshgate.ParseLogin(text)
		if err != nil {
			fail(w, badRequest(err.Error()))
			return
		}
		logins = append([]sshgate.Login{login}, logins...)
	}
	probe, err := a.probe(leaf, logins)
	if err != nil {
		a.cfg.Log.Error("a certificate to ask an origin with could not be signed", "err", err)
		fail(w, problem{status: http.StatusServiceUnavailable, code: "unavailable", text: "the gateway cannot sign right now; try again in a moment"})
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"connector": printable(leaf.Subject.CommonName), "hostnames": leaf.DNSNames, "serial": leaf.SerialNumber.Text(16), "expires_at": leaf.NotAfter.UTC(),
		"user_ca": keyLine(a.cfg.CA.PublicKey()), "probe_certificate": probe, "version": a.cfg.Version, "time": a.cfg.Now().UTC().Format(time.RFC3339),
	})
}

func (a *API) probe(leaf *x509.Certificate, logins []sshgate.Login) (string, error) {
	public, _, err := ed25519.GenerateKey(rand.Reader) // the private half is gone at once
	if err != nil {
		return "", err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	cert, err := a.cfg.CA.Certify(key, logins, "probe of connector "+printable(leaf.Subject.CommonName), a.cfg.Now(), certificateTTL)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))), nil
}
