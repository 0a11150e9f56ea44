package web_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
)

// browser walks the pages without JavaScript.
type browser struct {
	t      *testing.T
	client *http.Client
	base   string
	header http.Header // of each request
}

// seen is what a page shows.
type seen struct {
	*http.Response
	text string // HTML
}

func (b *bench) browser() *browser {
	b.t.Helper()
	transport := &http.Transport{TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true}
	b.t.Cleanup(transport.CloseIdleConnections)
	return &browser{t: b.t, client: &http.Client{Transport: transport, Jar: must(cookiejar.New(nil))}, base: "https://" + b.addr, header: http.Header{}}
}

func (w *browser) do(method, path string, form url.Values) seen {
	w.t.Helper()
	req := must(http.NewRequestWithContext(w.t.Context(), method, w.base+path, strings.NewReader(form.Encode())))
	maps.Copy(req.Header, w.header)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	page := seen{resp, string(must(io.ReadAll(resp.Body)))}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		page.check(w.t)
	}
	return page
}

func (w *browser) get(path string) seen { w.t.Helper(); return w.do(http.MethodGet, path, nil) }

func (w *browser) post(path string, form url.Values) seen {
	w.t.Helper()
	return w.do(http.MethodPost, path, form)
}

var csrfPattern = regexp.MustCompile(`name="csrf" value="([A-Z0-9]+)"`)

func (p seen) csrf() string {
	if found := csrfPattern.FindStringSubmatch(p.text); found != nil {
		return found[1]
	}
	return ""
}

// check looks at what every page must be: well-formed, with a label for each field,
// without scripts and with the headers that keep others out.
func (p seen) check(t *testing.T) {
	t.Helper()
	p.checkHeaders(t)
	decoder := xml.NewDecoder(strings.NewReader(p.text))
	decoder.Strict, decoder.AutoClose, decoder.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var open []string
	labels, fields, inLabel := map[string]bool{}, []string{}, false
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, p.text)
		}
		switch e := token.(type) {
		case xml.StartElement:
			attrs := map[string]string{}
			for _, a := range e.Attr {
				attrs[a.Name.Local] = a.Value
				if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "style" {
					t.Errorf("<%s> has %s=", e.Name.Local, a.Name.Local)
				}
			}
			switch e.Name.Local {
			case "script", "img", "iframe", "object":
				t.Errorf("it has <%s>:\n%s", e.Name.Local, p.text)
			case "label":
				inLabel = true
				labels[attrs["for"]] = true
			case "input":
				if attrs["type"] != "hidden" && !inLabel {
					fields = append(fields, attrs["id"])
				}
			}
			open = append(open, e.Name.Local)
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != e.Name.Local {
				t.Fatalf("</%s> closes %v\n%s", e.Name.Local, open, p.text)
			}
			open, inLabel = open[:len(open)-1], inLabel && e.Name.Local != "label"
		}
	}
	for _, id := range fields {
		if id == "" || !labels[id] {
			t.Errorf("the field %q has no label", id)
		}
	}
	if len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
}

func (p seen) checkHeaders(t *testing.T) {
	t.Helper()
	policy := p.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("the policy %q lacks %s", policy, part)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "script-src") || p.Header.Get("Cache-Control") != "no-store" || p.Header.Get("X-Content-Type-Options") != "nosniff" ||
		p.Header.Get("Referrer-Policy") != "same-origin" || p.Header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("headers: %v", p.Header)
	}
}

// asks has a machine wait.
func (b *bench) asks(machine string, hostnames ...string) (p *enrolment.Pending, code string) {
	b.t.Helper()
	request, _, err := connector.NewRequest()
	if err != nil {
		b.t.Fatal(err)
	}
	w := enrolment.Wish{Request: request, Machine: machine, Software: machine}
	for _, hostname := range hostnames {
		w.Hostnames = append(w.Hostnames, must(sshgate.ParseHostPattern(hostname)))
	}
	p, code, err = b.desk.Ask(w)
	if err != nil {
		b.t.Fatal(err)
	}
	return p, code
}

