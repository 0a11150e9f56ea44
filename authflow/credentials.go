package authflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// TokenCredential is what the gateway keeps of a token that was found good for who:
// an access token, or a service token's secret.
func TokenCredential(token string, who sshgate.Identity) sshgate.Credential {
	return sshgate.Credential{Hash: string(hashToken(token)), Identity: who.Key()}
}

// Check tells whether somebody who got in by the credential may stay, and until when;
// zero says that it sets no end: a job's access token is for its connections to begin
// with, and they outlive it unless it is revoked. It is no use of a token. Its errors are *Failure; CodeUnavailable says nothing about
// the credential.
func (t *Tokens) Check(ctx context.Context, c sshgate.Credential) (time.Time, error) {
	until, failure := t.check(ctx, c)
	if failure != nil {
		return time.Time{}, failure
	}
	return until, nil
}

func (t *Tokens) check(ctx context.Context, c sshgate.Credential) (time.Time, *Failure) {
	switch {
	case c.Identity.Issuer == sshgate.ServiceIssuer:
		return t.checkService(ctx, c)
	case c.Hash != "":
		rec, failure := t.access(ctx, []byte(c.Hash))
		switch {
		case failure != nil && failure.Code == CodeTokenUnknown:
			return time.Time{}, fail(CodeSignInRevoked, failure)
		case failure != nil && failure.Code != CodeTokenExpired:
			return time.Time{}, failure
		case rec.Identity.Key() != c.Identity:
			return time.Time{}, fail(CodeSignInRevoked, errors.New("the access token is another's"))
		case rec.Identity.Kind == sshgate.Workload:
			return time.Time{}, nil
		case failure != nil:
			return time.Time{}, failure
		}
		return rec.ExpiresAt, nil
	}
	return t.checkLogin(ctx, c)
}

func (t *Tokens) checkLogin(ctx context.Context, c sshgate.Credential) (time.Time, *Failure) {
	if t.cfg.Logins == nil {
		return time.Time{}, fail(CodeUnavailable, errors.New("no sign-ins are kept"))
	}
	login, err := t.cfg.Logins.KeyLogin(ctx, c.Key)
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return time.Time{}, fail(CodeSignInRevoked, fmt.Errorf("no sign-in is remembered by %s", quoteText(c.Key)))
	case err != nil:
		return time.Time{}, unavailable(ctx, fmt.Errorf("look up a key's sign-in: %w", err))
	case login.Fingerprint != c.Key:
		return time.Time{}, unavailable(ctx, errors.New("the store returned another key's sign-in"))
	case login.Identity.Key() != c.Identity:
		return time.Time{}, &Failure{
			Code: CodeSignInRevoked, Sentence: "your key now stands for another sign-in",
			Err: fmt.Errorf("%s stands for %s now", quoteText(c.Key), quoteText(login.Identity.String())),
		}
	case !t.cfg.Now().Before(login.ExpiresAt):
		return time.Time{}, fail(CodeSignInRevoked, fmt.Errorf("the sign-in of %s has expired", quoteText(c.Key)))
	}
	return login.ExpiresAt, nil
}

func (t *Tokens) checkService(ctx context.Context, c sshgate.Credential) (time.Time, *Failure) {
	rec, err := t.cfg.Services.ServiceToken(ctx, sshgate.ServiceTokenID(c.Identity.Subject))
	switch {
	case errors.Is(err, sshgate.ErrNotFound):
		return time.Time{}, fail(CodeTokenRevoked, errors.New("the service token is gone"))
	case err != nil:
		return time.Time{}, unavailable(ctx, fmt.Errorf("look up a service token: %w", err))
	}
	if c.Hash == "" {
		if failure := t.over(rec); failure != nil {
			return time.Time{}, failure
		}
		if rec.Fingerprint != c.Key || c.Key == "" {
			return time.Time{}, fail(CodeTokenRevoked, errors.New("the key is no longer registered for the service token"))
		}
		return rec.ExpiresAt, nil
	}
	current := sameHash([]byte(c.Hash), rec.SecretHash)
	if !current && !sameHash([]byte(c.Hash), rec.PreviousHash) {
		if failure := t.over(rec); failure != nil {
			return time.Time{}, failure
		}
		return time.Time{}, &Failure{
			Code:     CodeTokenExpired,
			Sentence: fmt.Sprintf("this secret of the service token %s was replaced; use the new one", printable(rec.Name, maxName)),
			Err:      fmt.Errorf("a secret of %s before its last rotations", rec.ID),
		}
	}
	return t.secretEnd(rec, current)
}
