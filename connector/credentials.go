package connector

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// The names of a connector's files.
const (
	CertificateFile = "connector.crt"
	KeyFile         = "connector.key"
	GatewayCAFile   = "gateway-ca.crt"
)

// nextKey is what a new key's file is called until its certificate is in place.
const nextKey = ".next"

// Credentials are a connector's certificate and key in files, both PEM, and what
// has renewed them since. All methods may be called concurrently.
type Credentials struct {
	cert, key               string // as they were given
	renewedCert, renewedKey string // where renewals go; may be the same

	replacing sync.Mutex
}

// OpenCredentials returns those in the two files. What renews them is kept in
// stateDir; when that is "", in their place. It fails when there is no certificate
// that can be used.
func OpenCredentials(certFile, keyFile, stateDir string) (*Credentials, error) {
	c := &Credentials{cert: certFile, key: keyFile, renewedCert: certFile, renewedKey: keyFile}
	if stateDir != "" {
		c.renewedCert, c.renewedKey = filepath.Join(stateDir, CertificateFile), filepath.Join(stateDir, KeyFile)
	}
	_, err := c.Current()
	return c, err
}

// Current reads the certificate again: of those that there are, the one that was
// issued last.
func (c *Credentials) Current() (*tls.Certificate, error) {
	given, err := loadPair(c.cert, c.key)
	renewed := given
	if c.renewedCert != c.cert {
		var none error
		if renewed, none = loadPair(c.renewedCert, c.renewedKey); errors.Is(none, os.ErrNotExist) {
			return given, err
		} else if none != nil && err != nil {
			return nil, errors.Join(err, none)
		}
	}
	switch {
	case renewed == nil:
		return given, err
	case given == nil || renewed.Leaf.NotBefore.After(given.Leaf.NotBefore):
		return renewed, nil
	}
	return given, nil
}

// Leaf is the certificate of Current.
func (c *Credentials) Leaf() (*x509.Certificate, error) {
	pair, err := c.Current()
	if err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}

// loadPair loads a certificate with its key. A key that is about to take its
// place counts when it fits: replacing the two files is not one step.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		next, nextErr := tls.LoadX509KeyPair(certFile, keyFile+nextKey)
		if nextErr != nil {
			return nil, fmt.Errorf("the connector's certificate %s with the key %s: %w", certFile, keyFile, err)
		}
		pair = next
	}
	return &pair, nil
}

// Replace puts a renewed certificate and its key in place, both PEM. At any moment
// the files hold the pair before or this one.
func (c *Credentials) Replace(certPEM, keyPEM []byte) error {
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return fmt.Errorf("the renewed certificate: %w", err)
	}
	c.replacing.Lock()
	defer c.replacing.Unlock()
	if err := WritePair(c.renewedCert, c.renewedKey, certPEM, keyPEM); err != nil {
		return fmt.Errorf("keeping the renewed certificate: %w", err)
	}
	return nil
}

// WritePair replaces a certificate's file and its key's so that whoever loads them
// finds a pair that belongs together, also after a crash in between.
func WritePair(certFile, keyFile string, certPEM, keyPEM []byte) error {
	if err := WriteFile(keyFile+nextKey, keyPEM, 0o600); err != nil {
		return err
	}
	if err := WriteFile(certFile, certPEM, 0o644); err != nil {
		return err
	}
	if err := os.Rename(keyFile+nextKey, keyFile); err != nil {
		return err
	}
	return syncDir(filepath.Dir(keyFile))
}

// WriteFile replaces a file whole, with that mode from the start. It is on the disk
// when it returns.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ClientTLS returns the TLS configuration of a connector: its certificate, which is
// read again for each connection, and the authority that signs the gateway's
// certificate, PEM, where caFile is "" the system's. serverName is the name that the
// gateway's certificate must have.
func ClientTLS(credentials *Credentials, caFile, serverName string) (*tls.Config, error) {
	cfg := &tls.Config{
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return credentials.Current() },
		ServerName:           serverName,
	}
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
