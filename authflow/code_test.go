package authflow

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/internal/devidp"
	"github.com/sshgate/sshgate/internal/devidp/approve"
	"github.com/sshgate/sshgate/internal/oidcprovider"
)

const redirectURI = "https://gate.example.com/oauth/callback"

// authorize begins a sign-in by authorization code at the fake.
func (f *fake) authorize(demands Demands) *Authorization {
	f.t.Helper()
	a, err := f.oidc(nil).Authorize(f.t.Context(), redirectURI, demands)
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// back is a good answer of the provider.
func (f *fake) back(a *Authorization) url.Values {
	return url.Values{"state": {a.State}, "code": {"the-code"}}
}

// nonceOf reads the nonce as the provider would, from the address.
func nonceOf(t *testing.T, a *Authorization) string {
	t.Helper()
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("nonce")
}

// answerWith has the token endpoint give a token with the claims of change laid over.
func (f *fake) answerWith(change map[string]any) {
	f.token = func(int) reply {
		claims := f.claims()
		for name, value := range change {
			if claims[name] = value; value == nil {
				delete(claims, name)
			}
		}
		return f.tokens(f.sign(claims))
	}
}

func TestAuthorizationRequest(t *testing.T) {
	f := newFake(t)
	f.document["authorization_endpoint"] = f.issuer + "/authorize?tenant=a%20b"
	a := f.authorize(Demands{MaxAge: 90*time.Second + time.Millisecond, ACRValues: []string{"mfa", "pwd"}, Prompt: "login"})
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	got := u.Query()
	for name, want := range map[string]string{
		"tenant": "a b", "response_type": "code", "client_id": "gate", "redirect_uri": redirectURI, "scope": "openid profile email", "state": a.State,
		"code_challenge_method": "S256", "response_mode": "query", "max_age": "90", "acr_values": "mfa pwd", "prompt": "login",
	} {
		if len(got[name]) != 1 || got.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	other := f.authorize(Demands{})
	if len(a.State) < 22 || len(got.Get("nonce")) < 22 || other.State == a.State || nonceOf(t, other) == got.Get("nonce") {
		t.Errorf("state %q and nonce %q are not random", a.State, got.Get("nonce"))
	}
	f.answerWith(map[string]any{"nonce": got.Get("nonce"), "auth_time": time.Now().Unix()})
	id, err := a.Finish(t.Context(), f.back(a))
	if err != nil || id.Subject != "u-1" || id.VerifiedEmail() != "alice@example.com" {
		t.Fatalf("got %+v, %v", id, err)
	}
	form := f.to("/token")[0].form
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	if base64.RawURLEncoding.EncodeToString(sum[:]) != got.Get("code_challenge") {
		t.Error("the verifier does not fit the challenge")
	}
	if form.Get("grant_type") != "authorization_code" || form.Get("code") != "the-code" || form.Get("redirect_uri") != redirectURI {
		t.Errorf("the exchange was %v", form)
	}
	if _, err := a.Finish(t.Context(), f.back(a)); err == nil || len(f.to("/token")) != 1 {
		t.Errorf("a replayed answer: %v, %d exchanges", err, len(f.to("/token")))
	}
}

// answerTest is an answer of the provider, and what comes of it.
type answerTest struct {
	name     string
	document map[string]any
	answer   url.Values     // laid over a good one; empty lists delete
	claims   map[string]any // laid over good ones
	demands  Demands
	code     string // "" for success
	asked    int    // times that the token endpoint was
}

func (test answerTest) run(t *testing.T) {
	f := newFake(t)
	for name, value := range test.document {
		f.document[name] = value
	}
	a := f.authorize(test.demands)
	claims := map[string]any{"nonce": nonceOf(t, a)}
	for name, value := range test.claims {
		claims[name] = value
	}
	f.answerWith(claims)
	answer := f.back(a)
	for name, values := range test.answer {
		if answer[name] = values; len(values) == 0 {
			delete(answer, name)
		}
	}
	_, err := a.Finish(t.Context(), answer)
	if test.code != "" {
		if failure := wantFailure(t, err, test.code); !allPrintable(failure.Error()) {
			t.Errorf("error %q is not printable", failure.Error())
		}
	} else if err != nil {
		t.Error(err)
	}
	if n := len(f.to("/token")); n != test.asked {
		t.Errorf("the token endpoint was asked %d times, want %d", n, test.asked)
	}
}

func TestAuthorizationAnswers(t *testing.T) {
	old := time.Now().Add(-time.Hour).Unix()
	tests := []answerTest{
		{name: "good", asked: 1},
		{name: "another state", answer: url.Values{"state": {"other"}}, code: CodeInvalidResponse},
		{name: "no state", answer: url.Values{"state": {}}, code: CodeInvalidResponse},
		{name: "two states", answer: url.Values{"state": {"", "other"}}, code: CodeInvalidResponse},
		{name: "two codes", answer: url.Values{"code": {"a", "b"}}, code: CodeInvalidResponse},
		{name: "no code", answer: url.Values{"code": {}}, code: CodeInvalidResponse},
		{name: "long code", answer: url.Values{"code": {strings.Repeat("c", maxCode+1)}}, code: CodeInvalidResponse},
		{name: "denied", answer: url.Values{"error": {"access_denied"}, "error_description": {"\x1b[31m"}}, code: CodeAccessDenied},
		{name: "refused", answer: url.Values{"error": {"invalid_scope"}}, code: CodeProviderRefused},
		{name: "in trouble", answer: url.Values{"error": {"server_error"}}, code: CodeProviderUnreachable},
		{name: "our issuer", answer: url.Values{"iss": {"https://idp.example.com"}}, asked: 1},
		{name: "mix-up", answer: url.Values{"iss": {"https://evil.example.com"}}, code: CodeInvalidResponse},
		{name: "empty issuer", answer: url.Values{"iss": {""}}, code: CodeInvalidResponse},
		{name: "issuer left out", document: map[string]any{"authorization_response_iss_parameter_supported": true}, code: CodeInvalidResponse},
		{name: "injected code", claims: map[string]any{"nonce": "of another sign-in"}, code: CodeInvalidToken, asked: 1},
		{name: "no nonce", claims: map[string]any{"nonce": nil}, code: CodeInvalidToken, asked: 1},
		{name: "nonce in disguise", claims: map[string]any{"Nonce": "x"}, code: CodeInvalidToken, asked: 1},
		{name: "another audience", claims: map[string]any{"aud": "other"}, code: CodeInvalidToken, asked: 1},
		{name: "old sign-in", claims: map[string]any{"auth_time": old}, asked: 1},
		{name: "too old", demands: Demands{MaxAge: time.Minute}, claims: map[string]any{"auth_time": old}, code: CodeInvalidToken, asked: 1},
		{name: "age unsaid", demands: Demands{MaxAge: time.Minute}, code: CodeInvalidToken, asked: 1},
		{name: "young enough", demands: Demands{MaxAge: 2 * time.Hour}, claims: map[string]any{"auth_time": old}, asked: 1},
	}
	for _, test := range tests {
		t.Run(test.name, test.run)
	}
}

func TestAuthorizationOfAnotherKeepsThisOne(t *testing.T) {
	f := newFake(t)
	a := f.authorize(Demands{})
	f.answerWith(map[string]any{"nonce": nonceOf(t, a)})
	if _, err := a.Finish(t.Context(), url.Values{"state": {"forged"}, "code": {"c"}}); err == nil {
		t.Error("a forged state was taken")
	}
	if _, err := a.Finish(t.Context(), f.back(a)); err != nil {
		t.Error("a forged answer used the sign-in up:", err)
	}
}

func TestNoAuthorizationEndpoint(t *testing.T) {
	f := newFake(t)
	delete(f.document, "authorization_endpoint")
	_, err := f.oidc(nil).Authorize(t.Context(), redirectURI, Demands{})
	wantFailure(t, err, CodeNotConfigured)
}

func TestCodeExchangeFails(t *testing.T) {
	for name, test := range map[string]struct {
		answer reply
		code   string
	}{
		"refused":     {refuse(400, "invalid_grant"), CodeProviderRefused},
		"unreachable": {reply{err: errRefused}, CodeProviderUnreachable},
		"in trouble":  {reply{status: 503}, CodeProviderUnreachable},
		"hangs":       {reply{hang: true}, CodeProviderUnreachable},
		"no token":    {ok(map[string]any{"access_token": "x"}), CodeInvalidResponse},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.token = func(int) reply { return test.answer }
				a := f.authorize(Demands{})
				_, err := a.Finish(t.Context(), f.back(a))
				wantFailure(t, err, test.code)
			})
		})
	}
}

