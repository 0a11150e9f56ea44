// Package enrolment lets connectors in: it signs their certificates when a person
// says so whom the policy lets publish the hostnames, when the machine has a join
// token, or to renew one that is still good.
//
// Start with New. A machine's Wish comes to Ask, which waits for a person, or to
// Join. What a person may answer is Offer's to say, and Approve checks it again.
// Every answer goes on record.
package enrolment

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
)

// CA signs connectors' certificates. *connector.CA is one.
type CA interface {
	// SignConnector signs for the key of a PKCS#10 request.
	SignConnector(request []byte, name string, hostnames []string, validity time.Duration) (*x509.Certificate, error)
}

// Store keeps what was issued.
type Store interface {
	AddConnector(context.Context, sshgate.ConnectorRecord) error
	Connector(ctx context.Context, serial string) (sshgate.ConnectorRecord, error)
	Connectors(context.Context) ([]sshgate.ConnectorRecord, error)
	OriginOwners(context.Context) ([]sshgate.OriginOwner, error)
	JoinToken(ctx context.Context, hash []byte) (sshgate.JoinTokenRecord, error)
	// Join takes one use of the token and notes the certificate, or does neither.
	Join(ctx context.Context, id sshgate.JoinTokenID, rec sshgate.ConnectorRecord) error
}

// Recorder takes events for the record. *audit.Log is one.
type Recorder interface {
	Record(sshgate.Event)
}

// Config is what a Desk needs. Fields without a default must be set.
type Config struct {
	Policy func() *sshgate.Policy
	CA     CA
	Store  Store
	Events Recorder
	// CertificateTTL is how long a new certificate is good for. Default 90 days.
	CertificateTTL time.Duration
	// MaxPending limits the wishes that wait for a person at once. Default 1000.
	MaxPending int

	Log *slog.Logger     // default: nothing is logged
	Now func() time.Time // default time.Now
}

const (
	defaultTTL     = 90 * 24 * time.Hour
	defaultPending = 1000
	// Lifetime is how long a wish waits for a person.
	Lifetime     = 15 * time.Minute
	maxHostnames = 100 // of one certificate
	maxMachine   = 64  // characters
)

// Refused is an answer of no.
type Refused struct {
	Code     string // for programs, one of those below
	Sentence string // for people
}

func (r *Refused) Error() string { return r.Sentence }

// The codes of a Refused.
const (
	CodeBadRequest  = "bad_request"
	CodeDenied      = "access_denied" // the person, or the policy, says no
	CodeExpired     = "expired_token" // nobody answered in time
	CodeUnknown     = "invalid_grant" // there is no such wish
	CodeBadToken    = "token_unknown" // or it is used up, expired, revoked
	CodeNameTaken   = "name_taken"
	CodeOwned       = "hostname_taken"
	CodeRevoked     = "certificate_revoked"
	CodeEnded       = "certificate_expired"
	CodeTooEarly    = "too_early"
	CodeTooMany     = "too_many"
	CodeUnavailable = "unavailable"
)

func refuse(code, format string, args ...any) *Refused {
	return &Refused{Code: code, Sentence: fmt.Sprintf(format, args...)}
}

// Wish is what a machine asks for.
type Wish struct {
	// Request is PKCS#10 in DER: whose key is signed.
	Request []byte
	// Name is what the connector shall be called. Empty is made from Machine.
	Name string
	// Machine is what the machine calls itself, and Software its program.
	Machine, Software string
	// Hostnames are what it would publish. None leaves them to the person.
	Hostnames []sshgate.HostPattern
	// Address is where it asks from.
	Address netip.Addr
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// CheckName says why a text is no name for a connector.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return refuse(CodeBadRequest, "the connector's name %q is not 1 to 64 of a-z 0-9 . _ - that begin with a letter or digit", clean(name))
	}
	return nil
}

// clean keeps what a machine says from being anything but text of one line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxMachine)]
}

// normalise checks the wish and completes it.
func (w *Wish) normalise() error {
	w.Machine, w.Software = clean(w.Machine), clean(w.Software)
	if w.Name == "" {
		w.Name = nameOf(w.Machine)
	}
	if err := CheckName(w.Name); err != nil {
		return err
	}
	w.Hostnames = unique(w.Hostnames)
	if len(w.Hostnames) > maxHostnames {
		return refuse(CodeBadRequest, "there are %d hostnames, more than %d", len(w.Hostnames), maxHostnames)
	}
	if _, err := connector.RequestKey(w.Request); err != nil {
		return refuse(CodeBadRequest, "%s", err)
	}
	return nil
}

// nameOf makes a connector's name of what a machine calls itself.
func nameOf(machine string) string {
	name, _, _ := strings.Cut(strings.ToLower(machine), ".")
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
	return cmp.Or(strings.Trim(name, "-_"), "connector")
}

// Desk lets connectors in. Make one with New, and Close it.
type Desk struct {
	cfg Config

	// deciding is held from the look for a name, and at a wish, to the certificate's
	// record and the wish's end: two must not find the same name free, and no wish may
	// be denied or expire while it is granted. Taken before mu.
	deciding sync.Mutex

	mu       sync.Mutex // guards what follows, and the results of pending
	closed   bool
	byUser   map[string]*Pending
	byDevice map[[32]byte]*Pending // by the hash of its device code
	waiting  sync.WaitGroup        // calls of Wait
}

