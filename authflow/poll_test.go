package authflow

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// waitAt runs a login against the fake under a fake clock and returns its error
// and when, in whole seconds after the start, the provider was polled.
func waitAt(t *testing.T, f *fake) (polls []int, took time.Duration, err error) {
	t.Helper()
	login := f.login()
	start := time.Now()
	_, err = login.Wait(t.Context())
	for _, r := range f.to("/token") {
		polls = append(polls, int(r.at.Sub(start)/time.Second))
	}
	return polls, time.Since(start), err
}

// script answers polls one after the other, and with a good token from then on.
func (f *fake) script(replies ...reply) {
	f.token = func(n int) reply {
		if n < len(replies) {
			return replies[n]
		}
		return f.good()
	}
}

var (
	pending  = refuse(http.StatusBadRequest, "authorization_pending")
	slowDown = refuse(http.StatusBadRequest, "slow_down")
)

func TestWaitPace(t *testing.T) {
	tests := []struct {
		name    string
		replies []reply
		polls   []int
	}{
		{"pending", []reply{pending, pending}, []int{5, 10, 15}},
		{"slow_down adds 5 s for good", []reply{pending, slowDown, pending, slowDown, pending}, []int{5, 10, 20, 30, 45, 60}},
		{"429 slows down", []reply{{status: http.StatusTooManyRequests}, pending}, []int{5, 15, 25}},
		{"5xx backs off, then recovers", []reply{{status: 500}, {status: 503, body: "<html>"}, pending, pending}, []int{5, 15, 35, 40, 45}},
		{"5xx after slow_down", []reply{slowDown, {status: 502}, pending}, []int{5, 15, 35, 45}},
		{"no connection backs off", []reply{{err: errRefused}, {err: errRefused}, {err: errRefused}}, []int{5, 15, 35, 75}},
		// A time-out takes 10 s itself.
		{"time-out backs off", []reply{{hang: true}, {hang: true}, pending}, []int{5, 25, 55, 60}},
		{"server_error with 400", []reply{refuse(400, "server_error")}, []int{5, 15}},
		{"pending with 428", []reply{refuse(428, "authorization_pending")}, []int{5, 10}},
		{"pending with 200", []reply{refuse(200, "authorization_pending")}, []int{5, 10}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.script(test.replies...)
				polls, _, err := waitAt(t, f)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(polls, test.polls) {
					t.Errorf("polled after %v s, want %v", polls, test.polls)
				}
			})
		})
	}
}

func TestWaitEndsAtOnce(t *testing.T) {
	tests := []struct {
		name  string
		reply reply
		code  string
	}{
		{"denied", refuse(400, "access_denied"), CodeAccessDenied},
		{"denied with 403", refuse(403, "access_denied"), CodeAccessDenied},
		{"expired", refuse(400, "expired_token"), CodeExpired},
		{"client unknown", refuse(401, "invalid_client"), CodeProviderRefused},
		{"code unknown", refuse(400, "invalid_grant"), CodeProviderRefused},
		{"not found", reply{status: 404, body: "nothing here"}, CodeProviderRefused},
		{"redirect", reply{status: 307, header: http.Header{"Location": {"https://evil.example.com/token"}}}, CodeInvalidResponse},
		{"garbage", reply{status: 200, body: "<html>"}, CodeInvalidResponse},
		{"empty", reply{status: 200}, CodeInvalidResponse},
		{"null", reply{status: 200, body: "null"}, CodeInvalidResponse},
		{"no ID token", ok(map[string]any{"access_token": "a"}), CodeInvalidResponse},
		{"ID token is no token", ok(map[string]any{"access_token": "a", "id_token": "\x1b[31m"}), CodeInvalidToken},
		{"ID token is huge", ok(map[string]any{"id_token": strings.Repeat("a", maxIDToken+1)}), CodeInvalidToken},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.script(test.reply)
				polls, _, err := waitAt(t, f)
				failure := wantFailure(t, err, test.code)
				if !slices.Equal(polls, []int{5}) {
					t.Errorf("polled after %v s, want once after 5", polls)
				}
				if !allPrintable(failure.Error()) {
					t.Errorf("error %q is not printable", failure.Error())
				}
			})
		})
	}
}

