package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const selectServiceTokens = `
	SELECT id, name, secret_hash, previous_hash, previous_until, key, fingerprint,
	       created_at, expires_at, revoked_at, last_used_at
	FROM service_tokens `

// touchEvery is how often the last use of a token is written down: a job that
// connects a thousand times a minute shall not make as many writes.
const touchEvery = time.Minute

// CreateServiceToken adds a service token. Its use, rotation and revocation come
// later: those fields of the record are not taken. A name or a key that another
// token has which is not revoked, or an ID that any has, is ErrExists.
func (s *SQLite) CreateServiceToken(ctx context.Context, rec sshgate.ServiceTokenRecord) error {
	const doing = "create a service token"
	if err := checkServiceToken(rec); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return wrap(ctx, doing, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := freeForToken(ctx, tx, rec); err != nil {
		return wrap(ctx, doing, err)
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO service_tokens (id, name, secret_hash, key, fingerprint, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?)`,
		string(rec.ID), rec.Name, rec.SecretHash, nullText(rec.Key), nullText(rec.Fingerprint),
		toMicros(rec.CreatedAt), toMicros(rec.ExpiresAt))
	if err != nil {
		return wrap(ctx, doing, err)
	}
	return wrap(ctx, doing, tx.Commit())
}

// freeForToken tells whether a new token's ID, name and key are free. The index
// would refuse them too, but could not say which it was.
func freeForToken(ctx context.Context, tx *sql.Tx, rec sshgate.ServiceTokenRecord) error {
	for _, taken := range []struct{ query, value, text string }{
		{`SELECT id FROM service_tokens WHERE id = ?`, string(rec.ID), "the ID %[1]s is taken"},
		{`SELECT id FROM service_tokens WHERE name = ? AND revoked_at IS NULL`, rec.Name, "the name %[1]s is taken by %[2]s"},
		{`SELECT id FROM service_tokens WHERE fingerprint = ? AND revoked_at IS NULL`, rec.Fingerprint, "the key %[1]s is registered for %[2]s"},
	} {
		var holder string
		err := tx.QueryRowContext(ctx, taken.query, taken.value).Scan(&holder)
		switch {
		case err == nil:
			return fmt.Errorf("%s: %w", fmt.Sprintf(taken.text, taken.value, holder), ErrExists)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
	}
	return nil
}

// ServiceToken returns the token of that ID, expired and revoked ones too:
// whether it is good is the caller's to judge.
func (s *SQLite) ServiceToken(ctx context.Context, id sshgate.ServiceTokenID) (sshgate.ServiceTokenRecord, error) {
	row := s.read.QueryRowContext(ctx, selectServiceTokens+`WHERE id = ?`, string(id))
	rec, err := scanServiceToken(row)
	return rec, wrap(ctx, "look up a service token", err)
}

// ServiceTokenByKey returns the token that the SSH key with this fingerprint is
// registered for: the one that is good where there is one, otherwise the newest,
// so that the caller can say why it is not.
func (s *SQLite) ServiceTokenByKey(ctx context.Context, fingerprint string) (sshgate.ServiceTokenRecord, error) {
	row := s.read.QueryRowContext(ctx, selectServiceTokens+`
		WHERE fingerprint = ?
		ORDER BY revoked_at IS NULL AND expires_at > ? DESC, created_at DESC, rowid DESC LIMIT 1`,
		fingerprint, toMicros(s.now()))
	rec, err := scanServiceToken(row)
	return rec, wrap(ctx, "look up a key's service token", err)
}

// ServiceTokens returns all tokens, the newest last.
func (s *SQLite) ServiceTokens(ctx context.Context) (recs []sshgate.ServiceTokenRecord, err error) {
	const doing = "list the service tokens"
	rows, err := s.read.QueryContext(ctx, selectServiceTokens+`ORDER BY created_at, rowid`)
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		rec, err := scanServiceToken(rows)
		if err != nil {
			return nil, wrap(ctx, doing, err)
		}
		recs = append(recs, rec)
	}
	return recs, wrap(ctx, doing, rows.Err())
}

// Rotation replaces a service token's secret.
type Rotation struct {
	NewHash []byte
	// PreviousUntil is when the present secret ends. One in the past ends it at
	// once. The secret before it, where that still had time left, ends now.
	PreviousUntil time.Time
	// ExpiresAt is the token's new end; zero leaves it as it is.
	ExpiresAt time.Time
}

// RotateServiceToken replaces the token's secret. It is ErrRevoked for one that
// was revoked, and fails for one that has no secret but only a key.
func (s *SQLite) RotateServiceToken(ctx context.Context, id sshgate.ServiceTokenID, r Rotation) error {
	const doing = "rotate a service token"
	if len(r.NewHash) != sha256.Size {
		return fmt.Errorf("%s: the hash of its secret has %d bytes, want %d", doing, len(r.NewHash), sha256.Size)
	}
	result, err := s.write.ExecContext(ctx, `
		UPDATE service_tokens SET
			previous_hash = secret_hash, previous_until = ?, secret_hash = ?,
			expires_at = COALESCE(?, expires_at)
		WHERE id = ? AND revoked_at IS NULL AND secret_hash IS NOT NULL`,
		toMicros(r.PreviousUntil), r.NewHash, nullTime(r.ExpiresAt), string(id))
	if err != nil {
		return wrap(ctx, doing, err)
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return wrap(ctx, doing, err)
	}
	rec, err := s.ServiceToken(ctx, id)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", doing, err)
	case !rec.RevokedAt.IsZero():
		return fmt.Errorf("%s: %w", doing, ErrRevoked)
	}
	return fmt.Errorf("%s: it has a key and no secret", doing)
}

// RevokeServiceToken ends the token for good. One that was revoked before keeps
// the time of the first.
func (s *SQLite) RevokeServiceToken(ctx context.Context, id sshgate.ServiceTokenID, at time.Time) error {
	const doing = "revoke a service token"
	result, err := s.write.ExecContext(ctx,
		`UPDATE service_tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?`, toMicros(at), string(id))
	if err != nil {
		return wrap(ctx, doing, err)
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return wrap(ctx, doing, err)
}

// TouchServiceToken notes that the token was used. It writes at most once a
// minute for each token, and never goes back in time.
func (s *SQLite) TouchServiceToken(ctx context.Context, id sshgate.ServiceTokenID, at time.Time) error {
	_, err := s.write.ExecContext(ctx, `
		UPDATE service_tokens SET last_used_at = ?
		WHERE id = ? AND (last_used_at IS NULL OR last_used_at <= ?)`,
		toMicros(at), string(id), toMicros(at.Add(-touchEvery)))
	return wrap(ctx, "note the use of a service token", err)
}

// checkServiceToken refuses a token that nobody could prove, or whose name could
// be taken for another's ID: rules name tokens by either.
func checkServiceToken(rec sshgate.ServiceTokenRecord) error {
	switch {
	case !strings.HasPrefix(string(rec.ID), sshgate.ServiceTokenPrefix):
		return fmt.Errorf("the ID %q does not begin with %s", rec.ID, sshgate.ServiceTokenPrefix)
	case rec.Name == "":
		return errors.New("the name is empty")
	case strings.HasPrefix(rec.Name, sshgate.ServiceTokenPrefix):
		return fmt.Errorf("the name %q looks like an ID", rec.Name)
	case rec.SecretHash == nil && rec.Fingerprint == "":
		return errors.New("it has neither a secret nor a key")
	case rec.SecretHash != nil && len(rec.SecretHash) != sha256.Size:
		return fmt.Errorf("the hash of its secret has %d bytes, want %d", len(rec.SecretHash), sha256.Size)
	case (rec.Key == "") != (rec.Fingerprint == ""):
		return errors.New("it has only one of key and fingerprint")
	case rec.ExpiresAt.IsZero():
		return errors.New("it has no end")
	}
	return nil
}

// scanServiceToken reads a row of selectServiceTokens.
func scanServiceToken(row scanner) (sshgate.ServiceTokenRecord, error) {
	var (
		rec                                sshgate.ServiceTokenRecord
		key, fingerprint                   sql.NullString
		previousUntil, revokedAt, lastUsed sql.NullInt64
		createdAt, expiresAt               int64
	)
	err := row.Scan(&rec.ID, &rec.Name, &rec.SecretHash, &rec.PreviousHash, &previousUntil, &key, &fingerprint,
		&createdAt, &expiresAt, &revokedAt, &lastUsed)
	if err != nil {
		return sshgate.ServiceTokenRecord{}, err
	}
	rec.Key, rec.Fingerprint = key.String, fingerprint.String
	rec.CreatedAt, rec.ExpiresAt = fromMicros(createdAt), fromMicros(expiresAt)
	rec.PreviousUntil, rec.RevokedAt, rec.LastUsedAt = fromNull(previousUntil), fromNull(revokedAt), fromNull(lastUsed)
	return rec, nil
}

// nullText is s, or NULL where it is empty.
func nullText(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// nullTime is t, or NULL where it is zero, and fromNull the inverse.
func nullTime(t time.Time) sql.NullInt64 {
	if t.IsZero() {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: toMicros(t), Valid: true}
}

func fromNull(us sql.NullInt64) time.Time {
	if !us.Valid {
		return time.Time{}
	}
	return fromMicros(us.Int64)
}
