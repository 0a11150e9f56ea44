package authflow

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/sshgate/sshgate/sshgate"
)

// maxCode bounds what a provider may send through the browser, in bytes.
const maxCode = 4096

// Demands are what a sign-in asks of the provider besides who it is (OpenID
// Connect Core 1.0 section 3.1.2.1). The zero value asks nothing.
type Demands struct {
	// MaxAge is how long ago the person may have signed in at the provider, in
	// whole seconds. An ID token that does not say so, or says otherwise, is
	// refused. 0 asks nothing.
	MaxAge time.Duration
	// ACRValues are ways of signing in, the best first. A provider may do without:
	// the claim acr says what it did, and the policy decides what that is worth.
	ACRValues []string
	// Prompt is login, consent or select_account, or empty. The person can take it
	// out of the address: use MaxAge for what must be so.
	Prompt string
}

// Authorization is a sign-in by authorization code (RFC 6749 section 4.1, OpenID
// Connect Core 1.0 section 3.1) for one browser, which the caller must bind it to:
// State is no secret of that browser's once it is in an address.
type Authorization struct {
	// URL is where to send the browser.
	URL string
	// State comes back with it, once.
	State string

	oidc      *OIDC
	endpoints *endpoints
	redirect  string
	nonce     string
	verifier  string // RFC 7636: what makes the code useless to others
	maxAge    time.Duration
	used      atomic.Bool
}

// Authorize begins a sign-in that ends at redirectURI. It keeps nothing: what is
// to expire, the caller forgets. An error is a *Failure.
func (o *OIDC) Authorize(ctx context.Context, redirectURI string, demands Demands) (*Authorization, error) {
	at, err := o.discovery.get(ctx)
	if err != nil {
		return nil, err
	}
	if at.authorize == "" {
		return nil, fail(CodeNotConfigured, errors.New("the provider's metadata has no authorization_endpoint"))
	}
	a := &Authorization{
		State: rand.Text(), oidc: o, endpoints: at, redirect: redirectURI,
		nonce: rand.Text(), verifier: oauth2.GenerateVerifier(), maxAge: demands.MaxAge.Truncate(time.Second),
	}
	cfg := oauth2.Config{ClientID: o.cfg.ClientID, RedirectURL: redirectURI, Scopes: o.cfg.Scopes, Endpoint: oauth2.Endpoint{AuthURL: at.authorize}}
	options := []oauth2.AuthCodeOption{
		oauth2.S256ChallengeOption(a.verifier), oauth2.SetAuthURLParam("nonce", a.nonce),
		oauth2.SetAuthURLParam("response_mode", "query"), // a form from another site would come without the cookie
	}
	if a.maxAge > 0 {
		options = append(options, oauth2.SetAuthURLParam("max_age", strconv.Itoa(int(a.maxAge.Seconds()))))
	}
	if len(demands.ACRValues) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(demands.ACRValues, " ")))
	}
	if demands.Prompt != "" {
		options = append(options, oauth2.SetAuthURLParam("prompt", demands.Prompt))
	}
	a.URL = cfg.AuthCodeURL(a.State, options...)
	return a, nil
}

// Is tells whether an answer's state is that of this sign-in.
func (a *Authorization) Is(state string) bool {
	return subtle.ConstantTimeCompare([]byte(a.State), []byte(state)) == 1
}

// Finish takes the provider's answer, the parameters with which the browser came
// back, and returns who signed in. It works once, whatever comes of it. An error is
// a *Failure.
func (a *Authorization) Finish(ctx context.Context, answer url.Values) (sshgate.Identity, error) {
	if err := a.check(answer); err != nil {
		return sshgate.Identity{}, err
	}
	if a.used.Swap(true) {
		return sshgate.Identity{}, fail(CodeInvalidResponse, errors.New("the answer has come before"))
	}
	if code := answer.Get("error"); code != "" {
		return sshgate.Identity{}, ofAuthorizationError(code, answer.Get("error_description"))
	}
	code := answer.Get("code")
	if code == "" || len(code) > maxCode {
		return sshgate.Identity{}, fail(CodeInvalidResponse, errors.New("the answer has no usable code"))
	}
	ctx, stop := context.WithTimeout(ctx, requestTimeout)
	defer stop()
	got, err := a.oidc.post(ctx, a.endpoints.token, a.endpoints.auth, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {a.redirect}, "code_verifier": {a.verifier},
	})
	if err != nil {
		return sshgate.Identity{}, fail(CodeProviderUnreachable, fmt.Errorf("exchange the code: %w", err))
	}
	if got.status != http.StatusOK {
		return sshgate.Identity{}, refusal(got, "exchange the code")
	}
	return a.oidc.identify(ctx, a.endpoints, got.body, expected{nonce: a.nonce, maxAge: a.maxAge})
}

// check tells whether the answer is to this request, and from this provider: one
// that is not leaves the sign-in as it is.
func (a *Authorization) check(answer url.Values) error {
	for _, name := range []string{"state", "iss", "code", "error"} {
		if len(answer[name]) > 1 { // RFC 6749 section 3.1; which one counts must be no question
			return fail(CodeInvalidResponse, fmt.Errorf("the answer has %s more than once", name))
		}
	}
	if !a.Is(answer.Get("state")) {
		return fail(CodeInvalidResponse, errors.New("the state is that of another sign-in"))
	}
	// RFC 9207 section 2.4.
	switch issuer := answer.Get("iss"); {
	case answer.Has("iss") && issuer != a.oidc.cfg.Issuer:
		return fail(CodeInvalidResponse, fmt.Errorf("the answer is from %s, another provider", printable(issuer, maxQuote)))
	case !answer.Has("iss") && a.endpoints.namesSelf:
		return fail(CodeInvalidResponse, errors.New("the answer has no iss, which the provider promises"))
	}
	return nil
}

// ofAuthorizationError is the failure that an error answer stands for (RFC 6749
// section 4.1.2.1, OpenID Connect Core 1.0 section 3.1.2.6).
func ofAuthorizationError(code, description string) *Failure {
	err := fmt.Errorf("sign in with the browser: the provider answered %s: %s", printable(code, maxQuote), printable(description, maxQuote))
	switch code {
	case "access_denied":
		return fail(CodeAccessDenied, err)
	case "server_error", "temporarily_unavailable":
		return fail(CodeProviderUnreachable, err)
	}
	return fail(CodeProviderRefused, err)
}
