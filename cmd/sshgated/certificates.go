package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
)

// revocationInterval is how often the running gateway looks whether a command has
// revoked a certificate: within a second it is out.
const revocationInterval = 500 * time.Millisecond

// checkConnector is the hub's Check. A certificate of which nothing is known was
// issued before they were noted; the CA has signed it.
func (g *gatewayd) checkConnector(ctx context.Context, cert connector.Certificate) error {
	rec, err := g.store.Connector(ctx, cert.Serial)
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return nil
	case err != nil:
		return err
	case rec.RevokedAt.IsZero():
		if err := g.store.TouchConnector(ctx, cert.Serial, time.Now()); err != nil {
			g.log.Warn("a connector's visit could not be noted", "connector", cert.Connector, "err", err)
		}
		return nil
	}
	reason := fmt.Sprintf("the certificate %s was revoked on %s; let the connector in again with: sshgate connector login --force", cert.Serial, rec.RevokedAt.UTC().Format("2006-01-02 15:04 UTC"))
	g.events.Record(sshgate.Event{
		Time: time.Now(), Kind: sshgate.EventCredential, Identity: "connector " + cert.Connector, ClientAddr: cert.Remote.Addr(),
		Detail: "connector certificate", Reason: reason,
	})
	return &connector.Refusal{Code: connector.CodeNotPermitted, Reason: reason}
}

// watchRevocations ends the tunnels of certificates that are revoked while they are
// up.
func (g *gatewayd) watchRevocations(ctx context.Context) {
	tick := time.NewTicker(revocationInterval)
	defer tick.Stop()
	known := -1
	for {
		n, err := g.store.ConnectorRevocations(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			g.log.Error("revoked certificates could not be looked up", "err", err)
		case err == nil && n != known:
			g.hub.Recheck(ctx)
			known = n
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// certificateRejected records a connector's certificate that TLS did not take, most
// likely because it has expired. What another authority has signed is none of a
// connector, and not worth a record that anybody could fill.
func (g *gatewayd) certificateRejected(remote net.Addr, rejected *tls.CertificateVerificationError) {
	if len(rejected.UnverifiedCertificates) == 0 || !g.tunnelCA.Signed(rejected.UnverifiedCertificates[0]) {
		return
	}
	leaf := rejected.UnverifiedCertificates[0]
	addr, _ := netip.ParseAddrPort(remote.String()) // for the record only
	g.events.Record(sshgate.Event{
		Time: time.Now(), Kind: sshgate.EventCredential, Identity: "connector " + leaf.Subject.CommonName, ClientAddr: addr.Addr().Unmap(),
		Detail: "connector certificate", Reason: fmt.Sprintf("the certificate %s was not taken: %v", leaf.SerialNumber.Text(16), rejected.Err),
	})
}
