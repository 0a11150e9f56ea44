package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the database/sql driver "sqlite"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	// fileMode keeps the state to the gateway's own account: it holds names,
	// addresses and groups of people. SQLite gives its side files (-wal, -shm)
	// the mode of the main file.
	fileMode = 0o600

	// busyTimeout is how long a statement waits for another process that is
	// writing before it fails with SQLITE_BUSY.
	busyTimeout = 5 * time.Second

	// maxReaders bounds the connections that read at once.
	maxReaders = 4
)

// SQLite is state in one file. Make one with OpenSQLite.
type SQLite struct {
	// SQLite has one writer at a time. Writers of this process queue for the
	// single connection of write, where a context ends their wait; the file
	// lock with its timeout is left for other processes.
	write *sql.DB
	// read cannot write. In WAL mode a reader waits for nobody.
	read *sql.DB
	// watch is one connection that is asked for nothing but Version.
	watch *sql.DB
	now   func() time.Time
}

// OpenSQLite opens the state in the file at path, makes it when there is none,
// and brings its tables up to date. The folder must exist; the file is
// readable by its owner alone, also when it was not so before.
//
// It fails for a file that is no database, that is damaged, or that a newer
// version has written. ctx bounds the opening only. now tells which sign-ins
// have expired; nil means time.Now.
func OpenSQLite(ctx context.Context, path string, now func() time.Time) (*SQLite, error) {
	path, err := prepareFile(path)
	if err != nil {
		return nil, fmt.Errorf("open the state file: %w", err)
	}
	if now == nil {
		now = time.Now
	}
	s := &SQLite{now: now}
	if s.write, err = sql.Open("sqlite", dsn(path, false)); err != nil {
		return nil, fmt.Errorf("open the state file %s: %w", path, err)
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", dsn(path, true)); err != nil {
		return nil, errors.Join(fmt.Errorf("open the state file %s: %w", path, err), s.write.Close())
	}
	s.read.SetMaxOpenConns(maxReaders)
	s.read.SetMaxIdleConns(maxReaders)
	if s.watch, err = sql.Open("sqlite", dsn(path, true)); err != nil {
		return nil, errors.Join(fmt.Errorf("open the state file %s: %w", path, err), s.read.Close(), s.write.Close())
	}
	s.watch.SetMaxOpenConns(1)
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the state file %s: %w", path, err), s.Close())
	}
	return s, nil
}

// Close releases the file. Calls under way end first.
func (s *SQLite) Close() error {
	// The writer goes last: whoever closes the last connection folds the WAL
	// into the main file, which a reader may not do.
	if err := errors.Join(s.watch.Close(), s.read.Close(), s.write.Close()); err != nil {
		return fmt.Errorf("close the state file: %w", err)
	}
	return nil
}

// Ping tells whether the state can be read and its tables are there.
func (s *SQLite) Ping(ctx context.Context) error {
	var n int
	err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM key_logins LIMIT 1)`).Scan(&n)
	return wrap(ctx, "read the state file", err)
}

// prepareFile returns the absolute path of the file, which it makes, or makes
// private.
func prepareFile(path string) (string, error) {
	if path == "" {
		return "", errors.New("no path was given")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the folder %s does not exist; create it, owned by the gateway's account, mode 0700", dir)
	} else if err != nil {
		return "", err
	} else if !info.IsDir() {
		return "", fmt.Errorf("%s is not a folder", dir)
	}
	// An existing file is changed by its name and never opened here: closing a
	// descriptor of it would drop the locks that SQLite holds on it elsewhere
	// in this process (sqlite.org/howtocorrupt.html, section 2.2).
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err == nil {
		return path, f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return path, makePrivate(path)
}

// makePrivate takes the state file's permissions from everybody but its owner.
func makePrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&^fileMode == 0 {
		return nil
	}
	return os.Chmod(path, fileMode)
}

// dsn is the data source name for the file at path, see
// https://pkg.go.dev/modernc.org/sqlite#Driver.Open.
func dsn(path string, readOnly bool) string {
	q := url.Values{}
	pragma := func(p string) { q.Add("_pragma", p) }
	pragma(fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())) // first: the others may have to wait
	if readOnly {
		pragma("query_only(1)")
	} else {
		pragma("journal_mode(WAL)")
		pragma("synchronous(NORMAL)") // a power cut may lose the last entries, never the file
		pragma("foreign_keys(1)")
		// A transaction takes the write lock as it begins, where it can wait.
		// One that finds it taken later fails at once.
		q.Set("_txlock", "immediate")
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String()
}

// migrate brings the tables up to date.
func (s *SQLite) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, s.write, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	// Processes that open a new file at once all find the same step missing,
	// one of them takes it, and it fails for the others, who then look again.
	// So each failure of ours is a step taken by another; the first is the
	// table of versions itself.
	for steps := len(provider.ListSources()) + 1; ; steps-- {
		if _, err = provider.Up(ctx); err == nil {
			break
		}
		if steps == 0 || ctx.Err() != nil {
			return wrap(ctx, "update the tables", err)
		}
	}
	have, want, err := provider.GetVersions(ctx)
	if err != nil {
		return wrap(ctx, "read the version of the tables", err)
	}
	if have > want {
		return fmt.Errorf("its tables have version %d and this program knows up to %d; use a newer one", have, want)
	}
	return nil
}

// wrap adds what was being done to an error. When ctx ended, the error is the
// context's as well: the driver may report that as an interrupted statement.
func wrap(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%s: %w: %w", doing, ctx.Err(), err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
