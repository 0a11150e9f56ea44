package console

import (
	"context"
	"errors"
	"fmt"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/console/picker"
)

// Pick lets the caller pick a target at a terminal. Where none was picked, code is
// the exit status; otherwise rest is what was typed behind the choice. What the
// policy says to the target is still to be asked.
func (c *Console) Pick(ctx context.Context, who Caller, term picker.Terminal) (target sshgate.Target, rest []byte, code int) {
	crlf := Output{Stdout: term.Out, Stderr: term.Out}
	items, err := c.items(ctx, who)
	if err != nil {
		return target, nil, c.finish(who, crlf, err)
	}
	target, rest, err = picker.Run(ctx, term, clean("sshgate: signed in as "+who.Identity.String()), items)
	switch {
	case err == nil:
		return target, rest, ExitOK
	case errors.Is(err, picker.ErrLeft):
		return target, nil, ExitLeft
	case ctx.Err() == nil:
		c.cfg.Log.Error("picking an origin failed", "err", err)
	}
	return target, nil, ExitFailed
}

// items are the origins to which the caller may open sessions.
func (c *Console) items(ctx context.Context, who Caller) ([]picker.Item, error) {
	list, err := c.Directory(ctx, who)
	if err != nil {
		return nil, err
	}
	var items []picker.Item
	for _, o := range list {
		if len(o.Logins) == 0 && !o.AnyLogin {
			continue
		}
		item := picker.Item{Name: o.Name, Online: o.Online, Logins: o.Logins, AnyLogin: o.AnyLogin, LastLogin: o.LastLogin}
		if !o.LastUsed.IsZero() {
			item.Note = "last " + o.LastUsed.UTC().Format("2006-01-02")
		}
		items = append(items, item)
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("there is no origin to which you may open a session; see: %s ls", c.prefix(who))
	}
	return items, nil
}