// signsIn has the person in the browser get to the page about the machine.
func (b *bench) signsIn(w *browser, p *enrolment.Pending, how result) seen {
	b.t.Helper()
	page := w.post("/enrol/sign-in", url.Values{"code": {strings.ToLower(p.UserCode)}})
	if !strings.HasSuffix(page.Request.URL.Path, "/enrol/machine") || !strings.Contains(page.text, "ABCD-EFGH") || !strings.Contains(page.text, `href="https://idp.test/device"`) || !strings.Contains(page.text, `http-equiv="refresh"`) {
		b.t.Fatalf("to sign in: %s %s\n%s", page.Request.URL, page.Status, page.text)
	}
	b.logins <- how
	for range 200 {
		if page = w.get("/enrol/machine"); !strings.Contains(page.text, "ABCD-EFGH") {
			return page
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.t.Fatal("the sign-in does not end")
	return page
}

func TestPagesLetIn(t *testing.T) {
	b := newAPI(t, answering)
	p, device := b.asks("box", "web1", "web3")
	w := b.browser()
	// A browser of today says so, and "null" where a page has no referrer.
	w.header = http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}
	if page := w.get("/enrol?code=" + p.UserCode); !strings.Contains(page.text, `value="`+p.UserCode+`"`) {
		t.Errorf("the code of the link is not filled in:\n%s", page.text)
	}
	page := b.signsIn(w, p, result{id: person("alice")})
	for _, piece := range []string{"alice@example.com", "box", p.UserCode, `value="web1" checked`, "web3</code> is not yours"} {
		if !strings.Contains(page.text, piece) {
			t.Errorf("the page lacks %q:\n%s", piece, page.text)
		}
	}
	page = w.post("/enrol/decide", url.Values{"csrf": {page.csrf()}, "decision": {"yes"}, "hostname": {"web1"}, "name": {"box"}})
	if page.StatusCode != 200 || !strings.Contains(page.text, "is let in") {
		t.Errorf("%s\n%s", page.Status, page.text)
	}
	cert, err := b.desk.Wait(t.Context(), device)
	if err != nil || !slices.Equal(cert.DNSNames, []string{"web1"}) {
		t.Errorf("%v, %v", cert, err)
	}
	if page := w.get("/enrol/machine"); page.Request.URL.Path != "/enrol" {
		t.Errorf("afterwards the visit goes on: %s", page.Request.URL)
	}
	kinds := map[sshgate.EventKind]int{}
	for _, e := range b.events.Events() {
		kinds[e.Kind]++
	}
	if kinds[sshgate.EventLoginStart] != 1 || kinds[sshgate.EventLoginSuccess] != 1 || kinds[sshgate.EventEnrolment] != 2 {
		t.Errorf("on record: %v", kinds)
	}
}

// A machine that asks for nothing leaves the choice to the person, whose typing is kept.
func TestPagesChoose(t *testing.T) {
	b := newAPI(t, answering)
	p, device := b.asks("box")
	w := b.browser()
	page := b.signsIn(w, p, result{id: person("alice")})
	if !strings.Contains(page.text, "box.lab") || strings.Contains(page.text, " checked") {
		t.Errorf("%s", page.text)
	}
	form := url.Values{"csrf": {page.csrf()}, "decision": {"yes"}, "name": {"mine"}}
	for _, tt := range []struct {
		boxes        []string
		typed, piece string
		status       int
	}{
		{nil, "", "Choose at least one hostname.", 400},
		{[]string{"web1"}, "a.lab, b..lab", "b..lab", 400},
		{[]string{"web1"}, "other", "You may not hand out other.", 400},
		{[]string{"web1"}, `"><script>alert(1)</script>`, "&lt;script&gt;", 400},
	} {
		form["hostname"], form["hostnames"] = tt.boxes, []string{tt.typed}
		page = w.post("/enrol/decide", form)
		if page.StatusCode != tt.status || !strings.Contains(page.text, tt.piece) || !strings.Contains(page.text, `value="mine"`) ||
			len(tt.boxes) > 0 && !strings.Contains(page.text, `value="web1" checked`) || tt.typed == "other" && !strings.Contains(page.text, `value="other"`) {
			t.Errorf("%q: %s\n%s", tt.typed, page.Status, page.text)
		}
	}
	form["hostname"], form["hostnames"] = []string{"web1"}, []string{"A.lab; *.b.lab web1"}
	if page = w.post("/enrol/decide", form); page.StatusCode != 200 {
		t.Fatalf("%s\n%s", page.Status, page.text)
	}
	cert, err := b.desk.Wait(t.Context(), device)
	if err != nil || cert.Subject.CommonName != "mine" || !slices.Equal(cert.DNSNames, []string{"web1", "a.lab", "*.b.lab"}) {
		t.Errorf("%v, %v", cert, err)
	}

	// A name of hers: the page offers to be a replica of it.
	p, device = b.asks("box2", "web1")
	page = b.signsIn(w, p, result{id: person("alice")})
	if strings.Contains(page.text, `name="replica"`) {
		t.Error("a new name may be a replica")
	}
	form = url.Values{"csrf": {page.csrf()}, "decision": {"yes"}, "hostname": {"web1"}, "name": {"mine"}}
	page = w.post("/enrol/decide", form)
	if page.StatusCode != http.StatusConflict || !strings.Contains(page.text, `name="replica"`) || !strings.Contains(page.text, "replica of the connector mine") {
		t.Errorf("%s\n%s", page.Status, page.text)
	}
	form.Set("replica", "yes")
	if page = w.post("/enrol/decide", form); page.StatusCode != 200 {
		t.Errorf("%s\n%s", page.Status, page.text)
	}
	if _, err := b.desk.Wait(t.Context(), device); err != nil {
		t.Error(err)
	}
}

func TestPagesDeny(t *testing.T) {
	b := newAPI(t, answering)
	for decision, reason := range map[string]string{"no": "denied", "report": "suspicious"} {
		p, device := b.asks("box", "web1")
		w := b.browser()
		page := b.signsIn(w, p, result{id: person("alice")})
		page = w.post("/enrol/decide", url.Values{"csrf": {page.csrf()}, "decision": {"what"}})
		if page.StatusCode != 400 || !strings.Contains(page.text, "Press one of the buttons.") {
			t.Errorf("no button: %s", page.Status)
		}
		page = w.post("/enrol/decide", url.Values{"csrf": {page.csrf()}, "decision": {decision}})
		if _, err := b.desk.Wait(t.Context(), device); page.StatusCode != 200 || err == nil {
			t.Errorf("%s: %s, %v", decision, page.Status, err)
		}
		if all := b.events.Events(); !strings.Contains(all[len(all)-1].Reason, reason) {
			t.Errorf("on record: %+v", all[len(all)-1])
		}
	}
}

// Who may hand out nothing sees nothing of the machine, nor does who did not sign in.
func TestPagesKeepOut(t *testing.T) {
	b := newAPI(t, answering)
	p, _ := b.asks("secretbox", "web1")
	w := b.browser()
	page := b.signsIn(w, p, result{id: person("bob")})
	if page.StatusCode != 400 || strings.Contains(page.text, "secretbox") || page.csrf() != "" || !strings.Contains(page.text, "You may not let connectors in") {
		t.Errorf("bob: %s\n%s", page.Status, page.text)
	}
	page = b.signsIn(w, p, result{err: errors.New("expired")})
	if page.StatusCode != 403 || strings.Contains(page.text, "secretbox") {
		t.Errorf("no sign-in: %s\n%s", page.Status, page.text)
	}
	for _, path := range []string{"/enrol/machine"} {
		if page := b.browser().get(path); page.Request.URL.Path != "/enrol" || strings.Contains(page.text, "secretbox") {
			t.Errorf("%s without a cookie leads to %s", path, page.Request.URL)
		}
	}
	if page := b.browser().post("/enrol/decide", url.Values{"decision": {"yes"}}); page.Request.URL.Path != "/enrol" {
		t.Errorf("an answer without a cookie leads to %s", page.Request.URL)
	}
	if _, err := b.desk.Find(p.UserCode); err != nil {
		t.Error("it waits no longer")
	}
}

func TestPagesForgery(t *testing.T) {
	b := newAPI(t, answering)
	p, _ := b.asks("box", "web1")
	w := b.browser()
	page := b.signsIn(w, p, result{id: person("alice")})
	good := page.csrf()
	for name, tt := range map[string]struct {
		csrf   string
		header http.Header
	}{
		"no csrf":              {"", nil},
		"a wrong csrf":         {"AAAA", nil},
		"a foreign origin":     {good, http.Header{"Origin": {"https://evil.test"}}},
		"another port":         {good, http.Header{"Origin": {"https://127.0.0.1:1"}}},
		"an opaque origin":     {good, http.Header{"Origin": {"null"}}},
		"another site":         {good, http.Header{"Sec-Fetch-Site": {"cross-site"}}},
		"a neighbour":          {good, http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"https://" + b.addr}}},
		"another site, opaque": {good, http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"null"}}},
	} {
		w.header = tt.header
		page := w.post("/enrol/decide", url.Values{"csrf": {tt.csrf}, "decision": {"yes"}, "hostname": {"web1"}, "name": {"box"}})
		if page.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", name, page.Status)
		}
		if tt.header != nil {
			if page := w.post("/enrol/sign-in", url.Values{"code": {p.UserCode}}); page.StatusCode != http.StatusForbidden {
				t.Errorf("%s, signing in: %s", name, page.Status)
			}
		}
	}
	w.header = http.Header{"Origin": {"https://" + b.addr}}
	if page := w.post("/enrol/decide", url.Values{"csrf": {good}, "decision": {"yes"}, "hostname": {"web1"}, "name": {"box"}}); page.StatusCode != 200 {
		t.Errorf("the page's own form: %s\n%s", page.Status, page.text)
	}
}

