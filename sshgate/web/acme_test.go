package web

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/acme"
)

// authority is a certificate authority that speaks as much of RFC 8555 as a client
// needs, and checks what RFC 8737 says. It checks signatures and the challenge for
// real; orders it has one.
type authority struct {
	*httptest.Server
	t       *testing.T
	gateway string // where the hostname leads
	key     *ecdsa.PrivateKey
	root    *x509.Certificate

	mu        sync.Mutex
	account   *jose.JSONWebKey
	name      string // that was asked for
	valid     bool   // the challenge was met
	chain     []byte
	issued    int
	broken    bool // refuses everything
	challenge error
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, root: root}
	a.Server = httptest.NewTLSServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Replay-Nonce", rand.Text())
	if a.broken {
		http.Error(w, "{}", http.StatusInternalServerError)
		return
	}
	var payload []byte
	if r.Method == http.MethodPost {
		var err error
		if payload, err = a.open(r); err != nil {
			a.t.Errorf("%s: %v", r.URL.Path, err)
			http.Error(w, "{}", http.StatusBadRequest)
			return
		}
	}
	a.answer(w, r.URL.Path, payload)
}

// answer says what is at a path.
func (a *authority) answer(w http.ResponseWriter, path string, payload []byte) {
	at := func(path string) string { return a.URL + path }
	say := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	status := "pending"
	if a.valid {
		status = "valid"
	}
	challenge := map[string]any{"type": "tls-alpn-01", "url": at("/challenge"), "token": "the-token", "status": status}
	order := map[string]any{
		"status": "pending", "identifiers": []any{map[string]any{"type": "dns", "value": a.name}}, "authorizations": []string{at("/authz")}, "finalize": at("/finalize"),
	}
	switch path {
	case "/directory":
		say(200, map[string]any{"newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order"), "revokeCert": at("/revoke"), "keyChange": at("/key")})
	case "/nonce":
	case "/account":
		w.Header().Set("Location", at("/account/1"))
		say(201, map[string]any{"status": "valid"})
	case "/order":
		var asked struct{ Identifiers []struct{ Value string } }
		if json.Unmarshal(payload, &asked) != nil || len(asked.Identifiers) != 1 {
			a.t.Errorf("the order is %s", payload)
			return
		}
		a.name, a.valid, a.chain = asked.Identifiers[0].Value, false, nil
		order["identifiers"] = []any{map[string]any{"type": "dns", "value": a.name}}
		w.Header().Set("Location", at("/order/1"))
		say(201, order)
	case "/authz":
		say(200, map[string]any{"status": status, "identifier": map[string]any{"type": "dns", "value": a.name}, "challenges": []any{challenge}})
	case "/challenge":
		a.challenge = a.validate()
		a.valid = a.challenge == nil
		say(200, challenge)
	case "/finalize", "/order/1":
		if path == "/finalize" {
			a.issue(payload)
		}
		w.Header().Set("Location", at("/order/1"))
		if order["status"] = "ready"; a.chain != nil {
			order["status"], order["certificate"] = "valid", at("/certificate")
		}
		say(200, order)
	case "/certificate":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(a.chain)
	default:
		say(404, map[string]any{})
	}
}

// open checks the signature of a request, RFC 8555 section 6.2.
func (a *authority) open(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	signed, err := jose.ParseSigned(string(body), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, err
	}
	if key := signed.Signatures[0].Protected.JSONWebKey; key != nil {
		a.account = key
	}
	return signed.Verify(a.account)
}

