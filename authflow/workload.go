package authflow

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/sshgate/sshgate/sshgate"
)

// WorkloadConfig is a kind of job that proves who it is with an ID token of the
// platform that it runs on, and so needs no secret.
type WorkloadConfig struct {
	// Name is what the policy calls it. Required, and unique.
	Name string
	// Issuer is the platform's issuer URL, as it stands in its tokens. https, or
	// plain http on a loopback address. Required.
	Issuer string
	// Audience must be among the token's audiences, exactly. It is what keeps a
	// token that was made for another service from working here. Required.
	Audience string
	// Claims must all match, by any of their values. A value that ends in * is
	// the beginning of what matches. A claim that is a list matches when one of
	// its elements does. Required: a platform that serves many customers signs
	// the jobs of all with the same key.
	Claims map[sshgate.ClaimPath][]string
}

// WorkloadsConfig says which jobs the gateway knows.
type WorkloadsConfig struct {
	// Workloads are tried in order; the first that matches is the job's.
	Workloads []WorkloadConfig
	// HTTPClient reaches the issuers. It is bounded as in OIDCConfig.
	HTTPClient *http.Client
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log gets what an operator should know. nil discards it.
	Log *slog.Logger
}

// maxTokenAge is how old a job's ID token may be, however long its issuer lets it
// live: one that lies about in a log should be good for little.
const maxTokenAge = time.Hour

// Workloads tells which workload an ID token is of. It is safe for concurrent
// use.
type Workloads struct {
	now     func() time.Time
	client  *http.Client
	issuers map[string]*workloadIssuer // by issuer URL
}

// workloadIssuer is a platform, and the workloads on it in order.
type workloadIssuer struct {
	url       string
	discovery *discovery
	workloads []WorkloadConfig
}

// NewWorkloads checks the configuration. It does no network: an issuer's
// metadata is fetched when it is first needed, and again until that works.
func NewWorkloads(cfg WorkloadsConfig) (*Workloads, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	w := &Workloads{
		now:     cfg.Now,
		client:  throttled(boundedClient(cfg.HTTPClient), cfg.Now),
		issuers: make(map[string]*workloadIssuer),
	}
	names := make(map[string]bool)
	for _, workload := range cfg.Workloads {
		if err := workload.check(); err != nil {
			return nil, fmt.Errorf("workload %q: %w", workload.Name, err)
		}
		if names[workload.Name] {
			return nil, fmt.Errorf("workload %q: the name is taken by another", workload.Name)
		}
		names[workload.Name] = true
		issuer := w.issuers[workload.Issuer]
		if issuer == nil {
			issuer = &workloadIssuer{url: workload.Issuer}
			issuer.discovery = newDiscovery(OIDCConfig{Issuer: workload.Issuer, Now: cfg.Now, Log: cfg.Log}, w.client)
			issuer.discovery.keysOnly = true
			w.issuers[workload.Issuer] = issuer
		}
		issuer.workloads = append(issuer.workloads, workload)
	}
	return w, nil
}

func (c WorkloadConfig) check() error {
	if c.Name == "" {
		return errors.New("it has no name")
	}
	if err := checkIssuer(c.Issuer); err != nil {
		return err
	}
	if c.Audience == "" {
		return errors.New("it has no audience; set the one that its jobs ask their tokens for")
	}
	if len(c.Claims) == 0 {
		return errors.New("it has no claims; without one any job of the platform gets in")
	}
	for path, values := range c.Claims {
		if len(values) == 0 || slices.Contains(values, "") || slices.Contains(values, "*") {
			return fmt.Errorf("the claim %s needs values, of which none is empty or matches everything", path)
		}
	}
	return nil
}

// Exchange checks a job's ID token and returns the identity of the workload that
// it is of. Its errors are *Failure: CodeNoWorkload when the token is good and no
// workload takes it, CodeInvalidToken or CodeTokenExpired when it is not good.
func (w *Workloads) Exchange(ctx context.Context, idToken string) (sshgate.Identity, error) {
	issuerURL, audience, err := peek(idToken)
	if err != nil {
		return sshgate.Identity{}, badIDToken(err)
	}
	issuer := w.issuers[issuerURL]
	if issuer == nil {
		return sshgate.Identity{}, noWorkload(issuerURL, audience, errors.New("no workload has that issuer"))
	}
	token, claims, err := w.verify(ctx, issuer, idToken)
	if err != nil {
		return sshgate.Identity{}, err
	}
	subject, err := parseSubject(claims)
	if err != nil {
		return sshgate.Identity{}, badIDToken(err)
	}
	name, err := issuer.match(token.Audience, claims)
	if err != nil {
		return sshgate.Identity{}, noWorkload(issuerURL, token.Audience, fmt.Errorf("subject %s: %w", quoteText(subject), err))
	}
	return sshgate.Identity{
		Kind: sshgate.Workload, Issuer: issuer.url, Subject: subject,
		Name: name, Claims: claims, SignedInAt: w.now(),
	}, nil
}

