package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/sshgate/sshgate/sshgate"
)

// administratorCommands are those about everybody.
func administratorCommands() []Command {
	list := []Command{
		{
			Name: "kill", Args: "SESSION|CONNECTION", Short: "End a session, or all those of a connection", takes: [2]int{1, 1}, run: kill,
			Long: "The first two columns of sessions --all name them. Whoever was in it may come back; see\nrevoke.",
		},
		{Name: "users", Short: "List who is signed in, with how many keys, tokens and sessions", run: users},
		{
			Name: "revoke", Args: "USER", Short: "Sign somebody out everywhere, and end their sessions", takes: [2]int{1, 1}, run: revoke,
			Long: "Forgets all of their keys and tokens. They may sign in again, unless the provider or the\npolicy keeps them from it: do that first. USER is as users prints it: the address, or the\nsubject.",
		},
		{
			Name: "connectors", Short: "List the connectors, and what each publishes now", run: connectors,
			Flags: func(f *pflag.FlagSet) { f.Bool("all", false, "list expired and revoked certificates, too") },
		},
		{
			Name: "tokens", Short: "List the service tokens", run: tokens,
			Flags: func(f *pflag.FlagSet) { f.Bool("all", false, "list expired and revoked ones, too") },
		},
		{
			Name: "events", Short: "Print the latest events", run: events,
			Long: "The gateway keeps some in memory since its start; the record is its log.",
			Flags: func(f *pflag.FlagSet) {
				f.BoolP("follow", "f", false, "go on with those to come")
				f.IntP("lines", "n", 20, "how many of the past")
			},
		},
	}
	for i := range list {
		list[i].Administrators = true
	}
	return list
}

func kill(_ context.Context, c *call) error {
	id := c.args[0]
	n := c.cfg.Sessions.End(func(s Session) bool { return string(s.ID) == id || string(s.Connection) == id }, "an administrator has ended this session")
	if n == 0 {
		return fmt.Errorf("no session or connection %q is open; see: sessions --all", clip(id))
	}
	return c.done(map[string]any{"ended": n}, "ended %d", n)
}

// user is somebody who is signed in.
type user struct {
	identity               sshgate.Identity // of the newest sign-in
	keys, tokens, sessions int
	until                  time.Time
}

// signedIn returns who is signed in, by name.
func (c *call) signedIn(ctx context.Context) ([]*user, error) {
	found := map[sshgate.IdentityKey]*user{}
	of := func(id sshgate.Identity, until time.Time) *user {
		u := found[id.Key()]
		if u == nil {
			u = &user{identity: id}
			found[id.Key()] = u
		}
		if id.SignedInAt.After(u.identity.SignedInAt) {
			u.identity = id
		}
		if until.After(u.until) {
			u.until = until
		}
		return u
	}
	logins, err := c.cfg.Logins.KeyLogins(ctx)
	if err != nil {
		return nil, err
	}
	for _, login := range logins {
		of(login.Identity, login.ExpiresAt).keys++
	}
	access, err := c.cfg.Logins.AccessTokens(ctx)
	if err != nil {
		return nil, err
	}
	for _, token := range access {
		of(token.Identity, token.ExpiresAt).tokens++
	}
	for _, s := range c.cfg.Sessions.Sessions() {
		of(s.Identity, time.Time{}).sessions++
	}
	list := make([]*user, 0, len(found))
	for _, u := range found {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b *user) int {
		return cmp.Or(cmp.Compare(a.identity.String(), b.identity.String()), cmp.Compare(a.identity.Issuer+" "+a.identity.Subject, b.identity.Issuer+" "+b.identity.Subject))
	})
	return list, nil
}

