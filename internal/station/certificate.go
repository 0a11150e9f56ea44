package station

import (
	"crypto/x509"
	"fmt"
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

// CertificateOf describes a certificate, or says why it could not be read.
func CertificateOf(leaf *x509.Certificate, err error) Certificate {
	if err != nil {
		return Certificate{Hostnames: []string{}, Error: err.Error()}
	}
	return Certificate{
		Connector: leaf.Subject.CommonName, Hostnames: append([]string{}, leaf.DNSNames...),
		Serial: fmt.Sprintf("%x", leaf.SerialNumber), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
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

// Warning says that the certificate is good but not for long, although it renews
// itself when a third of its life is left, or nothing.
func (c Certificate) Warning(now time.Time) string {
	if left := c.NotAfter.Sub(now); left < c.NotAfter.Sub(c.NotBefore)/4 {
		return fmt.Sprintf("it expires in %s and should have been renewed; look into the connector's log", inWords(left))
	}
	return ""
}

// inWords has days from two on.
func inWords(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.Round(time.Minute).String()
}
