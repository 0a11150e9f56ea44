package authflow

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const wellKnown = "/.well-known/openid-configuration"

func jsonNumber(s string) json.Number { return json.Number(s) }

// onPath answers every request to a path with the same reply.
func onPath(path string, answer reply) func(*http.Request) *reply {
	return func(req *http.Request) *reply {
		if req.URL.Path == path {
			return &answer
		}
		return nil
	}
}

func TestNewOIDCChecksItsConfiguration(t *testing.T) {
	tests := []struct {
		name string
		cfg  OIDCConfig
		want string // in the error; "" is none
	}{
		{"https", OIDCConfig{Issuer: "https://idp.example.com/realm/x", ClientID: "c"}, ""},
		{"loopback", OIDCConfig{Issuer: "http://127.0.0.1:5556", ClientID: "c"}, ""},
		{"loopback 6", OIDCConfig{Issuer: "http://[::1]:5556", ClientID: "c"}, ""},
		{"localhost", OIDCConfig{Issuer: "http://localhost:5556", ClientID: "c"}, ""},
		{"plain http", OIDCConfig{Issuer: "http://idp.example.com", ClientID: "c"}, "not https"},
		{"looks like loopback", OIDCConfig{Issuer: "http://127.0.0.1.example.com", ClientID: "c"}, "not https"},
		{"no issuer", OIDCConfig{ClientID: "c"}, "issuer is empty"},
		{"no host", OIDCConfig{Issuer: "idp.example.com", ClientID: "c"}, "not a URL"},
		{"query", OIDCConfig{Issuer: "https://idp.example.com/?a=b", ClientID: "c"}, "not a URL"},
		{"other scheme", OIDCConfig{Issuer: "ftp://idp.example.com", ClientID: "c"}, "not https"},
		{"no client", OIDCConfig{Issuer: "https://idp.example.com"}, "client ID is empty"},
		{"unknown authentication", OIDCConfig{Issuer: "https://idp.example.com", ClientID: "c", ClientAuth: "tls"}, "client authentication"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewOIDC(test.cfg)
			if test.want == "" && err != nil {
				t.Errorf("got error %v", err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestDiscoveryRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.intercept = onPath(wellKnown, reply{err: errRefused})
		provider := f.oidc(nil)
		for range 10 { // within the first second: one attempt
			wantFailure(t, provider.Ready(t.Context()), CodeProviderUnreachable)
			time.Sleep(90 * time.Millisecond)
		}
		if n := len(f.to(wellKnown)); n != 1 {
			t.Errorf("%d attempts within a second, want 1", n)
		}
		f.intercept = nil
		time.Sleep(discoveryPause)
		if err := provider.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := provider.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(f.to(wellKnown)); n != 2 {
			t.Errorf("%d attempts, want 2: what was fetched is kept", n)
		}
	})
}

func TestDiscoveryIsRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		device := f.document["device_authorization_endpoint"]
		delete(f.document, "device_authorization_endpoint")
		provider := f.oidc(nil)
		_, err := provider.StartDevice(t.Context())
		wantFailure(t, err, CodeNotConfigured)

		f.document["device_authorization_endpoint"] = device
		time.Sleep(discoveryMaxAge)
		if _, err := provider.StartDevice(t.Context()); err != nil {
			t.Error("not refreshed:", err)
		}
		f.intercept = onPath(wellKnown, reply{status: 500})
		time.Sleep(discoveryMaxAge)
		if _, err := provider.StartDevice(t.Context()); err != nil {
			t.Error("the last good metadata is not used while the provider is in trouble:", err)
		}
	})
}

func TestDiscoveryIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		provider := f.oidc(nil)
		slow := make(chan struct{})
		f.intercept = func(req *http.Request) *reply {
			if req.URL.Path == wellKnown {
				select {
				case <-slow:
				case <-req.Context().Done():
				}
			}
			return nil
		}
		// The first to come leaves while it fetches: the others must not suffer.
		first, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- provider.Ready(first) }()
		synctest.Wait()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := provider.Ready(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		leave()
		wantFailure(t, <-left, CodeCancelled)
		synctest.Wait()
		close(slow)
		all.Wait()
		if n := len(f.to(wellKnown)); n != 2 {
			t.Errorf("%d fetches, want the one that was left and one for all others", n)
		}
	})
}

func TestDiscoveryRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change map[string]any
		answer *reply
		code   string
	}{
		{name: "another issuer", change: map[string]any{"issuer": "https://evil.example.com"}, code: CodeInvalidResponse},
		{name: "token endpoint in clear", change: map[string]any{"token_endpoint": "http://idp.example.com/token"}, code: CodeInvalidResponse},
		{name: "keys in clear", change: map[string]any{"jwks_uri": "http://idp.example.com/keys"}, code: CodeInvalidResponse},
		{name: "no keys", change: map[string]any{"jwks_uri": ""}, code: CodeInvalidResponse},
		{name: "device endpoint is no URL", change: map[string]any{"device_authorization_endpoint": "/device"}, code: CodeInvalidResponse},
		{name: "huge", answer: &reply{status: 200, body: strings.Repeat(" ", maxBody+1)}, code: CodeProviderUnreachable},
		{name: "garbage", answer: &reply{status: 200, body: "\x1b[31m<html>"}, code: CodeProviderUnreachable},
		{name: "not found", answer: &reply{status: 404, body: "\x1b[31m"}, code: CodeProviderUnreachable},
		{name: "hangs", answer: &reply{hang: true}, code: CodeProviderUnreachable},
		{name: "redirect off TLS", answer: &reply{status: 302, header: http.Header{"Location": {"http://idp.example.com" + wellKnown}}}, code: CodeProviderUnreachable},
		{name: "redirect loop", answer: &reply{status: 302, header: http.Header{"Location": {wellKnown}}}, code: CodeProviderUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				for name, value := range test.change {
					f.document[name] = value
				}
				if test.answer != nil {
					f.intercept = onPath(wellKnown, *test.answer)
				}
				failure := wantFailure(t, f.oidc(nil).Ready(t.Context()), test.code)
				if !allPrintable(failure.Error()) {
					t.Errorf("error %q is not printable", failure.Error())
				}
			})
		})
	}
}

func TestDiscoveryFollowsARedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.intercept = func(req *http.Request) *reply {
			if req.URL.Path == wellKnown && req.URL.RawQuery == "" {
				return &reply{status: 302, header: http.Header{"Location": {wellKnown + "?moved"}}}
			}
			return nil
		}
		if err := f.oidc(nil).Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestChooseAlgorithms(t *testing.T) {
	for _, test := range []struct{ offered, want string }{
		{"RS256 ES256", "RS256 ES256"},
		{"none HS256 HS512 EdDSA", "EdDSA"},
		{"none HS256", "RS256"},
		{"", "RS256"},
	} {
		if got := strings.Join(chooseAlgorithms(strings.Fields(test.offered)), " "); got != test.want {
			t.Errorf("of %q chose %q, want %q", test.offered, got, test.want)
		}
	}
}
