package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Version returns a number that differs from the one before when anybody has
// changed the state since, this process or another. It costs next to nothing: ask
// as often as you like.
func (s *SQLite) Version(ctx context.Context) (n int64, err error) {
	// Of use on one and the same connection alone, and one that never writes
	// (sqlite.org/pragma.html#pragma_data_version). Where it was replaced the number
	// differs, which is a change too many.
	err = s.watch.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&n)
	return n, wrap(ctx, "look for changes of the state", err)
}

// Credentials returns all that let somebody in now, with the time when each ends:
// sign-ins of keys, access tokens, and service tokens by their secrets and keys.
func (s *SQLite) Credentials(ctx context.Context) (map[sshgate.Credential]time.Time, error) {
	now := s.now()
	good := make(map[sshgate.Credential]time.Time)
	for _, query := range []string{
		`SELECT fingerprint, '', issuer, subject, expires_at FROM key_logins WHERE expires_at > ?`,
		`SELECT '', hash, issuer, subject, expires_at FROM access_tokens WHERE expires_at > ?`,
		`SELECT fingerprint, '', NULL, id, expires_at FROM service_tokens
			WHERE expires_at > ? AND revoked_at IS NULL AND fingerprint IS NOT NULL`,
		`SELECT '', secret_hash, NULL, id, expires_at FROM service_tokens
			WHERE expires_at > ? AND revoked_at IS NULL AND secret_hash IS NOT NULL`,
		`SELECT '', previous_hash, NULL, id, min(expires_at, previous_until) FROM service_tokens
			WHERE min(expires_at, previous_until) > ? AND revoked_at IS NULL AND previous_hash IS NOT NULL`,
	} {
		if err := s.addCredentials(ctx, good, query, toMicros(now)); err != nil {
			return nil, wrap(ctx, "list what lets people in", err)
		}
	}
	return good, nil
}

// addCredentials reads rows of key, hash, issuer or NULL for a service token,
// subject and end.
func (s *SQLite) addCredentials(ctx context.Context, good map[sshgate.Credential]time.Time, query string, now int64) error {
	rows, err := s.read.QueryContext(ctx, query, now)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var c sshgate.Credential
		var hash []byte
		var issuer sql.NullString
		var ends int64
		if err := rows.Scan(&c.Key, &hash, &issuer, &c.Identity.Subject, &ends); err != nil {
			return err
		}
		c.Hash, c.Identity.Issuer = string(hash), issuer.String
		if !issuer.Valid {
			c.Identity.Issuer = sshgate.ServiceIssuer
		}
		good[c] = fromMicros(ends)
	}
	return rows.Err()
}
