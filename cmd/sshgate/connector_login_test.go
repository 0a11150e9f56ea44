package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"golang.org/x/crypto/ssh"
)

// loginGate plays a gateway that lets in who has the token "sgj_good", and others once
// answer says so.
type loginGate struct {
	*httptest.Server
	ca     *connector.CA
	userCA string
	answer func() (code string) // to who waits, "" for yes
	asked  atomic.Int32
	wished atomic.Value // []byte, the last request
}

func newLoginGate(t *testing.T) *loginGate {
	t.Helper()
	ca, err := connector.OpenCA(filepath.Join(t.TempDir(), "ca"), nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	if err != nil {
		t.Fatal(err)
	}
	g := &loginGate{ca: ca, userCA: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), answer: func() string { return "" }}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(g.serve))
	g.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.TLS = &tls.Config{GetCertificate: ca.ServerCertificate([]string{"localhost"}, nil)}
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

// address is one that the certificate names.
func (g *loginGate) address() string {
	_, port, _ := strings.Cut(g.Listener.Addr().String(), ":")
	return "localhost:" + port
}

func (g *loginGate) serve(w http.ResponseWriter, r *http.Request) {
	g.asked.Add(1)
	var body struct{ Request []byte }
	_ = json.NewDecoder(r.Body).Decode(&body)
	if len(body.Request) > 0 {
		g.wished.Store(body.Request)
	}
	no := func(status int, code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":%q,"error_description":"it is %s"}`, code, code)
	}
	token, waits := r.Header.Get("Authorization"), strings.HasSuffix(r.URL.Path, "/certificate")
	switch {
	case token != "" && token != "Bearer sgj_good":
		no(http.StatusUnauthorized, "token_unknown")
		return
	case token == "" && !waits:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"device_code":"d","user_code":"BCDF-GHJK","verification_uri_complete":"https://gate.test/enrol?code=BCDF-GHJK","expires_in":900}`)
		return
	case waits:
		if code := g.answer(); code != "" {
			no(http.StatusBadRequest, code)
			return
		}
	}
	cert, err := g.ca.SignConnector(g.wished.Load().([]byte), "rack", []string{"web1"}, time.Hour)
	if err != nil {
		no(http.StatusBadRequest, err.Error())
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"certificate": string(connector.EncodeCertificate(cert)), "user_ca": g.userCA})
}

// login runs the command, with a directory that it does not have to name.
func (g *loginGate) login(t *testing.T, dir, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	all := append([]string{"connector", "login", "--gateway", g.address(), "--cert-dir", dir, "--no-browser"}, args...)
	var out, errs bytes.Buffer
	code = Run(t.Context(), all, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// files lists what is in a directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestConnectorLogin(t *testing.T) {
	g := newLoginGate(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	secret := "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
	if err := os.WriteFile(caFile, append([]byte(secret), g.ca.CertPEM()...), 0o600); err != nil {
		t.Fatal(err)
	}
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("sgj_good\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		stdin string
		args  []string
	}{
		"a token from a file":  {"", []string{"--ca-file", caFile, "--token-file", tokenFile}},
		"a token from stdin":   {" sgj_good \n", []string{"--ca-pin", g.ca.Pin(), "--token-file", "-"}},
		"somebody says yes":    {"", []string{"--ca-pin", g.ca.Pin()}},
		"somebody, as a QR":    {"", []string{"--ca-pin", g.ca.Pin(), "--qr", "--hostname", "web1"}},
		"a name, and the JSON": {"", []string{"--ca-file", caFile, "--token-file", tokenFile, "--name", "rack", "--json"}},
	} {
		dir := filepath.Join(t.TempDir(), "new")
		code, stdout, stderr := g.login(t, dir, tt.stdin, tt.args...)
		if code != 0 || files(t, dir) != "connector.crt connector.key connector.yaml gateway-ca.crt user-ca.pub" {
			t.Errorf("%s: %d, %s\n%s%s", name, code, files(t, dir), stdout, stderr)
			continue
		}
		if slices.Contains(tt.args, "--json") {
			var got map[string]any
			if err := json.Unmarshal([]byte(stdout), &got); err != nil || got["connector"] != "rack" || got["user_ca"] != g.userCA || len(got["written"].([]any)) != 5 {
				t.Errorf("%s: %s, %v", name, stdout, err)
			}
		} else if !strings.Contains(stdout, "This machine is the connector rack") || !strings.Contains(stdout, "It may publish web1.") {
			t.Errorf("%s: %s", name, stdout)
		}
		if asks := !slices.Contains(tt.args, "--token-file"); asks != strings.Contains(stderr, "https://gate.test/enrol?code=BCDF-GHJK") || strings.Contains(stderr+stdout, "sgj_good") {
			t.Errorf("%s: %s", name, stderr)
		}
		if ca, err := os.ReadFile(filepath.Join(dir, "gateway-ca.crt")); err != nil || !bytes.Equal(ca, g.ca.CertPEM()) {
			t.Errorf("%s: gateway-ca.crt is %s, %v", name, ca, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "connector.key")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestConnectorLoginFails(t *testing.T) {
	g := newLoginGate(t)
	other, err := connector.OpenCA(filepath.Join(t.TempDir(), "ca"), nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pin := []string{"--ca-pin", g.ca.Pin()}
	for name, tt := range map[string]struct {
		stdin  string
		answer string
		args   []string
		code   int
		stderr string
	}{
		"a wrong token":           {stdin: "sgj_bad", args: append(pin, "--token-file", "-"), code: 4, stderr: "it is token_unknown"},
		"an empty token":          {stdin: " \n", args: append(pin, "--token-file", "-"), code: 2, stderr: "--token-file: it is empty"},
		"two tokens":              {stdin: "sgj_secret\nsgj_good", args: append(pin, "--token-file", "-"), code: 2, stderr: "more than a join token"},
		"no token file":           {args: append(pin, "--token-file", "nowhere"), code: 2, stderr: "--token-file"},
		"denied":                  {answer: "access_denied", args: pin, code: 4, stderr: "it is access_denied"},
		"too late":                {answer: "expired_token", args: pin, code: 4, stderr: "it is expired_token"},
		"lost":                    {answer: "invalid_grant", args: pin, code: 4, stderr: "the gateway was restarted perhaps"},
		"another pin":             {args: []string{"--ca-pin", other.Pin()}, code: 6, stderr: "is not the one with that pin"},
		"no authority":            {code: 6, stderr: "cannot be trusted"},
		"a nonsense pin":          {args: []string{"--ca-pin", "sha256:x"}, code: 2, stderr: "--ca-pin"},
		"a file without one":      {args: []string{"--ca-file", empty}, code: 2, stderr: "no certificate in PEM form"},
		"no file":                 {args: []string{"--ca-file", "nowhere"}, code: 2, stderr: "--ca-file"},
		"both":                    {args: append(pin, "--ca-file", empty), code: 2, stderr: "give one"},
		"a bad hostname":          {args: append(pin, "--hostname", "a b"), code: 2, stderr: "--hostname"},
		"a bad URL":               {args: append(pin, "--url", "http://x"), code: 2, stderr: "--url"},
		"an address of no server": {args: append(pin, "--gateway", "localhost:1"), code: 6, stderr: "cannot be reached"},
		"a bad address":           {args: append(pin, "--gateway", "a b"), code: 2, stderr: "is not HOST"},
	} {
		g.answer = func() string { return tt.answer }
		dir := filepath.Join(t.TempDir(), "new")
		code, stdout, stderr := g.login(t, dir, tt.stdin, tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.stderr) || stdout != "" || files(t, dir) != "" || strings.Contains(stderr, "sgj_") {
			t.Errorf("%s: %d, want %d with %q, files %q\n%s%s", name, code, tt.code, tt.stderr, files(t, dir), stdout, stderr)
		}
	}
}

func TestConnectorLoginAgain(t *testing.T) {
	g := newLoginGate(t)
	dir := t.TempDir()
	token := []string{"--ca-pin", g.ca.Pin(), "--token-file", "-"}
	if code, _, stderr := g.login(t, dir, "sgj_good", token...); code != 0 {
		t.Fatal(stderr)
	}
	key, err := os.ReadFile(filepath.Join(dir, "connector.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "connector.yaml"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := g.asked.Load()
	code, _, stderr := g.login(t, dir, "sgj_good", token...)
	if code != 1 || !strings.Contains(stderr, "give --force") || g.asked.Load() != asked {
		t.Errorf("without --force: %d, asked %d times\n%s", code, g.asked.Load()-asked, stderr)
	}
	code, _, _ = g.login(t, dir, "sgj_bad", append(token, "--force")...)
	if now, _ := os.ReadFile(filepath.Join(dir, "connector.key")); code != 4 || !bytes.Equal(now, key) {
		t.Errorf("a refusal: %d, and the key is another", code)
	}
	code, stdout, stderr := g.login(t, dir, "sgj_good", append(token, "--force")...)
	if now, _ := os.ReadFile(filepath.Join(dir, "connector.key")); code != 0 || bytes.Equal(now, key) || !strings.Contains(stdout, "connector.yaml as it is") {
		t.Errorf("with --force: %d\n%s%s", code, stdout, stderr)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "connector.yaml")); string(text) != "mine" {
		t.Errorf("connector.yaml: %s", text)
	}
}

// Ctrl-C while nobody has answered leaves nothing.
func TestConnectorLoginCancelled(t *testing.T) {
	g := newLoginGate(t)
	ctx, cancel := context.WithCancel(t.Context())
	g.answer = func() string {
		cancel()
		return "authorization_pending"
	}
	dir := t.TempDir()
	var out, errs bytes.Buffer
	code := Run(ctx, []string{"connector", "login", "--gateway", g.address(), "--cert-dir", dir, "--no-browser", "--ca-pin", g.ca.Pin()}, strings.NewReader(""), &out, &errs)
	if code == 0 || files(t, dir) != "" {
		t.Errorf("%d, %s\n%s", code, files(t, dir), errs.String())
	}
}
