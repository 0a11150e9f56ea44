package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// serviceToken returns a new token with a secret and a key, both of its own, good
// for an hour from noon.
func serviceToken(name string) sshgate.ServiceTokenRecord {
	return sshgate.ServiceTokenRecord{
		ID: sshgate.ServiceTokenID("st-" + name), Name: name, SecretHash: hash(name),
		Key: "ssh-ed25519 " + name, Fingerprint: "SHA256:" + name,
		CreatedAt: noon, ExpiresAt: noon.Add(time.Hour),
	}
}

// accessToken returns alice's, good for an hour from noon.
func accessToken(secret string) sshgate.AccessTokenRecord {
	return sshgate.AccessTokenRecord{
		Hash: hash(secret), Identity: alice("").Identity, CreatedAt: noon, ExpiresAt: noon.Add(time.Hour),
	}
}

func wantError(t *testing.T, what string, want, err error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func testServiceTokens(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	none, err := s.ServiceTokens(ctx)
	must(t, err)
	wantDiff(t, "of new state", 0, len(none))
	_, err = s.ServiceToken(ctx, "st-backup")
	wantNotFound(t, err)

	local, secretOnly, keyOnly := serviceToken("backup"), serviceToken("alpha"), serviceToken("older")
	local.CreatedAt = noon.In(time.FixedZone("elsewhere", 3600)).Add(999 * time.Nanosecond)
	// What only happens later is not taken from the record.
	local.LastUsedAt, local.RevokedAt, local.PreviousHash, local.PreviousUntil = noon, noon, hash("x"), noon
	secretOnly.Key, secretOnly.Fingerprint = "", ""
	keyOnly.SecretHash, keyOnly.CreatedAt = nil, noon.Add(-time.Hour)
	for _, rec := range []sshgate.ServiceTokenRecord{local, secretOnly, keyOnly} {
		must(t, s.CreateServiceToken(ctx, rec))
	}
	for _, want := range []sshgate.ServiceTokenRecord{serviceToken("backup"), secretOnly, keyOnly} {
		got, err := s.ServiceToken(ctx, want.ID)
		must(t, err)
		wantDiff(t, want.Name, want, got)
	}
	for _, miss := range []sshgate.ServiceTokenID{"", "backup", "ST-backup", "st-backup ", "st-%"} {
		_, err := s.ServiceToken(ctx, miss)
		wantNotFound(t, err)
	}
	all, err := s.ServiceTokens(ctx)
	must(t, err)
	wantDiff(t, "the newest last", []sshgate.ServiceTokenRecord{keyOnly, serviceToken("backup"), secretOnly}, all)
}

func testServiceTokenRefused(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	for name, spoil := range map[string]func(*sshgate.ServiceTokenRecord){
		"no ID":                    func(r *sshgate.ServiceTokenRecord) { r.ID = "" },
		"an ID like a name":        func(r *sshgate.ServiceTokenRecord) { r.ID = "backup" },
		"no name":                  func(r *sshgate.ServiceTokenRecord) { r.Name = "" },
		"a name like an ID":        func(r *sshgate.ServiceTokenRecord) { r.Name = "st-other" },
		"neither secret nor key":   func(r *sshgate.ServiceTokenRecord) { r.SecretHash, r.Key, r.Fingerprint = nil, "", "" },
		"a secret, not its hash":   func(r *sshgate.ServiceTokenRecord) { r.SecretHash = []byte("hunter2") },
		"an empty hash":            func(r *sshgate.ServiceTokenRecord) { r.SecretHash = []byte{} },
		"a key, no fingerprint":    func(r *sshgate.ServiceTokenRecord) { r.Fingerprint = "" },
		"a fingerprint and no key": func(r *sshgate.ServiceTokenRecord) { r.Key = "" },
		"no end":                   func(r *sshgate.ServiceTokenRecord) { r.ExpiresAt = time.Time{} },
	} {
		rec := serviceToken("backup")
		spoil(&rec)
		if err := s.CreateServiceToken(ctx, rec); err == nil {
			t.Errorf("%s: created", name)
		}
	}
	all, err := s.ServiceTokens(ctx)
	must(t, err)
	wantDiff(t, "nothing was created", 0, len(all))
}

func testServiceTokenTaken(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	must(t, s.CreateServiceToken(ctx, serviceToken("backup")))
	sameID, sameName, sameKey := serviceToken("new"), serviceToken("new"), serviceToken("new")
	sameID.ID = "st-backup"
	sameName.Name = "backup"
	sameKey.Fingerprint = "SHA256:backup"
	for what, rec := range map[string]sshgate.ServiceTokenRecord{"ID": sameID, "name": sameName, "key": sameKey} {
		wantError(t, what, store.ErrExists, s.CreateServiceToken(ctx, rec))
	}
	all, err := s.ServiceTokens(ctx)
	must(t, err)
	wantDiff(t, "as before", []sshgate.ServiceTokenRecord{serviceToken("backup")}, all)

	// Two tokens without a key do not share one.
	for _, name := range []string{"a", "b"} {
		rec := serviceToken(name)
		rec.Key, rec.Fingerprint = "", ""
		must(t, s.CreateServiceToken(ctx, rec))
	}
	// A revoked token leaves its name and key to others, never its ID.
	must(t, s.RevokeServiceToken(ctx, "st-backup", noon))
	wantError(t, "ID of a revoked one", store.ErrExists, s.CreateServiceToken(ctx, sameID))
	sameName.Fingerprint = "SHA256:backup"
	must(t, s.CreateServiceToken(ctx, sameName))
}

func testServiceTokenByKey(t *testing.T, state State) {
	now := noon
	s, ctx := openWith(t, state, func() time.Time { return now }), t.Context()
	token := func(id string, created time.Time, good time.Duration) sshgate.ServiceTokenRecord {
		rec := serviceToken(id)
		rec.Key, rec.Fingerprint, rec.CreatedAt, rec.ExpiresAt = "ssh-ed25519 AAAA", "SHA256:k", created, created.Add(good)
		return rec
	}
	wantKey := func(id string) {
		t.Helper()
		got, err := s.ServiceTokenByKey(ctx, "SHA256:k")
		must(t, err)
		wantDiff(t, "the key's token", sshgate.ServiceTokenID(id), got.ID)
	}
	_, err := s.ServiceTokenByKey(ctx, "SHA256:k")
	wantNotFound(t, err)
	must(t, s.CreateServiceToken(ctx, token("first", noon.Add(-2*time.Hour), 9*time.Hour)))
	must(t, s.CreateServiceToken(ctx, serviceToken("other")))
	wantKey("st-first")
	must(t, s.RevokeServiceToken(ctx, "st-first", noon))
	wantKey("st-first")
	must(t, s.CreateServiceToken(ctx, token("second", noon.Add(-time.Hour), 9*time.Hour)))
	wantKey("st-second")
	must(t, s.RevokeServiceToken(ctx, "st-second", noon))
	wantKey("st-second") // the newest of those that are over
	// One that is good comes first, though its clock stamped it older than all.
	must(t, s.CreateServiceToken(ctx, token("third", noon.Add(-3*time.Hour), 4*time.Hour)))
	wantKey("st-third")
	now = noon.Add(time.Hour)
	wantKey("st-second")

	keyless := serviceToken("keyless")
	keyless.Key, keyless.Fingerprint = "", ""
	must(t, s.CreateServiceToken(ctx, keyless))
	_, err = s.ServiceTokenByKey(ctx, "") // not the tokens that have no key
	wantNotFound(t, err)
}

func testServiceTokenRotation(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	must(t, s.CreateServiceToken(ctx, serviceToken("backup")))
	must(t, s.CreateServiceToken(ctx, serviceToken("bystander")))
	must(t, s.RotateServiceToken(ctx, "st-backup", store.Rotation{NewHash: hash("second"), PreviousUntil: noon.Add(time.Minute)}))
	want := serviceToken("backup")
	want.SecretHash, want.PreviousHash, want.PreviousUntil = hash("second"), hash("backup"), noon.Add(time.Minute)
	got, err := s.ServiceToken(ctx, "st-backup")
	must(t, err)
	wantDiff(t, "rotated", want, got)

	must(t, s.RotateServiceToken(ctx, "st-backup", store.Rotation{NewHash: hash("third"), PreviousUntil: noon, ExpiresAt: noon.Add(9 * time.Hour)}))
	want.SecretHash, want.PreviousHash, want.PreviousUntil, want.ExpiresAt = hash("third"), hash("second"), noon, noon.Add(9*time.Hour)
	got, err = s.ServiceToken(ctx, "st-backup")
	must(t, err)
	wantDiff(t, "rotated again", want, got)

	keyOnly := serviceToken("key-only")
	keyOnly.SecretHash = nil
	must(t, s.CreateServiceToken(ctx, keyOnly))
	must(t, s.RevokeServiceToken(ctx, "st-bystander", noon))
	good := store.Rotation{NewHash: hash("x"), PreviousUntil: noon}
	wantError(t, "unknown", store.ErrNotFound, s.RotateServiceToken(ctx, "st-nobody", good))
	wantError(t, "revoked", store.ErrRevoked, s.RotateServiceToken(ctx, "st-bystander", good))
	if err := s.RotateServiceToken(ctx, "st-key-only", good); err == nil {
		t.Error("a token without a secret got one")
	}
	if err := s.RotateServiceToken(ctx, "st-backup", store.Rotation{NewHash: []byte("hunter2")}); err == nil {
		t.Error("a secret was taken for its hash")
	}
	for _, unchanged := range []sshgate.ServiceTokenRecord{want, keyOnly} {
		got, err := s.ServiceToken(ctx, unchanged.ID)
		must(t, err)
		wantDiff(t, "unchanged", unchanged, got)
	}
}

func testServiceTokenRevocation(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	wantNotFound(t, s.RevokeServiceToken(ctx, "st-backup", noon))
	must(t, s.CreateServiceToken(ctx, serviceToken("backup")))
	must(t, s.CreateServiceToken(ctx, serviceToken("bystander")))
	must(t, s.RevokeServiceToken(ctx, "st-backup", noon))
	must(t, s.RevokeServiceToken(ctx, "st-backup", noon.Add(time.Hour)))
	want := serviceToken("backup")
	want.RevokedAt = noon // of the first time
	all, err := s.ServiceTokens(ctx)
	must(t, err)
	wantDiff(t, "all", []sshgate.ServiceTokenRecord{want, serviceToken("bystander")}, all)
}

func testServiceTokenTouch(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	must(t, s.CreateServiceToken(ctx, serviceToken("backup")))
	must(t, s.CreateServiceToken(ctx, serviceToken("bystander")))
	for _, touch := range []struct{ at, want time.Duration }{
		{0, 0}, {time.Second, 0}, {time.Minute - time.Microsecond, 0}, {time.Minute, time.Minute}, {-time.Hour, time.Minute},
	} {
		must(t, s.TouchServiceToken(ctx, "st-backup", noon.Add(touch.at)))
		got, err := s.ServiceToken(ctx, "st-backup")
		must(t, err)
		wantDiff(t, fmt.Sprintf("used at noon and %s", touch.at), noon.Add(touch.want), got.LastUsedAt)
	}
	other, err := s.ServiceToken(ctx, "st-bystander")
	must(t, err)
	wantDiff(t, "the other", serviceToken("bystander"), other)
}

// testServiceTokenRace has processes create tokens of one name, and of one key,
// at once: one of them wins.
func testServiceTokenRace(t *testing.T, state State) {
	stores := []Store{open(t, state), open(t, state)}
	const racers = 16
	created := make([]bool, racers)
	concurrently(t, racers, func(i int) error {
		rec := serviceToken(fmt.Sprintf("t%02d", i))
		rec.Name = "same"
		if i%2 == 0 {
			rec.Fingerprint = "SHA256:same"
		}
		err := stores[i%3%2].CreateServiceToken(t.Context(), rec)
		created[i] = err == nil
		return ignore(store.ErrExists, err)
	})
	winners := 0
	for _, won := range created {
		if won {
			winners++
		}
	}
	all, err := stores[0].ServiceTokens(t.Context())
	must(t, err)
	wantDiff(t, "winners, tokens", [2]int{1, 1}, [2]int{winners, len(all)})
}

func testAccessTokens(t *testing.T, state State) {
	now := noon
	s, ctx := openWith(t, state, func() time.Time { return now }), t.Context()
	_, err := s.AccessToken(ctx, hash("a"))
	wantNotFound(t, err)
	must(t, s.PutAccessToken(ctx, accessToken("a")))
	other := accessToken("b")
	other.Identity = bob("").Identity
	must(t, s.PutAccessToken(ctx, other))

	stolen := accessToken("a")
	stolen.Identity = bob("").Identity
	wantError(t, "the same token again", store.ErrExists, s.PutAccessToken(ctx, stolen))
	got, err := s.AccessToken(ctx, hash("a"))
	must(t, err)
	wantDiff(t, "as it was put", accessToken("a"), got)
	now = noon.Add(2 * time.Hour)
	got, err = s.AccessToken(ctx, hash("a"))
	must(t, err)
	wantDiff(t, "expired, and told so by its times", accessToken("a"), got)

	for _, miss := range [][]byte{nil, {}, hash("a")[:31], append(hash("a"), 0), []byte("a")} {
		_, err := s.AccessToken(ctx, miss)
		wantNotFound(t, err)
	}
	must(t, s.DeleteAccessToken(ctx, hash("a")))
	wantNotFound(t, s.DeleteAccessToken(ctx, hash("a")))
	_, err = s.AccessToken(ctx, hash("a"))
	wantNotFound(t, err)
	_, err = s.AccessToken(ctx, hash("b"))
	must(t, err)
}

func testAccessTokenRefused(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	for name, spoil := range map[string]func(*sshgate.AccessTokenRecord){
		"no hash":               func(r *sshgate.AccessTokenRecord) { r.Hash = nil },
		"a token, not its hash": func(r *sshgate.AccessTokenRecord) { r.Hash = []byte("sga_x") },
		"no issuer":             func(r *sshgate.AccessTokenRecord) { r.Identity.Issuer = "" },
		"no subject":            func(r *sshgate.AccessTokenRecord) { r.Identity.Subject = "" },
		"no end":                func(r *sshgate.AccessTokenRecord) { r.ExpiresAt = time.Time{} },
		"claims that are no JSON": func(r *sshgate.AccessTokenRecord) {
			r.Identity.Claims = map[string]any{"f": func() {}}
		},
	} {
		rec := accessToken("a")
		spoil(&rec)
		if err := s.PutAccessToken(ctx, rec); err == nil {
			t.Errorf("%s: kept", name)
		}
		_, err := s.AccessToken(ctx, rec.Hash)
		wantNotFound(t, err)
	}
}

func testAccessTokenSweep(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	const week = 7 * 24 * time.Hour
	must(t, s.PutAccessToken(ctx, accessToken("a")))
	later := accessToken("later")
	later.ExpiresAt = later.ExpiresAt.Add(time.Microsecond)
	must(t, s.PutAccessToken(ctx, later))
	must(t, s.BindKey(ctx, alice("SHA256:a")))
	must(t, s.CreateServiceToken(ctx, serviceToken("backup")))
	end := noon.Add(time.Hour)
	for _, sweep := range []struct {
		at   time.Time
		want int
	}{{end, 1}, {end.Add(week - time.Microsecond), 0}, {end.Add(week), 1}, {end.Add(week), 0}} {
		n, err := s.DeleteExpired(ctx, sweep.at)
		must(t, err)
		wantDiff(t, "deleted", sweep.want, n)
	}
	_, err := s.AccessToken(ctx, hash("a"))
	wantNotFound(t, err)
	_, err = s.AccessToken(ctx, hash("later"))
	must(t, err)
	_, err = s.ServiceToken(ctx, "st-backup") // a record of what there was
	must(t, err)
}

func testAccessTokensOfIdentity(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	namesake := accessToken("c")
	namesake.Identity.Issuer = "https://other.example.com/"
	for _, rec := range []sshgate.AccessTokenRecord{accessToken("a"), accessToken("b"), namesake} {
		must(t, s.PutAccessToken(ctx, rec))
	}
	must(t, s.BindKey(ctx, alice("SHA256:a")))
	for _, want := range []int{3, 0} {
		n, err := s.ForgetIdentity(ctx, alice("").Identity.Key())
		must(t, err)
		wantDiff(t, "forgotten", want, n)
	}
	for _, secret := range []string{"a", "b"} {
		_, err := s.AccessToken(ctx, hash(secret))
		wantNotFound(t, err)
	}
	_, err := s.AccessToken(ctx, namesake.Hash)
	must(t, err)
	left, err := s.AccessTokens(ctx)
	must(t, err)
	wantDiff(t, "left", []sshgate.AccessTokenRecord{namesake}, left)
}
