package enrol_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/enrol"
	"github.com/sshgate/sshgate/internal/helper"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// userCA is a key in authorized_keys form.
var userCA = func() string {
	key := must(ssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public()))
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}()

// gate plays a gateway that says yes, unless the test has it say something else.
type gate struct {
	*httptest.Server
	ca *connector.CA

	mu     sync.Mutex
	change func(map[string]any)                                    // the answer with a certificate
	say    func(w http.ResponseWriter, r *http.Request) (did bool) // before all else
	asked  []string
	wished []byte // the request of who waits
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{ca: must(connector.OpenCA(filepath.Join(t.TempDir(), "ca"), nil))}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(g.serve))
	g.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: g.ca.Pool(), GetCertificate: g.ca.ServerCertificate([]string{"gate.test"}, nil)}
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

func (g *gate) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, r.Method+" "+r.URL.RequestURI())
	if g.say != nil && g.say(w, r) {
		return
	}
	var body struct{ Request []byte }
	_ = json.NewDecoder(r.Body).Decode(&body)
	if len(body.Request) > 0 {
		g.wished = body.Request
	}
	switch {
	case r.URL.Path == "/api/v1/enrolments" && r.Header.Get("Authorization") == "":
		g.answer(w, 200, map[string]any{"device_code": "d", "user_code": "BCDF-GHJK", "verification_uri_complete": "https://gate.test/enrol?code=BCDF-GHJK", "expires_in": 900})
	case r.URL.Path == "/api/v1/connector":
		g.answer(w, 200, map[string]any{"connector": r.TLS.PeerCertificates[0].Subject.CommonName, "user_ca": userCA})
	case r.URL.Path == "/api/v1/gateway":
		if len(r.TLS.PeerCertificates) > 0 { // whose time may be over
			g.no(w, 400, "certificate")
			return
		}
		g.answer(w, 200, map[string]any{"time": time.Unix(1e9, 0).UTC()})
	default:
		g.issue(w)
	}
}

func (g *gate) issue(w http.ResponseWriter) {
	cert := must(g.ca.SignConnector(g.wished, "rack", []string{"web1", "*.lab"}, time.Hour))
	answer := map[string]any{"certificate": string(connector.EncodeCertificate(cert)), "user_ca": userCA}
	if g.change != nil {
		g.change(answer)
	}
	g.answer(w, 200, answer)
}

