package devidp

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	httphelper "github.com/zitadel/oidc/v3/pkg/http"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// User is somebody who can sign in.
type User struct {
	// Subject is the "sub" claim: printable ASCII without a colon, up to 255
	// bytes.
	Subject string
	// Email is what the person signs in with, in any case, and the claim.
	Email         string
	EmailVerified bool
	Name          string
	Groups        []string
	// Password in clear; this is a provider for one's own machine. Not empty.
	Password string
	// Claims are put into the ID token besides; they do not replace any that
	// the provider sets.
	Claims map[string]any
}

// Config says what the provider knows.
type Config struct {
	// Issuer is the URL at which the provider is served, such as
	// "http://127.0.0.1:5556": no path, no query.
	Issuer string
	// Users who can sign in. At least one.
	Users []User
	// ClientID names the one client. It is public: it has no secret.
	ClientID string
	// ClientName is what the pages call it. Default: the client ID.
	ClientName string
	// RedirectURIs of the authorization code flow. Without any the client has
	// the device flow alone.
	RedirectURIs []string
	// SigningKey signs ID tokens: ECDSA, Ed25519 or RSA of 2048 bits or more.
	// Default: a new one, which nobody who cached the old knows. To keep one
	// across restarts see GenerateSigningKey.
	SigningKey crypto.Signer
	// DeviceLifetime is how long a device login may take, PollInterval how
	// often the client may ask. Whole seconds, at least one; default 10 min and
	// 5 s.
	DeviceLifetime time.Duration
	PollInterval   time.Duration
	// Now is the clock of sessions, codes and limits. Default time.Now.
	Now func() time.Time
	// Log gets sign-ins and refusals. nil discards it.
	Log *slog.Logger
}

const (
	defaultDeviceLifetime = 10 * time.Minute
	defaultPollInterval   = 5 * time.Second
	maxForm               = 64 << 10 // bytes of a request's body
)

// Provider is an OpenID Connect provider. It is safe for concurrent use.
type Provider struct {
	cfg      Config
	storage  *storage
	sessions *sessions
	limits   *limits
	op       *op.Provider
	mux      *http.ServeMux
}

// New checks the configuration and returns a provider that is ready to serve.
func New(cfg Config) (*Provider, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	key, err := newSigningKey(cfg.SigningKey)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		cfg:      cfg,
		storage:  newStorage(cfg, key),
		sessions: newSessions(cfg.Now, strings.HasPrefix(cfg.Issuer, "https:")),
		limits:   newLimits(cfg.Now),
	}
	if p.op, err = newOP(cfg, p.storage); err != nil {
		return nil, fmt.Errorf("make the embedded provider: %w", err)
	}
	p.mux = p.routes()
	return p, nil
}

func newOP(cfg Config, storage *storage) (*op.Provider, error) {
	config := &op.Config{
		CodeMethodS256: true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime:     cfg.DeviceLifetime,
			PollInterval: cfg.PollInterval,
			UserFormPath: devicePath,
			UserCode:     op.UserCodeBase20,
		},
	}
	rand.Read(config.CryptoKey[:]) // codes and access tokens end with the process
	options := []op.Option{op.WithCORSOptions(nil)}
	if strings.HasPrefix(cfg.Issuer, "http:") {
		options = append(options, op.WithAllowInsecure())
	}
	return op.NewProvider(config, storage, op.StaticIssuer(cfg.Issuer), options...)
}

func (cfg *Config) setDefaults() error {
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("the issuer %q is not a URL of the form http://host:port", cfg.Issuer)
	}
	if cfg.ClientID == "" {
		return errors.New("the client ID is empty")
	}
	if cfg.ClientName == "" {
		cfg.ClientName = cfg.ClientID
	}
	if cfg.DeviceLifetime == 0 {
		cfg.DeviceLifetime = defaultDeviceLifetime
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = defaultPollInterval
	}
	if cfg.DeviceLifetime < time.Second || cfg.PollInterval < time.Second {
		return errors.New("the device lifetime and the poll interval must be one second or more")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return checkUsers(cfg.Users)
}

