package authflow

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

// stays checks that the credential is good until then, or why it is not.
func (b *tokenBench) stays(t *testing.T, what string, c sshgate.Credential, until time.Time, code, sentence string) {
	t.Helper()
	got, err := b.Check(t.Context(), c)
	if code == "" {
		if err != nil || !got.Equal(until) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, until)
		}
		return
	}
	var failure *Failure
	if !errors.As(err, &failure) || failure.Code != code || !strings.Contains(failure.Sentence, sentence) {
		t.Errorf("%s: %v, want %s, %q", what, err, code, sentence)
	}
}

func TestCheckServiceToken(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	secret, end := b.create(t, "st-1", "backup"), b.now.Add(24*time.Hour)
	who := sshgate.Identity{Issuer: sshgate.ServiceIssuer, Subject: "st-1"}
	first, key := TokenCredential(secret, who), sshgate.Credential{Key: "SHA256:st-1", Identity: who.Key()}
	b.stays(t, "the secret", first, end, "", "")
	b.stays(t, "the key", key, end, "", "")
	b.stays(t, "another key", sshgate.Credential{Key: "SHA256:x", Identity: who.Key()}, end, CodeTokenRevoked, "revoked")
	b.stays(t, "no key and no secret", sshgate.Credential{Identity: who.Key()}, end, CodeTokenRevoked, "revoked")
	rec, err := b.store.ServiceToken(ctx, "st-1")
	if err != nil || !rec.LastUsedAt.IsZero() {
		t.Errorf("to check is a use: %v, %v", rec.LastUsedAt, err)
	}

	next, hash := NewSecret()
	overlap := b.now.Add(time.Hour)
	if err := b.store.RotateServiceToken(ctx, "st-1", store.Rotation{NewHash: hash, PreviousUntil: overlap}); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "rotated, with time left", first, overlap, "", "")
	b.stays(t, "the new secret", TokenCredential(next, who), end, "", "")
	b.now = overlap
	b.stays(t, "after that time", first, end, CodeTokenExpired, "this secret of the service token backup was replaced and ended on")
	_, hash = NewSecret()
	if err := b.store.RotateServiceToken(ctx, "st-1", store.Rotation{NewHash: hash, PreviousUntil: b.now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "rotated twice", first, end, CodeTokenExpired, "was replaced; use the new one")
	if err := b.store.RevokeServiceToken(ctx, "st-1", b.now); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "revoked", TokenCredential(next, who), end, CodeTokenRevoked, "the service token backup was revoked on")
	b.stays(t, "its key", key, end, CodeTokenRevoked, "the service token backup was revoked on")
	who.Subject = "st-none"
	b.stays(t, "none", TokenCredential(next, who), end, CodeTokenRevoked, "")
}

func TestCheckSignIn(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	b.cfg.Logins = b.store
	who, until := tokenPerson(), b.now.Add(time.Hour)
	key := sshgate.Credential{Key: "SHA256:a", Identity: who.Key()}
	b.stays(t, "unknown", key, until, CodeSignInRevoked, "your sign-in was revoked")
	if err := b.store.BindKey(ctx, sshgate.KeyLogin{Fingerprint: "SHA256:a", Identity: who, ExpiresAt: until}); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "remembered", key, until, "", "")
	token, err := b.Issue(ctx, who, until)
	if err != nil {
		t.Fatal(err)
	}
	access := TokenCredential(token, who)
	if strings.Contains(access.Hash, token) {
		t.Error("the credential holds the token")
	}
	b.stays(t, "access token", access, until, "", "")
	other := access
	other.Identity.Subject = "u-2"
	b.stays(t, "another's", other, until, CodeSignInRevoked, "")
	b.now = until
	b.stays(t, "access token expired", access, until, CodeTokenExpired, "the access token expired on")
	b.stays(t, "sign-in expired", key, until, CodeSignInRevoked, "")
	b.now = until.Add(-time.Minute)
	if err := b.Revoke(ctx, token); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "access token revoked", access, until, CodeSignInRevoked, "your sign-in was revoked")

	job := sshgate.Identity{Kind: sshgate.Workload, Issuer: "https://ci", Subject: "j-1"}
	if token, err = b.Issue(ctx, job, b.now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "a job's access token", TokenCredential(token, job), time.Time{}, "", "")
	b.now = b.now.Add(time.Second)
	b.stays(t, "a job's that has expired", TokenCredential(token, job), time.Time{}, "", "")
	if err := b.Revoke(ctx, token); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "a job's that was revoked", TokenCredential(token, job), time.Time{}, CodeSignInRevoked, "")

	who.Subject = "u-2"
	if err := b.store.BindKey(ctx, sshgate.KeyLogin{Fingerprint: "SHA256:a", Identity: who, ExpiresAt: until}); err != nil {
		t.Fatal(err)
	}
	b.stays(t, "another signed in", key, until, CodeSignInRevoked, "your key now stands for another sign-in")
	b.store.Close()
	for what, c := range map[string]sshgate.Credential{"sign-in": key, "access token": access, "service token": {Key: "k", Identity: sshgate.IdentityKey{Issuer: sshgate.ServiceIssuer, Subject: "st-1"}}} {
		b.stays(t, what+" of a store that is gone", c, until, CodeUnavailable, "")
	}
}