// land walks a browser to the redirect URI and returns the parameters that it comes
// with; the page there does not exist.
func land(t *testing.T, address string, fill func(*approve.Page) url.Values) url.Values {
	t.Helper()
	browser := approve.NewBrowser(&http.Client{Transport: landing{}, Timeout: testTimeout})
	page, err := browser.Get(testContext(t), address)
	for range 8 {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(page.URL.String(), redirectURI) {
			return page.URL.Query()
		}
		if len(page.Forms) == 0 {
			t.Fatalf("%s has no form: %s", page.URL, page.Text)
		}
		page, err = browser.Submit(testContext(t), page, &page.Forms[0], fill(page))
	}
	t.Fatal("not back after 8 pages")
	return nil
}

// landing is a transport on which the gateway answers with an empty page.
type landing struct{}

func (landing) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "gate.example.com" {
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
	}
	return http.DefaultTransport.RoundTrip(req)
}

// checkRealCode signs in at a real provider, then tries what must not work there.
func checkRealCode(t *testing.T, provider *OIDC, subject string, fill func(*approve.Page) url.Values) {
	t.Helper()
	begin := func() *Authorization {
		a, err := provider.Authorize(testContext(t), redirectURI, Demands{MaxAge: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := begin()
	answer := land(t, a.URL, fill)
	id, err := a.Finish(testContext(t), answer)
	if err != nil || id.Subject != subject || id.VerifiedEmail() != "alice@example.com" || len(id.Groups) != 2 || id.Issuer != provider.Issuer() {
		t.Fatalf("got %+v, %v", id, err)
	}
	// The code of one sign-in in another, as an attacker would inject it.
	victim, attacker := begin(), begin()
	injected := land(t, attacker.URL, fill)
	injected.Set("state", victim.State)
	_, err = victim.Finish(testContext(t), injected)
	wantFailure(t, err, CodeProviderRefused)
	// A code once more, by a client that does not care.
	a.used.Store(false)
	_, err = a.Finish(testContext(t), answer)
	wantFailure(t, err, CodeProviderRefused)
}

func TestEmbeddedProviderCode(t *testing.T) {
	issuer := startDevIDP(t, func(cfg *devidp.Config) { cfg.RedirectURIs = []string{redirectURI} })
	checkRealCode(t, newOIDC(t, OIDCConfig{Issuer: issuer}), "u-1", func(*approve.Page) url.Values {
		return url.Values{"email": {"alice@example.com"}, "password": {"correct horse"}}
	})
}

func TestOIDCProviderProcessCode(t *testing.T) {
	process := oidcprovider.Start(t)
	for _, client := range []string{oidcprovider.ClientPublic, oidcprovider.ClientBasic, oidcprovider.ClientPost} {
		cfg := OIDCConfig{Issuer: process.Issuer, ClientID: client}
		switch client {
		case oidcprovider.ClientBasic:
			cfg.ClientSecret, cfg.ClientAuth = oidcprovider.Secret(client), ClientSecretBasic
		case oidcprovider.ClientPost:
			cfg.ClientSecret, cfg.ClientAuth = oidcprovider.Secret(client), ClientSecretPost
		}
		t.Run(client, func(t *testing.T) {
			checkRealCode(t, newOIDC(t, cfg), "alice", func(page *approve.Page) url.Values {
				if page.Forms[0].Fields.Get("prompt") == "login" {
					return url.Values{"login": {"alice"}, "password": {"any"}}
				}
				return nil
			})
		})
	}
}