func TestPagesCookie(t *testing.T) {
	b := newAPI(t, answering)
	p, _ := b.asks("box", "web1")
	w := b.browser()
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	page := w.post("/enrol/sign-in", url.Values{"code": {p.UserCode}})
	cookies := page.Cookies()
	if page.StatusCode != http.StatusSeeOther || len(cookies) != 1 {
		t.Fatalf("%s %v", page.Status, cookies)
	}
	c := cookies[0]
	if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 26 || c.MaxAge <= 0 {
		t.Errorf("%+v", c)
	}
	again := w.post("/enrol/sign-in", url.Values{"code": {p.UserCode}}).Cookies()
	if len(again) != 1 || again[0].Value == c.Value {
		t.Errorf("signing in again leaves the cookie: %v", again)
	}
	old := b.browser()
	old.header = http.Header{"Cookie": {c.Name + "=" + c.Value}}
	if page := old.get("/enrol/machine"); page.Request.URL.Path != "/enrol" {
		t.Error("the visit before is still good")
	}
}

// What a machine says of itself comes out as text.
func TestPagesEscape(t *testing.T) {
	b := newAPI(t, answering)
	const evil = `"><script>alert(1)</script><b x='`
	p, _ := b.asks(evil, "web1")
	page := b.signsIn(b.browser(), p, result{id: person("alice")})
	if strings.Contains(page.text, "<script") || !strings.Contains(page.text, "&lt;script&gt;alert(1)") {
		t.Errorf("%s", page.text)
	}
	if page := b.browser().get("/enrol?code=" + url.QueryEscape(evil)); strings.Contains(page.text, "alert") {
		t.Errorf("%s", page.text)
	}
}

