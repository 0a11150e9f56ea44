package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// newCertificate has openssl make a certificate for the gateway that nobody else signs.
func newCertificate(t *testing.T, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	need(t, "openssl")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=gate.test", "-addext", "subjectAltName=DNS:gate.test", "-keyout", keyFile+".new", "-out", certFile+".new").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	pem, err := os.ReadFile(certFile + ".new")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{keyFile, certFile} {
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return roots
}

// TestCertificateIsReplaced renews the certificate of a gateway that runs, by
// way of one that is broken.
func TestCertificateIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first := newCertificate(t, cert, key)
	s := prepareStack(t, stackOptions{tunnel: "  certificate_file: " + cert + "\n  key_file: " + key})
	s.startGateway()
	shows := func(roots *x509.CertPool) error {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.tlsPort), &tls.Config{ServerName: "gate.test", RootCAs: roots})
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := shows(first); err != nil {
		t.Fatal(err)
	}
	// A broken one first: the one before stays, and somebody is told.
	write(t, cert+".new", "no certificate")
	if err := os.Rename(cert+".new", cert); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is counted", 20*time.Second, func() error {
		if n, err := s.metric("sshgate_certificate_failures_total"); err != nil || n != 1 {
			return fmt.Errorf("%v, %v", n, err)
		}
		return nil
	})
	if err := shows(first); err != nil {
		t.Errorf("after a broken file: %v", err)
	}
	second := newCertificate(t, cert, key)
	eventually(t, "the new certificate is shown", 20*time.Second, func() error { return shows(second) })
}
