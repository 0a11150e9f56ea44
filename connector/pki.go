package connector

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	caFile         = "ca.pem" // key and certificate, so that both exist or none
	maxCAFile      = 64 << 10
	caValidity     = 10 * 365 * 24 * time.Hour
	serverValidity = 90 * 24 * time.Hour
	// clockSkew is how far other clocks may be behind.
	clockSkew = 5 * time.Minute

	pemKey  = "PRIVATE KEY"
	pemCert = "CERTIFICATE"

	maxConnectorName = 64 // RFC 5280 appendix A.1, ub-common-name
)

// CA is the certificate authority of one gateway's tunnels: it signs the
// certificates of connectors, and the gateway's own where that has none of a
// public CA. Its keys are ECDSA on P-256.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// OpenCA loads the CA in dir, or creates it there on first use: the directory
// with mode 0700, in it ca.pem with mode 0600. A CA that is there is never
// overwritten, also not by another process that starts at the same time. It
// fails when others could read the key, and when the CA has expired, which it
// does after ten years. A nil now is time.Now.
func OpenCA(dir string, now func() time.Time) (*CA, error) {
	if now == nil {
		now = time.Now
	}
	path := filepath.Join(dir, caFile)
	ca, err := loadCA(path, now)
	if !errors.Is(err, os.ErrNotExist) {
		return ca, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the tunnel CA: %w", err)
	}
	contents, err := newCA(now())
	if err != nil {
		return nil, fmt.Errorf("creating the tunnel CA: %w", err)
	}
	if err := createFile(path, contents); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("creating the tunnel CA: %w", err)
	}
	return loadCA(path, now) // perhaps another process's
}

func loadCA(path string, now func() time.Time) (*CA, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the tunnel CA: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the tunnel CA: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("the tunnel CA %s is open to other users (mode %04o); run chmod 600 %s", path, mode, path)
	}
	contents, err := io.ReadAll(io.LimitReader(f, maxCAFile))
	if err != nil {
		return nil, fmt.Errorf("reading the tunnel CA: %w", err)
	}
	// The same form as any certificate with its key, and the same checks.
	pair, err := tls.X509KeyPair(contents, contents)
	if err != nil {
		return nil, fmt.Errorf("reading the tunnel CA %s: %w", path, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok || !pair.Leaf.IsCA:
		return nil, fmt.Errorf("%s does not hold a CA", path)
	case now().After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("the tunnel CA %s expired on %s; move it away to have a new one made, and enrol the connectors again",
			path, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &CA{cert: pair.Leaf, key: key, now: now}, nil
}

// newCA returns the contents of a new CA's file.
func newCA(now time.Time) ([]byte, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "sshgate tunnel CA"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caValidity),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return append(keyPEM, encodeCert(der)...), nil
}

// createFile makes a file with mode 0600 and contents, complete or not at all.
// It fails with os.ErrExist rather than replace one.
func createFile(path string, contents []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(contents)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike Rename, never replaces
		return err
	}
	return syncDir(dir)
}

// CertPEM returns the CA's certificate, which connectors trust through
// gateway_ca_file.
func (ca *CA) CertPEM() []byte { return encodeCert(ca.cert.Raw) }

// Signed tells whether the CA signed the certificate, which may have expired.
func (ca *CA) Signed(cert *x509.Certificate) bool { return cert.CheckSignatureFrom(ca.cert) == nil }

// Pool returns a pool with the CA as its only member.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// IssueConnector makes a key and a certificate for a connector, both PEM. The
// name identifies it in logs and to HubConfig.Admit, 1 to 64 printable ASCII
// characters. The hostnames are the origins that it may publish:
// names, or host patterns such as *.lab.example.com, which stands for any number
// of labels. The certificate ends after validity, or with the CA.
func (ca *CA) IssueConnector(name string, hostnames []string, validity time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	leaf, err := ca.signConnector(key.Public(), name, hostnames, validity)
	if err != nil {
		return nil, nil, err
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, fmt.Errorf("issuing the certificate of connector %s: %w", name, err)
	}
	return encodeCert(leaf.Raw), keyPEM, nil
}

