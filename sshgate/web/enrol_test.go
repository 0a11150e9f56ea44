package web_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
)

// wishBody is what a machine sends.
func wishBody(t *testing.T, fields map[string]any) (body string, keyPEM []byte) {
	t.Helper()
	request, keyPEM, err := connector.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"request": request, "machine": "box", "software": "x/1"}
	for name, value := range fields {
		all[name] = value
	}
	return string(must(json.Marshal(all))), keyPEM
}

// joinToken makes a join token and returns its header.
func (b *bench) joinToken(uses int, hostnames ...string) (id sshgate.JoinTokenID, header string) {
	b.t.Helper()
	token, hash := authflow.NewJoinToken()
	id = sshgate.NewJoinTokenID()
	err := b.store.AddJoinToken(b.t.Context(), sshgate.JoinTokenRecord{ID: id, Hash: hash, Hostnames: hostnames, Uses: uses, CreatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		b.t.Fatal(err)
	}
	return id, "Bearer " + token
}

func TestEnrolByJoinToken(t *testing.T) {
	b := newAPI(t, answering)
	_, header := b.joinToken(1, "web1", "*.lab")
	body, keyPEM := wishBody(t, map[string]any{"hostnames": []string{"a.lab"}})
	resp, got := b.do(http.MethodPost, "/api/v1/enrolments", header, body)
	if resp.StatusCode != 200 || got["connector"] != "box" || got["user_ca"] == "" {
		t.Fatalf("%s %v", resp.Status, got)
	}
	pair, err := tls.X509KeyPair([]byte(got["certificate"].(string)), keyPEM)
	if err != nil || pair.Leaf.DNSNames[0] != "a.lab" {
		t.Errorf("%v, %v", pair.Leaf, err)
	}
	resp, got = b.do(http.MethodPost, "/api/v1/enrolments", header, body)
	if resp.StatusCode != http.StatusUnauthorized || got["error"] != "token_unknown" || len(resp.Header["Www-Authenticate"]) == 0 {
		t.Errorf("used up: %s %v", resp.Status, got)
	}
	// Guessing is slow, also with a token among the guesses that is good.
	_, good := b.joinToken(1, "web1")
	status := 0
	for range 25 {
		resp, _ = b.do(http.MethodPost, "/api/v1/enrolments", "Bearer sgj_guess", body)
		status = resp.StatusCode
	}
	if resp, _ = b.do(http.MethodPost, "/api/v1/enrolments", good, body); status != http.StatusTooManyRequests || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("after 26 wrong tokens: %d, with a good one: %s", status, resp.Status)
	}
	for _, e := range b.events.Events() {
		if text := string(must(json.Marshal(e))); strings.Contains(text, strings.TrimPrefix(header, "Bearer ")) || strings.Contains(text, "guess") {
			t.Errorf("a token is on record: %s", text)
		}
	}
}

func TestEnrolRefuses(t *testing.T) {
	b := newAPI(t, answering)
	_, header := b.joinToken(9, "web1")
	of := func(fields map[string]any) string { body, _ := wishBody(t, fields); return body }
	for name, tt := range map[string]struct {
		header, body string
		status       int
		code         string
	}{
		"empty":               {"", "", 400, "bad_request"},
		"null":                {"", "null", 400, "bad_request"},
		"a list":              {"", "[]", 400, "bad_request"},
		"text behind":         {"", of(nil) + "x", 400, "bad_request"},
		"two objects":         {"", of(nil) + "{}", 400, "bad_request"},
		"cut off":             {"", `{"request":"`, 400, "bad_request"},
		"too long":            {"", `{"machine":"` + strings.Repeat("a", 70_000) + `"}`, 400, "bad_request"},
		"no request":          {"", `{}`, 400, "bad_request"},
		"a request of junk":   {header, of(map[string]any{"request": []byte("junk")}), 400, "bad_request"},
		"a bad hostname":      {"", of(map[string]any{"hostnames": []string{"a b"}}), 400, "bad_request"},
		"a bad name":          {"", of(map[string]any{"name": "A\x1b[2J"}), 400, "bad_request"},
		"more than the token": {header, of(map[string]any{"hostnames": []string{"web2"}}), 400, "access_denied"},
		"a wrong scheme":      {"Digest x", of(nil), 401, "token_unknown"},
		"Basic with an ID":    {basic("x", strings.TrimPrefix(header, "Bearer ")), of(nil), 401, "token_unknown"},
		"an access token":     {b.bearer(person("alice")), of(nil), 401, "token_unknown"},
	} {
		resp, got := b.do(http.MethodPost, "/api/v1/enrolments", tt.header, tt.body)
		if resp.StatusCode != tt.status || got["error"] != tt.code || strings.Contains(got["error_description"].(string), "\x1b") {
			t.Errorf("%s: %s %v, want %d %s", name, resp.Status, got, tt.status, tt.code)
		}
	}
	if recs := must(b.store.Connectors(t.Context())); len(recs) != 0 {
		t.Errorf("let in: %+v", recs)
	}
	if resp, _ := b.do(http.MethodPost, "/api/v1/enrolments", basic("bearer", strings.TrimPrefix(header, "Bearer ")), of(nil)); resp.StatusCode != 200 {
		t.Errorf("the token by Basic: %s", resp.Status)
	}
}

