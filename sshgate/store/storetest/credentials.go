package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func testCredentials(t *testing.T, state State) {
	now := noon
	s, ctx := openWith(t, state, func() time.Time { return now }), t.Context()
	want := func(what string, want map[sshgate.Credential]time.Time) {
		t.Helper()
		got, err := s.Credentials(ctx)
		must(t, err)
		wantDiff(t, what, want, got)
	}
	want("of new state", map[sshgate.Credential]time.Time{})

	person, machine := alice("").Identity.Key(), sshgate.IdentityKey{Issuer: sshgate.ServiceIssuer, Subject: "st-backup"}
	login := alice("SHA256:a")
	login.ExpiresAt = noon.Add(3 * time.Hour)
	must(t, s.BindKey(ctx, login))
	must(t, s.PutAccessToken(ctx, accessToken("one")))
	must(t, s.CreateServiceToken(ctx, serviceToken("backup")))
	must(t, s.RotateServiceToken(ctx, "st-backup", store.Rotation{NewHash: hash("new"), PreviousUntil: noon.Add(time.Minute)}))
	key, access := sshgate.Credential{Key: "SHA256:a", Identity: person}, sshgate.Credential{Hash: string(hash("one")), Identity: person}
	all := map[sshgate.Credential]time.Time{
		key: login.ExpiresAt, access: noon.Add(time.Hour),
		{Key: "SHA256:backup", Identity: machine}:         noon.Add(time.Hour),
		{Hash: string(hash("new")), Identity: machine}:    noon.Add(time.Hour),
		{Hash: string(hash("backup")), Identity: machine}: noon.Add(time.Minute),
	}
	want("all kinds", all)
	now = noon.Add(time.Minute)
	delete(all, sshgate.Credential{Hash: string(hash("backup")), Identity: machine})
	want("after the rotation", all)
	must(t, s.RevokeServiceToken(ctx, "st-backup", now))
	want("after the revocation", map[sshgate.Credential]time.Time{key: login.ExpiresAt, access: noon.Add(time.Hour)})
	now = noon.Add(time.Hour)
	want("when the access token has expired", map[sshgate.Credential]time.Time{key: login.ExpiresAt})
	tokens, err := s.AccessTokens(ctx)
	must(t, err)
	wantDiff(t, "expired access tokens", 0, len(tokens))
	must(t, s.ForgetKey(ctx, "SHA256:a"))
	want("when the key is forgotten", map[sshgate.Credential]time.Time{})
}

func testVersion(t *testing.T, state State) {
	s, other, ctx := open(t, state), open(t, state), t.Context()
	version := func() int64 {
		t.Helper()
		n, err := s.Version(ctx)
		must(t, err)
		return n
	}
	last := version()
	if n := version(); n != last {
		t.Errorf("nothing has changed: %d, then %d", last, n)
	}
	for what, change := range map[string]func() error{
		"this process":    func() error { return s.BindKey(ctx, alice("SHA256:a")) },
		"another process": func() error { return other.BindKey(ctx, alice("SHA256:b")) },
		"a removal":       func() error { _, err := other.ForgetIdentity(ctx, alice("").Identity.Key()); return err },
	} {
		must(t, change())
		n := version()
		if n == last {
			t.Errorf("%s changed the state, and the version is still %d", what, n)
		}
		last = n
	}
	if err := other.ForgetKey(ctx, "SHA256:none"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if n := version(); n != last {
		t.Errorf("nothing was removed: %d, then %d", last, n)
	}
}
