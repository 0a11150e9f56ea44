package devidp

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// idp is a provider that is served, with a clock that tests can move.
type idp struct {
	t      *testing.T
	issuer string
	client *http.Client
	*Provider

	mu    sync.Mutex
	ahead time.Duration
}

func (i *idp) advance(d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ahead += d
}

func start(t *testing.T, change func(*Config)) *idp {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	i := &idp{t: t, issuer: "http://" + server.Listener.Addr().String()}
	cfg := Config{
		Issuer:       i.issuer,
		ClientID:     "gate",
		ClientName:   "The Gate",
		RedirectURIs: []string{"http://127.0.0.1:1/callback"},
		Users: []User{
			{Subject: "u-1", Email: "alice@example.com", EmailVerified: true, Name: "Alice", Groups: []string{"eng"}, Password: "correct horse", Claims: map[string]any{"team": "blue", "sub": "u-2"}},
			{Subject: "u-2", Email: "bob@example.com", Name: "Bob <b>", Password: "battery staple"},
		},
		Now: func() time.Time {
			i.mu.Lock()
			defer i.mu.Unlock()
			return time.Now().Add(i.ahead)
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if i.Provider, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = i.Provider
	server.Start()
	i.client = server.Client()
	t.Cleanup(server.Close)
	return i
}

// post sends a form and returns the status and the decoded answer.
func (i *idp) post(path string, form url.Values) (int, map[string]any) {
	i.t.Helper()
	res, err := i.client.PostForm(i.issuer+path, form)
	if err != nil {
		i.t.Fatal(err)
	}
	defer res.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
		i.t.Fatal(err)
	}
	return res.StatusCode, body
}

// begin starts a device login.
func (i *idp) begin() map[string]any {
	i.t.Helper()
	status, body := i.post("/device_authorization", url.Values{"client_id": {"gate"}, "scope": {"openid email profile"}})
	if status != http.StatusOK {
		i.t.Fatalf("got %d %v", status, body)
	}
	return body
}

// poll asks for the token and returns the error code, or "" with the answer.
func (i *idp) poll(device map[string]any) (string, map[string]any) {
	i.t.Helper()
	_, body := i.post("/oauth/token", url.Values{
		"grant_type":  {"urn:ietf:params:oauth:grant-type:device_code"},
		"client_id":   {"gate"},
		"device_code": {device["device_code"].(string)},
	})
	code, _ := body["error"].(string)
	return code, body
}

func (i *idp) wantPoll(device map[string]any, want string) {
	i.t.Helper()
	if code, body := i.poll(device); code != want {
		i.t.Errorf("the poll got %v, want %q", body, want)
	}
}

func (i *idp) approve(device map[string]any) {
	i.t.Helper()
	if err := approve.Approve(i.t.Context(), i.client, device["verification_uri_complete"].(string), "alice@example.com", "correct horse"); err != nil {
		i.t.Fatal("approve:", err)
	}
}

func TestDeviceFlow(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	if device["verification_uri"] != i.issuer+"/device" || device["interval"] != 5.0 || device["expires_in"] != 600.0 {
		t.Errorf("got %v", device)
	}
	i.wantPoll(device, "authorization_pending")
	if state, err := i.storage.GetDeviceAuthorizatonState(t.Context(), "gate", device["device_code"].(string)); err == nil {
		t.Errorf("the library gets %+v before anybody allowed it", state)
	}
	i.approve(device)
	i.advance(5 * time.Second)
	code, body := i.poll(device)
	if code != "" {
		t.Fatalf("got %v", body)
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(t.Context(), i.client), i.issuer)
	if err != nil {
		t.Fatal(err)
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: "gate"}).Verify(t.Context(), body["id_token"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if err := token.VerifyAccessToken(body["access_token"].(string)); err != nil {
		t.Error("at_hash:", err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"sub": "u-1", "email": "alice@example.com", "email_verified": true, "name": "Alice", "team": "blue"} {
		if claims[name] != want {
			t.Errorf("claim %s is %v, want %v", name, claims[name], want)
		}
	}
	if groups, _ := claims["groups"].([]any); !slices.Equal(groups, []any{"eng"}) {
		t.Errorf("groups %v", claims["groups"])
	}
	info, err := provider.UserInfo(oidc.ClientContext(t.Context(), i.client), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: body["access_token"].(string)}))
	if err != nil || info.Subject != "u-1" || info.Email != "alice@example.com" {
		t.Errorf("userinfo: %+v, %v", info, err)
	}
	i.wantPoll(device, "invalid_grant") // a device code is good once
}

func TestDeviceDenied(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	if err := approve.Deny(t.Context(), i.client, device["verification_uri_complete"].(string), "bob@example.com", "battery staple"); err != nil {
		t.Fatal(err)
	}
	i.wantPoll(device, "access_denied")
}

func TestApproveTellsWhatIsWrong(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	uri := device["verification_uri_complete"].(string)
	for name, err := range map[string]error{
		"wrong password": approve.Approve(t.Context(), i.client, uri, "alice@example.com", "x"),
		"wrong code":     approve.Deny(t.Context(), i.client, i.issuer+"/device?user_code=BBBB-BBBB", "alice@example.com", "correct horse"),
		"wrong page":     approve.Approve(t.Context(), i.client, i.issuer+"/keys", "alice@example.com", "correct horse"),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	i.wantPoll(device, "authorization_pending")
}

func TestDeviceExpires(t *testing.T) {
	i := start(t, func(cfg *Config) { cfg.DeviceLifetime = time.Minute })
	device := i.begin()
	i.advance(61 * time.Second)
	err := approve.Approve(t.Context(), i.client, device["verification_uri_complete"].(string), "alice@example.com", "correct horse")
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("approved an expired code: %v", err)
	}
	i.wantPoll(device, "expired_token")
	i.advance(time.Hour)
	i.begin()
	if n := len(i.storage.devices); n != 1 {
		t.Errorf("%d device logins are kept, want the new one alone", n)
	}
}

func TestSlowDown(t *testing.T) {
	i := start(t, func(cfg *Config) { cfg.PollInterval = 2 * time.Second })
	device := i.begin()
	i.wantPoll(device, "authorization_pending")
	i.wantPoll(device, "slow_down") // at once; from here on 7 s
	i.advance(3 * time.Second)
	i.wantPoll(device, "slow_down") // from here on 12 s
	i.advance(12 * time.Second)
	i.wantPoll(device, "authorization_pending")
}

func TestTokenEndpointRefuses(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	i.approve(device)
	deviceGrant := "urn:ietf:params:oauth:grant-type:device_code"
	code := device["device_code"].(string)
	tests := []struct {
		name string
		form url.Values
		want string
	}{
		{"another client", url.Values{"grant_type": {deviceGrant}, "client_id": {"other"}, "device_code": {code}}, "invalid_grant"},
		{"another code", url.Values{"grant_type": {deviceGrant}, "client_id": {"gate"}, "device_code": {code + "x"}}, "invalid_grant"},
		{"no code", url.Values{"grant_type": {deviceGrant}, "client_id": {"gate"}}, "invalid_grant"},
		{"refresh", url.Values{"grant_type": {"refresh_token"}, "client_id": {"gate"}, "refresh_token": {"x"}}, "unsupported_grant_type"},
		{"client credentials", url.Values{"grant_type": {"client_credentials"}, "client_id": {"gate"}}, "unsupported_grant_type"},
		{"token exchange", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "client_id": {"gate"}}, "unsupported_grant_type"},
		{"JWT", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {"a.b.c"}}, "unsupported_grant_type"},
		{"nothing", url.Values{}, "unsupported_grant_type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, body := i.post("/oauth/token", test.form); body["error"] != test.want {
				t.Errorf("got %v, want %s", body, test.want)
			}
		})
	}
	i.wantPoll(device, "") // none of them used the code up
}

