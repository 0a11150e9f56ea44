package enrolment

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Offer is what a person may answer to a wish.
type Offer struct {
	// Asked are the hostnames that the machine asks for.
	Asked []Asked
	// Domains are what the person may hand out, where the machine asks for nothing.
	Domains []sshgate.HostPattern
	// Proposed is a name for the machine in each of the domains that is a wildcard.
	Proposed []sshgate.OriginName
	// Replica is set when the person has let in a connector of that name: it is the day
	// of that.
	Replica time.Time
}

// Asked is a hostname that a machine asks for, and whether it can have it.
type Asked struct {
	Hostname sshgate.HostPattern
	Rule     string // that lets the person hand it out, "" where none does
}

// Offer returns what the person may answer, where the connector shall have the name;
// empty is what the wish says. It is a *Refused for somebody who may hand out nothing.
func (d *Desk) Offer(ctx context.Context, p *Pending, who Person, name string) (*Offer, error) {
	policy, ask := d.cfg.Policy(), d.ask(who)
	offers := policy.Publishable(ask)
	if len(offers) == 0 {
		d.record(p, sshgate.Event{Reason: "no publish rule is for whoever looked at it", ClientAddr: who.Address}.By(who.Identity))
		return nil, refuse(CodeDenied, "you may not let connectors in: no publish rule of the policy is for you")
	}
	offer := &Offer{}
	for _, h := range p.Hostnames {
		rule, _ := policy.MayPublish(ask, h)
		offer.Asked = append(offer.Asked, Asked{Hostname: h, Rule: rule})
	}
	if len(p.Hostnames) == 0 {
		offer.domains(offers, p.Wish)
	}
	records, err := d.cfg.Store.Connectors(ctx)
	if err != nil {
		return nil, d.unavailable("looking up connectors", err)
	}
	for _, rec := range records {
		if rec.Connector == cmp.Or(name, p.Name) && rec.Good(d.cfg.Now()) && rec.ApprovedBy(who.Identity) {
			offer.Replica = rec.IssuedAt
		}
	}
	return offer, nil
}

// domains lists what there is to choose from.
func (o *Offer) domains(offers []sshgate.Publishable, w Wish) {
	for _, offer := range offers {
		for _, h := range offer.Hostnames {
			if slices.Contains(o.Domains, h) {
				continue
			}
			o.Domains = append(o.Domains, h)
			name, err := sshgate.ParseOriginName(nameOf(w.Machine) + strings.TrimPrefix(h.String(), "*"))
			if h.Wildcard() && err == nil {
				o.Proposed = append(o.Proposed, name)
			}
		}
	}
}

// Approval is a person's yes.
type Approval struct {
	Person
	// Name is what the connector shall be called; empty is what the wish says.
	Name string
	// Hostnames are what it may publish, at least one.
	Hostnames []sshgate.HostPattern
	// Replica says that the person's connector of that name is meant: this machine
	// stands beside it or takes its place.
	Replica bool
}

// Approve lets the connector in, or says why not with a *Refused: then the wish waits
// on, for another answer.
func (d *Desk) Approve(ctx context.Context, p *Pending, yes Approval) error {
	if yes.Name == "" {
		yes.Name = p.Name
	}
	yes.Hostnames = unique(yes.Hostnames)
	event := sshgate.Event{Detail: d.event(p.Wish, yes.Name, yes.Hostnames).Detail, ClientAddr: yes.Address}.By(yes.Identity)
	d.deciding.Lock()
	defer d.deciding.Unlock()
	rule, cert, err := d.approve(ctx, p, yes)
	if err == nil {
		d.settle(p, cert, nil) // it waits still, approve has looked
	}
	event.Allowed, event.Rule, event.Reason = err == nil, rule, fmt.Sprintf("let in as %s, certificate %s", yes.Name, serial(cert))
	if err != nil {
		event.Reason = err.Error()
	}
	d.record(p, event)
	return err
}

func serial(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	return cert.SerialNumber.Text(16)
}

