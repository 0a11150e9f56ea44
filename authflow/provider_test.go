package authflow

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp"
	"github.com/sshgate/sshgate/internal/devidp/approve"
	"github.com/sshgate/sshgate/internal/oidcprovider"
)

// Against real providers: the embedded one and npm oidc-provider.

const testTimeout = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(stop)
	return ctx
}

// testClient returns a client whose connections end with the test.
func testClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: testTimeout}
}

func newOIDC(t *testing.T, cfg OIDCConfig) *OIDC {
	t.Helper()
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = testClient(t)
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "gate"
	}
	provider, err := NewOIDC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

// wantFailure checks for a *Failure of a code, and that its sentence is fit for
// a terminal.
func wantFailure(t *testing.T, err error, code string) *Failure {
	t.Helper()
	failure, ok := errors.AsType[*Failure](err)
	if !ok || failure.Code != code {
		t.Fatalf("got error %v, want a failure %s", err, code)
	}
	if failure.Sentence == "" || !allPrintable(failure.Sentence) {
		t.Errorf("sentence %q is not printable ASCII", failure.Sentence)
	}
	return failure
}

func startDevIDP(t *testing.T, change func(*devidp.Config)) string {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	cfg := devidp.Config{
		Issuer:       "http://" + server.Listener.Addr().String(),
		ClientID:     "gate",
		PollInterval: time.Second,
		Users: []devidp.User{{
			Subject: "u-1", Email: "alice@example.com", EmailVerified: true, Name: "Alice",
			Groups: []string{"eng", "ops"}, Password: "correct horse", Claims: map[string]any{"team": "blue"},
		}},
	}
	if change != nil {
		change(&cfg)
	}
	idp, err := devidp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = idp
	server.Start()
	t.Cleanup(server.Close)
	return cfg.Issuer
}

func TestEmbeddedProviderApproved(t *testing.T) {
	issuer := startDevIDP(t, nil)
	provider := newOIDC(t, OIDCConfig{Issuer: issuer})
	ctx := testContext(t)
	if err := provider.Ready(ctx); err != nil {
		t.Fatal("not ready:", err)
	}
	login, err := provider.StartDevice(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err := approve.Approve(ctx, testClient(t), login.VerificationURIComplete, "Alice@example.com", "correct horse"); err != nil {
		t.Fatal("approve:", err)
	}
	id, err := login.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if id.Issuer != issuer || id.Subject != "u-1" || id.VerifiedEmail() != "alice@example.com" || id.Name != "Alice" {
		t.Errorf("got %+v", id)
	}
	if !slices.Equal(id.Groups, []string{"eng", "ops"}) || id.Claims["team"] != "blue" {
		t.Errorf("got groups %v and claims %v", id.Groups, id.Claims)
	}
	if id.SignedInAt.Before(before) || id.SignedInAt.After(time.Now()) {
		t.Errorf("SignedInAt %v is not the time of this sign-in", id.SignedInAt)
	}
	if _, err := login.Wait(ctx); err == nil {
		t.Error("a device code gave a second token")
	}
}

func TestEmbeddedProviderDenied(t *testing.T) {
	provider := newOIDC(t, OIDCConfig{Issuer: startDevIDP(t, nil)})
	ctx := testContext(t)
	login, err := provider.StartDevice(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := approve.Deny(ctx, testClient(t), login.VerificationURIComplete, "alice@example.com", "correct horse"); err != nil {
		t.Fatal("deny:", err)
	}
	_, err = login.Wait(ctx)
	wantFailure(t, err, CodeAccessDenied)
}

func TestEmbeddedProviderExpires(t *testing.T) {
	provider := newOIDC(t, OIDCConfig{Issuer: startDevIDP(t, func(cfg *devidp.Config) { cfg.DeviceLifetime = 2 * time.Second })})
	ctx := testContext(t)
	login, err := provider.StartDevice(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = login.Wait(ctx)
	wantFailure(t, err, CodeExpired)
}

func TestOIDCProviderProcess(t *testing.T) {
	process := oidcprovider.Start(t)
	tests := []struct {
		name string
		cfg  OIDCConfig
	}{
		{"public", OIDCConfig{ClientID: oidcprovider.ClientPublic}},
		{"basic", OIDCConfig{ClientID: oidcprovider.ClientBasic, ClientSecret: oidcprovider.Secret(oidcprovider.ClientBasic)}},
		{"post", OIDCConfig{ClientID: oidcprovider.ClientPost, ClientSecret: oidcprovider.Secret(oidcprovider.ClientPost), ClientAuth: ClientSecretPost}},
	}
	for _, test := range tests {
		test.cfg.Issuer = process.Issuer
		t.Run(test.name+" approved", func(t *testing.T) {
			login := startAt(t, test.cfg)
			if err := process.Approve(testContext(t), testClient(t), login.VerificationURI, login.UserCode, "alice"); err != nil {
				t.Fatal("approve:", err)
			}
			id, err := login.Wait(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			if id.Issuer != process.Issuer || id.Subject != "alice" || id.VerifiedEmail() != "alice@example.com" || !slices.Equal(id.Groups, []string{"engineering", "oncall"}) {
				t.Errorf("got %+v", id)
			}
		})
		t.Run(test.name+" denied", func(t *testing.T) {
			login := startAt(t, test.cfg)
			if err := process.Deny(testContext(t), testClient(t), login.VerificationURI, login.UserCode); err != nil {
				t.Fatal("deny:", err)
			}
			_, err := login.Wait(testContext(t))
			wantFailure(t, err, CodeAccessDenied)
		})
	}
	t.Run("wrong secret", func(t *testing.T) {
		provider := newOIDC(t, OIDCConfig{Issuer: process.Issuer, ClientID: oidcprovider.ClientBasic, ClientSecret: "wrong"})
		_, err := provider.StartDevice(testContext(t))
		wantFailure(t, err, CodeProviderRefused)
	})
}

// startAt begins a login that is polled quickly: oidc-provider names no
// interval, and the default of 5 s would make the tests slow.
func startAt(t *testing.T, cfg OIDCConfig) *DeviceLogin {
	t.Helper()
	login, err := newOIDC(t, cfg).StartDevice(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if login.interval != defaultInterval {
		t.Errorf("interval %v, want the default %v", login.interval, defaultInterval)
	}
	login.interval = 100 * time.Millisecond
	return login
}
