package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/sshgate"
)

func testLastUses(t *testing.T, state State) {
	s := open(t, state)
	alice, bob := sshgate.IdentityKey{Issuer: "i", Subject: "alice"}, sshgate.IdentityKey{Issuer: "i", Subject: "bob"}
	web1 := sshgate.Target{Origin: "web1", Login: "deploy"}
	web1root := sshgate.Target{Origin: "web1", Login: "root"}
	db1 := sshgate.Target{Origin: "db1", Login: "deploy"}
	for _, use := range []struct {
		id     sshgate.IdentityKey
		target sshgate.Target
		at     time.Duration
	}{
		{alice, web1, 0}, {alice, web1root, time.Minute}, {alice, db1, 2 * time.Minute}, {bob, web1, time.Hour},
		{alice, web1, 5 * time.Minute}, {alice, web1, 5*time.Minute + time.Second}, // too soon to be noted again
		{alice, db1, time.Minute}, // late to arrive
	} {
		if err := s.NoteUse(t.Context(), use.id, use.target, noon.Add(use.at)); err != nil {
			t.Fatal(err)
		}
	}
	uses := func(id sshgate.IdentityKey, want ...sshgate.LastUse) {
		t.Helper()
		got, err := s.LastUses(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	at := func(d time.Duration) time.Time { return noon.Add(d).UTC() }
	uses(alice, sshgate.LastUse{Target: web1, At: at(5 * time.Minute)}, sshgate.LastUse{Target: db1, At: at(2 * time.Minute)}, sshgate.LastUse{Target: web1root, At: at(time.Minute)})
	uses(bob, sshgate.LastUse{Target: web1, At: at(time.Hour)})
	for _, bad := range []struct {
		id     sshgate.IdentityKey
		target sshgate.Target
	}{{sshgate.IdentityKey{}, web1}, {alice, sshgate.Target{Login: "deploy"}}} {
		if err := s.NoteUse(t.Context(), bad.id, bad.target, noon); err == nil {
			t.Errorf("%v was noted", bad)
		}
	}
	if _, err := s.DeleteExpired(t.Context(), noon.Add(365*24*time.Hour+time.Minute)); err != nil {
		t.Fatal(err)
	}
	uses(alice, sshgate.LastUse{Target: web1, At: at(5 * time.Minute)}, sshgate.LastUse{Target: db1, At: at(2 * time.Minute)})
}