// approve checks the answer and issues the certificate.
func (d *Desk) approve(ctx context.Context, p *Pending, yes Approval) (rule string, cert *x509.Certificate, err error) {
	if waits, err := d.Find(p.UserCode); err != nil {
		return "", nil, err
	} else if waits != p { // it has the code of one that is gone
		return "", nil, errNotWaiting
	}
	if err := CheckName(yes.Name); err != nil {
		return "", nil, err
	}
	if rule, err = d.permitted(p, yes); err != nil {
		return rule, nil, err
	}
	err = d.conflicts(ctx, yes.Name, yes.Hostnames, yes.Identity, func(rec sshgate.ConnectorRecord) error {
		switch {
		case !rec.ApprovedBy(yes.Identity):
			return refuse(CodeNameTaken, "another connector is called %s; choose another name", yes.Name)
		case !yes.Replica:
			return refuse(CodeNameTaken, "you have let in a connector called %s on %s; choose another name, or say that this is a replica of it",
				yes.Name, rec.IssuedAt.UTC().Format(time.DateOnly))
		}
		return nil
	})
	if err != nil {
		return rule, nil, err
	}
	cert, rec, err := d.issue(p.Wish, yes.Name, yes.Hostnames, d.cfg.CertificateTTL)
	if err != nil {
		return rule, nil, err
	}
	rec.Via, rec.ApproverIssuer, rec.ApproverSubject, rec.Approver = sshgate.ViaSignIn, yes.Identity.Issuer, yes.Identity.Subject, yes.Identity.String()
	if err := d.cfg.Store.AddConnector(ctx, rec); err != nil {
		return rule, nil, d.unavailable("noting a certificate", err)
	}
	return rule, cert, nil
}