func TestPagesCodes(t *testing.T) {
	b := newAPI(t, answering)
	w := b.browser()
	page := w.post("/enrol/sign-in", url.Values{"code": {"bcdf ghjk"}})
	if page.StatusCode != http.StatusNotFound || !strings.Contains(page.text, `value="BCDF-GHJK"`) || !strings.Contains(page.text, `role="alert"`) {
		t.Errorf("a wrong code: %s\n%s", page.Status, page.text)
	}
	p, _ := b.asks("box", "web1")
	for range 25 {
		page = w.post("/enrol/sign-in", url.Values{"code": {"BCDF-GHJK"}})
	}
	if page.StatusCode != http.StatusTooManyRequests {
		t.Errorf("after 26 wrong codes: %s", page.Status)
	}
	if page = w.post("/enrol/sign-in", url.Values{"code": {p.UserCode}}); page.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a right code, after 26 wrong ones: %s", page.Status)
	}
}

func TestPagesStyle(t *testing.T) {
	b := newAPI(t, answering)
	page := b.browser().get("/enrol/style.css")
	if page.StatusCode != 200 || page.Header.Get("Content-Type") != "text/css; charset=utf-8" || !bytes.Contains([]byte(page.text), []byte(":focus-visible")) {
		t.Errorf("%s %v", page.Status, page.Header)
	}
}