// New checks the configuration.
func New(cfg Config) (*Desk, error) {
	if cfg.Policy == nil || cfg.CA == nil || cfg.Store == nil || cfg.Events == nil {
		return nil, errors.New("the enrolment desk lacks a required part of its configuration")
	}
	cfg.CertificateTTL = cmp.Or(cfg.CertificateTTL, defaultTTL)
	cfg.MaxPending = cmp.Or(cfg.MaxPending, defaultPending)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Desk{cfg: cfg, byUser: make(map[string]*Pending), byDevice: make(map[[32]byte]*Pending)}, nil
}

// issue signs a certificate for the wish and returns it with its record, which it
// does not keep.
func (d *Desk) issue(w Wish, name string, hostnames []sshgate.HostPattern, ttl time.Duration) (*x509.Certificate, sshgate.ConnectorRecord, error) {
	texts := make([]string, len(hostnames))
	for i, h := range hostnames {
		texts[i] = h.String()
	}
	leaf, err := d.cfg.CA.SignConnector(w.Request, name, texts, ttl)
	if err != nil {
		return nil, sshgate.ConnectorRecord{}, refuse(CodeBadRequest, "%s", err)
	}
	return leaf, sshgate.ConnectorRecord{
		Serial: leaf.SerialNumber.Text(16), Connector: name, Hostnames: texts, Machine: w.Machine, Address: w.Address,
		IssuedAt: d.cfg.Now(), ExpiresAt: leaf.NotAfter,
	}, nil
}

// event is about a wish.
func (d *Desk) event(w Wish, name string, hostnames []sshgate.HostPattern) sshgate.Event {
	event := sshgate.Event{
		Time: d.cfg.Now(), Kind: sshgate.EventEnrolment, Request: sshgate.NewRequestID(), ClientAddr: w.Address,
		Identity: "connector " + cmp.Or(name, w.Name),
	}
	texts := []string{"machine " + cmp.Or(w.Machine, "unnamed")}
	if len(hostnames) > 0 {
		texts = append(texts, "hostnames "+join(hostnames))
	}
	event.Detail = strings.Join(texts, ", ")
	return event
}

func join(hostnames []sshgate.HostPattern) string {
	texts := make([]string, len(hostnames))
	for i, h := range hostnames {
		texts[i] = h.String()
	}
	return strings.Join(texts, " ")
}

// unavailable hides a failure of the store from the machine, and logs it.
func (d *Desk) unavailable(doing string, err error) error {
	d.cfg.Log.Error("a connector could not be let in", "doing", doing, "err", err)
	return refuse(CodeUnavailable, "the gateway cannot reach its state right now; try again in a moment")
}

// conflicts says why a connector may not have the name or the hostnames: others
// have them. share says why the name may not be shared with a certificate of it that is
// good; who lets the connector in, nobody for a token.
func (d *Desk) conflicts(ctx context.Context, name string, hostnames []sshgate.HostPattern, who sshgate.Identity, share func(sshgate.ConnectorRecord) error) error {
	records, err := d.cfg.Store.Connectors(ctx)
	if err != nil {
		return d.unavailable("looking up connectors", err)
	}
	owners, err := d.cfg.Store.OriginOwners(ctx)
	if err != nil {
		return d.unavailable("looking up the owners of origins", err)
	}
	now := d.cfg.Now()
	for _, rec := range records {
		if !rec.Good(now) {
			continue
		}
		if rec.Connector == name {
			if err := share(rec); err != nil {
				return err
			}
			continue
		}
		for _, h := range hostnames {
			if !h.Wildcard() && slices.Contains(rec.Hostnames, h.String()) {
				return refuse(CodeOwned, "%s belongs to the connector %s; an administrator can change that, with: sshgated connector revoke %s", h, rec.Connector, rec.Connector)
			}
		}
	}
	// Who has the name of a connector has its origins, also where that one's
	// certificates have expired, or were issued before they were noted.
	own := false
	for _, rec := range records { // the last of the name counts
		if rec.Connector == name && rec.RevokedAt.IsZero() {
			own = rec.ApprovedBy(who)
		}
	}
	for _, owner := range owners {
		if own && owner.Connector == name || revoked(records, owner.Connector) {
			continue
		}
		if err := owned(owner, name, hostnames); err != nil {
			return err
		}
	}
	return nil
}

// owned says why a connector of that name may not have the hostnames, as far as an
// origin is somebody else's.
func owned(owner sshgate.OriginOwner, name string, hostnames []sshgate.HostPattern) error {
	for _, h := range hostnames {
		switch {
		case owner.Connector == name && h.Match(owner.Origin):
			return refuse(CodeNameTaken, "the name %s belongs to another connector that is called %s; choose another name, or have an administrator change that, with: sshgated connector release %s",
				owner.Origin, name, owner.Origin)
		case h.String() == string(owner.Origin):
			return refuse(CodeOwned, "the name %s belongs to the connector %s; an administrator can change that, with: sshgated connector release %s", h, owner.Connector, h)
		}
	}
	return nil
}

// revoked tells whether all certificates of the connector are, and there are some.
func revoked(records []sshgate.ConnectorRecord, connector string) bool {
	found := false
	for _, rec := range records {
		if rec.Connector == connector {
			found = true
			if rec.RevokedAt.IsZero() {
				return false
			}
		}
	}
	return found
}
