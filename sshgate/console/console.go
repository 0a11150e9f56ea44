// Package console is what people say to the gateway itself: the commands of
// `ssh gate whoami` and `sshgated ctl whoami`, and the list of origins to pick
// from.
//
// Make a Console with New and call Run with what was typed. It knows neither SSH
// nor where state is kept: who calls is a Caller, what it reads comes through the
// small interfaces of Config. What needs the administrator's role is refused
// without it, and on record either way.
package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
)

// LocalIssuer is the issuer of those who are on the gateway's own machine. No
// provider has it: it is no URL.
const LocalIssuer = "sshgate:local"

// Caller is who types. That their sign-in is still good is for those to see to who
// let them in.
type Caller struct {
	Identity sshgate.Identity
	// Key is the SHA256 fingerprint of the key that the connection proved, empty
	// where it proved none.
	Key string
	// SignIn is the name that the sign-in is kept under, see sshgate.KeyLogin, empty
	// where it is not.
	SignIn     string
	Addr       netip.Addr
	Connection sshgate.ConnectionID
	// Local is set for those who come through the gateway's own socket, which only
	// root and the service's user may use: they are administrators, and have no
	// keys or sessions of their own.
	Local bool
}

// Logins is who signed in, with which keys and tokens.
type Logins interface {
	KeyLogin(ctx context.Context, fingerprint string) (sshgate.KeyLogin, error)
	KeyLogins(ctx context.Context) ([]sshgate.KeyLogin, error)
	AccessTokens(ctx context.Context) ([]sshgate.AccessTokenRecord, error)
	ForgetKey(ctx context.Context, fingerprint string) error
	ForgetIdentity(ctx context.Context, id sshgate.IdentityKey) (int, error)
}

// State is what else is kept.
type State interface {
	AllHostKeys(ctx context.Context) ([]sshgate.HostKeyPin, error)
	ServiceTokens(ctx context.Context) ([]sshgate.ServiceTokenRecord, error)
	Connectors(ctx context.Context) ([]sshgate.ConnectorRecord, error)
	// LastUses returns where somebody's sessions went, each target once.
	LastUses(ctx context.Context, id sshgate.IdentityKey) ([]sshgate.LastUse, error)
}

// Session is a channel to an origin that is open now.
type Session struct {
	ID         sshgate.RequestID
	Connection sshgate.ConnectionID
	Identity   sshgate.Identity
	Key        string
	Addr       netip.Addr
	Origin     sshgate.OriginName
	Login      sshgate.Login // empty where the gateway does not learn it
	Channel    sshgate.Channel
	Detail     string
	Since      time.Time
}

// Sessions are those that are open now.
type Sessions interface {
	Sessions() []Session
	// End ends those for which match holds, telling their users why where there is
	// a way, and returns how many those were.
	End(match func(Session) bool, reason string) int
}

// OfPassage is the session that an end-to-end connection is.
func OfPassage(p *endtoend.Passage) Session {
	f := p.Facts()
	return Session{
		ID: p.ID, Connection: f.Client.Connection, Identity: f.Client.Identity, Key: f.Client.Key, Addr: f.Client.Addr,
		Origin: f.Endpoint.Origin, Channel: f.Channel, Detail: f.Detail, Since: f.Since,
	}
}

// Recorder takes events for the record. *audit.Log is one.
type Recorder interface {
	Record(sshgate.Event)
}

// Config is what a Console needs. Fields without a default must be set.
type Config struct {
	Policy func() *sshgate.Policy
	// Administrator tells who has the role, besides those who are Local. Default:
	// nobody.
	Administrator func(id sshgate.Identity, addr netip.Addr, now time.Time) bool
	Origins       func() []connector.OriginStatus // what connectors publish now
	Logins        Logins
	State         State
	Sessions      Sessions
	// Latest are the events that were recorded last.
	Latest *Latest
	Events Recorder
	// Advertise is the gateway's address as people type it, for hints.
	Advertise string

	Log *slog.Logger     // default: nothing is logged
	Now func() time.Time // default time.Now
}

// Console runs commands. Make one with New.
type Console struct {
	cfg Config
}

// New checks the configuration.
func New(cfg Config) (*Console, error) {
	if cfg.Policy == nil || cfg.Origins == nil || cfg.Logins == nil || cfg.State == nil || cfg.Sessions == nil || cfg.Latest == nil || cfg.Events == nil {
		return nil, errors.New("console: a required part of the configuration is missing")
	}
	if cfg.Administrator == nil {
		cfg.Administrator = func(sshgate.Identity, netip.Addr, time.Time) bool { return false }
	}
	if cfg.Advertise == "" {
		cfg.Advertise = "GATEWAY"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Console{cfg: cfg}, nil
}

// The exit statuses of commands.
const (
	ExitOK         = 0
	ExitFailed     = 1
	ExitUsage      = 2
	ExitNotAllowed = 3
	// ExitLeft is that of a picker that was left without a choice: a shell's for
	// Ctrl-C.
	ExitLeft = 130
)

// usageError is a command line that means nothing.
type usageError struct{ error }

// notAllowed is a command that the caller may not run.
type notAllowed struct{ error }

var errAdministrators = notAllowed{errors.New("only administrators may do that")}

// Output is where a command writes to.
type Output struct{ Stdout, Stderr io.Writer }

// administrator tells whether the caller has the role now.
func (c *Console) administrator(who Caller) bool {
	return who.Local || c.cfg.Administrator(who.Identity, who.Addr, c.cfg.Now())
}

// record writes down what was asked for and whether it may be done.
func (c *Console) record(who Caller, line string, err error) {
	event := sshgate.Event{
		Time: c.cfg.Now(), Kind: sshgate.EventCommand, Connection: who.Connection, Request: sshgate.NewRequestID(),
		ClientAddr: who.Addr, Key: who.Key, Detail: line, Allowed: err == nil,
	}
	if err != nil {
		event.Reason = err.Error()
	}
	c.cfg.Events.Record(event.By(who.Identity))
}
