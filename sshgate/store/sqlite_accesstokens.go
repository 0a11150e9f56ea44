package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sshgate/sshgate/sshgate"
)

// PutAccessToken keeps an access token, which must be new: one that is there is
// ErrExists.
func (s *SQLite) PutAccessToken(ctx context.Context, rec sshgate.AccessTokenRecord) error {
	const doing = "keep an access token"
	if err := checkAccessToken(rec); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	identity, err := encodeIdentity(rec.Identity)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	result, err := s.write.ExecContext(ctx, `
		INSERT INTO access_tokens (hash, issuer, subject, identity, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO NOTHING`,
		rec.Hash, rec.Identity.Issuer, rec.Identity.Subject, identity, toMicros(rec.CreatedAt), toMicros(rec.ExpiresAt))
	if err != nil {
		return wrap(ctx, doing, err)
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = ErrExists
	}
	return wrap(ctx, doing, err)
}

// AccessToken returns the access token with that hash, also when it has expired:
// ExpiresAt is the caller's to judge, who can then say so. It is kept for a week
// after its end, see DeleteExpired.
func (s *SQLite) AccessToken(ctx context.Context, hash []byte) (sshgate.AccessTokenRecord, error) {
	row := s.read.QueryRowContext(ctx, `
		SELECT hash, identity, created_at, expires_at FROM access_tokens WHERE hash = ?`, hash)
	rec, err := scanAccessToken(row)
	return rec, wrap(ctx, "look up an access token", err)
}

// AccessTokens returns the access tokens that have not expired, in the order in
// which they were issued.
func (s *SQLite) AccessTokens(ctx context.Context) (recs []sshgate.AccessTokenRecord, err error) {
	const doing = "list the access tokens"
	rows, err := s.read.QueryContext(ctx, `
		SELECT hash, identity, created_at, expires_at FROM access_tokens
		WHERE expires_at > ? ORDER BY created_at, hash`, toMicros(s.now()))
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		rec, err := scanAccessToken(rows)
		if err != nil {
			return nil, wrap(ctx, doing, err)
		}
		recs = append(recs, rec)
	}
	return recs, wrap(ctx, doing, rows.Err())
}

func scanAccessToken(row scanner) (rec sshgate.AccessTokenRecord, err error) {
	var identity string
	var createdAt, expiresAt int64
	if err = row.Scan(&rec.Hash, &identity, &createdAt, &expiresAt); err == nil {
		rec.Identity, err = decodeIdentity(identity)
	}
	if err != nil {
		return sshgate.AccessTokenRecord{}, err
	}
	rec.CreatedAt, rec.ExpiresAt = fromMicros(createdAt), fromMicros(expiresAt)
	return rec, nil
}

// DeleteAccessToken forgets an access token; ErrNotFound when there is none.
func (s *SQLite) DeleteAccessToken(ctx context.Context, hash []byte) error {
	const doing = "delete an access token"
	n, err := s.delete(ctx, doing, `DELETE FROM access_tokens WHERE hash = ?`, hash)
	if err == nil && n == 0 {
		return wrap(ctx, doing, sql.ErrNoRows)
	}
	return err
}

// checkAccessToken refuses a token that would stand for nobody or for ever.
func checkAccessToken(rec sshgate.AccessTokenRecord) error {
	switch {
	case len(rec.Hash) != sha256.Size:
		return fmt.Errorf("its hash has %d bytes, want %d", len(rec.Hash), sha256.Size)
	case rec.Identity.Issuer == "":
		return errors.New("the identity has no issuer")
	case rec.Identity.Subject == "":
		return errors.New("the identity has no subject")
	case rec.ExpiresAt.IsZero():
		return errors.New("it has no end")
	}
	return nil
}