// validate is RFC 8737 section 3.
func (a *authority) validate() error {
	conn, err := tls.Dial("tcp", a.gateway, &tls.Config{ServerName: a.name, NextProtos: []string{acme.ALPNProto}, InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	thumb, err := a.account.Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte("the-token." + base64.RawURLEncoding.EncodeToString(thumb)))
	want, err := asn1.Marshal(sum[:])
	if err != nil {
		return err
	}
	state := conn.ConnectionState()
	leaf := state.PeerCertificates[0]
	if state.NegotiatedProtocol != acme.ALPNProto || !slices.Equal(leaf.DNSNames, []string{a.name}) {
		return fmt.Errorf("protocol %q, names %v", state.NegotiatedProtocol, leaf.DNSNames)
	}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}) && e.Critical && bytes.Equal(e.Value, want) {
			return nil
		}
	}
	return fmt.Errorf("the certificate has not the proof")
}

// issue signs the certificate of the request.
func (a *authority) issue(payload []byte) {
	var asked struct{ CSR string }
	der, err := []byte(nil), json.Unmarshal(payload, &asked)
	if err == nil {
		der, err = base64.RawURLEncoding.DecodeString(asked.CSR)
	}
	csr := &x509.CertificateRequest{}
	if err == nil {
		csr, err = x509.ParseCertificateRequest(der)
	}
	if err != nil || !a.valid || csr.CheckSignature() != nil || !slices.Equal(csr.DNSNames, []string{a.name}) {
		a.t.Errorf("a certificate is asked for that cannot be had: %v, %v, challenge %v", err, csr.DNSNames, a.challenge)
		return
	}
	a.issued++
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(int64(1 + a.issued)), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(50 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.root, csr.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
		return
	}
	a.chain = slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}))
}

func (a *authority) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// serveACME starts a TLS port with a certificate of the authority.
func serveACME(t *testing.T, a *authority, cache string) (source *ACME, address string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	source = NewACME(ACMEConfig{Hostname: "gate.example.com", Directory: a.URL + "/directory", Email: "ops@example.com", Roots: roots, Cache: cache, Log: slog.New(slog.DiscardHandler)})
	server, err := NewServer(ServerConfig{TLS: &tls.Config{GetCertificate: source.Get, MinVersion: tls.VersionTLS13}, ACME: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.set(func() { a.gateway = l.Addr().String() })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ctx, l) })
	running.Go(func() { source.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		source.manager.Client.HTTPClient.CloseIdleConnections()
	})
	return source, l.Addr().String()
}

func TestACME(t *testing.T) {
	a := newAuthority(t)
	cache := t.TempDir()
	source, address := serveACME(t, a, cache)
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	dial := func(name string, protos ...string) error {
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, RootCAs: roots, NextProtos: protos})
		if err == nil {
			conn.Close()
		}
		return err
	}
	becomes(t, "the certificate", func() bool { return dial("gate.example.com", "h2") == nil })
	if err := dial("other.example.com"); err == nil || !strings.Contains(err.Error(), "gate.example.com") {
		t.Errorf("another name: %v", err)
	}
	for name, protos := range map[string][]string{"other.example.com": {acme.ALPNProto}, "gate.example.com": {acme.ALPNProto, "h2"}} {
		if err := dial(name, protos...); err == nil {
			t.Errorf("a challenge for %s, %v is answered", name, protos)
		}
	}
	if a.set(func() {}); a.issued != 1 || source.Failures() != 0 {
		t.Errorf("%d certificates, %d failures", a.issued, source.Failures())
	}
	// After a restart the certificate is at hand, though the authority is not.
	a.set(func() { a.broken = true })
	_, address = serveACME(t, a, cache)
	becomes(t, "the certificate, again", func() bool { return dial("gate.example.com") == nil })
}

func TestACMEWithoutAuthority(t *testing.T) {
	a := newAuthority(t)
	a.broken = true
	source, address := serveACME(t, a, t.TempDir())
	begin := time.Now()
	if _, err := tls.Dial("tcp", address, &tls.Config{ServerName: "gate.example.com", InsecureSkipVerify: true}); err == nil {
		t.Error("a handshake without a certificate")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a handshake waited %s for the authority", took)
	}
	if source.current.Load() != nil {
		t.Error("there is a certificate")
	}
}
