package web_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
)

const (
	deviceGrant   = "urn:ietf:params:oauth:grant-type:device_code"
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	jwtType       = "urn:ietf:params:oauth:token-type:jwt"
)

// begin starts a sign-in and returns its device code.
func (b *bench) begin() string {
	b.t.Helper()
	resp, got := b.do(http.MethodPost, "/oauth/device_authorization", "", url.Values{"client_id": {"sshgate"}, "hostname": {"web1"}})
	code, _ := got["device_code"].(string)
	if resp.StatusCode != 200 || len(code) < 40 || got["user_code"] != "ABCD-EFGH" || got["verification_uri"] != "https://idp.test/device" || got["interval"] != 1.0 {
		b.t.Fatalf("%s: %v", resp.Status, got)
	}
	return code
}

func (b *bench) poll(code string) (int, map[string]any) {
	b.t.Helper()
	resp, got := b.do(http.MethodPost, "/oauth/token", "", url.Values{"grant_type": {deviceGrant}, "device_code": {code}})
	return resp.StatusCode, got
}

func TestDeviceGrant(t *testing.T) {
	b := newAPI(t, answering)
	code := b.begin()
	go func() { b.logins <- result{id: person("alice")} }()
	status, got := b.poll(code)
	token, _ := got["access_token"].(string)
	if status != 200 || got["token_type"] != "Bearer" || got["identity"] != "alice@example.com" || !strings.HasPrefix(token, "sga_") {
		t.Fatalf("%d: %v", status, got)
	}
	if left := got["expires_in"].(float64); left < 3590 || left > 3600 {
		t.Errorf("it is good for %v s, want the policy's hour", left)
	}
	if resp, me := b.do(http.MethodGet, "/api/v1/whoami", "Bearer "+token, nil); resp.StatusCode != 200 || me["kind"] != "person" || me["email"] != "alice@example.com" {
		t.Errorf("whoami: %s %v", resp.Status, me)
	}
	if status, got := b.poll(code); status != 400 || got["error"] != "invalid_grant" {
		t.Errorf("the code once more: %d %v", status, got)
	}
	for _, kind := range []sshgate.EventKind{sshgate.EventLoginStart, sshgate.EventLoginSuccess} {
		if e := must(b.events.Wait(t.Context(), func(e sshgate.Event) bool { return e.Kind == kind })); e.Detail != "helper" || !e.ClientAddr.IsValid() {
			t.Errorf("%+v", e)
		}
	}
	resp, _ := b.do(http.MethodPost, "/oauth/revoke", "", url.Values{"token": {token}})
	if resp.StatusCode != 200 {
		t.Errorf("revoke: %s", resp.Status)
	}
	if resp, got := b.do(http.MethodGet, "/api/v1/whoami", "Bearer "+token, nil); resp.StatusCode != 401 || got["error"] != "token_unknown" {
		t.Errorf("after the revocation: %s %v", resp.Status, got)
	}
	if resp, _ := b.do(http.MethodPost, "/oauth/revoke", "", url.Values{"token": {"nonsense"}}); resp.StatusCode != 200 {
		t.Errorf("an unknown token: %s", resp.Status)
	}
}

func TestDeviceGrantEndsBadly(t *testing.T) {
	b := newAPI(t, answering)
	for want, err := range map[string]error{
		"access_denied": &authflow.Failure{Code: authflow.CodeAccessDenied, Sentence: "the sign-in was denied at the provider"},
		"expired_token": &authflow.Failure{Code: authflow.CodeExpired, Sentence: "the sign-in was not completed in time"},
	} {
		code := b.begin()
		go func() { b.logins <- result{err: err} }()
		if status, got := b.poll(code); status != 400 || got["error"] != want {
			t.Errorf("%s: %d %v", want, status, got)
		}
	}
	code := b.begin()
	go func() { b.logins <- result{err: errors.New("a secret cause")} }()
	if status, got := b.poll(code); status != 503 || strings.Contains(got["error_description"].(string), "secret") {
		t.Errorf("an error of no kind: %d %v", status, got)
	}
}

func TestPollsInARowAreSlowedDown(t *testing.T) {
	b := newAPI(t, answering)
	code := b.begin()
	answers := make(chan map[string]any, 2)
	for range 2 {
		go func() {
			_, got := b.poll(code)
			answers <- got
		}()
	}
	if got := <-answers; got["error"] != "slow_down" {
		t.Errorf("of two polls at once the first answer is %v", got)
	}
	b.logins <- result{id: person("alice")}
	if got := <-answers; got["access_token"] == nil {
		t.Errorf("the poll that waited: %v", got)
	}
}

