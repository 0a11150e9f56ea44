package authflow

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	discoveryTimeout = 10 * time.Second
	// discoveryPause is the least time between two attempts that failed, so that
	// a crowd of clients does not hammer a provider that is coming up.
	discoveryPause = time.Second
	// discoveryMaxAge is when the document is fetched anew. Signing keys rotate
	// apart from it, see oidc.RemoteKeySet.
	discoveryMaxAge = time.Hour
)

// discovery fetches the provider's metadata (OpenID Connect Discovery 1.0
// section 4) when somebody needs it, and keeps it.
type discovery struct {
	cfg    OIDCConfig
	client *http.Client
	// keysOnly is for an issuer whose tokens come from elsewhere: it needs no
	// endpoint but that of its keys, and the audience is the caller's to check.
	keysOnly bool

	// turn holds a token; who has it may fetch and may touch the fields below.
	// A channel rather than a mutex, so that waiting ends with the caller's
	// context; the one who fetches uses its own context, and when that ends the
	// next in line takes over.
	turn     chan struct{}
	endpoint *endpoints // nil until the first success
	failedAt time.Time
	failure  error
}

// endpoints is what the gateway takes from the provider's metadata.
type endpoints struct {
	deviceAuth string // empty: the provider has no device flow
	authorize  string // empty: it has no authorization code flow
	namesSelf  bool   // it puts iss into its answers, RFC 9207
	token      string
	userInfo   string // empty: it has no UserInfo endpoint
	auth       clientAuth
	verifier   *oidc.IDTokenVerifier
	fetchedAt  time.Time
}

func newDiscovery(cfg OIDCConfig, client *http.Client) *discovery {
	d := &discovery{cfg: cfg, client: client, turn: make(chan struct{}, 1)}
	d.turn <- struct{}{}
	return d
}

// Ready tells whether the provider could be asked: nil once its metadata has
// been fetched, otherwise a *Failure. It fetches it if need be.
func (o *OIDC) Ready(ctx context.Context) error {
	if _, err := o.discovery.get(ctx); err != nil {
		return err
	}
	return nil
}