// unique leaves out what is there before.
func unique(hostnames []sshgate.HostPattern) []sshgate.HostPattern {
	var all []sshgate.HostPattern
	for _, h := range hostnames {
		if !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

// permitted returns the rules that let the person hand the hostnames out.
func (d *Desk) permitted(p *Pending, yes Approval) (rules string, err error) {
	switch {
	case len(yes.Hostnames) == 0:
		return "", refuse(CodeBadRequest, "choose at least one hostname")
	case len(yes.Hostnames) > maxHostnames:
		return "", refuse(CodeBadRequest, "there are %d hostnames, more than %d", len(yes.Hostnames), maxHostnames)
	}
	policy, ask := d.cfg.Policy(), d.ask(yes.Person)
	var names []string
	for _, h := range yes.Hostnames {
		if len(p.Hostnames) > 0 && !slices.Contains(p.Hostnames, h) {
			return "", refuse(CodeBadRequest, "the machine did not ask for %s", h)
		}
		rule, ok := policy.MayPublish(ask, h)
		if !ok {
			return "", refuse(CodeDenied, "you may not hand out %s", h)
		}
		if !slices.Contains(names, rule) {
			names = append(names, rule)
		}
	}
	return strings.Join(names, ", "), nil
}

// errDenied does not tell the machine, which may be anybody's, who looked at it.
var errDenied = refuse(CodeDenied, "whoever looked at it said no")

// Deny says no for the person. suspicious says that they did not expect the machine.
func (d *Desk) Deny(p *Pending, who Person, suspicious bool) {
	reason := "denied"
	if suspicious {
		reason = "denied, and reported as suspicious"
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	if d.settle(p, nil, errDenied) {
		d.record(p, sshgate.Event{Reason: reason, ClientAddr: who.Address}.By(who.Identity))
	}
}

// Join lets a connector in that has a join token, by the token's hash.
func (d *Desk) Join(ctx context.Context, hash []byte, w Wish) (*x509.Certificate, error) {
	if err := w.normalise(); err != nil {
		return nil, err
	}
	d.deciding.Lock()
	defer d.deciding.Unlock()
	cert, id, rec, err := d.join(ctx, hash, w)
	event := d.event(w, rec.Connector, nil)
	if id != "" {
		event.Detail += ", join token " + string(id)
	}
	if len(rec.Hostnames) > 0 {
		event.Detail += ", hostnames " + strings.Join(rec.Hostnames, " ")
	}
	event.Allowed, event.Reason = err == nil, "let in, certificate "+serial(cert)
	if err != nil {
		event.Reason = err.Error()
	}
	d.cfg.Events.Record(event)
	return cert, err
}

var errBadToken = refuse(CodeBadToken, "the join token is unknown, used up, expired or revoked; make another with: sshgated connector token create")

func (d *Desk) join(ctx context.Context, hash []byte, w Wish) (*x509.Certificate, sshgate.JoinTokenID, sshgate.ConnectorRecord, error) {
	none := sshgate.ConnectorRecord{}
	token, err := d.cfg.Store.JoinToken(ctx, hash)
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return nil, "", none, errBadToken
	case err != nil:
		return nil, "", none, d.unavailable("looking up a join token", err)
	}
	if !token.RevokedAt.IsZero() || token.Left < 1 || !d.cfg.Now().Before(token.ExpiresAt) {
		return nil, token.ID, none, errBadToken // which learns nothing of names; Store.Join looks again
	}
	hostnames, err := tokenHostnames(token, w)
	if err != nil {
		return nil, token.ID, none, err
	}
	name := token.Connector
	if name == "" {
		name = w.Name
		err := d.conflicts(ctx, name, hostnames, sshgate.Identity{}, func(sshgate.ConnectorRecord) error {
			return refuse(CodeNameTaken, "another connector is called %s; choose another name with --name", name)
		})
		if err != nil {
			return nil, token.ID, none, err
		}
	}
	cert, rec, err := d.issue(w, name, hostnames, d.cfg.CertificateTTL)
	if err != nil {
		return nil, token.ID, none, err
	}
	rec.Via, rec.JoinToken = sshgate.ViaToken, token.ID
	err = d.cfg.Store.Join(ctx, token.ID, rec)
	switch {
	case errors.Is(err, sshgate.ErrSpent):
		return nil, token.ID, none, errBadToken
	case err != nil:
		return nil, token.ID, none, d.unavailable("noting a certificate", err)
	}
	return cert, token.ID, rec, nil
}

// tokenHostnames returns what the wish asks for, which the token must cover, or all
// that the token has.
func tokenHostnames(token sshgate.JoinTokenRecord, w Wish) ([]sshgate.HostPattern, error) {
	var all []sshgate.HostPattern
	for _, text := range token.Hostnames {
		h, err := sshgate.ParseHostPattern(text)
		if err != nil {
			return nil, fmt.Errorf("the join token %s: %w", token.ID, err)
		}
		all = append(all, h)
	}
	if len(w.Hostnames) == 0 {
		return all, nil
	}
	for _, h := range w.Hostnames {
		if !slices.ContainsFunc(all, func(have sshgate.HostPattern) bool { return have.Covers(h) }) {
			return nil, refuse(CodeDenied, "the join token is not for %s, only for %s", h, join(all))
		}
	}
	return w.Hostnames, nil
}

// ErrEnded says that a certificate is no longer good. It may have been at the
// handshake of a connection that has been open since.
var ErrEnded = refuse(CodeEnded, "the certificate has expired; let the connector in again with: sshgate connector login --force")

// Renew replaces a certificate that is still good by one with the same names, for as
// long a time, and for a new key. leaf was verified.
func (d *Desk) Renew(ctx context.Context, leaf *x509.Certificate, w Wish) (*x509.Certificate, error) {
	before, err := d.cfg.Store.Connector(ctx, serial(leaf))
	known := err == nil
	if err != nil && !errors.Is(err, sshgate.ErrNotFound) {
		return nil, d.unavailable("looking up a certificate", err)
	}
	var hostnames []sshgate.HostPattern
	for _, name := range leaf.DNSNames {
		h, err := sshgate.ParseHostPattern(name)
		if err != nil {
			return nil, refuse(CodeBadRequest, "the certificate: %s", err)
		}
		hostnames = append(hostnames, h)
	}
	w.Machine = before.Machine
	event := d.event(w, leaf.Subject.CommonName, hostnames)
	cert, err := d.renew(ctx, leaf, before, known, w, hostnames)
	event.Allowed, event.Reason = err == nil, fmt.Sprintf("renewed %s by %s", serial(leaf), serial(cert))
	if err != nil {
		event.Reason = fmt.Sprintf("not renewed %s: %s", serial(leaf), err)
	}
	d.cfg.Events.Record(event)
	return cert, err
}

func (d *Desk) renew(ctx context.Context, leaf *x509.Certificate, before sshgate.ConnectorRecord, known bool, w Wish, hostnames []sshgate.HostPattern) (*x509.Certificate, error) {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if known {
		life = before.ExpiresAt.Sub(before.IssuedAt)
	}
	switch {
	case !before.RevokedAt.IsZero():
		return nil, refuse(CodeRevoked, "the certificate was revoked; let the connector in again with: sshgate connector login --force")
	case !d.cfg.Now().Before(leaf.NotAfter): // since the handshake
		return nil, ErrEnded
	case leaf.NotAfter.Sub(d.cfg.Now()) > life/2:
		return nil, refuse(CodeTooEarly, "the certificate is good until %s; it can be renewed in the second half of its life", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	cert, rec, err := d.issue(w, leaf.Subject.CommonName, hostnames, life)
	if err != nil {
		return nil, err
	}
	rec.Via, rec.Renews = sshgate.ViaRenewal, serial(leaf)
	rec.ApproverIssuer, rec.ApproverSubject, rec.Approver, rec.JoinToken = before.ApproverIssuer, before.ApproverSubject, before.Approver, before.JoinToken
	err = d.cfg.Store.AddConnector(ctx, rec)
	switch {
	case errors.Is(err, sshgate.ErrRevoked):
		return nil, refuse(CodeRevoked, "the certificate was revoked; let the connector in again with: sshgate connector login --force")
	case err != nil:
		return nil, d.unavailable("noting a certificate", err)
	}
	return cert, nil
}
