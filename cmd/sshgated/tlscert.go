package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate/web"
)

// certificates is where the TLS port's certificate comes from, when it is not the
// gateway's own authority.
type certificates interface {
	Get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Failures() uint64
	Run(context.Context)
}

// openCertificates returns what the configuration names, nil where it names nothing.
func (g *gatewayd) openCertificates() (certificates, error) {
	t := g.cfg.Tunnel
	switch {
	case t.ACME != nil:
		roots, err := acmeRoots(g.cfg)
		if err != nil {
			return nil, err
		}
		return web.NewACME(web.ACMEConfig{
			Hostname: g.cfg.Hostname, Directory: t.ACME.Directory, Email: t.ACME.Email, Roots: roots, Cache: filepath.Join(g.cfg.DataDir, "acme"), Log: g.log,
		}), nil
	case t.CertificateFile != "":
		files, err := web.OpenCertificateFiles(t.CertificateFile, t.KeyFile, g.log)
		if err != nil {
			return nil, usageError{fmt.Errorf("tunnel: the gateway's certificate: %w", err)}
		}
		return files, nil
	}
	return nil, nil
}

// acmeRoots is by whom the ACME server is trusted, nil for the system's roots.
func acmeRoots(cfg *config.Gateway) (*x509.CertPool, error) {
	if cfg.Tunnel.ACME == nil || cfg.Tunnel.ACME.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(cfg.Tunnel.ACME.CAFile)
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(pem) {
		err = errors.New("it has no certificate in PEM form")
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("tunnel.acme.ca_file: %w", err)}
	}
	return roots, nil
}
