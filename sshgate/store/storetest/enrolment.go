package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func testConnectorRenewal(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	first := connector("1a", "rack1")
	first.Via, first.Approver, first.ApproverIssuer, first.ApproverSubject = sshgate.ViaSignIn, "alice@example.com", "https://idp", "alice"
	first.Machine, first.Address = "rack1.lan", netip.MustParseAddr("2001:db8::7")
	must(t, s.AddConnector(ctx, first))
	got, err := s.Connector(ctx, "1a")
	must(t, err)
	wantDiff(t, "all of it", first, got)

	renewal := func(serial, of string) sshgate.ConnectorRecord {
		rec := connector(serial, "rack1")
		rec.Via, rec.Renews = sshgate.ViaRenewal, of
		return rec
	}
	must(t, s.AddConnector(ctx, renewal("2b", "1a")))
	must(t, s.AddConnector(ctx, renewal("3c", "2b")))
	must(t, s.AddConnector(ctx, connector("4d", "rack1"))) // a replica, enrolled apart
	n, err := s.RevokeConnectors(ctx, "2b", noon)
	must(t, err)
	wantDiff(t, "revoked with what renews it", 2, n)
	for serial, revoked := range map[string]bool{"1a": false, "2b": true, "3c": true, "4d": false} {
		rec, err := s.Connector(ctx, serial)
		must(t, err)
		wantDiff(t, serial, revoked, !rec.RevokedAt.IsZero())
	}
	if err := s.AddConnector(ctx, renewal("5e", "3c")); !errors.Is(err, store.ErrRevoked) {
		t.Errorf("a revoked certificate was renewed: %v", err)
	}
	must(t, s.AddConnector(ctx, renewal("6f", "1a")))
}

func joinToken(n byte, uses int) sshgate.JoinTokenRecord {
	hash := sha256.Sum256([]byte{n})
	return sshgate.JoinTokenRecord{
		ID: sshgate.JoinTokenID(fmt.Sprintf("jt-%d", n)), Hash: hash[:], Connector: "rack1", Hostnames: []string{"web1", "*.lab"},
		Uses: uses, Left: uses, CreatedAt: noon, ExpiresAt: noon.Add(time.Hour),
	}
}