func TestEnrolWaits(t *testing.T) {
	b := newAPI(t, answering)
	body, _ := wishBody(t, map[string]any{"hostnames": []string{"web1"}})
	resp, got := b.do(http.MethodPost, "/api/v1/enrolments", "", body)
	if resp.StatusCode != 200 || got["verification_uri"] != "https://gate.test/enrol" || got["verification_uri_complete"] != "https://gate.test/enrol?code="+got["user_code"].(string) || got["expires_in"].(float64) < 800 {
		t.Fatalf("%s %v", resp.Status, got)
	}
	poll := string(must(json.Marshal(map[string]any{"device_code": got["device_code"]})))
	start := time.Now()
	resp, waiting := b.do(http.MethodPost, "/api/v1/enrolments/certificate", "", poll)
	if took := time.Since(start); resp.StatusCode != 400 || waiting["error"] != "authorization_pending" || took < 5*time.Second || took > 20*time.Second {
		t.Errorf("after %s: %s %v", took, resp.Status, waiting)
	}
	p := must(b.desk.Find(got["user_code"].(string)))
	w := b.browser()
	page := b.signsIn(w, p, result{id: person("alice")})
	w.post("/enrol/decide", map[string][]string{"csrf": {page.csrf()}, "decision": {"yes"}, "hostname": {"web1"}, "name": {"box"}})
	for range 2 {
		if resp, got = b.do(http.MethodPost, "/api/v1/enrolments/certificate", "", poll); resp.StatusCode != 200 || got["connector"] != "box" {
			t.Errorf("let in: %s %v", resp.Status, got)
		}
	}
	_, device := b.asks("other", "web2")
	denied, _ := b.asks("third", "web2")
	b.desk.Close()
	for _, code := range []string{device, "nonsense", ""} {
		poll = string(must(json.Marshal(map[string]any{"device_code": code})))
		if resp, got = b.do(http.MethodPost, "/api/v1/enrolments/certificate", "", poll); resp.StatusCode != 400 || got["error"] != "invalid_grant" {
			t.Errorf("%q: %s %v", code, resp.Status, got)
		}
	}
	if _, err := b.desk.Find(denied.UserCode); err == nil {
		t.Error("a closed desk has wishes")
	}
	if resp, got = b.do(http.MethodPost, "/api/v1/enrolments/certificate", "", ""); resp.StatusCode != 400 || got["error"] != "bad_request" {
		t.Errorf("an empty body: %s %v", resp.Status, got)
	}
	if resp, got = b.do(http.MethodPost, "/api/v1/enrolments", "", body); resp.StatusCode != 503 || got["error"] != "unavailable" {
		t.Errorf("once the gateway ends: %s %v", resp.Status, got)
	}
}

func TestEnrolLimits(t *testing.T) {
	b := newAPI(t, answering)
	body, _ := wishBody(t, nil)
	statuses := map[int]int{}
	for range 70 {
		resp, _ := b.do(http.MethodPost, "/api/v1/enrolments", "", body)
		statuses[resp.StatusCode]++
	}
	if statuses[200] < 60 || statuses[429] < 3 || len(statuses) != 2 {
		t.Errorf("%v", statuses)
	}
}

// certified makes a request with a client certificate.
func (b *bench) certified(cert *tls.Certificate, method, path, body string) (status int, got map[string]any, err error) {
	b.t.Helper()
	cfg := clientTLS()
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(must(http.NewRequestWithContext(b.t.Context(), method, "https://"+b.addr+path, strings.NewReader(body))))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, got, json.Unmarshal(must(io.ReadAll(resp.Body)), &got)
}

