package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificatePoll is how often certificate files are looked at.
const certificatePoll = 10 * time.Second

// CertificateFiles is a certificate in two PEM files, which are read again when they
// change. A pair that does not do keeps the one before.
type CertificateFiles struct {
	certFile, keyFile string
	log               *slog.Logger
	poll              time.Duration

	current  atomic.Pointer[tls.Certificate]
	failures atomic.Uint64
	cert     []byte // as last read, good or not; of OpenCertificateFiles, then of Run
	key      []byte
	trouble  string // why the last read did not do
}

// OpenCertificateFiles reads the files. Run then watches them.
func OpenCertificateFiles(certFile, keyFile string, log *slog.Logger) (*CertificateFiles, error) {
	f := &CertificateFiles{certFile: certFile, keyFile: keyFile, log: log, poll: certificatePoll}
	if _, err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Get is for tls.Config's GetCertificate.
func (f *CertificateFiles) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.current.Load(), nil
}

// Failures returns how often a change did not do.
func (f *CertificateFiles) Failures() uint64 { return f.failures.Load() }

// Run watches the files until ctx ends. Call it once.
func (f *CertificateFiles) Run(ctx context.Context) {
	tick := time.NewTicker(f.poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		changed, err := f.read()
		switch {
		case err != nil && err.Error() != f.trouble:
			f.trouble = err.Error()
			f.failures.Add(1)
			f.log.Error("the gateway's certificate has changed and cannot be used; the one before stays", "err", err, "expires", f.current.Load().Leaf.NotAfter)
		case err == nil && changed:
			leaf := f.current.Load().Leaf
			f.log.Info("the gateway's certificate has changed", "names", leaf.DNSNames, "expires", leaf.NotAfter)
		}
		if err == nil {
			f.trouble = ""
		}
	}
}

// read takes the files up if they have changed. It compares what is in them: times
// and sizes say too little where links are swapped.
func (f *CertificateFiles) read() (changed bool, err error) {
	cert, err := os.ReadFile(f.certFile)
	if err != nil {
		return false, err
	}
	key, err := os.ReadFile(f.keyFile)
	if err != nil {
		return false, err
	}
	if f.trouble == "" && bytes.Equal(cert, f.cert) && bytes.Equal(key, f.key) {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("%s and %s: %w", f.certFile, f.keyFile, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) && f.current.Load() != nil {
		return false, fmt.Errorf("%s has expired on %s", f.certFile, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	f.cert, f.key = cert, key
	f.current.Store(&pair)
	return true, nil
}
