// Package storetest is what every store has to pass, whatever database is
// behind it. Call Run from the store's own test.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

// Store is the whole of what a store does. What the methods promise is written
// at store.SQLite.
type Store interface {
	BindKey(context.Context, sshgate.KeyLogin) error
	KeyLogin(ctx context.Context, fingerprint string) (sshgate.KeyLogin, error)
	KeyLogins(context.Context) ([]sshgate.KeyLogin, error)
	ForgetKey(ctx context.Context, fingerprint string) error
	ForgetIdentity(context.Context, sshgate.IdentityKey) (int, error)
	DeleteExpired(ctx context.Context, now time.Time) (int, error)

	HostKeys(context.Context, sshgate.OriginName) ([]sshgate.HostKeyPin, error)
	AllHostKeys(context.Context) ([]sshgate.HostKeyPin, error)
	PinHostKeys(context.Context, sshgate.OriginName, []sshgate.HostKeyPin) ([]sshgate.HostKeyPin, error)
	ForgetHostKeys(context.Context, sshgate.OriginName) (int, error)

	CreateServiceToken(context.Context, sshgate.ServiceTokenRecord) error
	ServiceToken(context.Context, sshgate.ServiceTokenID) (sshgate.ServiceTokenRecord, error)
	ServiceTokenByKey(ctx context.Context, fingerprint string) (sshgate.ServiceTokenRecord, error)
	ServiceTokens(context.Context) ([]sshgate.ServiceTokenRecord, error)
	RotateServiceToken(context.Context, sshgate.ServiceTokenID, store.Rotation) error
	RevokeServiceToken(ctx context.Context, id sshgate.ServiceTokenID, at time.Time) error
	AddConnector(context.Context, sshgate.ConnectorRecord) error
	Connector(ctx context.Context, serial string) (sshgate.ConnectorRecord, error)
	Connectors(context.Context) ([]sshgate.ConnectorRecord, error)
	RevokeConnectors(ctx context.Context, nameOrSerial string, at time.Time) (int, error)
	ConnectorRevocations(context.Context) (int, error)
	TouchConnector(ctx context.Context, serial string, at time.Time) error
	AddJoinToken(context.Context, sshgate.JoinTokenRecord) error
	JoinToken(ctx context.Context, hash []byte) (sshgate.JoinTokenRecord, error)
	JoinTokens(context.Context) ([]sshgate.JoinTokenRecord, error)
	RevokeJoinToken(ctx context.Context, id sshgate.JoinTokenID, at time.Time) error
	Join(ctx context.Context, id sshgate.JoinTokenID, rec sshgate.ConnectorRecord) error
	ClaimOrigin(ctx context.Context, origin sshgate.OriginName, connector string, at time.Time) (owner string, err error)
	ReleaseOrigin(context.Context, sshgate.OriginName) error
	OriginOwners(context.Context) ([]sshgate.OriginOwner, error)
	TouchServiceToken(ctx context.Context, id sshgate.ServiceTokenID, at time.Time) error

	PutAccessToken(context.Context, sshgate.AccessTokenRecord) error
	AccessToken(ctx context.Context, hash []byte) (sshgate.AccessTokenRecord, error)
	DeleteAccessToken(ctx context.Context, hash []byte) error
	AccessTokens(context.Context) ([]sshgate.AccessTokenRecord, error)

	Credentials(context.Context) (map[sshgate.Credential]time.Time, error)
	Version(context.Context) (int64, error)

	NoteUse(ctx context.Context, id sshgate.IdentityKey, target sshgate.Target, at time.Time) error
	LastUses(context.Context, sshgate.IdentityKey) ([]sshgate.LastUse, error)

	Ping(context.Context) error
	Close() error
}

// State opens one and the same state, each time as another process would. Run
// closes what it opens.
type State func(ctx context.Context, now func() time.Time) (Store, error)

