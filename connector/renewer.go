package connector

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Renewer renews a connector's certificate in time, again and again. Fields without
// a default must be set.
type Renewer struct {
	// Certificate returns the present one.
	Certificate func() (*x509.Certificate, error)
	// Renew replaces it. Its error says what to do, where that is known.
	Renew func(context.Context) error
	// Renewed is called after each renewal.
	Renewed func()
	// Log is for the operator of the connector. Nil discards.
	Log *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

const (
	renewFirst   = 10 * time.Second // between tries: the first wait
	renewMost    = time.Hour        // and the longest,
	renewTimeout = 2 * time.Minute  // for one try
)

// renewAt is when two thirds of the certificate's life are over.
func renewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
}

// Run renews until ctx is done. A renewal that fails is tried again without end,
// also after the certificate's end: then the gateway says why it is too late.
func (r *Renewer) Run(ctx context.Context) {
	log, now := orDiscard(r.Log), r.Now
	if now == nil {
		now = time.Now
	}
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval, retry.Multiplier = renewFirst, renewMost, retryMultiplier
	retry.Reset()
	for {
		leaf, err := r.Certificate()
		if err == nil {
			if !waitUntil(ctx, renewAt(leaf), now) {
				return
			}
			err = r.renew(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			retry.Reset()
			if leaf, err = r.Certificate(); err == nil {
				log.Info("the certificate was renewed", "good_until", leaf.NotAfter.UTC().Format(time.RFC3339))
			}
			r.Renewed()
			if err == nil && now().Before(renewAt(leaf)) {
				continue
			}
		}
		wait := retry.NextBackOff()
		if err != nil {
			log.Error("the certificate could not be renewed", "err", err, "next_try_in", wait.Round(time.Second))
		}
		if !waitUntil(ctx, now().Add(wait), now) {
			return
		}
	}
}

func (r *Renewer) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	return r.Renew(ctx)
}
