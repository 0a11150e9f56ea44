package authflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// AccessTokenStore keeps access tokens. What it does not have is
// sshgate.ErrNotFound. It returns expired ones too.
type AccessTokenStore interface {
	PutAccessToken(context.Context, sshgate.AccessTokenRecord) error
	AccessToken(ctx context.Context, hash []byte) (sshgate.AccessTokenRecord, error)
	DeleteAccessToken(ctx context.Context, hash []byte) error
}

// ServiceTokenStore keeps service tokens. What it does not have is
// sshgate.ErrNotFound. It returns those that have expired or were revoked too.
type ServiceTokenStore interface {
	ServiceToken(context.Context, sshgate.ServiceTokenID) (sshgate.ServiceTokenRecord, error)
	ServiceTokenByKey(ctx context.Context, fingerprint string) (sshgate.ServiceTokenRecord, error)
	TouchServiceToken(ctx context.Context, id sshgate.ServiceTokenID, at time.Time) error
}

// KeyLoginStore keeps sign-ins by the key that was proven. One that has expired, or
// that it does not have, is sshgate.ErrNotFound.
type KeyLoginStore interface {
	KeyLogin(ctx context.Context, fingerprint string) (sshgate.KeyLogin, error)
}

// TokensConfig says where tokens are kept. Access and Services are required.
type TokensConfig struct {
	Access   AccessTokenStore
	Services ServiceTokenStore
	// Logins is for Check. Nil: it knows no sign-in.
	Logins KeyLoginStore
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log gets what an operator should know. nil discards it.
	Log *slog.Logger
}

// Tokens tells who a token stands for. It is safe for concurrent use. Its errors
// are *Failure: a token is CodeTokenUnknown, CodeTokenExpired or
// CodeTokenRevoked, and CodeUnavailable says nothing about it.
type Tokens struct{ cfg TokensConfig }

// NewTokens returns a Tokens, which needs no closing.
func NewTokens(cfg TokensConfig) *Tokens {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Tokens{cfg: cfg}
}

const (
	// touchTimeout bounds how long noting a token's use may hold its user up.
	touchTimeout = 2 * time.Second
	// touchEvery is how accurate the time of the last use is. Noting each would
	// make a busy gateway's state wait for a disk.
	touchEvery = time.Minute
)

// Issue returns a fresh access token that stands for the identity until expires.
// Service tokens get none: to revoke one must be enough to end its access.
func (t *Tokens) Issue(ctx context.Context, id sshgate.Identity, expires time.Time) (string, error) {
	now := t.cfg.Now()
	switch {
	case id.Kind != sshgate.Person && id.Kind != sshgate.Workload:
		return "", fail(CodeAccessDenied, fmt.Errorf("an access token for a %q", id.Kind))
	case id.Issuer == "" || id.Subject == "":
		return "", fail(CodeInvalidToken, errors.New("an access token for nobody"))
	case !now.Before(expires):
		return "", fail(CodeTokenExpired, fmt.Errorf("an access token that ends at %s, before it begins", stamp(expires)))
	}
	token := newToken(accessPrefix)
	err := t.cfg.Access.PutAccessToken(ctx, sshgate.AccessTokenRecord{
		Hash: hashToken(token), Identity: id, CreatedAt: now, ExpiresAt: expires,
	})
	if err != nil {
		return "", unavailable(ctx, fmt.Errorf("keep an access token: %w", err))
	}
	return token, nil
}

// Access returns whom an access token stands for, and until when.
func (t *Tokens) Access(ctx context.Context, token string) (sshgate.Identity, time.Time, error) {
	hash, err := parseToken(accessPrefix, token)
	if err != nil {
		return reject(fail(CodeTokenUnknown, fmt.Errorf("an access token that is none: %w", err)))
	}
	rec, failure := t.access(ctx, hash)
	if failure != nil {
		return reject(failure)
	}
	return rec.Identity, rec.ExpiresAt, nil
}

