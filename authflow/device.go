package authflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code" // RFC 8628 section 3.4

	defaultInterval = 5 * time.Second // RFC 8628 section 3.2
	maxInterval     = time.Minute
	defaultLifetime = 5 * time.Minute // where the provider does not say
	maxLifetime     = 30 * time.Minute
	maxUserCode     = 64   // bytes
	maxURI          = 2048 // bytes
)

// Prompt is what to show to the person who is to sign in. Everything in it is
// printable ASCII.
type Prompt struct {
	// UserCode is the code to type in, or to compare, at VerificationURI.
	UserCode string
	// VerificationURI is an http or https URL.
	VerificationURI string
	// VerificationURIComplete has the code in it. Empty where the provider has
	// no such thing.
	VerificationURIComplete string
	// ExpiresAt is when the sign-in ends unless it was completed.
	ExpiresAt time.Time
	// Asks says that the page will show a number to type in where the prompt is
	// shown; see Ticket.Asked.
	Asks bool
}

// DeviceLogin is a device login in progress (RFC 8628). Show what it says, then
// Wait.
type DeviceLogin struct {
	UserCode                string
	VerificationURI         string
	VerificationURIComplete string // may be empty
	ExpiresAt               time.Time

	oidc       *OIDC
	endpoints  *endpoints
	deviceCode string // a secret: whoever has it gets the token
	interval   time.Duration
}

// Prompt returns what to show.
func (l *DeviceLogin) Prompt() Prompt {
	return Prompt{
		UserCode:                l.UserCode,
		VerificationURI:         l.VerificationURI,
		VerificationURIComplete: l.VerificationURIComplete,
		ExpiresAt:               l.ExpiresAt,
	}
}

// StartDevice asks the provider for a device login (RFC 8628 section 3.1). An
// error is a *Failure.
//
// No nonce is sent: the flow has none, and the device code, which never leaves
// the gateway, already ties the token to this login.
func (o *OIDC) StartDevice(ctx context.Context) (*DeviceLogin, error) {
	at, err := o.discovery.get(ctx)
	if err != nil {
		return nil, err
	}
	if at.deviceAuth == "" {
		return nil, fail(CodeNotConfigured, errors.New("the provider's metadata has no device_authorization_endpoint"))
	}
	asked := o.cfg.Now()
	got, err := o.post(ctx, at.deviceAuth, at.auth, url.Values{"scope": {strings.Join(o.cfg.Scopes, " ")}})
	if ctx.Err() != nil {
		return nil, cancelled(ctx)
	}
	if err != nil {
		return nil, fail(CodeProviderUnreachable, fmt.Errorf("start a device login: %w", err))
	}
	if got.status != http.StatusOK {
		return nil, refusal(got, "start a device login")
	}
	login, err := parseDeviceAuth(got.body, asked)
	if err != nil {
		return nil, fail(CodeInvalidResponse, fmt.Errorf("start a device login: %w", err))
	}
	login.oidc, login.endpoints = o, at
	return login, nil
}

// deviceAuth is the answer of RFC 8628 section 3.2. The numbers are json.Number
// because some providers send them as strings.
type deviceAuth struct {
	DeviceCode              string      `json:"device_code"`
	UserCode                string      `json:"user_code"`
	VerificationURI         string      `json:"verification_uri"`
	VerificationURL         string      `json:"verification_url"` // what drafts, and Google, call it
	VerificationURIComplete string      `json:"verification_uri_complete"`
	ExpiresIn               json.Number `json:"expires_in"`
	Interval                json.Number `json:"interval"`
}

// parseDeviceAuth reads the answer to a request made at asked. It lets nothing
// through that could do harm in a terminal.
func parseDeviceAuth(body []byte, asked time.Time) (*DeviceLogin, error) {
	var got deviceAuth
	if err := json.Unmarshal(body, &got); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if got.VerificationURI == "" {
		got.VerificationURI = got.VerificationURL
	}
	login := &DeviceLogin{
		UserCode:        printable(got.UserCode, maxUserCode),
		VerificationURI: got.VerificationURI,
		deviceCode:      got.DeviceCode,
		ExpiresAt:       asked.Add(seconds(got.ExpiresIn, defaultLifetime, maxLifetime)),
		interval:        seconds(got.Interval, defaultInterval, maxInterval),
	}
	switch {
	case login.deviceCode == "":
		return nil, errors.New("the answer has no device_code")
	case login.UserCode == "":
		return nil, errors.New("the answer has no usable user_code")
	case !showable(login.VerificationURI):
		return nil, errors.New("verification_uri is not an http(s) URL")
	}
	if showable(got.VerificationURIComplete) { // optional, and no better than none if it is broken
		login.VerificationURIComplete = got.VerificationURIComplete
	}
	return login, nil
}

// seconds reads a positive number of seconds, with a default and an upper bound.
func seconds(n json.Number, otherwise, most time.Duration) time.Duration {
	value, err := n.Float64()
	if err != nil || !(value > 0) {
		return otherwise
	}
	if value >= most.Seconds() {
		return most
	}
	return time.Duration(value * float64(time.Second))
}

// showable tells whether a URL may be shown to a person to open: printable
// ASCII, http or https, and no user name, which serves only to disguise a host.
func showable(uri string) bool {
	if len(uri) > maxURI || !allPrintable(uri) || strings.Contains(uri, " ") {
		return false
	}
	u, err := url.Parse(uri)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
}