// SignConnector is IssueConnector for a key that never leaves the connector. Of the
// request, PKCS#10 (RFC 2986) in DER, it takes the public key alone, which must be
// one of ECDSA on P-256 or P-384, or Ed25519.
func (ca *CA) SignConnector(request []byte, name string, hostnames []string, validity time.Duration) (*x509.Certificate, error) {
	key, err := RequestKey(request)
	if err != nil {
		return nil, err
	}
	return ca.signConnector(key, name, hostnames, validity)
}

func (ca *CA) signConnector(key crypto.PublicKey, name string, hostnames []string, validity time.Duration) (*x509.Certificate, error) {
	switch {
	case CheckName(name) != nil:
		return nil, CheckName(name)
	case len(hostnames) == 0:
		return nil, errors.New("a connector's certificate must name the origins that it may publish")
	case validity <= 0:
		return nil, errors.New("a connector's certificate must be valid for some time")
	}
	normal := make([]string, len(hostnames))
	for i, hostname := range hostnames {
		pattern, err := sshgate.ParseHostPattern(hostname)
		if err != nil {
			return nil, fmt.Errorf("a hostname of the connector: %w", err)
		}
		normal[i] = pattern.String()
	}
	leaf, err := ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    normal,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key, validity)
	if err != nil {
		return nil, fmt.Errorf("issuing the certificate of connector %s: %w", name, err)
	}
	return leaf, nil
}

// CheckName says why a text is no name for a connector.
func CheckName(name string) error {
	if name == "" || name != printable(name, maxConnectorName) {
		return fmt.Errorf("the connector's name %q is not 1 to %d printable ASCII characters", name, maxConnectorName)
	}
	return nil
}

// IssueServer makes a certificate for the gateway's tunnel port, good for 90
// days. ServerCertificate renews it.
func (ca *CA) IssueServer(names []string, ips []net.IP) (tls.Certificate, error) {
	if len(names) == 0 && len(ips) == 0 {
		return tls.Certificate{}, errors.New("the gateway's certificate must name the gateway")
	}
	template := &x509.Certificate{
		DNSNames:    names,
		IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := ca.sign(template, key.Public(), serverValidity)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issuing the gateway's certificate: %w", err)
	}
	// The CA goes with it, for those who know only its pin.
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// ServerCertificate returns a function for tls.Config's GetCertificate that
// issues the gateway's certificate, and a new one when a third of its time is
// left. It is safe for concurrent use.
func (ca *CA) ServerCertificate(names []string, ips []net.IP) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var mu sync.Mutex
	var current *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current == nil || current.Leaf.NotAfter.Sub(ca.now()) < serverValidity/3 {
			fresh, err := ca.IssueServer(names, ips)
			if err != nil {
				return nil, err
			}
			current = &fresh
		}
		return current, nil
	}
}

// sign completes the template, and signs it for the key.
func (ca *CA) sign(template *x509.Certificate, key crypto.PublicKey, validity time.Duration) (*x509.Certificate, error) {
	now := ca.now()
	template.SerialNumber = newSerial()
	// What lives for minutes must not look half its age from the start.
	template.NotBefore = now.Add(-min(clockSkew, validity/10))
	template.NotAfter = now.Add(validity)
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key, ca.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// ServerTLS returns the configuration of the tunnel port: TLS 1.3, and client
// certificates that this CA signed or none at all. The port may serve other
// protocols, appended to NextProtos, whose clients have no certificate; Serve
// insists on one. Sessions are not resumed, so that each tunnel proves its
// certificate anew.
func ServerTLS(ca *CA, getCert func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		GetCertificate:         getCert,
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              ca.Pool(),
		SessionTicketsDisabled: true,
		Time:                   ca.now,
	}
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// newSerial returns a random serial number: 127 bits, positive and below the 20
// octets of RFC 5280 section 4.1.2.2.
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	b[0] &= 0x7f
	b[len(b)-1] |= 1 // never zero
	return new(big.Int).SetBytes(b[:])
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}
