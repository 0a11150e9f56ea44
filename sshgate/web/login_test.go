package web_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/internal/devidp"
	"github.com/sshgate/sshgate/internal/devidp/approve"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/web"
)

// loginBench is a gateway with the web flow at the embedded provider.
type loginBench struct {
	*bench
	flow    *authflow.Web
	pending *authflow.Pending
}

// asker is what the terminals of these tests say of themselves.
var asker = authflow.Asker{
	Connection: "c-1", Address: netip.MustParseAddr("127.0.0.77"), Client: "SSH-2.0-OpenSSH_9.2<b>", Key: "SHA256:theKey",
	Target: sshgate.Target{Login: "deploy", Origin: "web1"},
}

func newLogins(t *testing.T, change func(*authflow.WebConfig, *web.APIConfig)) *loginBench {
	t.Helper()
	l := &loginBench{}
	l.bench = newAPI(t, answering, func(b *bench, cfg *web.APIConfig) {
		server := httptest.NewUnstartedServer(nil)
		issuer := "http://" + server.Listener.Addr().String()
		server.Config.Handler = must(devidp.New(devidp.Config{
			Issuer: issuer, ClientID: "gate", RedirectURIs: []string{"https://" + b.addr + authflow.CallbackPath},
			Users: []devidp.User{
				{Subject: "alice", Email: "alice@example.com", EmailVerified: true, Password: "pw"},
				{Subject: "mallory", Email: "mallory@example.com", EmailVerified: true, Password: "pw"},
			},
		}))
		server.Start()
		t.Cleanup(server.Close)
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		oidc := must(authflow.NewOIDC(authflow.OIDCConfig{Issuer: issuer, ClientID: "gate", HTTPClient: &http.Client{Transport: transport}}))
		webCfg := authflow.WebConfig{OIDC: oidc, URL: "https://" + b.addr, Always: true}
		cfg.URL = webCfg.URL
		if change != nil {
			change(&webCfg, cfg)
		}
		l.flow = authflow.NewWeb(webCfg)
		l.pending = authflow.NewPending(l.flow.Start, 20)
		cfg.Web, cfg.SignIns = l.flow, l.pending
		t.Cleanup(l.pending.Close)
	})
	return l
}

// terminal begins a sign-in.
func (l *loginBench) terminal() (*authflow.Ticket, string) {
	l.t.Helper()
	ticket, err := l.pending.Join(l.t.Context(), "", asker)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(ticket.Leave)
	return ticket, ticket.Prompt().VerificationURIComplete
}

// visitor is a browser of which the test can look into everything.
type visitor struct {
	*approve.Browser
	t       *testing.T
	jar     *cookiejar.Jar
	hold    bool   // do not deliver what goes to the callback
	held    string // the address that was not delivered
	headers http.Header
}

func (l *loginBench) visitor() *visitor {
	v := &visitor{t: l.t, jar: must(cookiejar.New(nil)), headers: http.Header{}}
	v.Browser = approve.NewBrowserWith(&http.Client{Transport: v, Jar: v.jar, Timeout: 20 * time.Second})
	return v
}

func (v *visitor) RoundTrip(req *http.Request) (*http.Response, error) {
	if v.hold && req.URL.Path == authflow.CallbackPath {
		v.held = req.URL.String()
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: req}, nil
	}
	for name, values := range v.headers {
		if req.Method == http.MethodPost {
			req.Header[name] = values
		}
	}
	transport := &http.Transport{TLSClientConfig: clientTLS(), DisableKeepAlives: true}
	return transport.RoundTrip(req)
}

func (v *visitor) open(address string) *approve.Page {
	v.t.Helper()
	return v.ok(v.Get(v.t.Context(), address))
}

func (v *visitor) ok(page *approve.Page, err error) *approve.Page {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	return page
}