// get returns the endpoints. Its error is a *Failure.
func (d *discovery) get(ctx context.Context) (*endpoints, error) {
	select {
	case <-d.turn:
		defer func() { d.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, cancelled(ctx)
	}
	now := d.cfg.Now()
	if d.endpoint != nil && now.Sub(d.endpoint.fetchedAt) < discoveryMaxAge {
		return d.endpoint, nil
	}
	if d.failure != nil && now.Sub(d.failedAt) < discoveryPause {
		return d.lastGood()
	}
	fetched, err := d.fetch(ctx)
	if ctx.Err() != nil && err != nil {
		return nil, cancelled(ctx) // says nothing about the provider
	}
	if err != nil {
		d.cfg.Log.Warn("the identity provider's metadata can't be fetched", "issuer", d.cfg.Issuer, "err", err)
		d.failure, d.failedAt = err, d.cfg.Now()
		return d.lastGood()
	}
	d.endpoint, d.failure = fetched, nil
	return fetched, nil
}

// lastGood returns what was fetched before the present failure: a provider that
// is down for a moment has not moved its endpoints.
func (d *discovery) lastGood() (*endpoints, error) {
	if d.endpoint != nil {
		return d.endpoint, nil
	}
	return nil, d.failure
}

func (d *discovery) fetch(ctx context.Context) (*endpoints, error) {
	ctx, stop := context.WithTimeout(oidc.ClientContext(ctx, d.client), discoveryTimeout)
	defer stop()
	provider, err := oidc.NewProvider(ctx, d.cfg.Issuer)
	if _, ok := errors.AsType[*oidc.IssuerMismatchError](err); ok {
		return nil, fail(CodeInvalidResponse, fmt.Errorf("fetch the provider's metadata: %s", printable(err.Error(), maxQuote)))
	}
	if err != nil {
		return nil, fail(CodeProviderUnreachable, fmt.Errorf("fetch the provider's metadata: %s", printable(err.Error(), maxQuote)))
	}
	var meta metadata
	if err := provider.Claims(&meta); err != nil {
		return nil, fail(CodeInvalidResponse, fmt.Errorf("read the provider's metadata: %w", err))
	}
	return d.endpoints(provider, meta)
}

// metadata holds the fields of OpenID Connect Discovery 1.0 section 3, RFC 8628
// section 4 and RFC 9207 section 3 that are used here.
type metadata struct {
	Token       string   `json:"token_endpoint"`
	UserInfo    string   `json:"userinfo_endpoint"`
	DeviceAuth  string   `json:"device_authorization_endpoint"`
	Authorize   string   `json:"authorization_endpoint"`
	NamesSelf   bool     `json:"authorization_response_iss_parameter_supported"`
	Keys        string   `json:"jwks_uri"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
	Algorithms  []string `json:"id_token_signing_alg_values_supported"`
}

func (d *discovery) endpoints(provider *oidc.Provider, meta metadata) (*endpoints, error) {
	for name, endpoint := range map[string]string{
		"token_endpoint":                meta.Token,
		"device_authorization_endpoint": meta.DeviceAuth,
		"authorization_endpoint":        meta.Authorize,
		"userinfo_endpoint":             meta.UserInfo,
		"jwks_uri":                      meta.Keys,
	} {
		optional := name != "jwks_uri" && (name != "token_endpoint" || d.keysOnly)
		if endpoint == "" && optional {
			continue
		}
		if err := d.checkEndpoint(endpoint); err != nil {
			return nil, fail(CodeInvalidResponse, fmt.Errorf("the provider's metadata: %s %w", name, err))
		}
	}
	auth, err := chooseAuth(d.cfg, meta.AuthMethods)
	if err != nil {
		return nil, fail(CodeNotConfigured, err)
	}
	return &endpoints{
		deviceAuth: meta.DeviceAuth,
		authorize:  meta.Authorize,
		namesSelf:  meta.NamesSelf,
		token:      meta.Token,
		userInfo:   meta.UserInfo,
		auth:       auth,
		verifier: provider.Verifier(&oidc.Config{
			ClientID:             d.cfg.ClientID,
			SkipClientIDCheck:    d.keysOnly,
			SupportedSigningAlgs: chooseAlgorithms(meta.Algorithms),
			Now:                  d.cfg.Now,
		}),
		fetchedAt: d.cfg.Now(),
	}, nil
}

// checkEndpoint refuses an endpoint that would take secrets or keys off TLS
// when the issuer is on it.
func (d *discovery) checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("is not an http(s) URL")
	case u.Scheme == "http" && strings.HasPrefix(d.cfg.Issuer, "https:"):
		return errors.New("is plain http although the issuer is https")
	}
	return nil
}

// asymmetric lists the signature algorithms that an ID token may have. With
// "none" anybody could sign, and with HS* everybody who knows the client secret.
var asymmetric = []string{
	oidc.RS256, oidc.RS384, oidc.RS512,
	oidc.ES256, oidc.ES384, oidc.ES512,
	oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.EdDSA,
}

// chooseAlgorithms narrows the list to what the provider says it uses. RS256 is
// the one that every provider must have (OpenID Connect Core 1.0 section 15.1).
func chooseAlgorithms(offered []string) []string {
	var chosen []string
	for _, alg := range asymmetric {
		if slices.Contains(offered, alg) {
			chosen = append(chosen, alg)
		}
	}
	if len(chosen) == 0 {
		return []string{oidc.RS256}
	}
	return chosen
}

// clientAuth is how the gateway proves itself to the token endpoint.
type clientAuth int

const (
	authNone  clientAuth = iota // public client: client_id in the form
	authBasic                   // client_secret_basic
	authPost                    // client_secret_post
)

// chooseAuth picks one way and stays with it: trying one after the other, as
// x/oauth2 does when it isn't told, doubles every poll and hides its error.
func chooseAuth(cfg OIDCConfig, offered []string) (clientAuth, error) {
	if len(offered) == 0 {
		offered = []string{ClientSecretBasic} // the default of the specification
	}
	switch {
	case cfg.ClientSecret == "":
		return authNone, nil
	case cfg.ClientAuth == ClientSecretBasic:
		return authBasic, nil
	case cfg.ClientAuth == ClientSecretPost:
		return authPost, nil
	case slices.Contains(offered, ClientSecretPost): // first: Dex's device endpoint reads the form alone
		return authPost, nil
	case slices.Contains(offered, ClientSecretBasic):
		return authBasic, nil
	}
	return authNone, fmt.Errorf("the provider takes client secrets neither by %s nor by %s", ClientSecretBasic, ClientSecretPost)
}