func TestOnlyWhatIsNeededIsServed(t *testing.T) {
	i := start(t, nil)
	for _, path := range []string{"/oauth/introspect", "/revoke", "/end_session", "/healthz", "/ready", "/nothing"} {
		res, err := i.client.Get(i.issuer + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s answers %d", path, res.StatusCode)
		}
	}
	res, err := i.client.Get(i.issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	document, _ := io.ReadAll(res.Body)
	for _, endpoint := range []string{"introspect", "revoke", "revocation", "end_session", "client_secret"} {
		if strings.Contains(string(document), endpoint) {
			t.Errorf("the discovery document mentions %s: %s", endpoint, document)
		}
	}
	if res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("scripts of other sites may read the provider's answers")
	}
}

// authorize goes through the authorization code flow in a browser, as far as
// the redirect to the client, and returns its query.
func authorize(t *testing.T, i *idp, config *oauth2.Config, options ...oauth2.AuthCodeOption) url.Values {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	client := *i.client
	redirect := &catchRedirect{next: i.client.Transport}
	client.Transport = redirect
	browser := approve.NewBrowser(&client)
	page, err := browser.Get(ctx, config.AuthCodeURL("state", options...))
	if err != nil {
		t.Fatal(err)
	}
	if redirect.got != nil {
		return redirect.got.Query()
	}
	if len(page.Forms) != 1 {
		t.Fatalf("no form at %s (%d)", page.URL, page.Status)
	}
	if _, err := browser.Submit(ctx, page, &page.Forms[0], url.Values{"email": {"bob@example.com"}, "password": {"battery staple"}}); err != nil {
		t.Fatal(err)
	}
	if redirect.got == nil {
		t.Fatal("no redirect to the client")
	}
	return redirect.got.Query()
}

