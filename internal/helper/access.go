package helper

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Options are what the flags and the environment say.
type Options struct {
	Gateway string // HOST[:PORT], "" for the default
	CAFile  string
	// ServiceID and ServiceSecret are a service token's.
	ServiceID, ServiceSecret string
	// IDToken is a job's own ID token, IDTokenFile the file that has it.
	IDToken, IDTokenFile string
	// GitHubActions has the ID token asked for at GitHub's runner.
	GitHubActions bool

	NoLogin   bool // fail rather than ask to sign in
	NoBrowser bool
	QR        bool

	Getenv func(string) string
	Stderr io.Writer // all talk goes there
	// Terminal is where a person types. Default: the process's own.
	Terminal func() (io.ReadCloser, error)
}

// Access is a gateway, and a credential for it.
type Access struct {
	Gateway *Gateway
	Place   *Place
	Store   *Store

	opts Options
	now  func() time.Time
}

// Find returns the access to the gateway that is meant.
func Find(o Options) (*Access, error) {
	store, err := OpenStore(o.Getenv, o.Stderr)
	if err != nil {
		return nil, err
	}
	if o.Gateway == "" {
		if o.Gateway = store.Default(); o.Gateway == "" {
			return nil, &Problem{Kind: Usage, Text: "which gateway?", Next: "give --gateway HOST, set SSHGATE_GATEWAY, or run once: sshgate access login --gateway HOST"}
		}
	}
	address, err := ParseGateway(o.Gateway)
	if err != nil {
		return nil, err
	}
	place := store.For(address)
	ca := place.CA()
	if o.CAFile != "" {
		if ca, err = readFile(o.CAFile); err != nil {
			return nil, &Problem{Kind: Usage, Text: "the CA file cannot be read", Err: err}
		}
	}
	gateway, err := NewGateway(address, ca)
	if err != nil {
		return nil, err
	}
	if (o.ServiceID == "") != (o.ServiceSecret == "") {
		return nil, usage("a service token is an ID and a secret; only one of them is set (SSHGATE_SERVICE_TOKEN_ID, SSHGATE_SERVICE_TOKEN_SECRET)")
	}
	return &Access{Gateway: gateway, Place: place, Store: store, opts: o, now: time.Now}, nil
}

// Machine tells that the credential is not a person's.
func (a *Access) Machine() bool {
	return a.opts.ServiceID != "" || a.opts.IDToken != "" || a.opts.IDTokenFile != "" || a.opts.GitHubActions
}

// Credential returns what to show to the gateway: the machine's, the token that is
// kept, or that of a sign-in, which it asks for. hostname is what it is for, "" for
// nothing in particular.
func (a *Access) Credential(ctx context.Context, hostname string) (Credential, error) {
	switch {
	case a.opts.ServiceID != "":
		return Credential{ID: a.opts.ServiceID, Secret: a.opts.ServiceSecret}, nil
	case a.Machine():
		return a.exchange(ctx)
	}
	if t := a.Place.Token(); t.good(a.now()) {
		return Credential{Token: t.Value}, nil
	}
	t, err := a.signIn(ctx, hostname, "")
	return Credential{Token: t.Value}, err
}

// Do runs f with a credential, and once more with a new one when the gateway says
// that a person's token is no longer good. A machine is never asked to sign in.
func (a *Access) Do(ctx context.Context, hostname string, f func(Credential) error) error {
	c, err := a.Credential(ctx, hostname)
	if err != nil {
		return err
	}
	err = f(c)
	if a.Machine() || !isTokenProblem(err) {
		return err
	}
	t, signInErr := a.signIn(ctx, hostname, c.Token)
	if signInErr != nil {
		return signInErr
	}
	return f(Credential{Token: t.Value})
}

// Call is a request of Do.
func (a *Access) Call(ctx context.Context, method, path string, body, out any) error {
	return a.Do(ctx, "", func(c Credential) error { return a.Gateway.Ask(ctx, method, path, c, body, out) })
}

const (
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT       = "urn:ietf:params:oauth:token-type:jwt"
	clientID      = "sshgate"
)

// tokenAnswer is what the token endpoint sends.
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	ExpiresIn   int    `json:"expires_in"`
	Identity    string `json:"identity"`
}

