package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	acmeTimeout = 30 * time.Second // of one request to the authority
	acmeLook    = time.Minute      // between looks at whether there is a newer certificate
	// acmeMaxPause is the longest time between two attempts that fail. Let's Encrypt
	// allows five an hour.
	acmeMaxPause = time.Hour
)

// ACMEConfig is what ACME needs. Fields without a default must be set.
type ACMEConfig struct {
	Hostname  string         // the one name that a certificate is asked for
	Directory string         // URL of the authority, RFC 8555 section 7.1.1
	Email     string         // for the authority's warnings; may be empty
	Roots     *x509.CertPool // to trust the authority's own server by; nil: the system's
	Cache     string         // directory for the account's key and the certificate
	Log       *slog.Logger
}

// ACME is a certificate that a certificate authority issues to whoever answers at the
// hostname (RFC 8555): the proof is given on the TLS port itself (RFC 8737). It renews
// itself.
type ACME struct {
	cfg      ACMEConfig
	manager  *autocert.Manager
	current  atomic.Pointer[tls.Certificate]
	failures atomic.Uint64
}

// NewACME returns an ACME without a certificate. Run gets one.
func NewACME(cfg ACMEConfig) *ACME {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}
	return &ACME{cfg: cfg, manager: &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cfg.Cache), HostPolicy: autocert.HostWhitelist(cfg.Hostname), Email: cfg.Email,
		Client: &acme.Client{DirectoryURL: cfg.Directory, HTTPClient: &http.Client{Transport: transport, Timeout: acmeTimeout}},
	}}
}

// Get is for tls.Config's GetCertificate. It never waits for the authority: a crowd of
// handshakes that wait would keep everybody out.
func (a *ACME) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Contains(hello.SupportedProtos, acme.ALPNProto) {
		if len(hello.SupportedProtos) > 1 || !strings.EqualFold(hello.ServerName, a.cfg.Hostname) {
			return nil, errors.New("a challenge for another name")
		}
		return a.manager.GetCertificate(hello)
	}
	if cert := a.current.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("the certificate authority has not issued the gateway's certificate yet")
}

// Failures returns how often the certificate could not be had.
func (a *ACME) Failures() uint64 { return a.failures.Load() }

// Run gets a certificate, and the next one in time, until ctx ends. Call it once, when
// the TLS port listens.
func (a *ACME) Run(ctx context.Context) {
	pause := acmeLook
	for {
		cert, err := a.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := acmeLook
		if err != nil {
			a.failures.Add(1)
			a.cfg.Log.Error("the gateway's certificate could not be had", "hostname", a.cfg.Hostname, "directory", a.cfg.Directory, "again_in", pause, "err", err)
			wait, pause = pause, min(2*pause, acmeMaxPause)
		} else {
			pause = acmeLook
			if before := a.current.Swap(cert); before != cert && cert.Leaf != nil {
				a.cfg.Log.Info("the gateway has a certificate", "names", cert.Leaf.DNSNames, "expires", cert.Leaf.NotAfter)
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// fetch returns the certificate that is kept, as long as it lasts; autocert puts a new
// one in its place in time.
func (a *ACME) fetch(ctx context.Context) (*tls.Certificate, error) {
	type result struct {
		cert *tls.Certificate
		err  error
	}
	done := make(chan result, 1)
	go func() { // it takes no context, and gives up by itself after 5 minutes
		cert, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
			ServerName: a.cfg.Hostname, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		})
		done <- result{cert, err}
	}()
	select {
	case r := <-done:
		return r.cert, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