// catchRedirect answers for the client's redirect URI.
type catchRedirect struct {
	next http.RoundTripper
	got  *url.URL
}

func (c *catchRedirect) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "127.0.0.1:1" {
		c.got = req.URL
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
	}
	return c.next.RoundTrip(req)
}

func TestAuthorizationCodeFlow(t *testing.T) {
	i := start(t, nil)
	ctx := oidc.ClientContext(t.Context(), i.client)
	provider, err := oidc.NewProvider(ctx, i.issuer)
	if err != nil {
		t.Fatal(err)
	}
	config := &oauth2.Config{ClientID: "gate", Endpoint: provider.Endpoint(), RedirectURL: "http://127.0.0.1:1/callback", Scopes: []string{"openid", "email"}}
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	verifier := oauth2.GenerateVerifier()
	query := authorize(t, i, config, oauth2.S256ChallengeOption(verifier), oidc.Nonce("n-1"))
	if query.Get("state") != "state" || query.Get("code") == "" {
		t.Fatalf("redirected with %v", query)
	}
	token, err := config.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	id, err := provider.Verifier(&oidc.Config{ClientID: "gate"}).Verify(ctx, token.Extra("id_token").(string))
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "u-2" || id.Nonce != "n-1" {
		t.Errorf("got %+v", id)
	}
	if _, err := config.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was good twice")
	}

	query = authorize(t, i, config, oauth2.S256ChallengeOption(verifier))
	if _, err := config.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
		t.Error("a code was good with another verifier")
	}
	if query := authorize(t, i, config); query.Get("error") != "invalid_request" {
		t.Errorf("without PKCE: %v", query)
	}
	config.RedirectURL = "http://127.0.0.1:1/elsewhere"
	res, err := i.client.Get(config.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier)))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown redirect URI got %d", res.StatusCode)
	}
}

func TestSigningKeys(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	generated, encoded, err := GenerateSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseSigningKey(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if !generated.(*ecdsa.PrivateKey).Equal(parsed) {
		t.Error("a key does not survive its PEM form")
	}
	for name, key := range map[string]crypto.Signer{"P-256": parsed, "P-384": p384, "Ed25519": ed, "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			i := start(t, func(cfg *Config) { cfg.SigningKey = key })
			device := i.begin()
			i.approve(device)
			_, body := i.poll(device)
			ctx := oidc.ClientContext(t.Context(), i.client)
			provider, err := oidc.NewProvider(ctx, i.issuer)
			if err != nil {
				t.Fatal(err)
			}
			token, err := provider.Verifier(&oidc.Config{ClientID: "gate"}).Verify(ctx, body["id_token"].(string))
			if err != nil {
				t.Fatal(err)
			}
			if err := token.VerifyAccessToken(body["access_token"].(string)); err != nil {
				t.Error(err)
			}
		})
	}
	a, b := start(t, func(cfg *Config) { cfg.SigningKey = generated }), start(t, func(cfg *Config) { cfg.SigningKey = parsed })
	if a.storage.key.id != b.storage.key.id {
		t.Error("the same key has two IDs")
	}
	for _, bad := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParseSigningKey([]byte(bad)); err == nil {
			t.Errorf("took %q for a key", bad)
		}
	}
}

func TestNewChecksItsConfiguration(t *testing.T) {
	user := User{Subject: "u", Email: "a@b.c", Password: "p"}
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	good := Config{Issuer: "http://127.0.0.1:1", ClientID: "c", Users: []User{user}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*Config){
		"no issuer":        func(c *Config) { c.Issuer = "" },
		"issuer has path":  func(c *Config) { c.Issuer += "/idp" },
		"no client":        func(c *Config) { c.ClientID = "" },
		"no users":         func(c *Config) { c.Users = nil },
		"no password":      func(c *Config) { c.Users = []User{{Subject: "u", Email: "a@b.c"}} },
		"no address":       func(c *Config) { c.Users = []User{{Subject: "u", Password: "p"}} },
		"colon in subject": func(c *Config) { c.Users = []User{{Subject: "u:1", Email: "a@b.c", Password: "p"}} },
		"two of a kind":    func(c *Config) { c.Users = []User{user, user} },
		"short lifetime":   func(c *Config) { c.DeviceLifetime = time.Millisecond },
		"short interval":   func(c *Config) { c.PollInterval = time.Millisecond },
		"small key":        func(c *Config) { c.SigningKey = small },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := good
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("no error")
			}
		})
	}
}
