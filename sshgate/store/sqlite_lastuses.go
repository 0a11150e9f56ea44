package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// keepLastUses is how long it is remembered where somebody's session went.
const keepLastUses = 365 * 24 * time.Hour

// NoteUse remembers that a session of the identity went to the target, once a
// minute at the most.
func (s *SQLite) NoteUse(ctx context.Context, id sshgate.IdentityKey, target sshgate.Target, at time.Time) error {
	const doing = "note where a session went"
	if id.Issuer == "" || id.Subject == "" || target.Origin == "" {
		return fmt.Errorf("%s: %w", doing, errors.New("it is nobody's, or went nowhere"))
	}
	_, err := s.write.ExecContext(ctx, `
		INSERT INTO last_uses (issuer, subject, origin, login, used_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (issuer, subject, origin, login) DO UPDATE SET used_at = excluded.used_at
		WHERE used_at <= ?`,
		id.Issuer, id.Subject, string(target.Origin), string(target.Login), toMicros(at), toMicros(at.Add(-touchEvery)))
	return wrap(ctx, doing, err)
}

// LastUses returns where the identity's sessions went, each target once, the
// latest first. What was a year ago is forgotten, see DeleteExpired.
func (s *SQLite) LastUses(ctx context.Context, id sshgate.IdentityKey) (uses []sshgate.LastUse, err error) {
	const doing = "list where sessions went"
	rows, err := s.read.QueryContext(ctx, `
		SELECT origin, login, used_at FROM last_uses
		WHERE issuer = ? AND subject = ? ORDER BY used_at DESC, origin, login`, id.Issuer, id.Subject)
	if err != nil {
		return nil, wrap(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		var use sshgate.LastUse
		var at int64
		if err := rows.Scan(&use.Target.Origin, &use.Target.Login, &at); err != nil {
			return nil, wrap(ctx, doing, err)
		}
		use.At = fromMicros(at)
		uses = append(uses, use)
	}
	return uses, wrap(ctx, doing, rows.Err())
}