// findUser returns the identity of somebody who is signed in.
func (c *call) findUser(ctx context.Context, name string) (sshgate.Identity, error) {
	all, err := c.signedIn(ctx)
	if err != nil {
		return sshgate.Identity{}, err
	}
	var found []sshgate.Identity
	for _, u := range all {
		if id := u.identity; name == id.Subject || name == id.String() || strings.EqualFold(name, id.VerifiedEmail()) && name != "" {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return sshgate.Identity{}, fmt.Errorf("nobody who is signed in is called %q; see users", clip(name))
	case 1:
		return found[0], nil
	}
	return sshgate.Identity{}, fmt.Errorf("%q names %d identities; give the subject of one, see users --json", clip(name), len(found))
}

func users(ctx context.Context, c *call) error {
	list, err := c.signedIn(ctx)
	if err != nil {
		return err
	}
	if c.flag("json") {
		for _, u := range list {
			if err := c.json(map[string]any{
				"identity": u.identity.String(), "issuer": u.identity.Issuer, "subject": u.identity.Subject,
				"keys": u.keys, "tokens": u.tokens, "sessions": u.sessions, "signed_in_at": whole(u.identity.SignedInAt), "expires_at": whole(u.until),
			}); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, len(list))
	for i, u := range list {
		rows[i] = []string{u.identity.String(), strconv.Itoa(u.keys), strconv.Itoa(u.tokens), strconv.Itoa(u.sessions), stamp(u.identity.SignedInAt), stamp(u.until), u.identity.Subject}
	}
	return c.table([]string{"WHO", "KEYS", "TOKENS", "SESSIONS", "SIGNED IN", "UNTIL", "SUBJECT"}, rows)
}

func revoke(ctx context.Context, c *call) error {
	id, err := c.findUser(ctx, c.args[0])
	if err != nil {
		return err
	}
	if id.Machine() {
		return errors.New("that is a machine; its token is revoked with: sshgated token revoke")
	}
	forgotten, err := c.cfg.Logins.ForgetIdentity(ctx, id.Key())
	if err != nil {
		return err
	}
	// Connections end with what let them in. Their sessions end here, so that it can
	// be said how many those were.
	ended := c.cfg.Sessions.End(func(s Session) bool { return s.Identity.Key() == id.Key() }, "your access was revoked by an administrator")
	return c.done(map[string]any{"identity": id.String(), "subject": id.Subject, "forgotten": forgotten, "ended": ended},
		"%s is signed out: forgot %d keys and tokens, ended %d sessions", id.String(), forgotten, ended)
}

func connectors(ctx context.Context, c *call) error {
	recs, err := c.cfg.State.Connectors(ctx)
	if err != nil {
		return err
	}
	now := c.cfg.Now()
	publishes := map[string][]string{}
	for _, status := range c.cfg.Origins() {
		for _, name := range status.Connectors {
			publishes[name] = append(publishes[name], sshgate.Endpoint{Origin: status.Origin, Port: status.Port}.Short())
		}
	}
	var rows [][]string
	for _, rec := range recs {
		if !rec.Good(now) && !c.flag("all") {
			continue
		}
		state := endState(rec.RevokedAt, rec.ExpiresAt, now)
		if c.flag("json") {
			if err := c.json(map[string]any{
				"connector": rec.Connector, "serial": rec.Serial, "state": state, "hostnames": rec.Hostnames,
				"publishes": append([]string{}, publishes[rec.Connector]...), "expires_at": whole(rec.ExpiresAt), "last_seen_at": whole(rec.LastSeenAt),
			}); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{rec.Connector, state, joined(rec.Hostnames), joined(publishes[rec.Connector]), stamp(rec.ExpiresAt), stamp(rec.LastSeenAt), rec.Serial})
	}
	if c.flag("json") {
		return nil
	}
	return c.table([]string{"CONNECTOR", "STATE", "HOSTNAMES", "PUBLISHES", "EXPIRES", "LAST SEEN", "SERIAL"}, rows)
}

// endState says whether something is good still.
func endState(revoked, expires, now time.Time) string {
	switch {
	case !revoked.IsZero():
		return "revoked"
	case !now.Before(expires):
		return "expired"
	}
	return "good"
}

func tokens(ctx context.Context, c *call) error {
	recs, err := c.cfg.State.ServiceTokens(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, rec := range recs {
		state := endState(rec.RevokedAt, rec.ExpiresAt, c.cfg.Now())
		if state != "good" && !c.flag("all") {
			continue
		}
		if c.flag("json") {
			if err := c.json(map[string]any{
				"id": rec.ID, "name": rec.Name, "state": state, "fingerprint": rec.Fingerprint,
				"created_at": whole(rec.CreatedAt), "expires_at": whole(rec.ExpiresAt), "last_used_at": whole(rec.LastUsedAt),
			}); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{rec.Name, string(rec.ID), state, stamp(rec.ExpiresAt), stamp(rec.LastUsedAt), rec.Fingerprint})
	}
	if c.flag("json") {
		return nil
	}
	return c.table([]string{"NAME", "ID", "STATE", "EXPIRES", "LAST USED", "KEY"}, rows)
}

func events(ctx context.Context, c *call) error {
	lines, _ := c.flags.GetInt("lines")
	follow := c.flag("follow")
	next := c.cfg.Latest.last(lines)
	for {
		list, following, changed := c.cfg.Latest.since(next)
		if missed := following - next - uint64(len(list)); missed > 0 {
			fmt.Fprintf(c.out.Stderr, "sshgate: %d events came too fast to be shown\n", missed)
		}
		for _, e := range list {
			if err := c.event(e); err != nil {
				return err
			}
		}
		if next = following; !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil // whoever followed has left
		}
	}
}

// event prints one, as the record has it.
func (c *call) event(e sshgate.Event) error {
	if c.flag("json") {
		e.Time = e.Time.UTC()
		return c.json(e)
	}
	words := []string{stamp(e.Time), string(e.Kind)}
	for _, field := range [][2]string{
		{"connection", string(e.Connection)}, {"request", string(e.Request)}, {"who", e.Identity}, {"key", e.Key}, {"target", targetText(e.Origin, e.Login)},
		{"channel", string(e.Channel)}, {"detail", e.Detail}, {"application", e.Application}, {"rule", e.Rule}, {"reason", e.Reason}, {"exit", e.Exit},
	} {
		if field[1] != "" {
			words = append(words, field[0]+"="+strconv.Quote(field[1]))
		}
	}
	if e.Allowed {
		words = append(words, "allowed")
	}
	if e.ClientAddr.IsValid() {
		words = append(words, "client="+e.ClientAddr.String())
	}
	_, err := fmt.Fprintln(c.out.Stdout, clean(strings.Join(words, " ")))
	return err
}