// verify makes every check of a token that does not depend on the workload. Its
// error is a *Failure.
func (w *Workloads) verify(ctx context.Context, issuer *workloadIssuer, idToken string) (*oidc.IDToken, map[string]any, error) {
	endpoint, err := issuer.discovery.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	token, err := endpoint.verifier.Verify(oidc.ClientContext(ctx, w.client), idToken)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, cancelled(ctx)
		}
		return nil, nil, unverified(err)
	}
	var raw json.RawMessage
	if err := token.Claims(&raw); err != nil {
		return nil, nil, badIDToken(err)
	}
	claims, err := parseClaims(raw)
	if err != nil {
		return nil, nil, badIDToken(err)
	}
	now := w.now()
	if err := checkIssued(token, claims, now); err != nil {
		return nil, nil, badIDToken(err)
	}
	if now.Sub(token.IssuedAt) > maxTokenAge {
		return nil, nil, expiredIDToken(fmt.Errorf("it was issued at %s, longer than %s ago", stamp(token.IssuedAt), maxTokenAge))
	}
	return token, claims, nil
}

// match returns the name of the first workload whose audience and claims match.
// Its error says, for the log, why each did not.
func (i *workloadIssuer) match(audience []string, claims map[string]any) (string, error) {
	var reasons []string
	for _, workload := range i.workloads {
		err := workload.match(audience, claims)
		if err == nil {
			return workload.Name, nil
		}
		reasons = append(reasons, fmt.Sprintf("workload %s: %v", workload.Name, err))
	}
	return "", errors.New(strings.Join(reasons, "; "))
}

// match returns nil when the token is this workload's, otherwise why it is not.
func (c WorkloadConfig) match(audience []string, claims map[string]any) error {
	if !slices.Contains(audience, c.Audience) {
		return fmt.Errorf("the audience is %s, want %q", quoteAll(audience), c.Audience)
	}
	for _, path := range slices.Sorted(maps.Keys(c.Claims)) {
		have := path.Texts(claims)
		if !slices.ContainsFunc(have, func(text string) bool { return matchesAny(text, c.Claims[path]) }) {
			return fmt.Errorf("the claim %s is %s", path, quoteAll(have))
		}
	}
	return nil
}

// matchesAny tells whether one of the values is text, or with a * at its end the
// beginning of it.
func matchesAny(text string, values []string) bool {
	return slices.ContainsFunc(values, func(value string) bool {
		if prefix, ok := strings.CutSuffix(value, "*"); ok {
			return strings.HasPrefix(text, prefix)
		}
		return text == value
	})
}

// peek reads the issuer and the audience of a token that nobody has verified yet.
// They only choose what to verify it against.
func peek(idToken string) (issuer string, audience []string, err error) {
	if len(idToken) > maxIDToken {
		return "", nil, fmt.Errorf("it is longer than %d bytes", maxIDToken)
	}
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		return "", nil, errors.New("it does not have the three parts of a signed JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", nil, errors.New("its second part is not base64url")
	}
	claims, err := parseClaims(payload)
	if err != nil {
		return "", nil, err
	}
	issuer, _ = claims["iss"].(string)
	if issuer == "" {
		return "", nil, errors.New("it has no iss")
	}
	return issuer, sshgate.ClaimPath("aud").Texts(claims), nil
}

// noWorkload is the failure of a token that no workload takes. Its sentence says
// what the token holds, not what the gateway wants.
func noWorkload(issuer string, audience []string, cause error) *Failure {
	return &Failure{
		Code: CodeNoWorkload,
		Sentence: fmt.Sprintf("no workload of this gateway takes this ID token, of issuer %s and audience %s; ask whoever runs the gateway",
			quoteText(issuer), quoteAll(audience)),
		Err: cause,
	}
}

// unverified is the failure for an error of go-oidc's Verify.
func unverified(err error) *Failure {
	cause := fmt.Errorf("verify the ID token: %s", printable(err.Error(), maxQuote))
	if _, ok := errors.AsType[*oidc.TokenExpiredError](err); ok {
		return expiredIDToken(cause)
	}
	// go-oidc has no type for it, and it says nothing about the token.
	if strings.Contains(err.Error(), "fetching keys") {
		return fail(CodeProviderUnreachable, cause)
	}
	return badIDToken(cause)
}

func expiredIDToken(cause error) *Failure {
	return &Failure{
		Code:     CodeTokenExpired,
		Sentence: "the ID token has expired; fetch a new one right before its use",
		Err:      cause,
	}
}

func badIDToken(cause error) *Failure {
	return &Failure{
		Code:     CodeInvalidToken,
		Sentence: "the ID token can't be trusted; ask whoever runs the gateway, whose log says why",
		Err:      cause,
	}
}

// quoteAll quotes a few texts of a token.
func quoteAll(texts []string) string {
	const most = 4
	if len(texts) == 0 {
		return "none"
	}
	quoted := make([]string, 0, most+1)
	for i, text := range texts {
		if i == most {
			quoted = append(quoted, fmt.Sprintf("and %d more", len(texts)-most))
			break
		}
		quoted = append(quoted, quoteText(text))
	}
	return strings.Join(quoted, ", ")
}
