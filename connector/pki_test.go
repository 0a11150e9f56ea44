package connector

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOpenCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tunnel-ca")
	first, err := OpenCA(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, caFile): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
	again, err := OpenCA(dir, nil)
	if err != nil || !bytes.Equal(first.CertPEM(), again.CertPEM()) {
		t.Fatalf("the CA is another after loading it: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("files were left behind: %v", entries)
	}
	later := func() time.Time { return time.Now().Add(11 * 365 * 24 * time.Hour) }
	if _, err := OpenCA(dir, later); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired CA: %v", err)
	}
	path := filepath.Join(dir, caFile)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	// What cannot be read is left as it is.
	broken := []byte("broken")
	if err := os.WriteFile(path, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, nil); err == nil {
		t.Error("a broken CA was loaded")
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, broken) {
		t.Error("a broken CA was overwritten")
	}
}

// Processes that start together end up with one CA.
func TestOpenCATogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	certs := make([]string, 8)
	for i := range certs {
		wg.Go(func() {
			ca, err := OpenCA(dir, nil)
			if err != nil {
				t.Error(err)
				return
			}
			certs[i] = string(ca.CertPEM())
		})
	}
	wg.Wait()
	for _, cert := range certs {
		if cert != certs[0] {
			t.Fatal("there are different CAs")
		}
	}
}

func TestIssueConnector(t *testing.T) {
	ca := newCAForTest(t)
	serials := map[string]bool{}
	for range 3 {
		certPEM, keyPEM, err := ca.IssueConnector("site one", []string{"WEB1.", "*.Lab"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
			t.Fatal(err)
		}
		cert := parseCert(t, certPEM)
		if cert.Subject.CommonName != "site one" || !cmp.Equal(cert.DNSNames, []string{"web1", "*.lab"}) {
			t.Errorf("names %q %q", cert.Subject.CommonName, cert.DNSNames)
		}
		if left := time.Until(cert.NotAfter); left > time.Hour || left < 59*time.Minute {
			t.Errorf("it is valid for %s", left)
		}
		if cert.IsCA || cert.SerialNumber.Cmp(big.NewInt(1<<62)) < 0 {
			t.Errorf("CA %t, serial %d", cert.IsCA, cert.SerialNumber)
		}
		serials[cert.SerialNumber.String()] = true
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool()}); err == nil {
			t.Error("a connector could pose as the gateway")
		}
	}
	if len(serials) != 3 {
		t.Error("serial numbers repeat")
	}
	for name, hostnames := range map[string][]string{"": {"web1"}, "line\nbreak": {"web1"}, strings.Repeat("n", 65): {"web1"}, "none": nil, "bad": {"a*b"}, "empty": {""}} {
		if _, _, err := ca.IssueConnector(name, hostnames, time.Hour); err == nil {
			t.Errorf("a certificate for %q %q", name, hostnames)
		}
	}
	certPEM, _, err := ca.IssueConnector("long", []string{"web1"}, 100*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if cert := parseCert(t, certPEM); cert.NotAfter.After(ca.cert.NotAfter) {
		t.Error("a certificate outlives its CA")
	}
}

func parseCert(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestServerCertificateRenews(t *testing.T) {
	now := time.Now()
	ca, err := OpenCA(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	get := ca.ServerCertificate([]string{"gate.test"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	first, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if again, _ := get(nil); again != first {
		t.Error("a certificate for each connection")
	}
	now = now.Add(61 * 24 * time.Hour)
	fresh, err := get(nil)
	if err != nil || fresh == first || !fresh.Leaf.NotAfter.After(now.Add(80*24*time.Hour)) {
		t.Errorf("it was not renewed: %v", err)
	}
	if _, err := ca.IssueServer(nil, nil); err == nil {
		t.Error("a certificate for nobody")
	}
}

// Replacing the files is enough to renew a connector's certificate.
func TestClientTLSReadsTheFilesAgain(t *testing.T) {
	ca := newCAForTest(t)
	dir := t.TempDir()
	certFile, keyFile, caPath := filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key"), filepath.Join(dir, "ca.crt")
	write := func(name string) {
		t.Helper()
		certPEM, keyPEM, err := ca.IssueConnector(name, []string{"web1"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for path, data := range map[string][]byte{certFile: certPEM, keyFile: keyPEM, caPath: ca.CertPEM()} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("one")
	credentials, err := OpenCredentials(certFile, keyFile, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := ClientTLS(credentials, caPath, "gate.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		write(name)
		pair, err := cfg.GetClientCertificate(nil)
		if err != nil || pair.Leaf.Subject.CommonName != name {
			t.Errorf("got %v, %v, want %s", pair, err, name)
		}
	}
	if _, err := ClientTLS(credentials, keyFile, ""); err == nil {
		t.Error("a CA file without a certificate")
	}
	if _, err := OpenCredentials(certFile, caPath, ""); err == nil {
		t.Error("a key file without a key")
	}
}
