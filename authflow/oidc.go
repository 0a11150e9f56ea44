package authflow

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Ways in which a client with a secret proves itself, OpenID Connect Core 1.0
// section 9.
const (
	ClientSecretBasic = "client_secret_basic"
	ClientSecretPost  = "client_secret_post"
)

// OIDCConfig says which OpenID Connect provider to use, and as whom.
type OIDCConfig struct {
	// Issuer is the provider's issuer URL, exactly as it stands in the
	// provider's discovery document and ID tokens. It must be https; plain http
	// is taken on a loopback address alone, because whoever can change the
	// traffic to the issuer can be anybody.
	Issuer string
	// ClientID is the gateway's name at the provider.
	ClientID string
	// ClientSecret is empty for a public client.
	ClientSecret string
	// ClientAuth is how the secret is sent: ClientSecretBasic, ClientSecretPost,
	// or empty for what the provider's discovery document offers, post first.
	// Set it where the provider offers both and this client is held to one.
	ClientAuth string
	// Scopes to ask for. Default: openid, profile, email. "openid" is added
	// where it is missing.
	Scopes []string
	// GroupsClaim names the claim that holds the groups. Default "groups".
	GroupsClaim string
	// UserInfo has the claims completed by those of the UserInfo endpoint, for
	// providers whose ID tokens do not have all.
	UserInfo bool
	// HTTPClient reaches the provider. Default: a client of its own. A copy is
	// used: answers over 1 MiB are cut off with an error, a missing Timeout is
	// set to 15 s, and redirects are restricted (none after a POST, never from
	// https to http).
	HTTPClient *http.Client
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log gets what an operator should know. nil discards it.
	Log *slog.Logger
}

// OIDC signs people in at one OpenID Connect provider. It is safe for
// concurrent use.
type OIDC struct {
	cfg       OIDCConfig
	client    *http.Client
	discovery *discovery
}

// NewOIDC checks the configuration. It does no network: discovery happens when
// it is first needed, and again until it works.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	if err := checkIssuer(cfg.Issuer); err != nil {
		return nil, err
	}
	if cfg.ClientID == "" {
		return nil, errors.New("the OIDC client ID is empty; set the one that the provider knows the gateway by")
	}
	switch cfg.ClientAuth {
	case "", ClientSecretBasic, ClientSecretPost:
	default:
		return nil, fmt.Errorf("the OIDC client authentication %q is unknown; use %s or %s", cfg.ClientAuth, ClientSecretBasic, ClientSecretPost)
	}
	if len(cfg.Scopes) == 0 {
		cfg.Scopes = []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail}
	} else if !slices.Contains(cfg.Scopes, oidc.ScopeOpenID) {
		cfg.Scopes = append([]string{oidc.ScopeOpenID}, cfg.Scopes...)
	}
	if cfg.GroupsClaim == "" {
		cfg.GroupsClaim = "groups"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	client := boundedClient(cfg.HTTPClient)
	return &OIDC{cfg: cfg, client: client, discovery: newDiscovery(cfg, client)}, nil
}

// Issuer returns the issuer URL of the provider.
func (o *OIDC) Issuer() string { return o.cfg.Issuer }

func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case issuer == "":
		return errors.New("the OIDC issuer is empty; set the provider's issuer URL")
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		// OpenID Connect Discovery 1.0 section 3: scheme, host, port, path.
		return fmt.Errorf("the OIDC issuer %q is not a URL of the form https://host/path", issuer)
	case u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("the OIDC issuer %q is not https, which only a loopback address need not be", issuer)
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}
