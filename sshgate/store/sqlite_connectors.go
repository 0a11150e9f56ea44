package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

const selectConnectors = `
	SELECT serial, connector, hostnames, issued_at, expires_at, revoked_at, last_seen_at,
	       via, approver_issuer, approver_subject, approver, join_token, machine, address, renews
	FROM connector_certificates `

// AddConnector notes a certificate that was issued. Its revocation and use come
// later: those fields of the record are not taken. One that renews a certificate
// which was revoked is ErrRevoked.
func (s *SQLite) AddConnector(ctx context.Context, rec sshgate.ConnectorRecord) error {
	const doing = "note a connector's certificate"
	return wrap(ctx, doing, addConnector(ctx, s.write, rec))
}

// execer is a database or a transaction in it.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func addConnector(ctx context.Context, db execer, rec sshgate.ConnectorRecord) error {
	if rec.Serial == "" || rec.Connector == "" {
		return errors.New("it has no serial number, or no name")
	}
	hostnames, err := json.Marshal(rec.Hostnames)
	if err != nil {
		return err
	}
	address := ""
	if rec.Address.IsValid() {
		address = rec.Address.String()
	}
	result, err := db.ExecContext(ctx, `
		INSERT INTO connector_certificates (serial, connector, hostnames, issued_at, expires_at,
			via, approver_issuer, approver_subject, approver, join_token, machine, address, renews)
		SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
		WHERE NOT EXISTS (SELECT 1 FROM connector_certificates WHERE serial = ? AND revoked_at IS NOT NULL)`,
		rec.Serial, rec.Connector, string(hostnames), toMicros(rec.IssuedAt), toMicros(rec.ExpiresAt),
		string(rec.Via), rec.ApproverIssuer, rec.ApproverSubject, rec.Approver, string(rec.JoinToken), rec.Machine, address, rec.Renews,
		rec.Renews)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return fmt.Errorf("the certificate that it renews: %w", ErrRevoked)
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

// RevokeConnectors revokes the certificate with that serial number and those that
// renew it, or all of the connector with that name, and returns how many those were.
// Ones that are revoked already keep their time and are not counted; ErrNotFound when
// there is none at all.
func (s *SQLite) RevokeConnectors(ctx context.Context, nameOrSerial string, at time.Time) (int, error) {
	const doing = "revoke a connector's certificates"
	n, err := s.delete(ctx, doing, `
		WITH RECURSIVE meant(serial) AS (
			SELECT serial FROM connector_certificates WHERE serial = ? OR connector = ?
			UNION
			SELECT c.serial FROM connector_certificates c JOIN meant m ON c.renews = m.serial
		)
		UPDATE connector_certificates SET revoked_at = ?
		WHERE serial IN (SELECT serial FROM meant) AND revoked_at IS NULL`, nameOrSerial, nameOrSerial, toMicros(at))
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
	var hostnames, address string
	var issued, expires int64
	var revoked, seen sql.NullInt64
	err := row.Scan(&rec.Serial, &rec.Connector, &hostnames, &issued, &expires, &revoked, &seen,
		&rec.Via, &rec.ApproverIssuer, &rec.ApproverSubject, &rec.Approver, &rec.JoinToken, &rec.Machine, &address, &rec.Renews)
	if err != nil {
		return rec, err
	}
	if address != "" {
		if rec.Address, err = netip.ParseAddr(address); err != nil {
			return rec, fmt.Errorf("decode the address of a certificate: %w", err)
		}
	}
	if err := json.Unmarshal([]byte(hostnames), &rec.Hostnames); err != nil {
		return rec, errors.Join(errors.New("decode the hostnames of a certificate"), err)
	}
	rec.IssuedAt, rec.ExpiresAt = fromMicros(issued), fromMicros(expires)
	rec.RevokedAt, rec.LastSeenAt = fromNull(revoked), fromNull(seen)
	return rec, nil
}