func TestOAuthErrors(t *testing.T) {
	b := newAPI(t, answering)
	for name, test := range map[string]struct {
		path string
		form url.Values
		code string
	}{
		"no grant":            {"/oauth/token", url.Values{}, "invalid_request"},
		"in the address":      {"/oauth/token?grant_type=" + deviceGrant, url.Values{}, "invalid_request"},
		"another grant":       {"/oauth/token", url.Values{"grant_type": {"password"}}, "unsupported_grant_type"},
		"another client":      {"/oauth/token", url.Values{"grant_type": {deviceGrant}, "client_id": {"evil"}}, "invalid_client"},
		"no code":             {"/oauth/token", url.Values{"grant_type": {deviceGrant}}, "invalid_grant"},
		"a wrong code":        {"/oauth/token", url.Values{"grant_type": {deviceGrant}, "device_code": {"x"}}, "invalid_grant"},
		"a wrong token type":  {"/oauth/token", url.Values{"grant_type": {exchangeGrant}, "subject_token": {"good"}, "subject_token_type": {"x"}}, "invalid_request"},
		"no token":            {"/oauth/token", url.Values{"grant_type": {exchangeGrant}, "subject_token_type": {jwtType}}, "invalid_request"},
		"a token of nobody":   {"/oauth/token", url.Values{"grant_type": {exchangeGrant}, "subject_token_type": {jwtType}, "subject_token": {"bad"}}, "invalid_grant"},
		"a form without end":  {"/oauth/token", url.Values{"grant_type": {strings.Repeat("x", 100<<10)}}, "invalid_request"},
		"for a device, too":   {"/oauth/device_authorization", url.Values{"client_id": {"evil"}}, "invalid_client"},
		"and for revocations": {"/oauth/revoke", url.Values{"client_id": {"evil"}}, "invalid_client"},
	} {
		resp, got := b.do(http.MethodPost, test.path, "", test.form)
		if resp.StatusCode != 400 || got["error"] != test.code {
			t.Errorf("%s: %s %v, want %s", name, resp.Status, got, test.code)
		}
	}
}

func TestTokenExchange(t *testing.T) {
	b := newAPI(t, answering)
	resp, got := b.do(http.MethodPost, "/oauth/token", "", url.Values{"grant_type": {exchangeGrant}, "subject_token_type": {jwtType}, "subject_token": {"good"}})
	if resp.StatusCode != 200 || got["issued_token_type"] != "urn:ietf:params:oauth:token-type:access_token" || got["expires_in"].(float64) > 900 {
		t.Fatalf("%s %v", resp.Status, got)
	}
	resp, me := b.do(http.MethodGet, "/api/v1/whoami", "Bearer "+got["access_token"].(string), nil)
	if resp.StatusCode != 200 || me["kind"] != "workload" || me["identity"] != "workload:ci (repo:x)" {
		t.Errorf("%s %v", resp.Status, me)
	}
}

func TestMetadata(t *testing.T) {
	b := newAPI(t, answering)
	resp, got := b.do(http.MethodGet, "/.well-known/oauth-authorization-server", "", nil)
	if resp.StatusCode != 200 || got["issuer"] != "https://gate.test" || got["token_endpoint"] != "https://gate.test/oauth/token" {
		t.Errorf("%s %v", resp.Status, got)
	}
	for path, want := range map[string]int{"/oauth/token": 405, "/nowhere": 404, "/api/v1/certificate": 405, "/": 200} {
		if resp, got := b.do(http.MethodGet, path, "", nil); resp.StatusCode != want || want == 405 && (resp.Header.Get("Allow") != "POST" || got["error"] != "bad_method") {
			t.Errorf("GET %s: %s %v", path, resp.Status, got)
		}
	}
}

// A gateway that stops gives sign-ins up, and starts no more.
func TestCloseEndsSignIns(t *testing.T) {
	b := newAPI(t, answering)
	code := b.begin()
	b.api.Close()
	if status, got := b.poll(code); status != 400 || got["error"] != "invalid_grant" {
		t.Errorf("%d %v", status, got)
	}
	resp, got := b.do(http.MethodPost, "/oauth/device_authorization", "", url.Values{})
	if resp.StatusCode != 503 {
		t.Errorf("%s %v", resp.Status, got)
	}
}
