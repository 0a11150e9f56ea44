package authflow

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

// tokenBench is a Tokens on a real store, with a clock of its own.
type tokenBench struct {
	*Tokens
	store *store.SQLite
	now   time.Time
	log   bytes.Buffer
}

func newTokenBench(t *testing.T) *tokenBench {
	t.Helper()
	b := &tokenBench{now: time.Date(2026, 11, 24, 10, 30, 0, 0, time.UTC)}
	clock := func() time.Time { return b.now }
	var err error
	b.store, err = store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "state.db"), clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	b.Tokens = NewTokens(TokensConfig{
		Access: b.store, Services: b.store, Now: clock, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	return b
}

// create adds a service token that is good for a day, and returns its secret.
func (b *tokenBench) create(t *testing.T, id, name string) string {
	t.Helper()
	secret, hash := NewSecret()
	err := b.store.CreateServiceToken(t.Context(), sshgate.ServiceTokenRecord{
		ID: sshgate.ServiceTokenID(id), Name: name, SecretHash: hash,
		Key: "ssh-ed25519 " + id, Fingerprint: "SHA256:" + id,
		CreatedAt: b.now, ExpiresAt: b.now.Add(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func tokenPerson() sshgate.Identity {
	return sshgate.Identity{
		Issuer: "https://idp.example.com", Subject: "u-1", Email: "alice@example.com", EmailVerified: true,
		Groups: []string{"eng"}, SignedInAt: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC),
	}
}

// wantSentence checks that a failure says something, and that neither of its
// texts has a secret in it.
func wantSentence(t *testing.T, failure *Failure, want string, secrets ...string) {
	t.Helper()
	if !strings.Contains(failure.Sentence, want) {
		t.Errorf("the sentence is %q, want %q in it", failure.Sentence, want)
	}
	for _, secret := range secrets {
		if strings.Contains(failure.Error(), secret) || strings.Contains(failure.Error(), secret[5:30]) {
			t.Errorf("a secret is in %q", failure.Error())
		}
	}
}

func TestAccessToken(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	expires := b.now.Add(time.Hour)
	token, err := b.Issue(ctx, tokenPerson(), expires)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(token, "sga_") {
		t.Errorf("the token is %q", token)
	}
	id, until, err := b.Access(ctx, token)
	if err != nil || !reflect.DeepEqual(id, tokenPerson()) || !until.Equal(expires) {
		t.Fatalf("%+v, %v, %v", id, until, err)
	}
	second, err := b.Issue(ctx, tokenPerson(), expires)
	if err != nil || second == token {
		t.Fatalf("%q, %v", second, err)
	}

	b.now = expires.Add(-time.Nanosecond)
	if _, _, err := b.Access(ctx, token); err != nil {
		t.Error("the moment before its end:", err)
	}
	b.now = expires
	id, _, err = b.Access(ctx, token)
	wantSentence(t, wantFailure(t, err, CodeTokenExpired), "expired on 2026-11-24 11:30 UTC; sign in again", token)
	if id.Subject != "" {
		t.Errorf("an identity came with the error: %+v", id)
	}

	b.now = expires.Add(-time.Minute)
	for range 2 { // the second time there is none
		if err := b.Revoke(ctx, token); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = b.Access(ctx, token)
	wantSentence(t, wantFailure(t, err, CodeTokenUnknown), "not known here", token)
	if _, _, err := b.Access(ctx, second); err != nil {
		t.Error("the other one:", err)
	}
	if err := b.Revoke(ctx, "nonsense"); err != nil {
		t.Error(err)
	}
}

func TestIssueRefuses(t *testing.T) {
	b := newTokenBench(t)
	machine, nobody, nowhere, odd := tokenPerson(), tokenPerson(), tokenPerson(), tokenPerson()
	machine.Kind, odd.Kind = sshgate.ServiceToken, "odd"
	nobody.Subject, nowhere.Issuer = "", ""
	for name, id := range map[string]sshgate.Identity{"service token": machine, "no subject": nobody, "no issuer": nowhere, "another kind": odd} {
		if token, err := b.Issue(t.Context(), id, b.now.Add(time.Hour)); err == nil {
			t.Errorf("%s: issued %q", name, token)
		}
	}
	_, err := b.Issue(t.Context(), tokenPerson(), b.now)
	wantFailure(t, err, CodeTokenExpired)
}

// brokenStore panics when it is asked: what has no checksum is not looked up.
type brokenStore struct {
	AccessTokenStore
	ServiceTokenStore
}

func TestNothingIsLookedUpWithoutAChecksum(t *testing.T) {
	tokens := NewTokens(TokensConfig{Access: brokenStore{}, Services: brokenStore{}})
	secret, _ := NewSecret()
	for _, token := range []string{"", "sga_", secret, newToken(accessPrefix)[:52] + "!"} {
		_, _, err := tokens.Access(t.Context(), token)
		wantFailure(t, err, CodeTokenUnknown)
	}
	for _, secret := range []string{"", "sgs_", newToken(accessPrefix), secret[:30] + "!" + secret[31:]} {
		_, _, err := tokens.Service(t.Context(), "st-1", secret)
		wantFailure(t, err, CodeTokenUnknown)
	}
}

func TestServiceToken(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	secret, other := b.create(t, "st-backup", "backup"), b.create(t, "st-other", "other")
	want := sshgate.Identity{
		Kind: sshgate.ServiceToken, Issuer: sshgate.ServiceIssuer, Subject: "st-backup", Name: "backup", SignedInAt: b.now,
	}
	id, expires, err := b.Service(ctx, "st-backup", secret)
	if err != nil || !reflect.DeepEqual(id, want) || !expires.Equal(b.now.Add(24*time.Hour)) {
		t.Fatalf("%+v, %v, %v", id, expires, err)
	}
	rec, err := b.store.ServiceToken(ctx, "st-backup")
	if err != nil || !rec.LastUsedAt.Equal(b.now) {
		t.Errorf("last used %v, %v", rec.LastUsedAt, err)
	}

	unknown, _ := NewSecret()
	var sentences []string
	for _, try := range []struct {
		id     sshgate.ServiceTokenID
		secret string
	}{{"st-backup", unknown}, {"st-backup", other}, {"st-nobody", secret}, {"", secret}, {"backup", secret}, {"st-backup\x1b[31m", secret}} {
		id, _, err := b.Service(ctx, try.id, try.secret)
		failure := wantFailure(t, err, CodeTokenUnknown)
		wantSentence(t, failure, "no service token with this ID and secret", try.secret)
		sentences = append(sentences, failure.Sentence)
		if id.Subject != "" {
			t.Errorf("an identity came with the error: %+v", id)
		}
	}
	for _, s := range sentences { // whoever lacks the secret learns nothing
		if s != sentences[0] {
			t.Errorf("%q and %q tell an ID that exists", s, sentences[0])
		}
	}
}

func TestServiceTokenIsOver(t *testing.T) {
	for _, over := range []struct {
		name, code, sentence string
		end                  func(t *testing.T, b *tokenBench)
	}{
		{"expired", CodeTokenExpired, "the service token backup expired on 2026-11-25 10:30 UTC; ask whoever runs the gateway",
			func(_ *testing.T, b *tokenBench) { b.now = b.now.Add(24 * time.Hour) }},
		{"revoked", CodeTokenRevoked, "the service token backup was revoked on 2026-11-24 10:30 UTC; ask whoever runs the gateway",
			func(t *testing.T, b *tokenBench) {
				if err := b.store.RevokeServiceToken(t.Context(), "st-backup", b.now); err != nil {
					t.Fatal(err)
				}
				b.now = b.now.Add(48 * time.Hour) // expired as well; revoked says more
			}},
	} {
		t.Run(over.name, func(t *testing.T) {
			b, ctx := newTokenBench(t), t.Context()
			secret := b.create(t, "st-backup", "backup")
			over.end(t, b)
			_, _, err := b.Service(ctx, "st-backup", secret)
			wantSentence(t, wantFailure(t, err, over.code), over.sentence, secret)
			_, _, registered, err := b.ServiceKey(ctx, "SHA256:st-backup")
			wantSentence(t, wantFailure(t, err, over.code), over.sentence)
			if !registered {
				t.Error("a key that is a machine's would be asked to sign in")
			}
			// Without the secret there is nothing to learn, not even the name.
			wrong, _ := NewSecret()
			_, _, err = b.Service(ctx, "st-backup", wrong)
			wantFailure(t, err, CodeTokenUnknown)
			rec, err := b.store.ServiceToken(ctx, "st-backup")
			if err != nil || !rec.LastUsedAt.IsZero() {
				t.Errorf("a token that is over was used: %v, %v", rec.LastUsedAt, err)
			}
		})
	}
}

func TestServiceTokenRotation(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	first := b.create(t, "st-backup", "backup")
	second, hash := NewSecret()
	until := b.now.Add(time.Hour)
	if err := b.store.RotateServiceToken(ctx, "st-backup", store.Rotation{NewHash: hash, PreviousUntil: until}); err != nil {
		t.Fatal(err)
	}
	if _, expires, err := b.Service(ctx, "st-backup", first); err != nil || !expires.Equal(until) {
		t.Errorf("the secret before, meanwhile: until %v, %v", expires, err)
	}
	if _, expires, err := b.Service(ctx, "st-backup", second); err != nil || !expires.Equal(b.now.Add(24*time.Hour)) {
		t.Errorf("the new secret: until %v, %v", expires, err)
	}
	b.now = until
	_, _, err := b.Service(ctx, "st-backup", first)
	wantSentence(t, wantFailure(t, err, CodeTokenExpired), "this secret of the service token backup was replaced and ended on 2026-11-24 11:30 UTC", first)
	if _, _, err := b.Service(ctx, "st-backup", second); err != nil {
		t.Error("the new secret, later:", err)
	}
	if err := b.store.RevokeServiceToken(ctx, "st-backup", b.now); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{first, second} {
		_, _, err := b.Service(ctx, "st-backup", secret)
		wantFailure(t, err, CodeTokenRevoked)
	}
}

func TestServiceKey(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	b.create(t, "st-backup", "backup")
	id, expires, registered, err := b.ServiceKey(ctx, "SHA256:st-backup")
	if err != nil || !registered || id.Kind != sshgate.ServiceToken || id.Subject != "st-backup" || id.Name != "backup" || !expires.Equal(b.now.Add(24*time.Hour)) {
		t.Errorf("%+v, %v, %v, %v", id, expires, registered, err)
	}
	if rec, err := b.store.ServiceToken(ctx, "st-backup"); err != nil || !rec.LastUsedAt.Equal(b.now) {
		t.Errorf("last used %v, %v", rec.LastUsedAt, err)
	}
	for _, stranger := range []string{"", "SHA256:", "SHA256:other"} {
		id, _, registered, err := b.ServiceKey(ctx, stranger)
		if err != nil || registered || id.Subject != "" {
			t.Errorf("%q: %+v, %v, %v", stranger, id, registered, err)
		}
	}
}

// TestTokensWithoutTheirStore closes the store: errors that blame no token.
func TestTokensWithoutTheirStore(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	secret := b.create(t, "st-backup", "backup")
	token, err := b.Issue(ctx, tokenPerson(), b.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	b.store.Close()
	calls := map[string]func(context.Context) error{
		"Issue": func(ctx context.Context) error {
			_, err := b.Issue(ctx, tokenPerson(), b.now.Add(time.Hour))
			return err
		},
		"Access":  func(ctx context.Context) error { _, _, err := b.Access(ctx, token); return err },
		"Revoke":  func(ctx context.Context) error { return b.Revoke(ctx, token) },
		"Service": func(ctx context.Context) error { _, _, err := b.Service(ctx, "st-backup", secret); return err },
		"ServiceKey": func(ctx context.Context) error {
			_, _, registered, err := b.ServiceKey(ctx, "SHA256:st-backup")
			if registered {
				t.Error("ServiceKey knows the key without a store")
			}
			return err
		},
	}
	gone, leave := context.WithCancel(ctx)
	leave()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			wantSentence(t, wantFailure(t, call(ctx), CodeUnavailable), "try again in a moment", token, secret)
			wantFailure(t, call(gone), CodeCancelled)
		})
	}
}

// fullDisk is a store that can be read but not written.
type fullDisk struct{ *store.SQLite }

func (fullDisk) TouchServiceToken(context.Context, sshgate.ServiceTokenID, time.Time) error {
	return errors.New("database or disk is full")
}

func TestFullDiskLocksNobodyOut(t *testing.T) {
	b := newTokenBench(t)
	secret := b.create(t, "st-backup", "backup")
	b.cfg.Services = fullDisk{b.store}
	if _, _, err := b.Service(t.Context(), "st-backup", secret); err != nil {
		t.Error(err)
	}
	if _, _, _, err := b.ServiceKey(t.Context(), "SHA256:st-backup"); err != nil {
		t.Error(err)
	}
	if log := b.log.String(); !strings.Contains(log, "disk is full") || strings.Contains(log, secret) {
		t.Errorf("the log: %s", log)
	}
}

// touchCounter counts what it is asked to write.
type touchCounter struct {
	*store.SQLite
	touches int
}

func (c *touchCounter) TouchServiceToken(ctx context.Context, id sshgate.ServiceTokenID, at time.Time) error {
	c.touches++
	return c.SQLite.TouchServiceToken(ctx, id, at)
}

// TestUseIsNotedSeldom: within a minute, the store is not asked to write.
func TestUseIsNotedSeldom(t *testing.T) {
	b, ctx := newTokenBench(t), t.Context()
	secret := b.create(t, "st-backup", "backup")
	counter := &touchCounter{SQLite: b.store}
	b.cfg.Services = counter
	start := b.now
	for _, use := range []struct{ at, noted time.Duration }{{0, 0}, {59 * time.Second, 0}, {61 * time.Second, 61 * time.Second}, {90 * time.Second, 61 * time.Second}} {
		b.now = start.Add(use.at)
		if _, _, err := b.Service(ctx, "st-backup", secret); err != nil {
			t.Fatal(err)
		}
		if rec, err := b.store.ServiceToken(ctx, "st-backup"); err != nil || !rec.LastUsedAt.Equal(start.Add(use.noted)) {
			t.Errorf("after %s: last used %v, %v", use.at, rec.LastUsedAt, err)
		}
	}
	if counter.touches != 2 {
		t.Errorf("the store was asked to write %d times, want 2", counter.touches)
	}
}
