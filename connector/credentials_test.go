package connector

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issueAt returns a pair that is issued at that time.
func issueAt(t *testing.T, ca *CA, name string, at time.Time) (certPEM, keyPEM []byte) {
	t.Helper()
	before := ca.now
	ca.now = func() time.Time { return at }
	defer func() { ca.now = before }()
	certPEM, keyPEM, err := ca.IssueConnector(name, []string{"web1"}, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM
}

func wantName(t *testing.T, c *Credentials, want string) {
	t.Helper()
	pair, err := c.Current()
	if err != nil {
		t.Fatal(err)
	}
	if got := pair.Leaf.Subject.CommonName; got != want {
		t.Errorf("the certificate is that of %s, want %s", got, want)
	}
}

func TestCredentialsRenewed(t *testing.T) {
	ca, now := newCAForTest(t), time.Now()
	for name, stateDir := range map[string]string{"in place": "", "elsewhere": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			certFile, keyFile := filepath.Join(dir, "my.crt"), filepath.Join(dir, "my.key")
			if _, err := OpenCredentials(certFile, keyFile, stateDir); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("without files: %v", err)
			}
			certPEM, keyPEM := issueAt(t, ca, "one", now)
			if err := WritePair(certFile, keyFile, certPEM, keyPEM); err != nil {
				t.Fatal(err)
			}
			c, err := OpenCredentials(certFile, keyFile, stateDir)
			if err != nil {
				t.Fatal(err)
			}
			wantName(t, c, "one")
			if err := c.Replace(issueAt(t, ca, "two", now.Add(time.Minute))); err != nil {
				t.Fatal(err)
			}
			wantName(t, c, "two")
			if _, err := OpenCredentials(certFile, keyFile, stateDir); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(c.renewedKey)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key's file: %v, %v", info, err)
			}
			if err := c.Replace(certPEM, []byte("nonsense")); err == nil {
				t.Error("a key that is none was taken")
			}
			// A new enrolment counts more than an older renewal.
			certPEM, keyPEM = issueAt(t, ca, "three", now.Add(2*time.Minute))
			if err := WritePair(certFile, keyFile, certPEM, keyPEM); err != nil {
				t.Fatal(err)
			}
			wantName(t, c, "three")
		})
	}
}

// Wherever replacing the pair is broken off, one of the two is there.
func TestReplaceBrokenOff(t *testing.T) {
	ca, now := newCAForTest(t), time.Now()
	oldCert, oldKey := issueAt(t, ca, "old", now)
	newCert, newKey := issueAt(t, ca, "new", now.Add(time.Minute))
	for _, state := range []struct {
		name            string
		cert, key, next []byte
		want            string
	}{
		{"before the new key", oldCert, oldKey, nil, "old"},
		{"before the new certificate", oldCert, oldKey, newKey, "old"},
		{"before the key is in place", newCert, oldKey, newKey, "new"},
		{"after it all", newCert, newKey, nil, "new"},
	} {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key")
		for path, data := range map[string][]byte{certFile: state.cert, keyFile: state.key, keyFile + nextKey: state.next} {
			if data == nil {
				continue
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := OpenCredentials(certFile, keyFile, "")
		if err != nil {
			t.Errorf("%s: %v", state.name, err)
			continue
		}
		wantName(t, c, state.want)
		if err := c.Replace(newCert, newKey); err != nil {
			t.Errorf("%s: %v", state.name, err)
		}
		wantName(t, c, "new")
	}
}

func TestSignConnector(t *testing.T) {
	ca := newCAForTest(t)
	request, keyPEM, err := NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.SignConnector(request, "rack1", []string{"WEB1", "*.lab"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.CommonName != "rack1" || strings.Join(leaf.DNSNames, " ") != "web1 *.lab" {
		t.Errorf("%s, %s", leaf.Subject, leaf.DNSNames)
	}
	if _, err := tls.X509KeyPair(EncodeCertificate(leaf), keyPEM); err != nil {
		t.Error(err)
	}
	spoilt := append([]byte(nil), request...)
	spoilt[len(spoilt)-1] ^= 1
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, small)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "nonsense": []byte("nonsense"), "a broken signature": spoilt, "P-224": weak, "RSA": other} {
		if _, err := ca.SignConnector(bad, "rack1", []string{"web1"}, time.Hour); err == nil {
			t.Errorf("signed: %s", name)
		}
	}
	if _, err := ca.SignConnector(request, "", []string{"web1"}, time.Hour); err == nil {
		t.Error("signed without a name")
	}
	if _, err := ca.SignConnector(request, "rack1", nil, time.Hour); err == nil {
		t.Error("signed without hostnames")
	}
}

func TestPinnedCA(t *testing.T) {
	ca, other := newCAForTest(t), newCAForTest(t)
	shown := func(ca *CA, name string) tls.ConnectionState {
		pair, err := ca.IssueServer([]string{name}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var state tls.ConnectionState
		for _, der := range pair.Certificate {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			state.PeerCertificates = append(state.PeerCertificates, cert)
		}
		return state
	}
	pem, err := PinnedCA(strings.ToUpper(ca.Pin()), "gate.test", shown(ca, "gate.test"), time.Now())
	if err != nil || string(pem) != string(ca.CertPEM()) {
		t.Errorf("%v, %s", err, pem)
	}
	// A server that shows the right CA behind a certificate of another.
	mixed := shown(other, "gate.test")
	mixed.PeerCertificates[1] = ca.cert
	leaf := shown(ca, "gate.test")
	for name, test := range map[string]struct {
		pin, server string
		state       tls.ConnectionState
		now         time.Time
	}{
		"another CA":           {ca.Pin(), "gate.test", shown(other, "gate.test"), time.Now()},
		"another CA's server":  {ca.Pin(), "gate.test", mixed, time.Now()},
		"another name":         {ca.Pin(), "evil.test", shown(ca, "gate.test"), time.Now()},
		"too late":             {ca.Pin(), "gate.test", shown(ca, "gate.test"), time.Now().Add(serverValidity + time.Hour)},
		"no pin":               {"", "gate.test", shown(ca, "gate.test"), time.Now()},
		"nothing shown":        {ca.Pin(), "gate.test", tls.ConnectionState{}, time.Now()},
		"the server's own pin": {Pin(leaf.PeerCertificates[0]), "gate.test", leaf, time.Now()},
	} {
		if _, err := PinnedCA(test.pin, test.server, test.state, test.now); err == nil {
			t.Errorf("taken: %s", name)
		}
	}
	if err := CheckPin(ca.Pin()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "sha256:", "sha256:00", strings.TrimPrefix(ca.Pin(), "sha256:"), ca.Pin() + "0", "sha1:" + ca.Pin()[7:]} {
		if CheckPin(bad) == nil {
			t.Errorf("%q is a pin", bad)
		}
	}
}
