package authflow

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	maxClaims  = 64 << 10      // bytes of an ID token's claims as JSON
	maxIDToken = 2 * maxClaims // bytes of an ID token: base64 and a signature on top
	maxGroups  = 5000          // groups of one person
	maxGroup   = 1024          // bytes of a group's name
	maxSubject = 255           // OpenID Connect Core 1.0 section 2
	maxEmail   = 320           // bytes: 64 for the local part, @, 255 for the domain
	maxName    = 256           // bytes of a display name
	maxSkew    = time.Minute   // how far ahead of ours the provider's clock may be
)

// expected is what an ID token must have because the gateway asked for it.
type expected struct {
	nonce  string        // "" where none was sent
	maxAge time.Duration // 0 where none was asked for
}

// identify turns the token endpoint's success (RFC 6749 section 5.1, OpenID
// Connect Core 1.0 section 3.1.3.3) into an identity.
func (o *OIDC) identify(ctx context.Context, endpoints *endpoints, body []byte, want expected) (sshgate.Identity, error) {
	var got struct {
		AccessToken string `json:"access_token"`
		IDToken     string `json:"id_token"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return sshgate.Identity{}, fail(CodeInvalidResponse, fmt.Errorf("read the token answer: %w", err))
	}
	if got.IDToken == "" {
		return sshgate.Identity{}, fail(CodeInvalidResponse, errors.New("the token answer has no id_token; is the openid scope allowed for this client?"))
	}
	if len(got.IDToken) > maxIDToken {
		return sshgate.Identity{}, fail(CodeInvalidToken, fmt.Errorf("the ID token is longer than %d bytes", maxIDToken))
	}
	token, err := endpoints.verifier.Verify(oidc.ClientContext(ctx, o.client), got.IDToken)
	if ctx.Err() != nil {
		return sshgate.Identity{}, cancelled(ctx)
	}
	if err != nil {
		return sshgate.Identity{}, fail(CodeInvalidToken, fmt.Errorf("verify the ID token: %s", printable(err.Error(), maxQuote)))
	}
	id, err := o.identity(ctx, endpoints, token, got.AccessToken, want)
	if err != nil {
		if failure, ok := errors.AsType[*Failure](err); ok {
			return sshgate.Identity{}, failure
		}
		return sshgate.Identity{}, fail(CodeInvalidToken, fmt.Errorf("check the ID token: %w", err))
	}
	return id, nil
}

// identity makes the checks of OpenID Connect Core 1.0 section 3.1.3.7 that
// go-oidc leaves to its caller; it did issuer, audience, expiry and signature.
func (o *OIDC) identity(ctx context.Context, endpoints *endpoints, token *oidc.IDToken, accessToken string, want expected) (sshgate.Identity, error) {
	var raw json.RawMessage
	if err := token.Claims(&raw); err != nil {
		return sshgate.Identity{}, err
	}
	claims, err := parseClaims(raw)
	if err != nil {
		return sshgate.Identity{}, err
	}
	now := o.cfg.Now()
	if err := checkToken(token, claims, o.cfg.ClientID, now); err != nil {
		return sshgate.Identity{}, err
	}
	if err := want.check(token, claims, now); err != nil {
		return sshgate.Identity{}, err
	}
	if token.AccessTokenHash != "" {
		if err := token.VerifyAccessToken(accessToken); err != nil {
			return sshgate.Identity{}, fmt.Errorf("at_hash: %w", err)
		}
	}
	if o.cfg.UserInfo {
		if err := o.addUserInfo(ctx, endpoints.userInfo, accessToken, claims); err != nil {
			return sshgate.Identity{}, err
		}
	}
	id, err := identityFromClaims(claims, o.cfg.GroupsClaim)
	if err != nil {
		return sshgate.Identity{}, err
	}
	// Not the token's iss: go-oidc takes Google's two spellings for one issuer,
	// and an identity must have one.
	id.Issuer = o.cfg.Issuer
	// The time of this sign-in at the gateway. A provider with an older single
	// sign-on session says when that began in auth_time, which stays in Claims.
	id.SignedInAt = now
	return id, nil
}

// check compares the token with what was asked for.
func (want expected) check(token *oidc.IDToken, claims map[string]any, now time.Time) error {
	if want.nonce != "" && subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(want.nonce)) != 1 {
		return errors.New("the nonce is that of another sign-in")
	}
	if want.maxAge == 0 {
		return nil
	}
	at, ok := claims["auth_time"].(float64)
	if !ok {
		return errors.New("max_age was asked for, and it has no auth_time")
	}
	if age := now.Sub(time.Unix(int64(at), 0)); age > want.maxAge+maxSkew {
		return fmt.Errorf("the person's sign-in is %s old, more than the %s that was asked for", age.Round(time.Second), want.maxAge)
	}
	return nil
}

// protocolClaims are those that go-oidc and this package decide by. Go's JSON
// decoder matches struct fields without regard to case, so a claim "Sub" that a
// person may set at the provider would pass for "sub".
var protocolClaims = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "azp", "nonce", "auth_time", "at_hash", "_claim_names", "_claim_sources"}

// parseClaims reads an ID token's claims, within bounds.
func parseClaims(raw []byte) (map[string]any, error) {
	if len(raw) > maxClaims {
		return nil, fmt.Errorf("the claims are longer than %d bytes", maxClaims)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, fmt.Errorf("read the claims: %w", err)
	}
	if claims == nil {
		return nil, errors.New("the claims are not a JSON object")
	}
	for name := range claims {
		for _, protocol := range protocolClaims {
			if name != protocol && strings.EqualFold(name, protocol) {
				return nil, fmt.Errorf("the claim %q passes for %q", printable(name, maxQuote), protocol)
			}
		}
	}
	return claims, nil
}

// checkToken checks who the token was made for, and when.
func checkToken(token *oidc.IDToken, claims map[string]any, clientID string, now time.Time) error {
	if err := checkIssued(token, claims, now); err != nil {
		return err
	}
	azp, present := claims["azp"]
	if present && azp != clientID {
		return errors.New("azp names another client")
	}
	if !present && len(token.Audience) > 1 {
		return errors.New("it has several audiences and no azp")
	}
	return nil
}

// checkIssued checks when the token was made.
func checkIssued(token *oidc.IDToken, claims map[string]any, now time.Time) error {
	if _, ok := claims["iat"]; !ok {
		return errors.New("it has no iat")
	}
	if token.IssuedAt.After(now.Add(maxSkew)) {
		return fmt.Errorf("it was issued in the future, at %s; compare the clocks", token.IssuedAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// identityFromClaims fills in what comes from claims; Issuer and SignedInAt are
// the caller's.
func identityFromClaims(claims map[string]any, groupsClaim string) (sshgate.Identity, error) {
	subject, err := parseSubject(claims)
	if err != nil {
		return sshgate.Identity{}, err
	}
	groups, err := parseGroups(claims, groupsClaim)
	if err != nil {
		return sshgate.Identity{}, err
	}
	id := sshgate.Identity{
		Subject: subject,
		Email:   parseEmail(claims["email"]),
		Name:    parseName(claims["name"], claims["preferred_username"]),
		Groups:  groups,
		Claims:  claims,
	}
	id.EmailVerified = id.Email != "" && isTrue(claims["email_verified"])
	return id, nil
}

func parseSubject(claims map[string]any) (string, error) {
	subject, _ := claims["sub"].(string)
	switch {
	case subject == "":
		return "", errors.New("it has no sub")
	case len(subject) > maxSubject:
		return "", fmt.Errorf("sub is longer than %d bytes", maxSubject)
	case !allPrintable(subject):
		return "", errors.New("sub has characters other than printable ASCII")
	}
	return subject, nil
}

// isTrue takes true and "true": Amazon Cognito, among others, sends strings.
func isTrue(claim any) bool { return claim == true || claim == "true" }

// parseEmail returns the address, or "" where the claim is none that could be
// printed and compared safely.
func parseEmail(claim any) string {
	email, _ := claim.(string)
	at := strings.LastIndexByte(email, '@')
	if at < 1 || at == len(email)-1 || len(email) > maxEmail || !utf8.ValidString(email) {
		return ""
	}
	if strings.ContainsFunc(email, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }) {
		return ""
	}
	return email
}

// parseName returns the first claim that is a name, without what can't be
// printed.
func parseName(candidates ...any) string {
	for _, candidate := range candidates {
		name, _ := candidate.(string)
		name = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) || r == utf8.RuneError {
				return -1
			}
			return r
		}, name)
		if name = strings.TrimSpace(name); name != "" {
			return truncate(name, maxName)
		}
	}
	return ""
}

// truncate cuts s to at most n bytes, between two runes.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// parseGroups reads the groups: an array of strings, or one string. What can't
// be read whole is an error rather than fewer groups, because a rule may
// exclude by group as well as include.
func parseGroups(claims map[string]any, claim string) ([]string, error) {
	if names, ok := claims["_claim_names"].(map[string]any); ok && names[claim] != nil {
		// Microsoft Entra does this past 200 groups.
		return nil, &Failure{
			Code:     CodeInvalidToken,
			Sentence: "the identity provider left your groups out of the token because they are too many, tell your administrator",
			Err:      fmt.Errorf("the claim %q is distributed (OpenID Connect Core 1.0 section 5.6.2); have the provider send only the groups assigned to this client", claim),
		}
	}
	switch value := claims[claim].(type) {
	case nil:
		return nil, nil
	case string:
		if value == "" {
			return nil, nil
		}
		return checkGroups([]any{value}, claim)
	case []any:
		return checkGroups(value, claim)
	}
	return nil, fmt.Errorf("the claim %q is neither a string nor an array of strings", claim)
}

func checkGroups(values []any, claim string) ([]string, error) {
	if len(values) > maxGroups {
		return nil, fmt.Errorf("the claim %q has more than %d groups", claim, maxGroups)
	}
	groups := make([]string, 0, len(values))
	for _, value := range values {
		group, ok := value.(string)
		if !ok || group == "" || len(group) > maxGroup {
			return nil, fmt.Errorf("the claim %q has an entry that is not a string of 1 to %d bytes", claim, maxGroup)
		}
		groups = append(groups, group)
	}
	return slices.Clip(groups), nil
}