// access returns the record of an access token that is good.
func (t *Tokens) access(ctx context.Context, hash []byte) (rec sshgate.AccessTokenRecord, failure *Failure) {
	rec, err := t.cfg.Access.AccessToken(ctx, hash)
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return rec, fail(CodeTokenUnknown, errors.New("no such access token"))
	case err != nil:
		return rec, unavailable(ctx, fmt.Errorf("look up an access token: %w", err))
	case !sameHash(hash, rec.Hash):
		return rec, fail(CodeTokenUnknown, errors.New("the store returned another access token"))
	case !t.cfg.Now().Before(rec.ExpiresAt):
		again := "sign in again"
		if rec.Identity.Machine() {
			again = "exchange a new ID token"
		}
		return rec, &Failure{
			Code:     CodeTokenExpired,
			Sentence: fmt.Sprintf("the access token expired on %s; %s", stamp(rec.ExpiresAt), again),
			Err:      fmt.Errorf("the access token of %s", quoteText(rec.Identity.String())),
		}
	}
	return rec, nil
}

// Revoke ends an access token. It is no error when there is none such.
func (t *Tokens) Revoke(ctx context.Context, token string) error {
	hash, err := parseToken(accessPrefix, token)
	if err != nil {
		return nil // RFC 7009 section 2.2: the client's purpose is fulfilled
	}
	err = t.cfg.Access.DeleteAccessToken(ctx, hash)
	if err != nil && !errors.Is(err, sshgate.ErrNotFound) {
		return unavailable(ctx, fmt.Errorf("revoke an access token: %w", err))
	}
	return nil
}

// Service returns the identity of a service token that proves its secret, and
// until when that is good.
//
// An unknown ID and a wrong secret get the same answer. Whoever has the secret is
// told why it is no longer good.
func (t *Tokens) Service(ctx context.Context, id sshgate.ServiceTokenID, secret string) (sshgate.Identity, time.Time, error) {
	hash, err := parseToken(secretPrefix, secret)
	if err != nil {
		return reject(unknownService(fmt.Errorf("a secret that is none: %w", err)))
	}
	rec, err := t.cfg.Services.ServiceToken(ctx, id)
	if err != nil && !errors.Is(err, sshgate.ErrNotFound) {
		return reject(unavailable(ctx, fmt.Errorf("look up a service token: %w", err)))
	}
	// An unknown ID leaves an empty record, which is compared like any other.
	current, previous := sameHash(hash, rec.SecretHash), sameHash(hash, rec.PreviousHash)
	switch {
	case err != nil || rec.ID != id:
		return reject(unknownService(fmt.Errorf("no service token has the ID %s", quoteText(string(id)))))
	case !current && !previous:
		return reject(unknownService(fmt.Errorf("a wrong secret for the service token %s", rec.ID)))
	}
	expires, failure := t.secretEnd(rec, current)
	if failure != nil {
		return reject(failure)
	}
	return t.service(ctx, rec), expires, nil
}

// secretEnd returns until when a secret of the service token is good, its current
// one or the one before.
func (t *Tokens) secretEnd(rec sshgate.ServiceTokenRecord, current bool) (time.Time, *Failure) {
	if failure := t.over(rec); failure != nil {
		return time.Time{}, failure
	}
	expires := rec.ExpiresAt
	if !current {
		if !t.cfg.Now().Before(rec.PreviousUntil) {
			return time.Time{}, &Failure{
				Code:     CodeTokenExpired,
				Sentence: fmt.Sprintf("this secret of the service token %s was replaced and ended on %s; use the new one", printable(rec.Name, maxName), stamp(rec.PreviousUntil)),
				Err:      fmt.Errorf("the secret of %s before its last rotation", rec.ID),
			}
		}
		if rec.PreviousUntil.Before(expires) {
			expires = rec.PreviousUntil
		}
	}
	return expires, nil
}

