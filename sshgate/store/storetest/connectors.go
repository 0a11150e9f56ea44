package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func connector(serial, name string) sshgate.ConnectorRecord {
	return sshgate.ConnectorRecord{
		Serial: serial, Connector: name, Hostnames: []string{name, "*." + name}, IssuedAt: noon, ExpiresAt: noon.Add(time.Hour),
	}
}

func testConnectors(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	none, err := s.Connectors(ctx)
	must(t, err)
	wantDiff(t, "of new state", 0, len(none))
	_, err = s.Connector(ctx, "1a")
	wantNotFound(t, err)
	_, err = s.RevokeConnectors(ctx, "rack1", noon)
	wantNotFound(t, err)

	given := connector("1a", "rack1")
	given.RevokedAt, given.LastSeenAt = noon, noon // not taken
	must(t, s.AddConnector(ctx, given))
	must(t, s.AddConnector(ctx, connector("2b", "rack1")))
	must(t, s.AddConnector(ctx, connector("3c", "lab")))
	if err := s.AddConnector(ctx, connector("3c", "another")); err == nil {
		t.Error("a serial number was taken twice")
	}
	for _, bad := range []sshgate.ConnectorRecord{connector("", "x"), connector("4d", "")} {
		if err := s.AddConnector(ctx, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	all, err := s.Connectors(ctx)
	must(t, err)
	wantDiff(t, "by name", []sshgate.ConnectorRecord{connector("3c", "lab"), connector("1a", "rack1"), connector("2b", "rack1")}, all)

	must(t, s.TouchConnector(ctx, "1a", noon))
	must(t, s.TouchConnector(ctx, "1a", noon.Add(30*time.Second))) // too soon to note
	must(t, s.TouchConnector(ctx, "unknown", noon))
	seen, err := s.Connector(ctx, "1a")
	must(t, err)
	wantDiff(t, "last seen", noon, seen.LastSeenAt)
}

func testConnectorRevocation(t *testing.T, state State) {
	s, ctx := open(t, state), t.Context()
	for serial, name := range map[string]string{"1a": "rack1", "2b": "rack1", "3c": "rack1", "4d": "lab"} {
		must(t, s.AddConnector(ctx, connector(serial, name)))
	}
	revoke := func(what string, at time.Time, want int) {
		t.Helper()
		n, err := s.RevokeConnectors(ctx, what, at)
		must(t, err)
		wantDiff(t, "revoked by "+what, want, n)
	}
	count := func(want int) {
		t.Helper()
		n, err := s.ConnectorRevocations(ctx)
		must(t, err)
		wantDiff(t, "revoked in all", want, n)
	}
	count(0)
	revoke("2b", noon, 1)
	count(1)
	revoke("rack1", noon.Add(time.Minute), 2)
	revoke("rack1", noon.Add(time.Hour), 0)
	count(3)
	for serial, want := range map[string]time.Time{"1a": noon.Add(time.Minute), "2b": noon, "4d": {}} {
		rec, err := s.Connector(ctx, serial)
		must(t, err)
		wantDiff(t, serial+" revoked at", want, rec.RevokedAt)
	}
	if _, err := s.RevokeConnectors(ctx, "nobody", noon); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}
