package devidp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	jose "github.com/go-jose/go-jose/v4"
)

const minRSA = 2048 // bits, RFC 7518 section 3.3

// GenerateSigningKey returns a new signing key, and its PKCS #8 PEM form for a
// file that only its owner can read.
func GenerateSigningKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate the signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the signing key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseSigningKey reads what GenerateSigningKey wrote.
func ParseSigningKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("the signing key is not a PEM block PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T can't sign", key)
	}
	return signer, nil
}

// signingKey is the key in the form that the library wants it.
type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	signer    crypto.Signer
}

func newSigningKey(signer crypto.Signer) (*signingKey, error) {
	if signer == nil {
		generated, _, err := GenerateSigningKey()
		if err != nil {
			return nil, err
		}
		signer = generated
	}
	algorithm, err := algorithmOf(signer)
	if err != nil {
		return nil, err
	}
	thumbprint, err := (&jose.JSONWebKey{Key: signer.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("hash the signing key: %w", err)
	}
	return &signingKey{id: base64.RawURLEncoding.EncodeToString(thumbprint), algorithm: algorithm, signer: signer}, nil
}

func algorithmOf(signer crypto.Signer) (jose.SignatureAlgorithm, error) {
	switch key := signer.(type) {
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
	case ed25519.PrivateKey:
		return jose.EdDSA, nil
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSA {
			return "", fmt.Errorf("the RSA signing key has fewer than %d bits", minRSA)
		}
		return jose.RS256, nil
	}
	return "", fmt.Errorf("a signing key of type %T is not supported; use ECDSA, Ed25519 or RSA", signer)
}

// SignatureAlgorithm, Key and ID implement op.SigningKey.
func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k *signingKey) Key() any                                    { return k.signer }
func (k *signingKey) ID() string                                  { return k.id }

// publicKey is a signing key as the world sees it; it implements op.Key.
type publicKey struct{ *signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return k.algorithm }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return k.signer.Public() }
