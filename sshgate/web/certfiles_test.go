package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// pair is a certificate and its key in PEM.
type pair struct{ cert, key []byte }

// newPair signs a certificate for the name by itself.
func newPair(t *testing.T, name string, until time.Time) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: until.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

// place puts contents where a file is, in one step.
func place(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// lines collects a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// becomes waits until f says so.
func becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came: ", what)
		}
	}
}

func TestCertificateFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	soon := time.Now().Add(time.Minute)
	one, two, old := newPair(t, "one.test", soon), newPair(t, "two.test", soon), newPair(t, "old.test", time.Now().Add(-time.Minute))
	place(t, cert, one.cert)
	place(t, key, one.key)
	var log lines
	f, err := OpenCertificateFiles(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	f.poll = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	defer running.Wait()
	defer cancel()
	name := func() string {
		got, err := f.Get(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.DNSNames[0]
	}
	for i, broken := range []func(){
		func() { place(t, key, two.key) }, // belongs to another certificate
		func() { place(t, cert, []byte("no PEM")) },
		func() {
			place(t, key, old.key)
			place(t, cert, old.cert) // twice: in between they do not fit
		},
		func() { os.Remove(cert) },
	} {
		broken()
		before := f.Failures()
		becomes(t, "a failure", func() bool { return f.Failures() > before || log.count("cannot be used") > i })
		if name() != "one.test" {
			t.Fatalf("after %d changes for the worse the certificate is %s", i+1, name())
		}
	}
	failures := f.Failures()
	time.Sleep(50 * time.Millisecond)
	if f.Failures() != failures || log.count("cannot be used") != int(failures) {
		t.Errorf("%d failures, then %d: one is told more than once", failures, f.Failures())
	}
	place(t, key, two.key)
	place(t, cert, two.cert)
	becomes(t, "the new certificate", func() bool { return name() == "two.test" })
	becomes(t, "a word of it", func() bool { return log.count("has changed\" names=[two.test]") == 1 })
}

func TestCertificateFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	good := newPair(t, "one.test", time.Now().Add(time.Minute))
	for name, files := range map[string]pair{"no certificate": {nil, good.key}, "no key": {good.cert, nil}, "garbage": {[]byte("x"), []byte("y")}} {
		cert, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		if files.cert != nil {
			place(t, cert, files.cert)
		}
		if files.key != nil {
			place(t, key, files.key)
		}
		if _, err := OpenCertificateFiles(cert, key, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
