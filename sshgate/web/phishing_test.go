package web_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// What an attacker tries at the sign-in page, each without success.

const notYours = "This browser did not begin this sign-in"

// callback signs in at the provider and returns the address that the browser would be
// sent back to, undelivered.
func (v *visitor) callback(address, email string) string {
	v.t.Helper()
	v.hold = true
	v.signIn(address, email)
	v.hold = false
	if v.held == "" {
		v.t.Fatal("the provider did not send the browser back")
	}
	return v.held
}

// with returns the address with some parameters changed.
func with(address string, change url.Values) string {
	u := must(url.Parse(address))
	q := u.Query()
	for name, values := range change {
		q[name] = values
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func TestPhishingCallbackInAnotherBrowser(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	victim, attacker := l.visitor(), l.visitor()
	back := victim.callback(address, "alice@example.com")
	// Without any cookie, and with one of the attacker's own for the same sign-in.
	wantPage(t, attacker.open(back), 403, notYours)
	attacker.callback(address, "mallory@example.com")
	wantPage(t, attacker.open(back), 403, notYours)
	wantWaiting(t, ticket)
	// It did no harm to the one whose it is.
	page := victim.follow(victim.open(back))
	wantPage(t, page, 200, "alice@example.com")
	wantPage(t, victim.say(page, "yes"), 200, "The terminal is signed in")
	wantOutcome(t, ticket, "alice", "")
}

func TestPhishingReplays(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	v := l.visitor()
	back := v.callback(address, "alice@example.com")
	v.open(back)
	wantPage(t, v.open(back), 403, notYours) // the state once more
	// The code once more, under a new state of the same browser.
	other, otherAddress := l.terminal()
	second := v.callback(otherAddress, "alice@example.com")
	spent := must(url.Parse(back)).Query().Get("code")
	wantPage(t, v.open(with(second, url.Values{"code": {spent}})), 403, "refused the gateway's request")
	wantPage(t, v.open(second), 403, notYours) // and that was this state's only chance
	wantWaiting(t, ticket)
	wantWaiting(t, other)
}

func TestPhishingCodeInjection(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	_, others := l.terminal()
	victim, attacker := l.visitor(), l.visitor()
	stolen := must(url.Parse(victim.callback(others, "alice@example.com"))).Query().Get("code")
	back := attacker.callback(address, "mallory@example.com")
	wantPage(t, attacker.open(with(back, url.Values{"code": {stolen}})), 403, "refused the gateway's request")
	wantWaiting(t, ticket)
}

func TestPhishingMixUp(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	v := l.visitor()
	back := v.callback(address, "alice@example.com")
	wantPage(t, v.open(with(back, url.Values{"iss": {"https://evil.example.com"}})), 403, "can't be used")
	wantPage(t, v.open(with(back, url.Values{"state": {"forged"}})), 403, notYours)
	wantPage(t, v.open(with(back, url.Values{"state": {""}})), 403, notYours)
	wantWaiting(t, ticket)
}

// TestPhishingFixation: an attacker has the victim's browser sign in under a cookie
// and a state that the attacker knows.
func TestPhishingFixation(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal() // the attacker's own
	attacker, victim := l.visitor(), l.visitor()
	provider := attacker.toProvider(address)
	site := must(url.Parse("https://" + l.addr))
	// Browsers keep others from planting a __Host- cookie; suppose that they do not.
	victim.jar.SetCookies(site, attacker.jar.Cookies(site))
	back := victim.submit(victim.open(provider.URL.String()), url.Values{"email": {"alice@example.com"}, "password": {"pw"}})
	review := victim.follow(back)
	wantPage(t, review, 200, "alice@example.com")
	// The attacker's cookie is not the victim's any more.
	wantPage(t, attacker.open(address), 200, "You see who asks, and decide, once you have signed in")
	if page := attacker.say(review, "yes"); page.Status != 403 {
		t.Errorf("the attacker confirmed as the victim: %d %s", page.Status, page.Text)
	}
	wantWaiting(t, ticket)

	// An attacker's cookie is worth nothing for a sign-in that the victim begins.
	victim = l.visitor()
	victim.jar.SetCookies(site, attacker.jar.Cookies(site))
	page := victim.review(address, "alice@example.com")
	wantPage(t, page, 200, "alice@example.com")
	for _, cookie := range victim.jar.Cookies(site) {
		if cookie.Name != "devidp" && slices.ContainsFunc(attacker.jar.Cookies(site), func(c *http.Cookie) bool { return c.Value == cookie.Value }) {
			t.Errorf("the victim has the attacker's cookie %v", cookie)
		}
	}
}

// TestPhishingForms: answers that are not from the victim's own page.
func TestPhishingForms(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	v, attacker := l.visitor(), l.visitor()
	page := v.review(address, "alice@example.com")
	own := attacker.review(address, "mallory@example.com")
	form := page.Forms[0]
	send := func(v *visitor, csrf string, headers http.Header) *approve.Page {
		t.Helper()
		v.headers = headers
		defer func() { v.headers = nil }()
		return v.ok(v.Submit(t.Context(), page, &approve.Form{Action: form.Action, Fields: url.Values{}}, url.Values{"csrf": {csrf}, "decision": {"yes"}}))
	}
	csrf := form.Fields.Get("csrf")
	for name, got := range map[string]*approve.Page{
		"no CSRF token":         send(v, "", nil),
		"the attacker's":        send(v, own.Forms[0].Fields.Get("csrf"), nil),
		"no cookie":             send(l.visitor(), csrf, nil),
		"the attacker's cookie": send(attacker, csrf, nil),
		"a foreign origin":      send(v, csrf, http.Header{"Origin": {"https://evil.example.com"}}),
		"no origin":             send(v, csrf, http.Header{"Origin": {"null"}}),
		"another site":          send(v, csrf, http.Header{"Sec-Fetch-Site": {"cross-site"}}),
		"a sibling":             send(v, csrf, http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"https://" + l.addr}}),
	} {
		if got.Status != 403 {
			t.Errorf("%s: %d %s", name, got.Status, got.Text)
		}
	}
	wantPage(t, v.ok(v.Get(t.Context(), "https://"+l.addr+form.Action)), 405, "")
	// A sign-in that another site has a browser begin.
	v.headers = http.Header{"Sec-Fetch-Site": {"cross-site"}}
	wantPage(t, v.submit(l.visitor().open(address), nil), 403, "another site")
	wantWaiting(t, ticket)
	if got := send(v, csrf, http.Header{"Origin": {"https://" + l.addr}, "Sec-Fetch-Site": {"same-origin"}}); got.Status != 200 {
		t.Errorf("the page's own form: %d %s", got.Status, got.Text)
	}
	wantOutcome(t, ticket, "alice", "")
}

