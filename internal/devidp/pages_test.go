package devidp

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// at opens a page in a new browser.
func (i *idp) at(path string) (*approve.Browser, *approve.Page) {
	i.t.Helper()
	browser := approve.NewBrowser(i.client)
	page, err := browser.Get(i.t.Context(), i.issuer+path)
	if err != nil {
		i.t.Fatal(err)
	}
	return browser, page
}

// send fills in the only form of a page.
func (i *idp) send(browser *approve.Browser, page *approve.Page, values url.Values) *approve.Page {
	i.t.Helper()
	if len(page.Forms) != 1 {
		i.t.Fatalf("%s (%d) has %d forms, want 1", page.URL, page.Status, len(page.Forms))
	}
	next, err := browser.Submit(i.t.Context(), page, &page.Forms[0], values)
	if err != nil {
		i.t.Fatal(err)
	}
	return next
}

func TestHeadersOfPages(t *testing.T) {
	i := start(t, nil)
	res, err := i.client.Get(i.issuer + "/device?user_code=BCDF-GHJK")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
		"X-Frame-Options":         "DENY",
		"X-Content-Type-Options":  "nosniff",
		"Referrer-Policy":         "no-referrer",
		"Cache-Control":           "no-store",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	cookie := res.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Secure {
		t.Errorf("cookie %v", cookie)
	}
	if !strings.Contains(string(body), `value="BCDF-GHJK"`) || strings.Contains(string(body), "<script") || strings.Contains(string(body), "style=") {
		t.Errorf("page:\n%s", body)
	}
	style, err := i.client.Get(i.issuer + "/style.css")
	if err != nil {
		t.Fatal(err)
	}
	style.Body.Close()
	if got := style.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/css") {
		t.Errorf("the style sheet is %q", got)
	}
}