func (g *gate) answer(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (g *gate) no(w http.ResponseWriter, status int, code string) bool {
	g.answer(w, status, map[string]any{"error": code, "error_description": "because of " + code})
	return true
}

// gateway returns it as the client has it.
func (g *gate) gateway(t *testing.T) *helper.Gateway {
	t.Helper()
	gateway := must(helper.NewGateway(g.Listener.Addr().String(), g.ca.CertPEM()))
	gateway.ServerName = "gate.test"
	t.Cleanup(gateway.CloseIdle)
	return gateway
}

func TestJoinChecksTheAnswer(t *testing.T) {
	g := newGate(t)
	if issued, err := enrol.Join(t.Context(), g.gateway(t), enrol.Wish{}, "sgj_x"); err != nil || issued.Connector != "rack" || !slices.Equal(issued.Hostnames, []string{"web1", "*.lab"}) || issued.UserCA != userCA {
		t.Errorf("%+v, %v", issued, err)
	}
	request, _, err := connector.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	other := string(connector.EncodeCertificate(must(g.ca.SignConnector(request, "rack", []string{"web1"}, time.Hour))))
	for name, change := range map[string]func(map[string]any){
		"another's key":    func(a map[string]any) { a["certificate"] = other },
		"no certificate":   func(a map[string]any) { delete(a, "certificate") },
		"no user CA":       func(a map[string]any) { a["user_ca"] = "" },
		"two user CAs":     func(a map[string]any) { a["user_ca"] = userCA + "\n" + userCA },
		"a line besides":   func(a map[string]any) { a["user_ca"] = userCA + "\nPermitRootLogin yes" },
		"options":          func(a map[string]any) { a["user_ca"] = `command="x" ` + userCA },
		"text for user CA": func(a map[string]any) { a["user_ca"] = "\x1b[2J" },
	} {
		g.change = change
		if issued, err := enrol.Join(t.Context(), g.gateway(t), enrol.Wish{}, "sgj_x"); helper.KindOf(err) != helper.Unreachable {
			t.Errorf("%s: %+v, %v", name, issued, err)
		}
	}
}

func TestSignIn(t *testing.T) {
	g := newGate(t)
	polls := 0
	g.say = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v1/enrolments/certificate" {
			return false
		}
		polls++
		switch polls {
		case 1:
			return g.no(w, 400, "authorization_pending")
		case 2: // what a proxy says while the gateway restarts
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}
	var shown enrol.Prompt
	issued, err := enrol.SignIn(t.Context(), g.gateway(t), enrol.Wish{}, func(p enrol.Prompt) { shown = p })
	if err != nil || issued.Connector != "rack" || polls != 3 || shown != (enrol.Prompt{URL: "https://gate.test/enrol?code=BCDF-GHJK", UserCode: "BCDF-GHJK"}) {
		t.Errorf("%+v, %v after %d polls, shown %+v", issued, err, polls, shown)
	}
	for code, kind := range map[string]helper.Kind{"access_denied": helper.SignIn, "expired_token": helper.SignIn, "invalid_grant": helper.SignIn, "unavailable": helper.SignIn} {
		g.say = func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/api/v1/enrolments/certificate" && g.no(w, 400, code)
		}
		if _, err := enrol.SignIn(t.Context(), g.gateway(t), enrol.Wish{}, func(enrol.Prompt) {}); helper.KindOf(err) != kind {
			t.Errorf("%s: %v", code, err)
		}
	}
	for name, uri := range map[string]string{"http": "http://gate.test/enrol", "a script": "javascript:alert(1)", "a file": "file:///etc/passwd", "none": "", "with an escape": "https://gate.test/\x1b[2J"} {
		g.say = func(w http.ResponseWriter, _ *http.Request) bool {
			g.answer(w, 200, map[string]any{"device_code": "d", "verification_uri_complete": uri})
			return true
		}
		if _, err := enrol.SignIn(t.Context(), g.gateway(t), enrol.Wish{}, func(p enrol.Prompt) { t.Errorf("%s is shown: %+v", name, p) }); helper.KindOf(err) != helper.Unreachable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignInCancelled(t *testing.T) {
	g := newGate(t)
	ctx, cancel := context.WithCancel(t.Context())
	g.say = func(w http.ResponseWriter, r *http.Request) bool {
		return r.URL.Path == "/api/v1/enrolments/certificate" && g.no(w, 400, "authorization_pending")
	}
	_, err := enrol.SignIn(ctx, g.gateway(t), enrol.Wish{}, func(enrol.Prompt) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestPinnedCA(t *testing.T) {
	g := newGate(t)
	_, port, _ := strings.Cut(g.Listener.Addr().String(), ":")
	address := "localhost:" + port
	other := must(connector.OpenCA(filepath.Join(t.TempDir(), "ca"), nil))
	if _, err := enrol.PinnedCA(t.Context(), address, other.Pin()); helper.KindOf(err) != helper.Unreachable || !errors.Is(err, connector.ErrPin) || !strings.Contains(err.Error(), "somebody may be in between") {
		t.Errorf("another pin: %v", err)
	}
	if _, err := enrol.PinnedCA(t.Context(), address, g.ca.Pin()); helper.KindOf(err) != helper.Unreachable {
		t.Errorf("another name: %v", err)
	}
	if _, err := enrol.PinnedCA(t.Context(), "127.0.0.1:1", g.ca.Pin()); helper.KindOf(err) != helper.Unreachable {
		t.Errorf("nobody there: %v", err)
	}
	named := httptest.NewUnstartedServer(http.NotFoundHandler())
	named.TLS = &tls.Config{GetCertificate: g.ca.ServerCertificate([]string{"localhost"}, nil)}
	named.StartTLS()
	defer named.Close()
	_, port, _ = strings.Cut(named.Listener.Addr().String(), ":")
	for _, pin := range []string{g.ca.Pin(), strings.ToUpper(g.ca.Pin())} {
		if caPEM, err := enrol.PinnedCA(t.Context(), "localhost:"+port, pin); err != nil || string(caPEM) != string(g.ca.CertPEM()) {
			t.Errorf("%s: %v", caPEM, err)
		}
	}
}

func TestRenewAndAbout(t *testing.T) {
	g := newGate(t)
	dir := t.TempDir()
	certPEM, keyPEM, err := g.ca.IssueConnector("rack", []string{"web1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	crt, key := filepath.Join(dir, "connector.crt"), filepath.Join(dir, "connector.key")
	if err := connector.WritePair(crt, key, certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	site := &enrol.Site{Address: g.Listener.Addr().String(), ServerName: "gate.test", CAPEM: g.ca.CertPEM(), Credentials: must(connector.OpenCredentials(crt, key, ""))}
	about, err := site.About(t.Context(), "deploy")
	if err != nil || about.Connector != "rack" || !slices.Contains(g.asked, "GET /api/v1/connector?login=deploy") {
		t.Errorf("%+v, %v, asked %v", about, err, g.asked)
	}
	if now, err := site.Time(t.Context()); err != nil || !now.Equal(time.Unix(1e9, 0)) {
		t.Errorf("%s, %v", now, err)
	}
	before := must(site.Credentials.Leaf())
	if err := site.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := must(site.Credentials.Leaf()); after.Equal(before) || string(after.RawSubjectPublicKeyInfo) == string(before.RawSubjectPublicKeyInfo) {
		t.Error("it is the same certificate, or key")
	}
	g.say = func(w http.ResponseWriter, _ *http.Request) bool { return g.no(w, 403, "certificate_revoked") }
	kept := must(os.ReadFile(crt))
	if err := site.Renew(t.Context()); err == nil || !strings.Contains(err.Error(), "because of certificate_revoked") {
		t.Errorf("%v", err)
	}
	if string(must(os.ReadFile(crt))) != string(kept) {
		t.Error("a refusal changed the certificate")
	}
}

func TestKeep(t *testing.T) {
	g := newGate(t)
	issued := must(enrol.Join(t.Context(), g.gateway(t), enrol.Wish{}, "x"))
	place := enrol.Place{Dir: filepath.Join(t.TempDir(), "a", "b")}
	if err := place.Prepare(); err != nil {
		t.Fatal(err)
	}
	written, err := place.Keep(issued, g.ca.CertPEM(), "gateway: x\n")
	if err != nil || len(written) != 5 {
		t.Fatalf("%v, %v", written, err)
	}
	for name, mode := range map[string]os.FileMode{"connector.key": 0o600, "connector.crt": 0o644, "gateway-ca.crt": 0o644, "user-ca.pub": 0o644, "connector.yaml": 0o644} {
		if info := must(os.Stat(filepath.Join(place.Dir, name))); info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	if entries := must(os.ReadDir(place.Dir)); len(entries) != 5 {
		t.Errorf("left behind: %v", entries)
	}
	if got := string(must(os.ReadFile(filepath.Join(place.Dir, "user-ca.pub")))); got != userCA+"\n" {
		t.Errorf("%q", got)
	}
	if err := place.Prepare(); helper.KindOf(err) != helper.Broken || !strings.Contains(err.Error(), "--force") {
		t.Errorf("over one that is there: %v", err)
	}
	place.Force = true
	if err := place.Prepare(); err != nil {
		t.Fatal(err)
	}
	again := must(enrol.Join(t.Context(), g.gateway(t), enrol.Wish{}, "x"))
	if _, err := place.Keep(again, nil, "another\n"); err != nil {
		t.Fatal(err)
	}
	if got := string(must(os.ReadFile(filepath.Join(place.Dir, "connector.yaml")))); got != "gateway: x\n" {
		t.Errorf("the configuration was replaced: %q", got)
	}
	if _, err := os.Stat(filepath.Join(place.Dir, "gateway-ca.crt")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the authority of before is there: %v", err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(place.Dir, "connector.crt"), filepath.Join(place.Dir, "connector.key")); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (enrol.Place{Dir: filepath.Join(file, "x")}).Prepare(); helper.KindOf(err) != helper.Usage {
		t.Errorf("below a file: %v", err)
	}
}

// Whatever the machine is called, the configuration can be read.
func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		machine   string
		hostnames []string
		want      string
	}{
		{"box.example.com", []string{"web1", "*.lab", "*"}, "web1 box.lab box"},
		{"box", []string{"*.lab", "box.lab"}, "box.lab"},
		{"My Laptop!", []string{"*.lab"}, "my-laptop.lab"},
		{"", []string{"*.lab"}, "machine.lab"},
		{`x": y`, []string{"*"}, "x---y"},
		{strings.Repeat("a", 64), []string{"*.lab"}, strings.Repeat("a", 63) + ".lab"},
	} {
		dir := t.TempDir()
		for _, name := range []string{"connector.crt", "connector.key", "gateway-ca.crt"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text := enrol.Config("gate.test:443", true, tt.hostnames, tt.machine, "ssh://localhost:22")
		k, err := config.ParseConnector([]byte(text), filepath.Join(dir, "connector.yaml"), func(string) string { return "" })
		if err != nil {
			t.Errorf("%q: %v\n%s", tt.machine, err, text)
			continue
		}
		var names []string
		for _, o := range k.Origins {
			names = append(names, string(o.Name))
		}
		if got := strings.Join(names, " "); got != tt.want || k.Gateway != "gate.test:443" || k.GatewayCAFile != filepath.Join(dir, "gateway-ca.crt") {
			t.Errorf("%q: %s, want %s\n%s", tt.machine, got, tt.want, text)
		}
	}
}