// submit sends the page's form.
func (v *visitor) submit(page *approve.Page, values url.Values) *approve.Page {
	v.t.Helper()
	if len(page.Forms) == 0 {
		v.t.Fatalf("%s has no form (%d): %s", page.URL, page.Status, page.Text)
	}
	return v.ok(v.Submit(v.t.Context(), page, &page.Forms[0], values))
}

// follow opens the page's link.
func (v *visitor) follow(page *approve.Page) *approve.Page {
	v.t.Helper()
	if len(page.Links) == 0 {
		v.t.Fatalf("%s has no link (%d): %s", page.URL, page.Status, page.Text)
	}
	return v.open(must(page.URL.Parse(page.Links[0])).String())
}

// toProvider goes as far as the provider's page.
func (v *visitor) toProvider(address string) *approve.Page {
	v.t.Helper()
	return v.follow(v.submit(v.open(address), nil))
}

// signIn comes back from the provider, to the page after the redirect.
func (v *visitor) signIn(address, email string) *approve.Page {
	v.t.Helper()
	return v.submit(v.toProvider(address), url.Values{"email": {email}, "password": {"pw"}})
}

// review signs in and sees who asks.
func (v *visitor) review(address, email string) *approve.Page {
	v.t.Helper()
	return v.follow(v.signIn(address, email))
}

func (v *visitor) say(page *approve.Page, decision string) *approve.Page {
	v.t.Helper()
	return v.submit(page, url.Values{"decision": {decision}})
}

// wantPage checks a page's status and some of its text.
func wantPage(t *testing.T, page *approve.Page, status int, text string) {
	t.Helper()
	if page.Status != status || !strings.Contains(page.Text, text) {
		t.Errorf("%s is %d, want %d with %q:\n%s", page.URL, page.Status, status, text, page.Text)
	}
}

// wantOutcome waits for the end of the terminal's sign-in.
func wantOutcome(t *testing.T, ticket *authflow.Ticket, subject, code string) {
	t.Helper()
	select {
	case <-ticket.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the terminal still waits")
	}
	id, err := ticket.Result()
	var failure *authflow.Failure
	switch {
	case code == "" && (err != nil || id.Subject != subject):
		t.Errorf("got %+v, %v", id, err)
	case code != "" && (!errors.As(err, &failure) || failure.Code != code || id.Subject != ""):
		t.Errorf("got %+v, %v, want %s", id, err, code)
	}
}

// wantWaiting checks that the terminal is not signed in.
func wantWaiting(t *testing.T, ticket *authflow.Ticket) {
	t.Helper()
	select {
	case <-ticket.Done():
		t.Fatal("the terminal does not wait any more")
	case <-time.After(50 * time.Millisecond):
	}
}

func TestLoginConfirmed(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	v := l.visitor()
	before := v.open(address)
	wantPage(t, before, 200, ticket.Prompt().UserCode)
	for _, secret := range []string{"127.0.0.77", "web1", "deploy", "theKey", "OpenSSH"} {
		if strings.Contains(before.Text, secret) {
			t.Errorf("the page shows %s to somebody who has not signed in", secret)
		}
	}
	page := v.review(address, "alice@example.com")
	for _, want := range []string{"alice@example.com", "127.0.0.77", "not this browser's", "deploy+web1", "SHA256:theKey", "OpenSSH_9.2<b>", ticket.Prompt().UserCode} {
		wantPage(t, page, 200, want)
	}
	wantWaiting(t, ticket)
	wantPage(t, v.say(page, "yes"), 200, "The terminal is signed in")
	wantOutcome(t, ticket, "alice", "")
	wantPage(t, v.say(page, "yes"), 200, "The terminal is signed in") // the button once more
	wantPage(t, v.say(page, "no"), 200, "The terminal is signed in")
	for _, detail := range []string{"signed in at the provider", "confirmed"} {
		e := must(l.events.Wait(t.Context(), func(e sshgate.Event) bool { return e.Kind == sshgate.EventLoginPage && e.Detail == detail }))
		if !e.Allowed || e.Subject != "alice" || e.Connection != "c-1" || e.Key != "SHA256:theKey" || e.Origin != "web1" || e.ClientAddr.String() != "127.0.0.1" {
			t.Errorf("%+v", e)
		}
	}
}

