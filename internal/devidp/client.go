package devidp

import (
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const idTokenLifetime = 5 * time.Minute

// client is the one public client; it implements op.Client.
type client struct {
	id           string
	redirectURIs []string
}

func (c *client) GetID() string                    { return c.id }
func (c *client) RedirectURIs() []string           { return c.redirectURIs }
func (c *client) PostLogoutRedirectURIs() []string { return nil }
func (c *client) AuthMethod() oidc.AuthMethod      { return oidc.AuthMethodNone }
func (c *client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c *client) LoginURL(id string) string            { return loginPath + "?auth=" + url.QueryEscape(id) }
func (c *client) IDTokenLifetime() time.Duration       { return idTokenLifetime }
func (c *client) IsScopeAllowed(string) bool           { return false } // besides the standard ones
func (c *client) IDTokenUserinfoClaimsAssertion() bool { return true }  // e-mail and name in the ID token
func (c *client) ClockSkew() time.Duration             { return 0 }

// ApplicationType is native: the kind that may redirect to a loopback address
// over http, and needs no secret (RFC 8252).
func (c *client) ApplicationType() op.ApplicationType { return op.ApplicationTypeNative }

// DevMode would allow plain http anywhere.
func (c *client) DevMode() bool { return false }

// AccessTokenType is opaque: a JWT access token would have the ID token's
// issuer, audience and key, and could be taken for one.
func (c *client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }

func (c *client) GrantTypes() []oidc.GrantType {
	grants := []oidc.GrantType{oidc.GrantTypeDeviceCode}
	if len(c.redirectURIs) > 0 {
		grants = append(grants, oidc.GrantTypeCode)
	}
	return grants
}

func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string { return allScopes }

func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return allScopes }

func allScopes(scopes []string) []string { return scopes }