// issue makes a connector's certificate of a CA.
func issue(t *testing.T, ca *connector.CA, validity time.Duration) *tls.Certificate {
	t.Helper()
	certPEM, keyPEM, err := ca.IssueConnector("rack", []string{"web1"}, validity)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func (b *bench) note(leaf *x509.Certificate, issued time.Time) {
	b.t.Helper()
	err := b.store.AddConnector(b.t.Context(), sshgate.ConnectorRecord{Serial: leaf.SerialNumber.Text(16), Connector: "rack", Hostnames: leaf.DNSNames, IssuedAt: issued, ExpiresAt: leaf.NotAfter})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestConnectorAsksOfItself(t *testing.T) {
	b := newAPI(t, answering)
	cert := issue(t, b.tunnels, time.Hour)
	status, got, err := b.certified(cert, http.MethodGet, "/api/v1/connector?login=deploy", "")
	if err != nil || status != 200 || got["connector"] != "rack" || got["serial"] != cert.Leaf.SerialNumber.Text(16) {
		t.Fatalf("%d %v %v", status, got, err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(got["probe_certificate"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	probe := key.(*ssh.Certificate)
	if !bytes.Equal(probe.SignatureKey.Marshal(), b.ca.PublicKey().Marshal()) || strings.Join(probe.ValidPrincipals, " ") != "deploy root nobody" || time.Unix(int64(probe.ValidBefore), 0).After(time.Now().Add(time.Hour)) {
		t.Errorf("%+v", probe)
	}
	if status, got, _ := b.certified(cert, http.MethodGet, "/api/v1/connector?login=a%0ab", ""); status != 400 {
		t.Errorf("a bad login: %d %v", status, got)
	}
	foreign := issue(t, must(connector.OpenCA(t.TempDir()+"/ca", nil)), time.Hour)
	server := must(b.tunnels.IssueServer([]string{"gate"}, nil))
	for _, path := range []string{"GET /api/v1/connector", "POST /api/v1/connector/renew"} {
		method, path, _ := strings.Cut(path, " ")
		if status, got, err := b.certified(nil, method, path, "{}"); err != nil || status != 401 || got["error"] != "certificate_required" {
			t.Errorf("%s without a certificate: %d %v %v", path, status, got, err)
		}
		for name, cert := range map[string]*tls.Certificate{"a foreign CA's": foreign, "a server's": &server} {
			if status, got, err := b.certified(cert, method, path, "{}"); err == nil {
				t.Errorf("%s with %s certificate: %d %v", path, name, status, got)
			}
		}
		if resp, got := b.do(method, path, b.bearer(person("alice")), "{}"); resp.StatusCode != 401 {
			t.Errorf("%s with a token: %s %v", path, resp.Status, got)
		}
	}
	b.note(cert.Leaf, time.Now())
	must(b.store.RevokeConnectors(t.Context(), "rack", time.Now()))
	if status, got, _ := b.certified(cert, http.MethodGet, "/api/v1/connector", ""); status != 403 || got["error"] != "certificate_revoked" {
		t.Errorf("revoked: %d %v", status, got)
	}
}

func TestConnectorRenews(t *testing.T) {
	b := newAPI(t, answering)
	cert := issue(t, b.tunnels, time.Hour)
	b.note(cert.Leaf, time.Now())
	body, keyPEM := wishBody(t, nil)
	if status, got, _ := b.certified(cert, http.MethodPost, "/api/v1/connector/renew", body); status != 400 || got["error"] != "too_early" {
		t.Errorf("%d %v", status, got)
	}
	old := issue(t, b.tunnels, time.Hour)
	b.note(old.Leaf, time.Now().Add(-2*time.Hour))
	for _, bad := range []string{"", "[]", `{"request":"AAAA"}`} {
		if status, got, _ := b.certified(old, http.MethodPost, "/api/v1/connector/renew", bad); status != 400 || got["error"] != "bad_request" {
			t.Errorf("%q: %d %v", bad, status, got)
		}
	}
	status, got, err := b.certified(old, http.MethodPost, "/api/v1/connector/renew", body)
	if err != nil || status != 200 {
		t.Fatalf("%d %v %v", status, got, err)
	}
	if pair, err := tls.X509KeyPair([]byte(got["certificate"].(string)), keyPEM); err != nil || pair.Leaf.Subject.CommonName != "rack" {
		t.Errorf("%v, %v", pair.Leaf, err)
	}
	must(b.store.RevokeConnectors(t.Context(), "rack", time.Now()))
	if status, got, _ := b.certified(old, http.MethodPost, "/api/v1/connector/renew", body); status != 403 || got["error"] != "certificate_revoked" {
		t.Errorf("revoked: %d %v", status, got)
	}
}

// A certificate ends also for a connection that was opened before.
func TestConnectorCertificateEndsOnAnOpenConnection(t *testing.T) {
	b := newAPI(t, answering)
	cert := issue(t, b.tunnels, 2*time.Second)
	cfg := clientTLS()
	cfg.Certificates = []tls.Certificate{*cert}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	ask := func(method, path, body string) int {
		resp, err := client.Do(must(http.NewRequestWithContext(t.Context(), method, "https://"+b.addr+path, strings.NewReader(body))))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	if status := ask(http.MethodGet, "/api/v1/connector", ""); status != 200 {
		t.Fatalf("while it is good: %d", status)
	}
	time.Sleep(time.Until(cert.Leaf.NotAfter) + 10*time.Millisecond)
	body, _ := wishBody(t, nil)
	if about, renewed := ask(http.MethodGet, "/api/v1/connector", ""), ask(http.MethodPost, "/api/v1/connector/renew", body); about != 403 || renewed != 403 {
		t.Errorf("after its end: %d, renewal %d", about, renewed)
	}
}

func (b *bench) checkConnector(ctx context.Context, cert connector.Certificate) error {
	if rec, err := b.store.Connector(ctx, cert.Serial); err == nil && !rec.RevokedAt.IsZero() {
		return &connector.Refusal{Code: connector.CodeNotPermitted, Reason: "it was revoked"}
	}
	return nil
}

// newKey returns a public key in authorized_keys form.
func newKey(t *testing.T) (ssh.PublicKey, string) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := must(ssh.NewPublicKey(public))
	return key, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
