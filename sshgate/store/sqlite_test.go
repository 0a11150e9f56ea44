package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
	"github.com/sshgate/sshgate/sshgate/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(t *testing.T, path string) *store.SQLite {
	t.Helper()
	s, err := store.OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// login returns a sign-in that expires in 2100.
func login(fingerprint string) sshgate.KeyLogin {
	return sshgate.KeyLogin{
		Fingerprint: fingerprint,
		Identity:    sshgate.Identity{Issuer: "https://idp.example.com", Subject: "alice"},
		ExpiresAt:   time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.State {
		path := filepath.Join(t.TempDir(), "state.db")
		return func(ctx context.Context, now func() time.Time) (storetest.Store, error) {
			return store.OpenSQLite(ctx, path, now)
		}
	})
}

func TestFileIsPrivate(t *testing.T) {
	dir := t.TempDir()
	loose := filepath.Join(dir, "loose.db")
	openAt(t, loose).Close()
	if err := os.Chmod(loose, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "new.db"), loose} {
		s := openAt(t, path)
		if err := s.BindKey(t.Context(), login("SHA256:a")); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.db*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("found %v, %v; want each file and its WAL", files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", filepath.Base(file), info.Mode())
		}
	}
}

func TestPathWithURLCharacters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?mode=memory&x=%41#é.db")
	openAt(t, path)
	if _, err := os.Stat(path + "-wal"); err != nil {
		t.Errorf("the file is elsewhere: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct{ name, path, want string }{
		{"no path", "", "no path"},
		{"no folder", filepath.Join(dir, "missing", "state.db"), "does not exist; create it"},
		{"a file for a folder", filepath.Join(write("file", ""), "state.db"), "is not a folder"},
		{"a folder for a file", dir, "not a regular file"},
		{"another kind of file", write("text.db", strings.Repeat("hello world\n", 1000)), "not a database"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := store.OpenSQLite(t.Context(), test.path, nil)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
		})
	}
}

// exec runs SQL on the file behind the store's back.
func exec(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestNewerVersionIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openAt(t, path).Close()
	exec(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	s, err := store.OpenSQLite(t.Context(), path, nil)
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), "9999") {
		t.Errorf("error %q does not name the version", err)
	}
}

// TestDamagedFile overwrites the tables of a file and uses it: errors, never a
// panic and never a sign-in.
func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	for i := range 200 {
		if err := s.BindKey(t.Context(), login("SHA256:"+strings.Repeat("x", 100)+string(rune('a'+i%26))+string(rune('a'+i/26)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // folds the WAL into the file
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const header = 100 // sqlite.org/fileformat.html section 1.3; leave it whole
	for i := header; i < len(content); i++ {
		content[i] = byte(i * 7)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = store.OpenSQLite(t.Context(), path, nil)
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), "malformed") {
		t.Errorf("error %q does not say that the file is malformed", err)
	}
}

// TestDamagedWhileOpen loses a table while the store has the file open.
func TestDamagedWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, path, `DROP TABLE key_logins`)
	if err := s.Ping(t.Context()); err == nil {
		t.Error("Ping does not notice")
	}
	if _, err := s.KeyLogin(t.Context(), "SHA256:a"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("KeyLogin: got error %v, want another", err)
	}
}

// TestStoredIdentityDamaged holds an entry whose identity cannot be read back.
func TestStoredIdentityDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	if err := s.BindKey(t.Context(), login("SHA256:a")); err != nil {
		t.Fatal(err)
	}
	exec(t, path, `UPDATE key_logins SET identity = '{"iss":'`)
	got, err := s.KeyLogin(t.Context(), "SHA256:a")
	if err == nil || errors.Is(err, store.ErrNotFound) || got.Identity.Subject != "" {
		t.Errorf("got %v, %v, want an error", got, err)
	}
}

// TestLockedFile has another process hold the write lock: a writer waits, gives
// up when its context ends, and succeeds once the lock is free; readers never
// wait.
func TestLockedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	if err := s.BindKey(t.Context(), login("SHA256:a")); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()

	if _, err := s.KeyLogin(t.Context(), "SHA256:a"); err != nil {
		t.Errorf("read beside a writer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.BindKey(ctx, login("SHA256:b")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("write beside a writer: got error %v, want context.DeadlineExceeded", err)
	}
	written := make(chan error, 1)
	go func() { written <- s.BindKey(t.Context(), login("SHA256:c")) }()
	if err := other.Rollback(); err != nil {
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Errorf("write once the lock is free: %v", err)
	}
}

// TestUpgrade opens a file from before there were tokens: what it holds stays.
func TestUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	if err := errors.Join(s.BindKey(t.Context(), login("SHA256:a")), s.Close()); err != nil {
		t.Fatal(err)
	}
	exec(t, path, `DROP TABLE service_tokens; DROP TABLE access_tokens; DROP TABLE connector_certificates; DROP TABLE join_tokens; DROP TABLE origin_owners; DROP TABLE last_uses; DELETE FROM goose_db_version WHERE version_id > 1`)
	s = openAt(t, path)
	if _, err := s.KeyLogin(t.Context(), "SHA256:a"); err != nil {
		t.Error(err)
	}
	if all, err := s.ServiceTokens(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// TestNoSecretIsKept looks for columns that could hold one: tokens have hashes of
// 32 bytes, and the tables take nothing longer in their place.
func TestNoSecretIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openAt(t, path).Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, insert := range []string{
		`INSERT INTO service_tokens (id, name, secret_hash, created_at, expires_at) VALUES ('st-a', 'a', CAST('sgs_secret' AS BLOB), 0, 0)`,
		`INSERT INTO service_tokens (id, name, secret_hash, created_at, expires_at) VALUES ('st-a', 'a', 'sgs_secret', 0, 0)`,
		`INSERT INTO service_tokens (id, name, created_at, expires_at) VALUES ('st-a', 'a', 0, 0)`,
		`INSERT INTO access_tokens (hash, issuer, subject, identity, created_at, expires_at) VALUES (CAST('sga_token' AS BLOB), 'i', 's', '{}', 0, 0)`,
		`INSERT INTO join_tokens (id, hash, connector, hostnames, uses, uses_left, created_at, expires_at) VALUES ('jt-a', CAST('sgj_token' AS BLOB), '', '[]', 1, 1, 0, 0)`,
	} {
		if _, err := db.ExecContext(t.Context(), insert); err == nil {
			t.Errorf("taken: %s", insert)
		}
	}
}

// BenchmarkCredentials is what a look at ten thousand sign-ins costs, and
// BenchmarkVersion what it costs to see that there is no need for one.
func BenchmarkCredentials(b *testing.B) {
	s, err := store.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "state.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := range 10_000 {
		if err := s.BindKey(b.Context(), login(fmt.Sprintf("SHA256:%043d", i))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if good, err := s.Credentials(b.Context()); err != nil || len(good) != 10_000 {
			b.Fatal(len(good), err)
		}
	}
}

func BenchmarkVersion(b *testing.B) {
	s, err := store.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "state.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if _, err := s.Version(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