func TestWaitNeverPollsPastExpiry(t *testing.T) {
	tests := []struct {
		name  string
		reply reply
		polls []int
		code  string
	}{
		{"pending", pending, []int{5, 10}, CodeExpired},
		{"unreachable", reply{err: errRefused}, []int{5}, CodeProviderUnreachable},
		{"huge answer", reply{status: 200, body: strings.Repeat(" ", maxBody+1)}, []int{5}, CodeProviderUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.device["expires_in"] = 12
				f.token = func(int) reply { return test.reply }
				polls, took, err := waitAt(t, f)
				wantFailure(t, err, test.code)
				if !slices.Equal(polls, test.polls) || took != 12*time.Second {
					t.Errorf("polled after %v s and ended after %v, want %v and 12s", polls, took, test.polls)
				}
			})
		})
	}
}

func TestWaitIsCancelled(t *testing.T) {
	for name, answer := range map[string]reply{"asleep": pending, "while asking": {hang: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.token = func(int) reply { return answer }
				login := f.login()
				ctx, cancel := context.WithCancelCause(t.Context())
				reason := errors.New("the client went away")
				time.AfterFunc(7*time.Second, func() { cancel(reason) })
				start := time.Now()
				_, err := login.Wait(ctx)
				wantFailure(t, err, CodeCancelled)
				if !errors.Is(err, reason) || time.Since(start) != 7*time.Second {
					t.Errorf("got %v after %v, want %v after 7s", err, time.Since(start), reason)
				}
			})
		})
	}
}

func TestClientAuthentication(t *testing.T) {
	const secret = "p&ss w%rd:"
	tests := []struct {
		name       string
		secret     string
		auth       string
		offered    []string
		user, pass string // escaped as RFC 6749 section 2.3.1 wants it
		inForm     bool
		code       string // of the failure, or ""
	}{
		{name: "public", offered: []string{"client_secret_basic"}},
		{name: "basic by default", secret: secret, user: "gate", pass: "p%26ss+w%25rd%3A"},
		{name: "post first", secret: secret, offered: []string{"client_secret_basic", "client_secret_post"}, inForm: true},
		{name: "basic as configured", secret: secret, auth: ClientSecretBasic, offered: []string{"client_secret_basic", "client_secret_post"}, user: "gate", pass: "p%26ss+w%25rd%3A"},
		{name: "post", secret: secret, offered: []string{"client_secret_post", "private_key_jwt"}, inForm: true},
		{name: "post as configured", secret: secret, auth: ClientSecretPost, offered: []string{"client_secret_basic"}, inForm: true},
		{name: "neither", secret: secret, offered: []string{"private_key_jwt"}, code: CodeNotConfigured},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.document["token_endpoint_auth_methods_supported"] = test.offered
				f.script(pending)
				login, err := f.oidc(func(cfg *OIDCConfig) { cfg.ClientSecret, cfg.ClientAuth = test.secret, test.auth }).StartDevice(t.Context())
				if test.code != "" {
					wantFailure(t, err, test.code)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := login.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				asked := append(f.to("/device_authorization"), f.to("/token")...)
				if len(asked) != 3 {
					t.Errorf("%d requests, want one to start and two polls", len(asked))
				}
				for _, r := range asked {
					if r.user != test.user || r.pass != test.pass {
						t.Errorf("%s: basic authentication %q %q, want %q %q", r.path, r.user, r.pass, test.user, test.pass)
					}
					if got := r.form.Get("client_secret"); (got == secret) != test.inForm || got != "" && !test.inForm {
						t.Errorf("%s: secret in the form: %q", r.path, got)
					}
					if test.user == "" && r.form.Get("client_id") != "gate" {
						t.Errorf("%s: no client_id in the form", r.path)
					}
				}
			})
		})
	}
}
