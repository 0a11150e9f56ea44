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

// stateInterval is how often the running gateway looks whether its state has changed,
// by a command for instance: what is revoked is out within a second.
const stateInterval = 250 * time.Millisecond

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

// watchState has everything that is up decided about again when the state has changed:
// clients' connections, and the tunnels of certificates that are revoked. An error is
// told once until it is over.
func (g *gatewayd) watchState(ctx context.Context) {
	tick := time.NewTicker(stateInterval)
	defer tick.Stop()
	version, revoked, failing := int64(-1), -1, false
	for {
		n, err := g.store.Version(ctx)
		if err == nil && n != version {
			g.live.StateChanged()
			if revoked, err = g.recheckConnectors(ctx, revoked); err == nil {
				version = n
			}
		}
		if err != nil && !failing && ctx.Err() == nil {
			g.log.Error("it could not be looked up whether something was revoked; what is open stays", "err", err)
		}
		failing = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// recheckConnectors has the hub look at all certificates again if another number of
// them than known is revoked, which it returns.
func (g *gatewayd) recheckConnectors(ctx context.Context, known int) (int, error) {
	n, err := g.store.ConnectorRevocations(ctx)
	if err != nil {
		return known, err
	}
	if n != known {
		g.hub.Recheck(ctx)
	}
	return n, nil
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
