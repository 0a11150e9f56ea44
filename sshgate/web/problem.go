package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

// problem is an answer of no.
type problem struct {
	status  int
	code    string
	text    string // a sentence for the caller
	request sshgate.RequestID
}

// fail answers with the problem. It closes no connection.
func fail(w http.ResponseWriter, p problem) {
	h := w.Header()
	switch p.status {
	case http.StatusUnauthorized:
		h["Www-Authenticate"] = challenges
	case http.StatusTooManyRequests:
		h.Set("Retry-After", "60") // seconds
	case http.StatusProxyAuthRequired:
		h["Proxy-Authenticate"] = challenges
	}
	if p.request != "" {
		h.Set("Sshgate-Request-Id", string(p.request))
	}
	answer(w, p.status, struct {
		Error       string            `json:"error"`
		Description string            `json:"error_description"`
		Request     sshgate.RequestID `json:"request_id,omitempty"`
	}{p.code, printable(p.text), p.request})
}

var challenges = []string{`Bearer error="invalid_token"`, `Basic realm="sshgate"`}

// answer sends v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only with the client's connection
}

// badRequest is the problem of a request that is malformed.
func badRequest(text string) problem {
	return problem{status: http.StatusBadRequest, code: "bad_request", text: text}
}

// ofDenial turns a refusal into a problem.
func ofDenial(d *sshgate.Denied) problem {
	status, ok := map[sshgate.DenialCode]int{
		sshgate.DenialExpired:     http.StatusUnauthorized,
		sshgate.DenialOffline:     http.StatusBadGateway,
		sshgate.DenialUnreachable: http.StatusBadGateway,
		sshgate.DenialHostKey:     http.StatusBadGateway,
		sshgate.DenialTimeout:     http.StatusGatewayTimeout,
		sshgate.DenialClosing:     http.StatusServiceUnavailable,
		sshgate.DenialLimit:       http.StatusTooManyRequests,
	}[d.Code]
	if !ok {
		status = http.StatusForbidden
	}
	code := string(d.Code)
	if code == "" {
		code = string(sshgate.DenialPolicy)
	}
	return problem{status: status, code: code, text: d.Sentence, request: d.RequestID}
}

// ofFailure turns a credential that is not good, or could not be looked at, into a
// problem.
func ofFailure(err error) problem {
	var failure *authflow.Failure
	if !errors.As(err, &failure) {
		return problem{status: http.StatusServiceUnavailable, code: authflow.CodeUnavailable, text: "the credential cannot be checked right now; try again in a moment"}
	}
	p := problem{status: http.StatusUnauthorized, code: failure.Code, text: failure.Sentence}
	switch failure.Code {
	case authflow.CodeUnavailable, authflow.CodeClosed, authflow.CodeCancelled, authflow.CodeProviderUnreachable:
		p.status = http.StatusServiceUnavailable
	case authflow.CodeTooMany:
		p.status, p.code = http.StatusTooManyRequests, "too_many"
	}
	return p
}

// printable replaces what a terminal would not show as it stands.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
