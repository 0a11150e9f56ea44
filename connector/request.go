package connector

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// NewRequest makes a key for a connector, PEM, and a request for its certificate:
// PKCS#10 (RFC 2986) in DER, which names nothing. What the certificate names is the
// gateway's to say.
func NewRequest() (request, keyPEM []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	if request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return request, keyPEM, err
}

// RequestKey returns the public key of a request, which its sender has. Its kind
// is one that certificates are issued for.
func RequestKey(request []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, errors.New("the certificate request is not PKCS#10 in DER")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("the certificate request is not signed by its own key")
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return key, nil
		}
	case ed25519.PublicKey:
		return key, nil
	}
	return nil, errors.New("the certificate request has another key than ECDSA on P-256 or P-384, or Ed25519")
}

const pinPrefix = "sha256:"

// Pin returns what a certificate is known by to those who have not seen it:
// "sha256:" and the hexadecimal SHA-256 of its public key (the
// SubjectPublicKeyInfo).
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return pinPrefix + hex.EncodeToString(sum[:])
}

// Pin is that of the CA, by which connectors know the gateway before they have the
// CA's certificate.
func (ca *CA) Pin() string { return Pin(ca.cert) }

// CheckPin says why a text is not a pin.
func CheckPin(pin string) error {
	sum, ok := strings.CutPrefix(strings.ToLower(pin), pinPrefix)
	if b, err := hex.DecodeString(sum); !ok || err != nil || len(b) != sha256.Size {
		return fmt.Errorf("the pin %q is not sha256: and 64 hexadecimal digits", pin)
	}
	return nil
}

// ErrPin says that a server has no certificate of the pinned CA.
var ErrPin = errors.New("no certificate that the gateway shows is that of the pinned CA")

// PinnedCA returns the CA with the pin, PEM, from what a server has shown in a
// handshake, when that CA has signed the server's certificate and the certificate
// has the name and is good now.
func PinnedCA(pin, serverName string, state tls.ConnectionState, now time.Time) (caPEM []byte, err error) {
	for _, cert := range state.PeerCertificates {
		if !cert.IsCA || subtle.ConstantTimeCompare([]byte(Pin(cert)), []byte(strings.ToLower(pin))) != 1 {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: serverName, Roots: roots, CurrentTime: now})
		if err != nil {
			return nil, err
		}
		return encodeCert(cert.Raw), nil
	}
	return nil, ErrPin
}

// ParseCertificate reads one certificate in PEM form.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != pemCert {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

// EncodeCertificate is the inverse of ParseCertificate.
func EncodeCertificate(cert *x509.Certificate) []byte { return encodeCert(cert.Raw) }
