package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// TestFullDisk lets the file grow no further, which SQLite reports as a full
// disk: writes fail, what is there stays readable, and writing goes on when
// there is room again.
func TestFullDisk(t *testing.T) {
	s, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	login := sshgate.KeyLogin{
		Fingerprint: "SHA256:first",
		Identity: sshgate.Identity{
			Issuer: "https://idp.example.com", Subject: "alice", Name: strings.Repeat("n", 1000),
		},
		ExpiresAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if err := s.BindKey(ctx, login); err != nil {
		t.Fatal(err)
	}
	if _, err := s.write.ExecContext(ctx, `PRAGMA max_page_count = 1`); err != nil { // means: as large as it is
		t.Fatal(err)
	}
	full := func() (err error) {
		for i := range 100 {
			login.Fingerprint = fmt.Sprintf("SHA256:%d", i)
			if err = s.BindKey(ctx, login); err != nil {
				return err
			}
		}
		return nil
	}
	if err := full(); err == nil || !strings.Contains(err.Error(), "full") {
		t.Fatalf("got error %v, want that the disk is full", err)
	}
	if _, err := s.KeyLogin(ctx, "SHA256:first"); err != nil {
		t.Errorf("read from a full disk: %v", err)
	}
	if err := s.Ping(ctx); err != nil {
		t.Errorf("Ping on a full disk: %v", err)
	}
	if _, err := s.write.ExecContext(ctx, `PRAGMA max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if err := full(); err != nil {
		t.Errorf("write when there is room again: %v", err)
	}
}
