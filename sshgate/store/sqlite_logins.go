package store

import (
	"context"
	"fmt"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// BindKey remembers that the key stands for the identity until
// login.ExpiresAt, in place of whatever was remembered of that key before.
func (s *SQLite) BindKey(ctx context.Context, login sshgate.KeyLogin) error {
	const doing = "bind a key to a sign-in"
	if err := checkLogin(login); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	identity, err := encodeIdentity(login.Identity)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	_, err = s.write.ExecContext(ctx, `
		INSERT INTO key_logins (fingerprint, issuer, subject, identity, expires_at)
		VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (fingerprint) DO UPDATE SET
			issuer = excluded.issuer, subject = excluded.subject,
			identity = excluded.identity, expires_at = excluded.expires_at`,
		login.Fingerprint, login.Identity.Issuer, login.Identity.Subject, identity, toMicros(login.ExpiresAt))
	return wrap(ctx, doing, err)
}

// KeyLogin returns the sign-in that the key stands for. A key that is unknown,
// or whose sign-in has expired, is ErrNotFound: no caller can take an expired
// sign-in for a live one.
func (s *SQLite) KeyLogin(ctx context.Context, fingerprint string) (sshgate.KeyLogin, error) {
	const doing = "look up a key's sign-in"
	row := s.read.QueryRowContext(ctx, `
		SELECT fingerprint, identity, expires_at FROM key_logins
		WHERE fingerprint = ? AND expires_at > ?`,
		fingerprint, toMicros(s.now()))
	login, err := scanLogin(row)
	return login, wrap(ctx, doing, err)
}

// KeyLogins returns the sign-ins that have not expired, in the order of their
// fingerprints.
func (s *SQLite) KeyLogins(ctx context.Context) (logins []sshgate.KeyLogin, err error) {
	const doing = "list the sign-ins"
	rows, err := s.read.QueryContext(ctx, `
		SELECT fingerprint, identity, expires_at FROM key_logins
		WHERE expires_at > ? ORDER BY fingerprint`,
		toMicros(s.now()))
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		login, err := scanLogin(rows)
		if err != nil {
			return nil, wrap(ctx, doing, err)
		}
		logins = append(logins, login)
	}
	return logins, wrap(ctx, doing, rows.Err())
}

// ForgetKey forgets what the key stands for; ErrNotFound when that was nothing.
func (s *SQLite) ForgetKey(ctx context.Context, fingerprint string) error {
	const doing = "forget a key's sign-in"
	n, err := s.delete(ctx, doing, `DELETE FROM key_logins WHERE fingerprint = ?`, fingerprint)
	if err == nil && n == 0 {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return err
}

// ForgetIdentity forgets every key and every access token of the identity and
// returns how many those were.
func (s *SQLite) ForgetIdentity(ctx context.Context, id sshgate.IdentityKey) (int, error) {
	return s.deleteAll(ctx, "forget an identity",
		statement{`DELETE FROM key_logins WHERE issuer = ? AND subject = ?`, []any{id.Issuer, id.Subject}},
		statement{`DELETE FROM access_tokens WHERE issuer = ? AND subject = ?`, []any{id.Issuer, id.Subject}})
}

// keepExpiredTokens is how long an access token is kept after its end, so that
// its bearer can be told that it has expired rather than that it is unknown.
const keepExpiredTokens = 7 * 24 * time.Hour

// DeleteExpired removes the sign-ins that have expired by the time now, and the
// access tokens that had a week before, and where sessions went a year ago, and
// returns how many those were. It only
// saves space: no other method hands an expired sign-in out, and access tokens
// are handed out with the time of their end.
func (s *SQLite) DeleteExpired(ctx context.Context, now time.Time) (int, error) {
	return s.deleteAll(ctx, "delete what has expired",
		statement{`DELETE FROM key_logins WHERE expires_at <= ?`, []any{toMicros(now)}},
		statement{`DELETE FROM access_tokens WHERE expires_at <= ?`, []any{toMicros(now.Add(-keepExpiredTokens))}},
		statement{`DELETE FROM last_uses WHERE used_at <= ?`, []any{toMicros(now.Add(-keepLastUses))}})
}

// statement is SQL with its arguments.
type statement struct {
	query string
	args  []any
}

// deleteAll runs several DELETEs, all or none, and returns how many rows they
// took.
func (s *SQLite) deleteAll(ctx context.Context, doing string, statements ...statement) (int, error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, wrap(ctx, doing, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	var total int64
	for _, st := range statements {
		result, err := tx.ExecContext(ctx, st.query, st.args...)
		if err != nil {
			return 0, wrap(ctx, doing, err)
		}
		n, err := result.RowsAffected()
		if err != nil {
			return 0, wrap(ctx, doing, err)
		}
		total += n
	}
	if err := tx.Commit(); err != nil {
		return 0, wrap(ctx, doing, err)
	}
	return int(total), nil
}

// delete runs a DELETE and returns how many rows it took.
func (s *SQLite) delete(ctx context.Context, doing, query string, args ...any) (int, error) {
	result, err := s.write.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, wrap(ctx, doing, err)
	}
	n, err := result.RowsAffected()
	return int(n), wrap(ctx, doing, err)
}

// scanner is a *sql.Row or a *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// scanLogin reads fingerprint, identity, expires_at.
func scanLogin(row scanner) (sshgate.KeyLogin, error) {
	var (
		login     sshgate.KeyLogin
		identity  string
		expiresAt int64
	)
	if err := row.Scan(&login.Fingerprint, &identity, &expiresAt); err != nil {
		return sshgate.KeyLogin{}, err
	}
	id, err := decodeIdentity(identity)
	if err != nil {
		return sshgate.KeyLogin{}, err
	}
	login.Identity, login.ExpiresAt = id, fromMicros(expiresAt)
	return login, nil
}