func testJoinTokens(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	given := joinToken(1, 2)
	must(t, s.AddJoinToken(ctx, given))
	if err := s.AddJoinToken(ctx, given); err == nil {
		t.Error("an ID was taken twice")
	}
	for _, spoil := range []func(*sshgate.JoinTokenRecord){
		func(r *sshgate.JoinTokenRecord) { r.ID = "" },
		func(r *sshgate.JoinTokenRecord) { r.Hash = nil },
		func(r *sshgate.JoinTokenRecord) { r.Uses = 0 },
		func(r *sshgate.JoinTokenRecord) { r.Hostnames = nil },
	} {
		bad := joinToken(9, 1)
		spoil(&bad)
		if err := s.AddJoinToken(ctx, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	got, err := s.JoinToken(ctx, given.Hash)
	must(t, err)
	wantDiff(t, "all of it", given, got)
	_, err = s.JoinToken(ctx, joinToken(2, 1).Hash)
	wantNotFound(t, err)

	join := func(id sshgate.JoinTokenID, serial string, at time.Time) error {
		rec := connector(serial, "rack1")
		rec.IssuedAt = at
		return s.Join(ctx, id, rec)
	}
	must(t, join("jt-1", "1a", noon))
	if err := join("jt-1", "1a", noon); err == nil || errors.Is(err, store.ErrSpent) {
		t.Errorf("a serial number was taken twice: %v", err)
	}
	must(t, join("jt-1", "2b", noon.Add(time.Minute))) // the failure before took no use
	spent := func(what string, err error, serial string) {
		t.Helper()
		if !errors.Is(err, store.ErrSpent) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := s.Connector(ctx, serial); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: the certificate was noted: %v", what, err)
		}
	}
	spent("a third use of two", join("jt-1", "3c", noon), "3c")
	spent("an unknown token", join("jt-7", "3c", noon), "3c")
	must(t, s.AddJoinToken(ctx, joinToken(2, 1)))
	spent("after its end", join("jt-2", "3c", noon.Add(time.Hour)), "3c")
	must(t, s.RevokeJoinToken(ctx, "jt-2", noon))
	must(t, s.RevokeJoinToken(ctx, "jt-2", noon.Add(time.Minute)))
	spent("a revoked one", join("jt-2", "3c", noon), "3c")
	wantNotFound(t, s.RevokeJoinToken(ctx, "jt-7", noon))

	all, err := s.JoinTokens(ctx)
	must(t, err)
	used, revoked := joinToken(1, 2), joinToken(2, 1)
	used.Left, used.LastUsedAt, revoked.RevokedAt = 0, noon.Add(time.Minute), noon
	wantDiff(t, "the list", []sshgate.JoinTokenRecord{used, revoked}, all)
}

// Of many who join with a token of three uses at once, three get in.
func testJoinRace(t *testing.T, state State) {
	must(t, open(t, state).AddJoinToken(t.Context(), joinToken(1, 3)))
	var joined atomic.Int32
	var wg sync.WaitGroup
	for range 2 { // as two processes
		s := open(t, state)
		for i := range 5 {
			serial := fmt.Sprintf("%p-%d", s, i)
			wg.Go(func() {
				switch err := s.Join(t.Context(), "jt-1", connector(serial, "rack1")); {
				case err == nil:
					joined.Add(1)
				case !errors.Is(err, store.ErrSpent):
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	wantDiff(t, "joined", int32(3), joined.Load())
}

func testOriginOwners(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	claim := func(origin sshgate.OriginName, who, want string) {
		t.Helper()
		owner, err := s.ClaimOrigin(ctx, origin, who, noon)
		must(t, err)
		wantDiff(t, fmt.Sprintf("the owner of %s when %s asks", origin, who), want, owner)
	}
	must(t, s.AddConnector(ctx, connector("1a", "rack1")))
	must(t, s.AddConnector(ctx, connector("2b", "rack1")))
	claim("web1", "rack1", "rack1")
	claim("web1", "rack2", "rack1")
	claim("web1", "rack1", "rack1")
	claim("old", "before-notes", "before-notes") // its certificate was never noted
	claim("old", "rack2", "before-notes")
	owners, err := s.OriginOwners(ctx)
	must(t, err)
	wantDiff(t, "owners", []sshgate.OriginOwner{{Origin: "old", Connector: "before-notes", Since: noon}, {Origin: "web1", Connector: "rack1", Since: noon}}, owners)

	_, err = s.RevokeConnectors(ctx, "1a", noon)
	must(t, err)
	claim("web1", "rack2", "rack1") // it has another certificate
	_, err = s.RevokeConnectors(ctx, "rack1", noon)
	must(t, err)
	claim("web1", "rack2", "rack2")

	must(t, s.ReleaseOrigin(ctx, "web1"))
	wantNotFound(t, s.ReleaseOrigin(ctx, "web1"))
	claim("web1", "rack3", "rack3")
	for _, bad := range [][2]string{{"", "rack1"}, {"web1", ""}} {
		if _, err := s.ClaimOrigin(ctx, sshgate.OriginName(bad[0]), bad[1], noon); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// However many claim an origin at once, all are told the same owner.
func testOwnerRace(t *testing.T, state State) {
	var mu sync.Mutex
	owners := map[string]int{}
	var wg sync.WaitGroup
	for range 2 {
		s := open(t, state)
		for i := range 5 {
			wg.Go(func() {
				owner, err := s.ClaimOrigin(t.Context(), "web1", fmt.Sprintf("rack%d", i), noon)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				owners[owner]++
			})
		}
	}
	wg.Wait()
	if len(owners) != 1 {
		t.Errorf("owners: %v", owners)
	}
}
