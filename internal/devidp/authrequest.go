package devidp

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// authRequest is an authorization code login. It implements op.AuthRequest. Its
// fields are set before the library sees it, but for those that signIn sets, on
// a copy.
type authRequest struct {
	id      string
	request oidc.AuthRequest
	expires time.Time
	code    string

	subject    string // empty until somebody signed in
	signedInAt time.Time
}

func (a *authRequest) GetID() string                      { return a.id }
func (a *authRequest) GetACR() string                     { return "" }
func (a *authRequest) GetAMR() []string                   { return []string{"pwd"} }
func (a *authRequest) GetAudience() []string              { return []string{a.request.ClientID} }
func (a *authRequest) GetAuthTime() time.Time             { return a.signedInAt }
func (a *authRequest) GetClientID() string                { return a.request.ClientID }
func (a *authRequest) GetNonce() string                   { return a.request.Nonce }
func (a *authRequest) GetRedirectURI() string             { return a.request.RedirectURI }
func (a *authRequest) GetResponseType() oidc.ResponseType { return a.request.ResponseType }
func (a *authRequest) GetResponseMode() oidc.ResponseMode { return a.request.ResponseMode }
func (a *authRequest) GetScopes() []string                { return a.request.Scopes }
func (a *authRequest) GetState() string                   { return a.request.State }
func (a *authRequest) GetSubject() string                 { return a.subject }
func (a *authRequest) Done() bool                         { return a.subject != "" }
func (a *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: a.request.CodeChallenge, Method: a.request.CodeChallengeMethod}
}

// CreateAuthRequest implements op.AuthStorage. It insists on PKCE with S256,
// which RFC 9700 section 2.1.1 asks of public clients.
func (s *storage) CreateAuthRequest(_ context.Context, request *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if request.CodeChallenge == "" || request.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("code_challenge with method S256 required")
	}
	if len(request.Prompt) == 1 && request.Prompt[0] == oidc.PromptNone {
		return nil, oidc.ErrLoginRequired()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune()
	if len(s.auths) >= maxEntries {
		return nil, errFull
	}
	a := &authRequest{id: rand.Text(), request: *request, expires: s.now().Add(authRequestLifetime)}
	s.auths[a.id] = a
	return a, nil
}

// AuthRequestByID implements op.AuthStorage.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	a, ok := s.authRequest(id)
	if !ok {
		return nil, oidc.ErrInvalidRequest().WithDescription("the sign-in is unknown or expired")
	}
	return a, nil
}

func (s *storage) authRequest(id string) (*authRequest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.auths[id]
	return a, ok && s.now().Before(a.expires)
}

// signIn records who signed in for an authorization code login. It is false
// when that is unknown, expired, or has somebody already.
func (s *storage) signIn(id, subject string, at time.Time) bool {
	return s.replace(id, func(a *authRequest) bool {
		if a.Done() {
			return false
		}
		a.subject, a.signedInAt = subject, at
		return true
	})
}

// replace changes a copy of an authorization request, because the library may
// be reading the one in the table.
func (s *storage) replace(id string, change func(*authRequest) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.auths[id]
	if !ok || !s.now().Before(a.expires) {
		return false
	}
	changed := *a
	if !change(&changed) {
		return false
	}
	s.auths[id] = &changed
	return true
}

// SaveAuthCode implements op.AuthStorage.
func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	saved := s.replace(id, func(a *authRequest) bool {
		if a.code != "" {
			return false // the callback was opened twice; one code is enough
		}
		a.code = code
		return true
	})
	if !saved {
		return oidc.ErrInvalidRequest().WithDescription("the sign-in is unknown or expired")
	}
	return nil
}

// AuthRequestByCode implements op.AuthStorage. It takes the request out: a code
// is good once, whatever comes of it (RFC 6749 section 4.1.2).
func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.auths {
		if code != "" && a.code == code && s.now().Before(a.expires) {
			delete(s.auths, id)
			return a, nil
		}
	}
	return nil, oidc.ErrInvalidGrant().WithDescription("the code is unknown or expired")
}

// DeleteAuthRequest implements op.AuthStorage.
func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.auths, id)
	return nil
}
