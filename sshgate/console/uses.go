package console

import (
	"context"
	"log/slog"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// useTimeout bounds one write of a Uses.
const useTimeout = 2 * time.Second

// Uses is an audit.Sink that notes where people's sessions go, for the order of
// their lists. That it cannot is no loss to the record, so Write never fails.
type Uses struct {
	Store interface {
		NoteUse(ctx context.Context, id sshgate.IdentityKey, target sshgate.Target, at time.Time) error
	}
	Log *slog.Logger
}

// Write notes the start of a session.
func (u Uses) Write(e sshgate.Event) error {
	if e.Kind != sshgate.EventSessionStart || e.Channel != sshgate.ChannelSession || e.IdentityKind != sshgate.Person || e.Login == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), useTimeout)
	defer cancel()
	id := sshgate.IdentityKey{Issuer: e.Issuer, Subject: e.Subject}
	if err := u.Store.NoteUse(ctx, id, sshgate.Target{Origin: e.Origin, Login: e.Login}, e.Time); err != nil {
		u.Log.Warn("where a session went could not be noted", "err", err)
	}
	return nil
}
