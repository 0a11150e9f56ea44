package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const selectConnectors = `
	SELECT serial, connector, hostnames, issued_at, expires_at, revoked_at, last_seen_at
	FROM connector_certificates `

// AddConnector notes a certificate that was issued. Its revocation and use come
// later: those fields of the record are not taken.
func (s *SQLite) AddConnector(ctx context.Context, rec sshgate.ConnectorRecord) error {
	const doing = "note a connector's certificate"
	if rec.Serial == "" || rec.Connector == "" {
		return fmt.Errorf("%s: it has no serial number, or no name", doing)
	}
	hostnames, err := json.Marshal(rec.Hostnames)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	_, err = s.write.ExecContext(ctx, `
		INSERT INTO connector_certificates (serial, connector, hostnames, issued_at, expires_at)
		VALUES (?, ?, ?, ?, ?)`,
		rec.Serial, rec.Connector, string(hostnames), toMicros(rec.IssuedAt), toMicros(rec.ExpiresAt))
	return wrap(ctx, doing, err)
}

// Connector returns the certificate with the serial number; ErrNotFound for one
// that was issued before certificates were noted.
func (s *SQLite) Connector(ctx context.Context, serial string) (sshgate.ConnectorRecord, error) {
	rec, err := scanConnector(s.read.QueryRowContext(ctx, selectConnectors+`WHERE serial = ?`, serial))
	return rec, wrap(ctx, "look up a connector's certificate", err)
}

// Connectors returns all certificates, by name and then by when they were issued.
func (s *SQLite) Connectors(ctx context.Context) (recs []sshgate.ConnectorRecord, err error) {
	const doing = "list the connectors' certificates"
	rows, err := s.read.QueryContext(ctx, selectConnectors+`ORDER BY connector, issued_at, serial`)
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		rec, err := scanConnector(rows)
		if err != nil {
			return nil, wrap(ctx, doing, err)
		}
		recs = append(recs, rec)
	}
	return recs, wrap(ctx, doing, rows.Err())
}

// RevokeConnectors revokes the certificate with that serial number, or all of the
// connector with that name, and returns how many those were. Ones that are revoked
// already keep their time and are not counted; ErrNotFound when there is none at all.
func (s *SQLite) RevokeConnectors(ctx context.Context, nameOrSerial string, at time.Time) (int, error) {
	const doing = "revoke a connector's certificates"
	n, err := s.delete(ctx, doing, `
		UPDATE connector_certificates SET revoked_at = ?
		WHERE (serial = ? OR connector = ?) AND revoked_at IS NULL`, toMicros(at), nameOrSerial, nameOrSerial)
	if err != nil || n > 0 {
		return n, err
	}
	var found int
	err = s.read.QueryRowContext(ctx, `SELECT 1 FROM connector_certificates WHERE serial = ? OR connector = ?`, nameOrSerial, nameOrSerial).Scan(&found)
	return 0, wrap(ctx, doing, err)
}

// ConnectorRevocations returns how many certificates are revoked: when the number
// has changed there is something to look at.
func (s *SQLite) ConnectorRevocations(ctx context.Context) (n int, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM connector_certificates WHERE revoked_at IS NOT NULL`).Scan(&n)
	return n, wrap(ctx, "count the revoked certificates", err)
}

// TouchConnector notes that the certificate was used, once a minute at the most.
func (s *SQLite) TouchConnector(ctx context.Context, serial string, at time.Time) error {
	_, err := s.write.ExecContext(ctx, `
		UPDATE connector_certificates SET last_seen_at = ?
		WHERE serial = ? AND (last_seen_at IS NULL OR last_seen_at <= ?)`,
		toMicros(at), serial, toMicros(at.Add(-touchEvery)))
	return wrap(ctx, "note a connector's visit", err)
}

func scanConnector(row scanner) (sshgate.ConnectorRecord, error) {
	var rec sshgate.ConnectorRecord
	var hostnames string
	var issued, expires int64
	var revoked, seen sql.NullInt64
	if err := row.Scan(&rec.Serial, &rec.Connector, &hostnames, &issued, &expires, &revoked, &seen); err != nil {
		return rec, err
	}
	if err := json.Unmarshal([]byte(hostnames), &rec.Hostnames); err != nil {
		return rec, errors.Join(errors.New("decode the hostnames of a certificate"), err)
	}
	rec.IssuedAt, rec.ExpiresAt = fromMicros(issued), fromMicros(expires)
	rec.RevokedAt, rec.LastSeenAt = fromNull(revoked), fromNull(seen)
	return rec, nil
}
