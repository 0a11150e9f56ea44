package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/sshgate/sshgate/sshgate"
)

const selectPins = `SELECT origin, key, connector, pinned_at FROM host_keys `

// HostKeys returns the host keys that the origin is known by, in the order of
// the keys; none for an origin that was never pinned.
func (s *SQLite) HostKeys(ctx context.Context, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error) {
	rows, err := s.read.QueryContext(ctx, selectPins+`WHERE origin = ? ORDER BY key`, string(origin))
	return collectPins(ctx, "look up host keys", rows, err)
}

// AllHostKeys returns every pinned host key, in the order of origins and keys.
func (s *SQLite) AllHostKeys(ctx context.Context) ([]sshgate.HostKeyPin, error) {
	rows, err := s.read.QueryContext(ctx, selectPins+`ORDER BY origin, key`)
	return collectPins(ctx, "list the host keys", rows, err)
}

// PinHostKeys pins the host keys that a connector reports for the origin; pass
// all of them. The first to come decides, in one step: an origin without pins
// gets them all. One with pins gets the keys of types that it has none of, when
// the report holds a pinned key and no other key of a pinned type; otherwise
// nothing changes.
//
// It returns the pins that hold after the call, so that connectors who race all
// learn the winner's, and the caller can tell a changed key by comparing. Every
// pin must be of that origin; with no pins, it returns what is there.
func (s *SQLite) PinHostKeys(ctx context.Context, origin sshgate.OriginName, pins []sshgate.HostKeyPin) (held []sshgate.HostKeyPin, err error) {
	const doing = "pin host keys"
	if err := checkPins(origin, pins); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if held, err = pinsOf(ctx, tx, origin); err != nil {
		return nil, err
	}
	for _, pin := range freshPins(held, pins) {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO host_keys (origin, key, connector, pinned_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (origin, key) DO NOTHING`,
			string(origin), pin.Key, pin.Connector, toMicros(pin.PinnedAt))
		if err != nil {
			return nil, wrap(ctx, doing, err)
		}
	}
	if held, err = pinsOf(ctx, tx, origin); err != nil {
		return nil, err
	}
	if err := tx.Commit(); err != nil {
		return nil, wrap(ctx, doing, err)
	}
	return held, nil
}

// ForgetHostKeys forgets the origin's host keys, so that the next ones it
// reports are pinned, and returns how many those were.
func (s *SQLite) ForgetHostKeys(ctx context.Context, origin sshgate.OriginName) (int, error) {
	return s.delete(ctx, "forget host keys", `DELETE FROM host_keys WHERE origin = ?`, string(origin))
}

// pinsOf reads an origin's pins inside a transaction.
func pinsOf(ctx context.Context, tx *sql.Tx, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error) {
	rows, err := tx.QueryContext(ctx, selectPins+`WHERE origin = ? ORDER BY key`, string(origin))
	return collectPins(ctx, "pin host keys", rows, err)
}

// collectPins reads all rows of a selectPins query, given as the query's two
// results.
func collectPins(ctx context.Context, doing string, rows *sql.Rows, err error) ([]sshgate.HostKeyPin, error) {
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	var pins []sshgate.HostKeyPin
	for rows.Next() {
		var (
			pin      sshgate.HostKeyPin
			pinnedAt int64
		)
		if err := rows.Scan(&pin.Origin, &pin.Key, &pin.Connector, &pinnedAt); err != nil {
			return nil, wrap(ctx, doing, err)
		}
		pin.PinnedAt = fromMicros(pinnedAt)
		pins = append(pins, pin)
	}
	return pins, wrap(ctx, doing, rows.Err())
}