func TestLoginByTypedCode(t *testing.T) {
	l := newLogins(t, nil)
	ticket, _ := l.terminal()
	v := l.visitor()
	page := v.submit(v.open("https://"+l.addr+"/login"), url.Values{"code": {strings.ToLower(strings.ReplaceAll(ticket.Prompt().UserCode, "-", ""))}})
	wantPage(t, page, 200, ticket.Prompt().UserCode)
	if !strings.HasSuffix(page.URL.Path, ticket.Prompt().UserCode) {
		t.Errorf("on %s", page.URL)
	}
}

func TestLoginDenied(t *testing.T) {
	for decision, text := range map[string]string{"no": "told no", "report": "reported"} {
		t.Run(decision, func(t *testing.T) {
			l := newLogins(t, nil)
			ticket, address := l.terminal()
			v := l.visitor()
			wantPage(t, v.say(v.review(address, "alice@example.com"), decision), 200, text)
			wantOutcome(t, ticket, "", authflow.CodeAccessDenied)
			kind := sshgate.EventLoginPage
			if decision == "report" {
				kind = sshgate.EventLoginReport
			}
			e := must(l.events.Wait(t.Context(), func(e sshgate.Event) bool { return e.Kind == kind && strings.HasPrefix(e.Detail, "denied") }))
			if e.Subject != "alice" || e.Connection != "c-1" || decision == "report" && !strings.Contains(e.Detail, "127.0.0.77") {
				t.Errorf("%+v", e)
			}
		})
	}
}

var sixDigits = regexp.MustCompile(`\b\d{6}\b`)

func TestLoginNumber(t *testing.T) {
	l := newLogins(t, func(cfg *authflow.WebConfig, _ *web.APIConfig) { cfg.ConfirmCode = true })
	ticket, address := l.terminal()
	v := l.visitor()
	page := v.say(v.review(address, "alice@example.com"), "yes")
	number := sixDigits.FindString(page.Text)
	wantPage(t, page, 200, "Tell it to nobody")
	wantWaiting(t, ticket)
	if left := ticket.Answer("000 00"); left != 2 {
		t.Errorf("%d tries left", left)
	}
	if page = v.open(address); sixDigits.FindString(page.Text) != number {
		t.Errorf("after a reload the number is %q, not %q", sixDigits.FindString(page.Text), number)
	}
	if left := ticket.Answer(number); left != 0 {
		t.Errorf("%d tries left", left)
	}
	wantOutcome(t, ticket, "alice", "")
	wantPage(t, v.open(address), 200, "The terminal is signed in")

	// Who is asked for the number by somebody else can still say no.
	ticket, address = l.terminal()
	wantPage(t, v.say(v.say(v.review(address, "alice@example.com"), "yes"), "report"), 200, "reported")
	wantOutcome(t, ticket, "", authflow.CodeAccessDenied)

	ticket, address = l.terminal()
	v.say(v.review(address, "alice@example.com"), "yes")
	for range 3 {
		ticket.Answer("")
	}
	wantOutcome(t, ticket, "", authflow.CodeAccessDenied)
	wantPage(t, v.open(address), 200, "Nobody was signed in")
}