// ServiceKey returns the identity of the service token that an SSH key, given by
// its SHA256:... fingerprint, is registered for, and until when that is good.
// Call it for a key that the client has proven: the answer names the token, and
// counts as its use.
//
// With registered and an error, the key is a machine's and not good: its user is
// to be told why, and never asked to sign in. An error without registered says
// that nothing could be found out.
func (t *Tokens) ServiceKey(ctx context.Context, fingerprint string) (id sshgate.Identity, expires time.Time, registered bool, err error) {
	if fingerprint == "" {
		return sshgate.Identity{}, time.Time{}, false, nil
	}
	rec, err := t.cfg.Services.ServiceTokenByKey(ctx, fingerprint)
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return sshgate.Identity{}, time.Time{}, false, nil
	case err != nil:
		return sshgate.Identity{}, time.Time{}, false, unavailable(ctx, fmt.Errorf("look up a key's service token: %w", err))
	case rec.Fingerprint != fingerprint:
		return sshgate.Identity{}, time.Time{}, false, unavailable(ctx, errors.New("the store returned another key's service token"))
	}
	if failure := t.over(rec); failure != nil {
		return sshgate.Identity{}, time.Time{}, true, failure
	}
	return t.service(ctx, rec), rec.ExpiresAt, true, nil
}

// KeyRegistered tells whether ServiceKey would know the key, good or not. It is no
// use of it: anybody may ask about a public key.
func (t *Tokens) KeyRegistered(ctx context.Context, fingerprint string) bool {
	rec, err := t.cfg.Services.ServiceTokenByKey(ctx, fingerprint)
	return err == nil && fingerprint != "" && rec.Fingerprint == fingerprint
}

// over returns why a service token is no longer good; nil when it is.
func (t *Tokens) over(rec sshgate.ServiceTokenRecord) *Failure {
	name, cause := printable(rec.Name, maxName), fmt.Errorf("the service token %s", rec.ID)
	switch {
	case !rec.RevokedAt.IsZero():
		return &Failure{
			Code:     CodeTokenRevoked,
			Sentence: fmt.Sprintf("the service token %s was revoked on %s; ask whoever runs the gateway for a new one", name, stamp(rec.RevokedAt)),
			Err:      cause,
		}
	case !t.cfg.Now().Before(rec.ExpiresAt):
		return &Failure{
			Code:     CodeTokenExpired,
			Sentence: fmt.Sprintf("the service token %s expired on %s; ask whoever runs the gateway for a new one", name, stamp(rec.ExpiresAt)),
			Err:      cause,
		}
	}
	return nil
}

// service returns the identity of a token that was proven, and notes its use.
func (t *Tokens) service(ctx context.Context, rec sshgate.ServiceTokenRecord) sshgate.Identity {
	now := t.cfg.Now()
	if now.Sub(rec.LastUsedAt) >= touchEvery {
		ctx, stop := context.WithTimeout(ctx, touchTimeout)
		defer stop()
		if err := t.cfg.Services.TouchServiceToken(ctx, rec.ID, now); err != nil {
			// A full disk must not lock machines out.
			t.cfg.Log.Warn("the use of a service token can't be noted", "token", string(rec.ID), "err", err)
		}
	}
	return sshgate.Identity{
		Kind: sshgate.ServiceToken, Issuer: sshgate.ServiceIssuer, Subject: string(rec.ID),
		Name: rec.Name, SignedInAt: now,
	}
}

// reject is what a token that is not good yields.
func reject(failure *Failure) (sshgate.Identity, time.Time, error) {
	return sshgate.Identity{}, time.Time{}, failure
}

// unknownService is the one answer to an unknown ID and to a wrong secret.
func unknownService(cause error) *Failure {
	return &Failure{
		Code:     CodeTokenUnknown,
		Sentence: "there is no service token with this ID and secret; compare both with what was handed out",
		Err:      cause,
	}
}

// unavailable is the failure of a store, or of a caller who left meanwhile.
func unavailable(ctx context.Context, err error) *Failure {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	return fail(CodeUnavailable, err)
}

// stamp writes a time for people.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// quoteText quotes what a client or a provider sent, for the log.
func quoteText(s string) string { return fmt.Sprintf("%q", printable(s, maxQuote)) }