func TestCodeInALinkIsNotTrusted(t *testing.T) {
	i := start(t, nil)
	res, err := i.client.Get(i.issuer + "/device?user_code=" + url.QueryEscape(`"><script>alert(1)</script>BCDF`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if strings.Contains(string(body), "<script") {
		t.Errorf("page:\n%s", body)
	}
}

func TestPeopleTypeCodesLoosely(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	code := strings.ToLower(strings.ReplaceAll(device["user_code"].(string), "-", " "))
	browser, page := i.at("/device")
	page = i.send(browser, page, url.Values{"user_code": {" " + code + " "}})
	if page.URL.Path != loginPath {
		t.Errorf("%q led to %s", code, page.URL)
	}
}

func TestConfirmationShowsWhoAsks(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	browser, page := i.at("/device")
	page = i.send(browser, page, url.Values{"user_code": {device["user_code"].(string)}})
	page = i.send(browser, page, url.Values{"email": {"bob@example.com"}, "password": {"battery staple"}})
	if page.URL.Path != confirmPath {
		t.Fatalf("at %s", page.URL)
	}
	i.wantPoll(device, "authorization_pending") // signing in is not consent
	for _, decision := range []string{"allow", "deny", "switch"} {
		if !page.Forms[0].HasButton("decision", decision) {
			t.Errorf("no button %s", decision)
		}
	}
	page = i.send(browser, page, url.Values{"decision": {"switch"}})
	if page.URL.Path != loginPath {
		t.Fatalf("another account: at %s", page.URL)
	}
	page = i.send(browser, page, url.Values{"email": {"alice@example.com"}, "password": {"correct horse"}})
	page = i.send(browser, page, url.Values{"decision": {"allow"}})
	if page.URL.Path != donePath+"allowed" {
		t.Fatalf("at %s", page.URL)
	}
}

func TestFormsNeedTheirToken(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	for _, path := range []string{devicePath, loginPath, confirmPath} {
		for name, token := range map[string]string{"none": "", "wrong": "x"} {
			browser, page := i.at("/device")
			page.Forms[0].Action = path
			got := i.send(browser, page, url.Values{
				"csrf": {token}, "user_code": {device["user_code"].(string)},
				"email": {"alice@example.com"}, "password": {"correct horse"}, "decision": {"allow"},
			})
			if got.Status != http.StatusForbidden {
				t.Errorf("%s with token %s: %d", path, name, got.Status)
			}
		}
	}
	// Another browser's token is no good either.
	_, theirs := i.at("/device")
	browser, page := i.at("/device")
	got := i.send(browser, page, url.Values{"csrf": theirs.Forms[0].Fields["csrf"], "user_code": {device["user_code"].(string)}})
	if got.Status != http.StatusForbidden {
		t.Errorf("another browser's token: %d", got.Status)
	}
	i.wantPoll(device, "authorization_pending")
}

func TestConfirmNeedsASignIn(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	browser, page := i.at("/device")
	page = i.send(browser, page, url.Values{"user_code": {device["user_code"].(string)}})
	page.Forms[0].Action = confirmPath // skips the password
	if page = i.send(browser, page, url.Values{"decision": {"allow"}}); page.URL.Path != loginPath {
		t.Errorf("at %s", page.URL)
	}
	i.wantPoll(device, "authorization_pending")
}

func TestSignInChangesTheCookie(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Transport: i.client.Transport, Jar: jar}
	site, _ := url.Parse(i.issuer)
	form := func(path string, values url.Values) {
		t.Helper()
		s, ok := i.sessions.byID[jar.Cookies(site)[0].Value]
		if !ok {
			t.Fatal("no session")
		}
		values.Set("csrf", s.csrf)
		res, err := client.PostForm(i.issuer+path, values)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	res, err := client.Get(i.issuer + "/device")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	form(devicePath, url.Values{"user_code": {device["user_code"].(string)}})
	before := jar.Cookies(site)[0].Value
	form(loginPath, url.Values{"email": {"alice@example.com"}, "password": {"correct horse"}})
	if jar.Cookies(site)[0].Value == before {
		t.Error("the cookie from before the sign-in is still good")
	}
	if _, ok := i.sessions.byID[before]; ok {
		t.Error("the session from before the sign-in is still there")
	}
}

func TestWrongPasswordsAreLimited(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	browser, page := i.at("/device")
	page = i.send(browser, page, url.Values{"user_code": {device["user_code"].(string)}})
	for n := range maxPerUser {
		email := []string{"alice@example.com", "Alice@Example.com"}[n%2]
		if page = i.send(browser, page, url.Values{"email": {email}, "password": {fmt.Sprint(n)}}); page.Status != http.StatusUnauthorized || page.Alert == "" {
			t.Fatalf("wrong password %d: %d %q", n, page.Status, page.Alert)
		}
	}
	login := page
	good := url.Values{"email": {"alice@example.com"}, "password": {"correct horse"}}
	if page = i.send(browser, login, good); page.Status != http.StatusTooManyRequests {
		t.Errorf("after %d wrong passwords: %d", maxPerUser, page.Status)
	}
	i.advance(limitWindow)
	device = i.begin()
	page = i.send(browser, login, good)
	if page.Status != http.StatusOK {
		t.Errorf("after the window: %d %s", page.Status, page.Alert)
	}
	i.approve(device)
}

func TestUnknownUsersLookLikeWrongPasswords(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	browser, login := i.at("/device")
	login = i.send(browser, login, url.Values{"user_code": {device["user_code"].(string)}})
	wrong := i.send(browser, login, url.Values{"email": {"alice@example.com"}, "password": {"x"}})
	unknown := i.send(browser, login, url.Values{"email": {"nobody@example.com"}, "password": {""}})
	if wrong.Status != unknown.Status || wrong.Alert != unknown.Alert {
		t.Errorf("%d %q and %d %q", wrong.Status, wrong.Alert, unknown.Status, unknown.Alert)
	}
}

func TestWrongCodesAreLimited(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	browser, page := i.at("/device")
	for n := range maxPerClient {
		if page = i.send(browser, page, url.Values{"user_code": {"BBBB-BBBB"}}); page.Status != http.StatusUnprocessableEntity {
			t.Fatalf("wrong code %d: %d", n, page.Status)
		}
	}
	if page = i.send(browser, page, url.Values{"user_code": {device["user_code"].(string)}}); page.Status != http.StatusTooManyRequests {
		t.Errorf("after %d wrong codes: %d", maxPerClient, page.Status)
	}
}

func TestSessionsEnd(t *testing.T) {
	i := start(t, nil)
	device := i.begin()
	browser, page := i.at("/device")
	i.advance(sessionLifetime + time.Second)
	if page = i.send(browser, page, url.Values{"user_code": {device["user_code"].(string)}}); page.Status != http.StatusForbidden {
		t.Errorf("an old session: %d", page.Status)
	}
}

func TestLongBodiesAreRefused(t *testing.T) {
	i := start(t, nil)
	browser, page := i.at("/device")
	if got := i.send(browser, page, url.Values{"user_code": {strings.Repeat("B", maxForm)}}); got.Status != http.StatusForbidden {
		t.Errorf("got %d", got.Status)
	}
}

func TestFormActionAllowsTheRedirect(t *testing.T) {
	i := start(t, nil)
	// Chromium applies form-action to redirects after a form, too.
	query := url.Values{
		"client_id": {"gate"}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {"http://127.0.0.1:1/callback"},
		"code_challenge": {strings.Repeat("a", 43)}, "code_challenge_method": {"S256"},
	}
	res, err := i.client.Get(i.issuer + "/authorize?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if csp := res.Header.Get("Content-Security-Policy"); !strings.HasSuffix(csp, "form-action 'self' http://127.0.0.1:1") {
		t.Errorf("at %s: %s", res.Request.URL, csp)
	}
}
