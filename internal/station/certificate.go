package station

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// Certificate is what people should know of a connector's certificate.
type Certificate struct {
	Connector string    `json:"connector"`
	Hostnames []string  `json:"hostnames"` // that it may publish
	Serial    string    `json:"serial"`    // hexadecimal
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	// Error is why it could not be read; the rest is empty then.
	Error string `json:"error,omitempty"`
}

// ReadCertificate reads the first certificate of a PEM file. Keys in it are passed
// over.
func ReadCertificate(file string) Certificate {
	leaf, err := readLeaf(file)
	if err != nil {
		return Certificate{Hostnames: []string{}, Error: err.Error()}
	}
	return Certificate{
		Connector: leaf.Subject.CommonName, Hostnames: append([]string{}, leaf.DNSNames...),
		Serial: fmt.Sprintf("%x", leaf.SerialNumber), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}

func readLeaf(file string) (*x509.Certificate, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil:
			return nil, errors.New(file + " holds no certificate")
		case block.Type == "CERTIFICATE":
			return x509.ParseCertificate(block.Bytes)
		}
	}
}

// Problem says in a sentence why the certificate is no good now, or nothing.
func (c Certificate) Problem(now time.Time) string {
	switch {
	case c.Error != "":
		return "the certificate cannot be read: " + c.Error
	case now.Before(c.NotBefore):
		return "the certificate is not good before " + c.NotBefore.Format(time.DateTime) + "; is this machine's clock right?"
	case now.After(c.NotAfter):
		return "the certificate expired on " + c.NotAfter.Format(time.DateOnly)
	}
	return ""
}
