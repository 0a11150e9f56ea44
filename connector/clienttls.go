package connector

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// ClientTLS returns the TLS configuration of a connector from its files, all
// PEM: its certificate and key, and the authority that signs the gateway's
// certificate, where caFile is "" the system's. serverName is the name that the
// gateway's certificate must have.
//
// Certificate and key are read again for each connection, so replacing the files
// is enough to renew them.
func ClientTLS(certFile, keyFile, caFile, serverName string) (*tls.Config, error) {
	load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("the connector's certificate %s with the key %s: %w", certFile, keyFile, err)
		}
		return &cert, nil
	}
	if _, err := load(nil); err != nil {
		return nil, err
	}
	cfg := &tls.Config{GetClientCertificate: load, ServerName: serverName}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("the gateway's CA: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the gateway's CA: %s holds no certificate", caFile)
	}
	return cfg, nil
}