func TestPhishingSecondConfirm(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	first, second := l.visitor(), l.visitor()
	one, two := first.review(address, "alice@example.com"), second.review(address, "mallory@example.com")
	wantPage(t, first.say(one, "yes"), 200, "The terminal is signed in")
	wantPage(t, second.say(two, "yes"), 409, "too late")
	wantOutcome(t, ticket, "alice", "")
	wantPage(t, l.visitor().open(address), 404, "No sign-in waits")
}

func TestConfirmAfterTheTerminalLeft(t *testing.T) {
	l := newLogins(t, nil)
	ticket, address := l.terminal()
	v := l.visitor()
	page := v.review(address, "alice@example.com")
	ticket.Leave()
	wantOutcome(t, ticket, "", authflow.CodeCancelled)
	wantPage(t, v.say(page, "yes"), 409, "too late")
	wantPage(t, v.open(address), 409, "too late")
}

func TestPhishingManyBrowsers(t *testing.T) {
	l := newLogins(t, nil)
	_, address := l.terminal()
	for range 8 {
		l.visitor().toProvider(address)
	}
	v := l.visitor()
	if page := v.submit(v.open(address), nil); page.Status != 503 || !strings.Contains(page.Alert, "Too many") {
		t.Errorf("%d %s", page.Status, page.Text)
	}
}