func checkUsers(users []User) error {
	if len(users) == 0 {
		return errors.New("there are no users")
	}
	subjects, emails := map[string]bool{}, map[string]bool{}
	for _, user := range users {
		email := strings.ToLower(user.Email)
		switch {
		case user.Subject == "" || len(user.Subject) > 255 || strings.ContainsFunc(user.Subject, func(r rune) bool { return r < ' ' || r > '~' || r == ':' }):
			return fmt.Errorf("user %q: the subject %q is not 1 to 255 printable ASCII characters without a colon", user.Email, user.Subject)
		case user.Email == "" || user.Password == "":
			return fmt.Errorf("user %q has no e-mail address or no password", user.Subject)
		case subjects[user.Subject] || emails[email]:
			return fmt.Errorf("there are two users %q or %q", user.Subject, user.Email)
		}
		subjects[user.Subject], emails[email] = true, true
	}
	return nil
}

// ServeHTTP serves the pages and the protocol.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	p.mux.ServeHTTP(w, r)
}

// routes lists everything that is served; the library would serve more.
func (p *Provider) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+oidc.DiscoveryEndpoint, p.serveDiscovery)
	mux.Handle("GET "+p.op.KeysEndpoint().Relative(), p.op)
	mux.Handle("POST "+p.op.DeviceAuthorizationEndpoint().Relative(), p.op)
	mux.HandleFunc("POST "+p.op.TokenEndpoint().Relative(), p.serveToken)
	mux.Handle(p.op.UserinfoEndpoint().Relative(), p.op)
	mux.Handle("GET "+p.op.AuthorizationEndpoint().Relative(), p.op)
	mux.Handle("GET "+p.op.AuthorizationEndpoint().Relative()+"/callback", p.op)
	p.addPages(mux)
	return mux
}

// serveDiscovery is the library's document without what is not served.
func (p *Provider) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	ctx := op.ContextWithIssuer(r.Context(), p.cfg.Issuer)
	doc := op.CreateDiscoveryConfig(ctx, p.op, p.storage)
	doc.IntrospectionEndpoint, doc.IntrospectionEndpointAuthMethodsSupported = "", nil
	doc.IntrospectionEndpointAuthSigningAlgValuesSupported = nil
	doc.RevocationEndpoint, doc.RevocationEndpointAuthMethodsSupported = "", nil
	doc.RevocationEndpointAuthSigningAlgValuesSupported = nil
	doc.EndSessionEndpoint = ""
	doc.ResponseTypesSupported = []string{string(oidc.ResponseTypeCode)}
	doc.GrantTypesSupported = []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeDeviceCode}
	doc.TokenEndpointAuthMethodsSupported = []oidc.AuthMethod{oidc.AuthMethodNone}
	doc.ScopesSupported = []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail}
	doc.ClaimsSupported = append(slices.Clone(doc.ClaimsSupported), "groups")
	op.Discover(w, doc)
}

// serveToken answers device polls that have no token to give. The library can't
// say slow_down by itself, and writes every poll to the process-wide log.
func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	grant := oidc.GrantType(r.PostFormValue("grant_type"))
	switch grant {
	case oidc.GrantTypeDeviceCode:
		if refusal := p.storage.poll(r.PostFormValue("client_id"), r.PostFormValue("device_code")); refusal != nil {
			httphelper.MarshalJSONWithStatus(w, refusal, http.StatusBadRequest)
			return
		}
	case oidc.GrantTypeCode:
	default:
		httphelper.MarshalJSONWithStatus(w, oidc.ErrUnsupportedGrantType(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Cache-Control", "no-store") // RFC 6749 section 5.1
	p.op.ServeHTTP(w, r)
}
