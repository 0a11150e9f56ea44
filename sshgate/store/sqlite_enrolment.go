package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const selectJoinTokens = `
	SELECT id, hash, connector, hostnames, uses, uses_left, created_at, expires_at, revoked_at, last_used_at
	FROM join_tokens `

// AddJoinToken adds a join token. Its use and revocation come later: those fields of
// the record are not taken.
func (s *SQLite) AddJoinToken(ctx context.Context, rec sshgate.JoinTokenRecord) error {
	const doing = "add a join token"
	if rec.ID == "" || len(rec.Hash) != sha256.Size || rec.Uses < 1 || len(rec.Hostnames) == 0 {
		return fmt.Errorf("%s: it has no ID, hash, uses or hostnames", doing)
	}
	hostnames, err := json.Marshal(rec.Hostnames)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	_, err = s.write.ExecContext(ctx, `
		INSERT INTO join_tokens (id, hash, connector, hostnames, uses, uses_left, created_at, expires_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		string(rec.ID), rec.Hash, rec.Connector, string(hostnames), rec.Uses, rec.Uses, toMicros(rec.CreatedAt), toMicros(rec.ExpiresAt))
	return wrap(ctx, doing, err)
}

// JoinToken returns the token with that hash, also one that is no longer good:
// whether it is is the caller's to judge.
func (s *SQLite) JoinToken(ctx context.Context, hash []byte) (sshgate.JoinTokenRecord, error) {
	rec, err := scanJoinToken(s.read.QueryRowContext(ctx, selectJoinTokens+`WHERE hash = ?`, hash))
	return rec, wrap(ctx, "look up a join token", err)
}

// JoinTokens returns all join tokens, the newest last.
func (s *SQLite) JoinTokens(ctx context.Context) (recs []sshgate.JoinTokenRecord, err error) {
	const doing = "list the join tokens"
	rows, err := s.read.QueryContext(ctx, selectJoinTokens+`ORDER BY created_at, rowid`)
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		rec, err := scanJoinToken(rows)
		if err != nil {
			return nil, wrap(ctx, doing, err)
		}
		recs = append(recs, rec)
	}
	return recs, wrap(ctx, doing, rows.Err())
}

// RevokeJoinToken revokes a token: nobody joins with it any more. One that is revoked
// already keeps its time.
func (s *SQLite) RevokeJoinToken(ctx context.Context, id sshgate.JoinTokenID, at time.Time) error {
	const doing = "revoke a join token"
	n, err := s.delete(ctx, doing, `UPDATE join_tokens SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ?`, toMicros(at), string(id))
	if err == nil && n == 0 {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return err
}

// Join takes one use of a join token and notes the certificate that was issued for
// it, or does neither: ErrSpent when the token has no use left, has expired or was
// revoked.
func (s *SQLite) Join(ctx context.Context, id sshgate.JoinTokenID, rec sshgate.ConnectorRecord) error {
	const doing = "join with a token"
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return wrap(ctx, doing, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	at := toMicros(rec.IssuedAt)
	result, err := tx.ExecContext(ctx, `
		UPDATE join_tokens SET uses_left = uses_left - 1, last_used_at = ?
		WHERE id = ? AND uses_left > 0 AND revoked_at IS NULL AND expires_at > ?`, at, string(id), at)
	if err != nil {
		return wrap(ctx, doing, err)
	}
	if n, err := result.RowsAffected(); err != nil {
		return wrap(ctx, doing, err)
	} else if n == 0 {
		return fmt.Errorf("%s: %w", doing, ErrSpent)
	}
	if err := addConnector(ctx, tx, rec); err != nil {
		return wrap(ctx, doing, err)
	}
	return wrap(ctx, doing, tx.Commit())
}

func scanJoinToken(row scanner) (sshgate.JoinTokenRecord, error) {
	var rec sshgate.JoinTokenRecord
	var hostnames string
	var created, expires int64
	var revoked, used sql.NullInt64
	err := row.Scan(&rec.ID, &rec.Hash, &rec.Connector, &hostnames, &rec.Uses, &rec.Left, &created, &expires, &revoked, &used)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal([]byte(hostnames), &rec.Hostnames); err != nil {
		return rec, errors.Join(errors.New("decode the hostnames of a join token"), err)
	}
	rec.CreatedAt, rec.ExpiresAt = fromMicros(created), fromMicros(expires)
	rec.RevokedAt, rec.LastUsedAt = fromNull(revoked), fromNull(used)
	return rec, nil
}

// ClaimOrigin gives the origin to the connector unless another has it, and returns
// whose it is then. A connector keeps what it has until it is released, or until all
// of its certificates are revoked.
func (s *SQLite) ClaimOrigin(ctx context.Context, origin sshgate.OriginName, connector string, at time.Time) (owner string, err error) {
	const doing = "claim an origin"
	if origin == "" || connector == "" {
		return "", fmt.Errorf("%s: it, or its connector, has no name", doing)
	}
	const find = `SELECT connector FROM origin_owners WHERE origin = ?`
	err = s.read.QueryRowContext(ctx, find, string(origin)).Scan(&owner)
	if err == nil && owner == connector {
		return owner, nil // the usual case, without a lock
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return "", wrap(ctx, doing, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	_, err = tx.ExecContext(ctx, `
		INSERT INTO origin_owners (origin, connector, claimed_at) VALUES (?, ?, ?)
		ON CONFLICT (origin) DO UPDATE SET connector = excluded.connector, claimed_at = excluded.claimed_at
		WHERE EXISTS (SELECT 1 FROM connector_certificates c WHERE c.connector = origin_owners.connector)
		  AND NOT EXISTS (SELECT 1 FROM connector_certificates c WHERE c.connector = origin_owners.connector AND c.revoked_at IS NULL)`,
		string(origin), connector, toMicros(at))
	if err != nil {
		return "", wrap(ctx, doing, err)
	}
	if err := tx.QueryRowContext(ctx, find, string(origin)).Scan(&owner); err != nil {
		return "", wrap(ctx, doing, err)
	}
	return owner, wrap(ctx, doing, tx.Commit())
}

// ReleaseOrigin lets the next connector that publishes the origin have it.
func (s *SQLite) ReleaseOrigin(ctx context.Context, origin sshgate.OriginName) error {
	const doing = "release an origin"
	n, err := s.delete(ctx, doing, `DELETE FROM origin_owners WHERE origin = ?`, string(origin))
	if err == nil && n == 0 {
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return err
}

// OriginOwners returns whose the origins are, by name.
func (s *SQLite) OriginOwners(ctx context.Context) (owners []sshgate.OriginOwner, err error) {
	const doing = "list the owners of origins"
	rows, err := s.read.QueryContext(ctx, `SELECT origin, connector, claimed_at FROM origin_owners ORDER BY origin`)
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		var o sshgate.OriginOwner
		var since int64
		if err := rows.Scan(&o.Origin, &o.Connector, &since); err != nil {
			return nil, wrap(ctx, doing, err)
		}
		o.Since = fromMicros(since)
		owners = append(owners, o)
	}
	return owners, wrap(ctx, doing, rows.Err())
}
