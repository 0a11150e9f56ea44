package devidp

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	accessTokenLifetime = 5 * time.Minute
	authRequestLifetime = 10 * time.Minute
	maxEntries          = 10_000 // of each table; reached only by a flood
)

var errFull = errors.New("too many requests are pending")

// storage implements op.Storage and op.DeviceAuthorizationStorage in memory.
type storage struct {
	now          func() time.Time
	pollInterval time.Duration
	key          *signingKey
	client       *client
	users        []User

	mu      sync.Mutex              // guards the tables and their entries
	devices map[string]*device      // by device code
	auths   map[string]*authRequest // by ID
	tokens  map[string]accessToken  // by token ID
}

var (
	_ op.Storage                    = (*storage)(nil)
	_ op.DeviceAuthorizationStorage = (*storage)(nil)
	_ op.CanSetUserinfoFromRequest  = (*storage)(nil)
)

// accessToken opens the userinfo endpoint.
type accessToken struct {
	subject string
	scopes  []string
	expires time.Time
}

func newStorage(cfg Config, key *signingKey) *storage {
	return &storage{
		now:          cfg.Now,
		pollInterval: cfg.PollInterval,
		key:          key,
		client:       &client{id: cfg.ClientID, redirectURIs: slices.Clone(cfg.RedirectURIs)},
		users:        slices.Clone(cfg.Users),
		devices:      make(map[string]*device),
		auths:        make(map[string]*authRequest),
		tokens:       make(map[string]accessToken),
	}
}

// prune forgets what expired. It runs whenever something is added, so that an
// idle provider needs no goroutine. The caller holds s.mu.
func (s *storage) prune() {
	now := s.now()
	for code, d := range s.devices {
		// A little longer than it lives, so that the client hears "expired_token"
		// rather than that the code is unknown.
		if now.After(d.expires.Add(time.Minute)) {
			delete(s.devices, code)
		}
	}
	for id, a := range s.auths {
		if now.After(a.expires) {
			delete(s.auths, id)
		}
	}
	for id, t := range s.tokens {
		if now.After(t.expires) {
			delete(s.tokens, id)
		}
	}
}

func (s *storage) userBySubject(subject string) (User, bool) {
	i := slices.IndexFunc(s.users, func(u User) bool { return u.Subject == subject })
	if i < 0 {
		return User{}, false
	}
	return s.users[i], true
}

func (s *storage) userByEmail(email string) (User, bool) {
	i := slices.IndexFunc(s.users, func(u User) bool { return strings.EqualFold(u.Email, email) })
	if i < 0 {
		return User{}, false
	}
	return s.users[i], true
}

// CreateAccessToken implements op.AuthStorage.
func (s *storage) CreateAccessToken(_ context.Context, request op.TokenRequest) (string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune()
	if len(s.tokens) >= maxEntries {
		return "", time.Time{}, errFull
	}
	id := rand.Text()
	expires := s.now().Add(accessTokenLifetime)
	s.tokens[id] = accessToken{subject: request.GetSubject(), scopes: request.GetScopes(), expires: expires}
	return id, expires, nil
}

// SetUserinfoFromToken implements op.OPStorage, for the userinfo endpoint.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, tokenID, subject, _ string) error {
	s.mu.Lock()
	token, ok := s.tokens[tokenID]
	s.mu.Unlock()
	if !ok || token.subject != subject || !s.now().Before(token.expires) {
		return oidc.ErrAccessDenied().WithDescription("the access token is unknown or expired")
	}
	return s.setUserinfo(info, token.subject, token.scopes)
}

// SetUserinfoFromRequest implements op.CanSetUserinfoFromRequest, for ID tokens.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	return s.setUserinfo(info, request.GetSubject(), scopes)
}

func (s *storage) setUserinfo(info *oidc.UserInfo, subject string, scopes []string) error {
	user, ok := s.userBySubject(subject)
	if !ok {
		return oidc.ErrAccessDenied().WithDescription("the user is gone")
	}
	info.Subject = user.Subject
	for name, value := range user.Claims {
		info.AppendClaims(name, value)
	}
	if user.Groups != nil {
		info.AppendClaims("groups", user.Groups)
	}
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email = user.Email
		info.EmailVerified = oidc.Bool(user.EmailVerified)
	}
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name = user.Name
		info.PreferredUsername = user.Email
	}
	return nil
}

// SetUserinfoFromScopes implements op.OPStorage; the library asks that it be
// left empty.
func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// GetClientByClientID implements op.OPStorage.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.client.id {
		return nil, oidc.ErrInvalidClient().WithDescription("unknown client")
	}
	return s.client, nil
}

// SigningKey implements op.AuthStorage.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms implements op.AuthStorage.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{s.key.algorithm}, nil
}

// KeySet implements op.AuthStorage.
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.key}}, nil
}

// Health implements op.Storage.
func (s *storage) Health(context.Context) error { return nil }

// The rest of op.Storage is of grants and endpoints that are not served.
var errUnsupported = oidc.ErrUnsupportedGrantType().WithDescription("this provider has no such grant")

func (s *storage) AuthorizeClientIDSecret(context.Context, string, string) error {
	return oidc.ErrInvalidClient().WithDescription("the client has no secret")
}

func (s *storage) CreateAccessAndRefreshTokens(context.Context, op.TokenRequest, string) (string, string, time.Time, error) {
	return "", "", time.Time{}, errUnsupported
}

func (s *storage) TokenRequestByRefreshToken(context.Context, string) (op.RefreshTokenRequest, error) {
	return nil, errUnsupported
}

func (s *storage) TerminateSession(context.Context, string, string) error { return errUnsupported }

func (s *storage) RevokeToken(context.Context, string, string, string) *oidc.Error {
	return oidc.ErrUnsupportedGrantType()
}

func (s *storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errUnsupported
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errUnsupported
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errUnsupported
}