// TestLoginOfHelper: the helper's sign-in goes by the page, and by its number where
// that is wanted.
func TestLoginOfHelper(t *testing.T) {
	l := newLogins(t, func(cfg *authflow.WebConfig, _ *web.APIConfig) { cfg.ConfirmCode = true })
	resp, got := l.do(http.MethodPost, "/oauth/device_authorization", "", url.Values{"client_id": {"sshgate"}, "hostname": {"web1"}})
	address, _ := got["verification_uri_complete"].(string)
	code, _ := got["device_code"].(string)
	if resp.StatusCode != 200 || !strings.HasPrefix(address, "https://"+l.addr+"/login/") {
		t.Fatalf("%s: %v", resp.Status, got)
	}
	v := l.visitor()
	review := v.review(address, "alice@example.com")
	wantPage(t, review, 200, "Go-http-client")
	number := sixDigits.FindString(v.say(review, "yes").Text)
	for _, step := range []struct{ confirmation, want string }{{"", "confirmation_required"}, {"1", "confirmation_required"}, {number, ""}} {
		time.Sleep(600 * time.Millisecond) // not to be told to slow down
		_, got := l.do(http.MethodPost, "/oauth/token", "", url.Values{"grant_type": {deviceGrant}, "device_code": {code}, "confirmation": {step.confirmation}})
		if code, _ := got["error"].(string); code != step.want || step.want == "" && got["identity"] != "alice@example.com" {
			t.Errorf("%q: %v", step.confirmation, got)
		}
	}
}

func TestLoginSameNetwork(t *testing.T) {
	l := newLogins(t, func(_ *authflow.WebConfig, cfg *web.APIConfig) { cfg.SameNetwork = true })
	ticket, address := l.terminal()
	v := l.visitor()
	wantPage(t, v.say(v.review(address, "alice@example.com"), "yes"), 200, "The terminal is signed in") // 127.0.0.77 and 127.0.0.1
	wantOutcome(t, ticket, "alice", "")

	far := asker
	far.Address = netip.MustParseAddr("203.0.113.9")
	other, err := l.pending.Join(t.Context(), "", far)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Leave()
	v = l.visitor()
	page := v.submit(v.open(other.Prompt().VerificationURIComplete), nil)
	wantPage(t, page, 403, "another network")
	if strings.Contains(page.Text, "203.0.113.9") {
		t.Error("the page tells a stranger the terminal's address")
	}
	wantWaiting(t, other)
	e := must(l.events.Wait(t.Context(), func(e sshgate.Event) bool { return e.Detail == "refused" }))
	if !strings.Contains(e.Reason, "203.0.113.9") || e.ClientAddr.String() != "127.0.0.1" || e.Allowed {
		t.Errorf("%+v", e)
	}
}

func TestLoginCodesAreNotGuessed(t *testing.T) {
	l := newLogins(t, nil)
	_, address := l.terminal()
	v := l.visitor()
	for i := range 4 { // a wrong code counts as five failures, of twenty
		wantPage(t, v.open(fmt.Sprintf("https://%s/login/BCDF-GH%c%c", l.addr, "BCDFG"[i/4], "BCDF"[i%4])), 404, "No sign-in waits")
	}
	wantPage(t, v.open(address), 429, "too many tries")
	wantPage(t, v.submit(v.open("https://"+l.addr+"/login"), url.Values{"code": {address[len(address)-9:]}}), 429, "too many tries")
}

func TestLoginHeadersAndCookies(t *testing.T) {
	l := newLogins(t, nil)
	_, address := l.terminal()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(), DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp := must(client.Get(address))
	body := string(must(io.ReadAll(resp.Body)))
	resp.Body.Close()
	if len(resp.Cookies()) != 0 || strings.Contains(body, "<script") || strings.Contains(body, "http://") || strings.Contains(body, "https://") {
		t.Errorf("cookies %v, body:\n%s", resp.Cookies(), body)
	}
	resp = must(client.Post(address+"/sign-in", "application/x-www-form-urlencoded", nil))
	resp.Body.Close()
	if len(resp.Cookies()) != 1 {
		t.Fatalf("cookies %v", resp.Cookies())
	}
	c := resp.Cookies()[0]
	if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 26 {
		t.Errorf("cookie %+v", c)
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
		"Cache-Control":           "no-store", "Referrer-Policy": "same-origin", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
