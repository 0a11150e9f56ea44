package authflow

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	pollTimeout  = 10 * time.Second
	slowDownStep = 5 * time.Second // RFC 8628 section 3.5
)

// Wait polls the provider until it has an answer, and checks the ID token. Call
// it once. An error is a *Failure; it is CodeCancelled, with the context's
// cause, when ctx ends first.
//
// It keeps to RFC 8628 section 3.5: it never asks more often than the provider
// wants, slows down when told to, backs off exponentially while there is no
// answer, and does not ask after ExpiresAt.
func (l *DeviceLogin) Wait(ctx context.Context) (sshgate.Identity, error) {
	pace := pace{interval: l.interval}
	var trouble *Failure // why the last poll got no answer, if it got none
	for {
		if err := l.sleep(ctx, pace.next()); err != nil {
			return sshgate.Identity{}, err
		}
		if !l.oidc.cfg.Now().Before(l.ExpiresAt) {
			if trouble != nil {
				return sshgate.Identity{}, trouble
			}
			return sshgate.Identity{}, fail(CodeExpired, nil)
		}
		got, err := l.ask(ctx)
		if ctx.Err() != nil {
			return sshgate.Identity{}, cancelled(ctx)
		}
		if err != nil {
			trouble = fail(CodeProviderUnreachable, fmt.Errorf("poll for the token: %w", err))
			pace.backOff()
			continue
		}
		trouble = nil
		switch outcome := judge(got); outcome.kind {
		case pollDone:
			return l.oidc.identify(ctx, l.endpoints, got.body, expected{})
		case pollFailed:
			return sshgate.Identity{}, outcome.failure
		case pollRetry:
			trouble = outcome.failure
			pace.backOff()
		case pollSlower:
			pace.slowDown()
		case pollPending:
			pace.steady()
		}
	}
}

// sleep waits for d, or until the login expires, or ctx ends.
func (l *DeviceLogin) sleep(ctx context.Context, d time.Duration) error {
	d = min(d, l.ExpiresAt.Sub(l.oidc.cfg.Now()))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return cancelled(ctx)
	}
}

// ask polls once.
func (l *DeviceLogin) ask(ctx context.Context) (*answer, error) {
	ctx, stop := context.WithTimeout(ctx, pollTimeout)
	defer stop()
	return l.oidc.post(ctx, l.endpoints.token, l.endpoints.auth, url.Values{
		"grant_type":  {deviceGrant},
		"device_code": {l.deviceCode},
	})
}

// pace is the time between two polls.
type pace struct {
	interval time.Duration // what the provider wants; only ever grows
	backoff  time.Duration // what its silence calls for; zero while it answers
}

func (p *pace) next() time.Duration { return max(p.interval, p.backoff) }
func (p *pace) steady()             { p.backoff = 0 }
func (p *pace) slowDown()           { p.interval, p.backoff = p.interval+slowDownStep, 0 }
func (p *pace) backOff()            { p.backoff = min(2*p.next(), max(maxInterval, p.interval)) }

// pollKind is what to do after a poll.
type pollKind int

const (
	pollPending pollKind = iota // ask again
	pollSlower                  // ask again, less often from now on
	pollRetry                   // the provider is in trouble: back off, then ask again
	pollDone                    // there is a token
	pollFailed                  // it is over
)

type outcome struct {
	kind    pollKind
	failure *Failure // of pollRetry and pollFailed
}

// judge reads an answer of the token endpoint (RFC 6749 sections 5.1 and 5.2,
// RFC 8628 section 3.5). The error code counts whatever the status: it comes
// with 400 as a rule, with 200 or 428 from some.
func judge(got *answer) outcome {
	switch oauthError(got.body).Code {
	case "authorization_pending":
		return outcome{kind: pollPending}
	case "slow_down":
		return outcome{kind: pollSlower}
	case "access_denied", "authorization_declined": // the second is Microsoft Entra's word
		return outcome{pollFailed, fail(CodeAccessDenied, nil)}
	case "expired_token":
		return outcome{pollFailed, fail(CodeExpired, nil)}
	case "":
		if got.status == http.StatusOK {
			return outcome{kind: pollDone}
		}
	}
	failure := refusal(got, "poll for the token")
	switch {
	case got.status == http.StatusTooManyRequests:
		return outcome{kind: pollSlower}
	case failure.Code == CodeProviderUnreachable:
		return outcome{pollRetry, failure}
	}
	return outcome{pollFailed, failure}
}

// tokenError is the error answer of RFC 6749 section 5.2.
type tokenError struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// oauthError reads an error answer; it is zero where the body is none.
func oauthError(body []byte) tokenError {
	var e tokenError
	if json.Unmarshal(body, &e) != nil {
		return tokenError{}
	}
	return e
}

// refusal is the failure that an answer other than success stands for.
func refusal(got *answer, doing string) *Failure {
	said := oauthError(got.body)
	err := fmt.Errorf("%s: the provider answered %d", doing, got.status)
	if said.Code != "" {
		err = fmt.Errorf("%w: %s: %s", err, printable(said.Code, maxQuote), printable(said.Description, maxQuote))
	}
	switch {
	case said.Code == "access_denied":
		return fail(CodeAccessDenied, err)
	case got.status >= 500, said.Code == "server_error", said.Code == "temporarily_unavailable", got.status == http.StatusTooManyRequests:
		return fail(CodeProviderUnreachable, err)
	case said.Code == "" && got.status < 400:
		return fail(CodeInvalidResponse, err)
	}
	return fail(CodeProviderRefused, err)
}