// Run runs the suite. newState is called once for each test and returns state
// that is empty.
func Run(t *testing.T, newState func(t *testing.T) State) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, State)
	}{
		{"BindAndLookUp", testBindAndLookUp},
		{"BindReplaces", testBindReplaces},
		{"BindRefusesNobody", testBindRefusesNobody},
		{"Expiry", testExpiry},
		{"ForgetKey", testForgetKey},
		{"ForgetIdentity", testForgetIdentity},
		{"PinFirstComes", testPinFirstComes},
		{"PinRefusesForeignKeys", testPinRefusesForeignKeys},
		{"ForgetHostKeys", testForgetHostKeys},
		{"ServiceTokens", testServiceTokens},
		{"ServiceTokenRefused", testServiceTokenRefused},
		{"ServiceTokenTaken", testServiceTokenTaken},
		{"ServiceTokenByKey", testServiceTokenByKey},
		{"ServiceTokenRotation", testServiceTokenRotation},
		{"ServiceTokenRevocation", testServiceTokenRevocation},
		{"ServiceTokenTouch", testServiceTokenTouch},
		{"ServiceTokenRace", testServiceTokenRace},
		{"Connectors", testConnectors},
		{"ConnectorRevocation", testConnectorRevocation},
		{"ConnectorRenewal", testConnectorRenewal},
		{"JoinTokens", testJoinTokens},
		{"JoinRace", testJoinRace},
		{"OriginOwners", testOriginOwners},
		{"OwnerRace", testOwnerRace},
		{"AccessTokens", testAccessTokens},
		{"AccessTokenRefused", testAccessTokenRefused},
		{"AccessTokenSweep", testAccessTokenSweep},
		{"AccessTokensOfIdentity", testAccessTokensOfIdentity},
		{"LastUses", testLastUses},
		{"Credentials", testCredentials},
		{"Version", testVersion},
		{"SurvivesReopening", testSurvivesReopening},
		{"PinRace", testPinRace},
		{"WritersRace", testWritersRace},
		{"OpenRace", testOpenRace},
		{"ContextEnded", testContextEnded},
		{"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newState(t)) })
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// atNoon is a clock that stands still.
func atNoon() time.Time { return noon }

// alice returns a sign-in with every field set, good for an hour from noon.
func alice(fingerprint string) sshgate.KeyLogin {
	return sshgate.KeyLogin{
		Fingerprint: fingerprint,
		Identity: sshgate.Identity{
			Issuer:        "https://idp.example.com/",
			Subject:       "0031-alice",
			Email:         "alice@example.com",
			EmailVerified: true,
			Name:          "Alïce \"A\" O'Neil",
			Groups:        []string{"dev", "ops"},
			Claims: map[string]any{
				"acr": "mfa", "amr": []any{"pwd", "otp"}, "level": 3.0,
				"nested": map[string]any{"on": true, "off": nil},
			},
			SignedInAt: noon,
		},
		ExpiresAt: noon.Add(time.Hour),
	}
}

func bob(fingerprint string) sshgate.KeyLogin {
	login := alice(fingerprint)
	login.Identity = sshgate.Identity{Issuer: "https://idp.example.com/", Subject: "0032-bob", SignedInAt: noon}
	return login
}

func pin(origin, key string) sshgate.HostKeyPin {
	return sshgate.HostKeyPin{
		Origin: sshgate.OriginName(origin), Key: key, Connector: "con-1", PinnedAt: noon,
	}
}

// open opens the state, with a clock that shows noon, until the test ends.
func open(t *testing.T, state State) Store {
	t.Helper()
	return openWith(t, state, atNoon)
}

func openWith(t *testing.T, state State, now func() time.Time) Store {
	t.Helper()
	s, err := state(t.Context(), now)
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// reopen is open for a test that closes the store itself.
func reopen(t *testing.T, state State) Store {
	t.Helper()
	s, err := state(t.Context(), atNoon)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantDiff(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantNotFound(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got error %v, want ErrNotFound", err)
	}
}

func testBindAndLookUp(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	must(t, s.Ping(ctx))
	_, err := s.KeyLogin(ctx, "SHA256:a")
	wantNotFound(t, err)

	local := alice("SHA256:a")
	local.ExpiresAt = local.ExpiresAt.In(time.FixedZone("elsewhere", 3600)).Add(999 * time.Nanosecond)
	local.Identity.SignedInAt = local.Identity.SignedInAt.In(time.FixedZone("elsewhere", 3600))
	must(t, s.BindKey(ctx, local))
	must(t, s.BindKey(ctx, bob("SHA256:b")))

	got, err := s.KeyLogin(ctx, "SHA256:a")
	must(t, err)
	wantDiff(t, "in UTC, to the microsecond", alice("SHA256:a"), got)
	if got.ExpiresAt.Location() != time.UTC || got.Identity.SignedInAt.Location() != time.UTC {
		t.Errorf("times are not in UTC: %v, %v", got.ExpiresAt, got.Identity.SignedInAt)
	}
	for _, miss := range []string{"", "SHA256:", "SHA256:A", "SHA256:a ", "SHA256:%", "' OR 1=1 --"} {
		_, err := s.KeyLogin(ctx, miss)
		wantNotFound(t, err)
	}
	all, err := s.KeyLogins(ctx)
	must(t, err)
	wantDiff(t, "all", []sshgate.KeyLogin{alice("SHA256:a"), bob("SHA256:b")}, all)
}

func testBindReplaces(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	must(t, s.BindKey(ctx, alice("SHA256:a")))
	must(t, s.BindKey(ctx, bob("SHA256:a")))
	all, err := s.KeyLogins(ctx)
	must(t, err)
	wantDiff(t, "only the later", []sshgate.KeyLogin{bob("SHA256:a")}, all)

	// The earlier identity has lost the key for good.
	n, err := s.ForgetIdentity(ctx, alice("").Identity.Key())
	must(t, err)
	wantDiff(t, "keys of the earlier identity", 0, n)
}

func testBindRefusesNobody(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	noKey, noIssuer, noSubject := alice(""), alice("SHA256:a"), alice("SHA256:a")
	noIssuer.Identity.Issuer = ""
	noSubject.Identity.Subject = ""
	unencodable := alice("SHA256:a")
	unencodable.Identity.Claims = map[string]any{"f": func() {}}
	for name, login := range map[string]sshgate.KeyLogin{
		"no key": noKey, "no issuer": noIssuer, "no subject": noSubject, "claims that are no JSON": unencodable,
	} {
		if err := s.BindKey(ctx, login); err == nil {
			t.Errorf("%s: bound", name)
		}
	}
	all, err := s.KeyLogins(ctx)
	must(t, err)
	wantDiff(t, "nothing was bound", 0, len(all))
}

func testExpiry(t *testing.T, state State) {
	now := noon
	s, ctx := openWith(t, state, func() time.Time { return now }), t.Context()
	short, long, never := alice("SHA256:short"), alice("SHA256:long"), alice("SHA256:never")
	short.ExpiresAt, long.ExpiresAt, never.ExpiresAt = noon.Add(time.Microsecond), noon.Add(time.Hour), time.Time{}
	must(t, s.BindKey(ctx, short))
	must(t, s.BindKey(ctx, long))
	must(t, s.BindKey(ctx, never))

	_, err := s.KeyLogin(ctx, "SHA256:never") // without an expiry there is no sign-in
	wantNotFound(t, err)
	_, err = s.KeyLogin(ctx, "SHA256:short")
	must(t, err)
	now = short.ExpiresAt // the moment itself is too late
	_, err = s.KeyLogin(ctx, "SHA256:short")
	wantNotFound(t, err)
	live, err := s.KeyLogins(ctx)
	must(t, err)
	wantDiff(t, "live", []sshgate.KeyLogin{long}, live)

	for _, want := range []int{2, 0} {
		n, err := s.DeleteExpired(ctx, now)
		must(t, err)
		wantDiff(t, "deleted", want, n)
	}
	now = noon // gone, also for a clock that was set back
	_, err = s.KeyLogin(ctx, "SHA256:short")
	wantNotFound(t, err)
	_, err = s.KeyLogin(ctx, "SHA256:long")
	must(t, err)
}

func testForgetKey(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	must(t, s.BindKey(ctx, alice("SHA256:a")))
	must(t, s.BindKey(ctx, alice("SHA256:b")))
	must(t, s.ForgetKey(ctx, "SHA256:a"))
	wantNotFound(t, s.ForgetKey(ctx, "SHA256:a"))
	_, err := s.KeyLogin(ctx, "SHA256:a")
	wantNotFound(t, err)
	_, err = s.KeyLogin(ctx, "SHA256:b")
	must(t, err)
}

func testForgetIdentity(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	// The same subject at another provider is somebody else.
	namesake := alice("SHA256:c")
	namesake.Identity.Issuer = "https://other.example.com/"
	must(t, s.BindKey(ctx, alice("SHA256:a")))
	must(t, s.BindKey(ctx, alice("SHA256:b")))
	must(t, s.BindKey(ctx, namesake))

	for _, want := range []int{2, 0} {
		n, err := s.ForgetIdentity(ctx, alice("").Identity.Key())
		must(t, err)
		wantDiff(t, "forgotten", want, n)
	}
	left, err := s.KeyLogins(ctx)
	must(t, err)
	wantDiff(t, "left", []sshgate.KeyLogin{namesake}, left)
}

func testPinFirstComes(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	held, err := s.PinHostKeys(ctx, "web1", nil)
	must(t, err)
	wantDiff(t, "nothing to pin", 0, len(held))

	ed, rsa := pin("web1", "ssh-ed25519 AAAA"), pin("web1", "ssh-rsa AAAA")
	held, err = s.PinHostKeys(ctx, "web1", []sshgate.HostKeyPin{rsa, ed, rsa})
	must(t, err)
	first := []sshgate.HostKeyPin{ed, rsa}
	wantDiff(t, "pinned, each once", first, held)

	other := []sshgate.HostKeyPin{pin("web2", "ssh-ed25519 BBBB")}
	_, err = s.PinHostKeys(ctx, "web2", other)
	must(t, err)

	ecdsa := pin("web1", "ecdsa-sha2-nistp256 AAAA")
	for name, pins := range map[string][]sshgate.HostKeyPin{
		"nothing":                          nil,
		"the same":                         first,
		"a changed key":                    {pin("web1", "ssh-ed25519 CCCC")},
		"a changed key beside one pinned":  {pin("web1", "ssh-ed25519 CCCC"), rsa},
		"a new type alone":                 {ecdsa},
		"a new type beside a changed key":  {ecdsa, pin("web1", "ssh-ed25519 CCCC"), rsa},
		"a new type, the changed key last": {ecdsa, rsa, pin("web1", "ssh-ed25519 CCCC")},
	} {
		held, err = s.PinHostKeys(ctx, "web1", pins)
		must(t, err)
		wantDiff(t, "the first still hold after "+name, first, held)
	}
	held, err = s.PinHostKeys(ctx, "web1", []sshgate.HostKeyPin{ecdsa, ed})
	must(t, err)
	all := []sshgate.HostKeyPin{ecdsa, ed, rsa}
	wantDiff(t, "a new type beside a pinned key is added", all, held)

	held, err = s.HostKeys(ctx, "web1")
	must(t, err)
	wantDiff(t, "looked up", all, held)
	held, err = s.HostKeys(ctx, "web3")
	must(t, err)
	wantDiff(t, "of an origin that has none", 0, len(held))
	held, err = s.AllHostKeys(ctx)
	must(t, err)
	wantDiff(t, "all", append(all, other...), held)
}

func testPinRefusesForeignKeys(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	for name, pins := range map[string][]sshgate.HostKeyPin{
		"another origin's": {pin("web1", "ssh-ed25519 AAAA"), pin("web2", "ssh-ed25519 AAAA")},
		"an empty key":     {{Origin: "web1"}},
	} {
		if _, err := s.PinHostKeys(ctx, "web1", pins); err == nil {
			t.Errorf("%s: pinned", name)
		}
	}
	if _, err := s.PinHostKeys(ctx, "", nil); err == nil {
		t.Error("an origin without a name: pinned")
	}
	held, err := s.AllHostKeys(ctx)
	must(t, err)
	wantDiff(t, "nothing was pinned", 0, len(held))
}

func testForgetHostKeys(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	_, err := s.PinHostKeys(ctx, "web1", []sshgate.HostKeyPin{pin("web1", "ssh-ed25519 AAAA"), pin("web1", "ssh-rsa BBBB")})
	must(t, err)
	_, err = s.PinHostKeys(ctx, "web2", []sshgate.HostKeyPin{pin("web2", "ssh-ed25519 AAAA")})
	must(t, err)
	for _, want := range []int{2, 0} {
		n, err := s.ForgetHostKeys(ctx, "web1")
		must(t, err)
		wantDiff(t, "forgotten", want, n)
	}
	renewed := []sshgate.HostKeyPin{pin("web1", "ssh-ed25519 CCCC")}
	held, err := s.PinHostKeys(ctx, "web1", renewed)
	must(t, err)
	wantDiff(t, "the next are pinned", renewed, held)
	held, err = s.HostKeys(ctx, "web2")
	must(t, err)
	wantDiff(t, "another origin's stay", 1, len(held))
}

func testSurvivesReopening(t *testing.T, state State) {
	ctx := t.Context()
	s := reopen(t, state)
	pins := []sshgate.HostKeyPin{pin("web1", "ssh-ed25519 AAAA")}
	err := s.BindKey(ctx, alice("SHA256:a"))
	_, pinErr := s.PinHostKeys(ctx, "web1", pins)
	machine, access := serviceToken("backup"), accessToken("a")
	must(t, errors.Join(err, pinErr, s.CreateServiceToken(ctx, machine), s.PutAccessToken(ctx, access), s.Close()))

	s = open(t, state)
	login, err := s.KeyLogin(ctx, "SHA256:a")
	must(t, err)
	wantDiff(t, "the sign-in", alice("SHA256:a"), login)
	held, err := s.HostKeys(ctx, "web1")
	must(t, err)
	wantDiff(t, "the pins", pins, held)
	token, err := s.ServiceToken(ctx, machine.ID)
	must(t, err)
	wantDiff(t, "the service token", machine, token)
	bearer, err := s.AccessToken(ctx, access.Hash)
	must(t, err)
	wantDiff(t, "the access token", access, bearer)
}

// testPinRace has connectors report different keys of one origin at once, some
// of them to another process: all must be told the same winner.
func testPinRace(t *testing.T, state State) {
	ctx := t.Context()
	stores := []Store{open(t, state), open(t, state)}
	const racers = 16
	held := make([][]sshgate.HostKeyPin, racers)
	concurrently(t, racers, func(i int) (err error) {
		key := fmt.Sprintf("KEY%02d", i)
		held[i], err = stores[i%len(stores)].PinHostKeys(ctx, "web1", []sshgate.HostKeyPin{
			pin("web1", "ssh-ed25519 "+key), pin("web1", "ssh-rsa "+key),
		})
		return err
	})
	if len(held[0]) != 2 {
		t.Fatalf("%d keys are pinned, want the 2 of one racer", len(held[0]))
	}
	for i := range held {
		wantDiff(t, fmt.Sprintf("racer %d", i), held[0], held[i])
	}
}

// testWritersRace has two processes write and read at once: nobody may fail
// because another writes, and nothing may be lost.
func testWritersRace(t *testing.T, state State) {
	ctx := t.Context()
	stores := []Store{open(t, state), open(t, state)}
	const writers, rounds = 8, 12
	concurrently(t, writers, func(i int) error {
		s := stores[i%len(stores)]
		for round := range rounds {
			fingerprint := fmt.Sprintf("SHA256:%02d-%02d", i, round)
			if err := s.BindKey(ctx, alice(fingerprint)); err != nil {
				return err
			}
			if err := s.BindKey(ctx, alice("SHA256:shared")); err != nil {
				return err
			}
			if _, err := s.KeyLogin(ctx, fingerprint); err != nil {
				return fmt.Errorf("read one's own write: %w", err)
			}
			if _, err := s.DeleteExpired(ctx, noon); err != nil {
				return err
			}
		}
		return nil
	})
	all, err := stores[0].KeyLogins(ctx)
	must(t, err)
	wantDiff(t, "sign-ins", writers*rounds+1, len(all))
}

// testOpenRace has several processes open new state at once.
func testOpenRace(t *testing.T, state State) {
	concurrently(t, 6, func(i int) error {
		s, err := state(t.Context(), atNoon)
		if err != nil {
			return err
		}
		err = s.BindKey(t.Context(), alice(fmt.Sprintf("SHA256:%d", i)))
		return errors.Join(err, s.Close())
	})
	all, err := open(t, state).KeyLogins(t.Context())
	must(t, err)
	wantDiff(t, "sign-ins", 6, len(all))
}

func testContextEnded(t *testing.T, state State) {
	s := open(t, state)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(s) {
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got error %v, want context.Canceled", name, err)
		}
	}
	for name, call := range calls(s) {
		if err := call(t.Context()); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s after a cancelled call: %v", name, err)
		}
	}
}

func testClosed(t *testing.T, state State) {
	s := reopen(t, state)
	must(t, s.Close())
	must(t, s.Close())
	for name, call := range calls(s) {
		if err := call(t.Context()); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s on a closed store: got error %v, want another", name, err)
		}
	}
}

// calls returns every method that takes a context, for tests of how all fail.
func calls(s Store) map[string]func(context.Context) error {
	pins := []sshgate.HostKeyPin{pin("web1", "ssh-ed25519 AAAA")}
	return map[string]func(context.Context) error{
		"BindKey":        func(ctx context.Context) error { return s.BindKey(ctx, alice("SHA256:a")) },
		"KeyLogin":       func(ctx context.Context) error { _, err := s.KeyLogin(ctx, "SHA256:a"); return err },
		"KeyLogins":      func(ctx context.Context) error { _, err := s.KeyLogins(ctx); return err },
		"ForgetKey":      func(ctx context.Context) error { return s.ForgetKey(ctx, "SHA256:a") },
		"ForgetIdentity": func(ctx context.Context) error { _, err := s.ForgetIdentity(ctx, alice("").Identity.Key()); return err },
		"DeleteExpired":  func(ctx context.Context) error { _, err := s.DeleteExpired(ctx, noon); return err },
		"HostKeys":       func(ctx context.Context) error { _, err := s.HostKeys(ctx, "web1"); return err },
		"AllHostKeys":    func(ctx context.Context) error { _, err := s.AllHostKeys(ctx); return err },
		"PinHostKeys":    func(ctx context.Context) error { _, err := s.PinHostKeys(ctx, "web1", pins); return err },
		"ForgetHostKeys": func(ctx context.Context) error { _, err := s.ForgetHostKeys(ctx, "web1"); return err },
		"Ping":           s.Ping,
		"Credentials":    func(ctx context.Context) error { _, err := s.Credentials(ctx); return err },
		"Version":        func(ctx context.Context) error { _, err := s.Version(ctx); return err },
		"AccessTokens":   func(ctx context.Context) error { _, err := s.AccessTokens(ctx); return err },

		"CreateServiceToken": func(ctx context.Context) error {
			return ignore(store.ErrExists, s.CreateServiceToken(ctx, serviceToken("backup")))
		},
		"ServiceToken":      func(ctx context.Context) error { _, err := s.ServiceToken(ctx, "st-backup"); return err },
		"ServiceTokenByKey": func(ctx context.Context) error { _, err := s.ServiceTokenByKey(ctx, "SHA256:a"); return err },
		"ServiceTokens":     func(ctx context.Context) error { _, err := s.ServiceTokens(ctx); return err },
		"RotateServiceToken": func(ctx context.Context) error {
			return ignore(store.ErrRevoked, s.RotateServiceToken(ctx, "st-backup", store.Rotation{NewHash: hash("n"), PreviousUntil: noon}))
		},
		"RevokeServiceToken": func(ctx context.Context) error { return s.RevokeServiceToken(ctx, "st-backup", noon) },
		"TouchServiceToken":  func(ctx context.Context) error { return s.TouchServiceToken(ctx, "st-backup", noon) },
		"PutAccessToken":     func(ctx context.Context) error { return s.PutAccessToken(ctx, accessToken(rand.Text())) },
		"AccessToken":        func(ctx context.Context) error { _, err := s.AccessToken(ctx, hash("a")); return err },
		"DeleteAccessToken":  func(ctx context.Context) error { return s.DeleteAccessToken(ctx, hash("a")) },
	}
}

// ignore takes an error that a call may well give for none.
func ignore(expected, err error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// concurrently runs n goroutines that start together, and fails the test for
// each that fails.
func concurrently(t *testing.T, n int, run func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			if err := run(i); err != nil {
				t.Errorf("goroutine %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
}