func (t tokenAnswer) token(now time.Time) Token {
	return Token{Value: t.AccessToken, Identity: printable(t.Identity), ExpiresAt: now.Add(time.Duration(t.ExpiresIn) * time.Second)}
}

// exchange turns a job's ID token into an access token.
func (a *Access) exchange(ctx context.Context) (Credential, error) {
	idToken, err := a.idToken(ctx)
	if err != nil {
		return Credential{}, err
	}
	var got tokenAnswer
	err = a.Gateway.Ask(ctx, http.MethodPost, "/oauth/token", Credential{}, url.Values{
		"grant_type": {grantExchange}, "client_id": {clientID}, "subject_token_type": {typeJWT}, "subject_token": {idToken},
	}, &got)
	var p *Problem
	if errors.As(err, &p) && p.Kind == Broken { // in the words of RFC 6749
		p.Kind = SignIn
	}
	return Credential{Token: got.AccessToken}, err
}

func (a *Access) idToken(ctx context.Context) (string, error) {
	switch {
	case a.opts.IDToken != "":
		return strings.TrimSpace(a.opts.IDToken), nil
	case a.opts.IDTokenFile != "":
		data, err := readFile(a.opts.IDTokenFile)
		if err != nil {
			return "", &Problem{Kind: Usage, Text: "the file with the ID token cannot be read", Err: err}
		}
		return strings.TrimSpace(string(data)), nil
	}
	return githubToken(ctx, a.opts.Getenv, "https://"+a.Gateway.host())
}

// Connect joins the caller to a service.
func (a *Access) Connect(ctx context.Context, service sshgate.Endpoint) (stream Stream, err error) {
	err = a.Do(ctx, service.String(), func(c Credential) error {
		stream, err = a.Gateway.Connect(ctx, c, service)
		return err
	})
	return stream, err
}

// GatewayInfo is what a gateway says of itself to everybody.
type GatewayInfo struct {
	Hostname string    `json:"hostname"`
	Version  string    `json:"version"`
	SSH      string    `json:"ssh"`
	HostKeys []string  `json:"host_keys"`
	UserCA   string    `json:"user_ca"`
	Time     time.Time `json:"time"`
}

// Info asks the gateway for it.
func (g *Gateway) Info(ctx context.Context) (GatewayInfo, error) {
	var info GatewayInfo
	err := g.Ask(ctx, http.MethodGet, "/api/v1/gateway", Credential{}, nil, &info)
	return info, err
}

// Logout revokes the token at the gateway and forgets it. It tells whether there
// was one. That the gateway could not be told is an error; the token is forgotten
// all the same.
func (a *Access) Logout(ctx context.Context) (bool, error) {
	t := a.Place.Token()
	found, err := a.Place.Forget()
	if err != nil || t.Value == "" {
		return found, err
	}
	return found, a.Gateway.Ask(ctx, http.MethodPost, "/oauth/revoke", Credential{}, url.Values{"token": {t.Value}, "client_id": {clientID}}, nil)
}

// Others returns the access to every gateway that the store has something of.
func (a *Access) Others() ([]*Access, error) {
	names, err := a.Store.Gateways()
	if err != nil {
		return nil, err
	}
	var all []*Access
	for _, name := range names {
		o := a.opts
		o.Gateway = name
		if name != a.Gateway.Address {
			o.CAFile = "" // that of this gateway
		}
		other, err := Find(o)
		if err != nil {
			return nil, err
		}
		all = append(all, other)
	}
	return all, nil
}

// CAFile returns a file with the CA of the gateway's certificate for other
// programs, "" where the system's CAs are meant.
func (a *Access) CAFile() string {
	switch {
	case a.opts.CAFile != "":
		return a.opts.CAFile
	case len(a.Place.CA()) > 0:
		return filepath.Join(a.Place.dir, caFile)
	}
	return ""
}

// ReadSecret reads a secret from a file.
func ReadSecret(file string) (string, error) {
	data, err := readFile(file)
	if err != nil {
		return "", &Problem{Kind: Usage, Text: "the file with the secret cannot be read", Err: err}
	}
	return strings.TrimSpace(string(data)), nil
}
