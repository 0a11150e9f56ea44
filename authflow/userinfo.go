package authflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"

	"github.com/sshgate/sshgate/sshgate"
)

// addUserInfo completes the claims of an ID token with those of the UserInfo endpoint
// (OpenID Connect Core 1.0 section 5.3). What the token says stays: it is signed.
func (o *OIDC) addUserInfo(ctx context.Context, endpoint, accessToken string, claims map[string]any) error {
	if endpoint == "" {
		return fail(CodeNotConfigured, errors.New("the provider's metadata has no userinfo_endpoint, and sign_in.userinfo asks for it"))
	}
	if accessToken == "" {
		return fail(CodeInvalidResponse, errors.New("the token answer has no access_token to ask for the userinfo with"))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return fail(CodeInvalidResponse, err)
	}
	req.Header.Set("Authorization", "Bearer "+accessToken)
	req.Header.Set("Accept", "application/json")
	res, err := o.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return cancelled(ctx)
		}
		return fail(CodeProviderUnreachable, fmt.Errorf("ask for the userinfo: %w", err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fail(CodeProviderUnreachable, fmt.Errorf("read the userinfo: %w", err))
	case res.StatusCode >= http.StatusInternalServerError:
		return fail(CodeProviderUnreachable, fmt.Errorf("the userinfo has status %d", res.StatusCode))
	case res.StatusCode != http.StatusOK:
		return fail(CodeInvalidResponse, fmt.Errorf("the userinfo has status %d", res.StatusCode))
	}
	if kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); kind != "application/json" {
		return fail(CodeInvalidResponse, fmt.Errorf("the userinfo is %s, want application/json", printable(kind, maxQuote)))
	}
	more, err := parseClaims(body)
	if err != nil {
		return fail(CodeInvalidResponse, fmt.Errorf("the userinfo: %w", err))
	}
	if sub, ok := more["sub"].(string); !ok || sub != claims["sub"] {
		return fail(CodeInvalidResponse, errors.New("the userinfo is about somebody else, or does not say about whom"))
	}
	merge(claims, more, o.cfg.GroupsClaim)
	return nil
}

// merge adds what claims lack. Groups that did not fit into the token are there after
// all when the endpoint has them.
func merge(claims, more map[string]any, groupsClaim string) {
	if email, said := claims["email"]; said && email != more["email"] {
		delete(more, "email_verified") // it is about another address
	}
	for name, value := range more {
		if _, said := claims[name]; !said && !protocol(name) {
			claims[name] = value
		}
	}
	if path, err := sshgate.ParseClaimPath(groupsClaim); err == nil && len(path.Texts(more)) > 0 {
		delete(claims, "_claim_names")
		delete(claims, "_claim_sources")
	}
}

// protocol tells the claims that are about the sign-in, not the person: of it the
// signed token alone can tell.
func protocol(name string) bool {
	return name == "acr" || name == "amr" || slices.Contains(protocolClaims, name)
}
