package console

import (
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

// ownCommands are those about the caller.
func ownCommands() []Command {
	return []Command{
		{Name: "whoami", Short: "Say as whom you are signed in, and until when", run: whoami},
		{
			Name: "ls", Short: "List the origins that you may reach", run: ls,
			Long: "Those used last come first, those that are offline last. LOGINS are the accounts\n" +
				"that you may use there; * is any that you name.",
		},
		{
			Name: "keys", Args: "[revoke FINGERPRINT]", Short: "List the keys that you are signed in with, or forget one", takes: [2]int{0, 3}, run: keys,
			changes: func(c *call) bool { return len(c.args) > 0 },
			Long:    "A key that is forgotten has to sign in again, and its connections end. FINGERPRINT may be\ncut short where it is still clear which one is meant. A connection without a key is listed\nby its own name.",
		},
		{
			Name: "logout", Short: "Forget the key of this connection", run: logout,
			changes: func(*call) bool { return true },
			Flags: func(f *pflag.FlagSet) {
				f.Bool("all", false, "forget all of your keys, and the tokens of sshgate access, too")
			},
		},
		{
			Name: "sessions", Short: "List your sessions that are open now", run: sessions,
			asks:  func(c *call) bool { return c.flag("all") },
			Flags: func(f *pflag.FlagSet) { f.Bool("all", false, "list everybody's (administrators)") },
		},
		{
			Name: "explain", Args: "[LOGIN+]ORIGIN", Short: "Say what the policy lets you do at an origin", takes: [2]int{1, 1}, run: explain,
			asks: func(c *call) bool { return c.text("user") != "" },
			Flags: func(f *pflag.FlagSet) {
				f.String("user", "", "ask for `USER`, who is signed in (administrators)")
			},
			Long: "Administrators also read which rule decides, and why.",
		},
	}
}

func whoami(ctx context.Context, c *call) error {
	id := c.who.Identity
	kind := string(id.Kind)
	if id.Kind == sshgate.Person {
		kind = "person"
	}
	var until time.Time
	if !c.who.Local && !id.Machine() {
		until = id.SignedInAt.Add(c.cfg.Policy().LongestSession())
		if login, err := c.cfg.Logins.KeyLogin(ctx, c.who.SignIn); err == nil {
			until = login.ExpiresAt
		}
	}
	admin := c.administrator(c.who)
	if c.flag("json") {
		return c.json(struct {
			Identity      string    `json:"identity"`
			Kind          string    `json:"kind"`
			Issuer        string    `json:"issuer"`
			Subject       string    `json:"subject"`
			Email         string    `json:"email,omitempty"`
			Name          string    `json:"name,omitempty"`
			Groups        []string  `json:"groups,omitempty"`
			Key           string    `json:"key,omitempty"`
			Client        string    `json:"client,omitempty"`
			SignedInAt    time.Time `json:"signed_in_at,omitzero"`
			ExpiresAt     time.Time `json:"expires_at,omitzero"`
			Administrator bool      `json:"administrator"`
		}{
			id.String(), kind, id.Issuer, id.Subject, id.VerifiedEmail(), id.Name, id.Groups,
			c.who.Key, address(c.who), whole(id.SignedInAt), whole(until), admin,
		})
	}
	pairs := [][2]string{{"you are", id.String()}, {"kind", kind}, {"name", id.Name}, {"issuer", id.Issuer}, {"subject", id.Subject}, {"groups", joined(id.Groups)}, {"key", c.who.Key}, {"from", address(c.who)}}
	if !until.IsZero() {
		pairs = append(pairs, [2]string{"signed in", stamp(id.SignedInAt)}, [2]string{"until", stamp(until)})
	}
	if admin {
		pairs = append(pairs, [2]string{"role", "administrator"})
	}
	return c.pairs(pairs)
}

func address(who Caller) string {
	if !who.Addr.IsValid() {
		return ""
	}
	return who.Addr.String()
}

func ls(ctx context.Context, c *call) error {
	list, err := c.Directory(ctx, c.who)
	if err != nil {
		return err
	}
	if c.flag("json") {
		for _, o := range list {
			o.LastUsed = whole(o.LastUsed)
			if err := c.json(o); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out.Stderr, "sshgate: there is no origin that you may reach; ask whoever runs the gateway")
		return nil
	}
	rows := make([][]string, len(list))
	for i, o := range list {
		state := "online"
		if !o.Online {
			state = "offline"
		}
		rows[i] = []string{string(o.Name), state, o.loginsText(), o.waysText(), stamp(o.LastUsed)}
	}
	if err := c.table([]string{"ORIGIN", "STATE", "LOGINS", "BY", "LAST USED"}, rows); err != nil || c.who.Local {
		return err
	}
	fmt.Fprintf(c.out.Stderr, "Go there with: ssh %s\n", loginAt(c.cfg.Advertise))
	return nil
}

// loginAt is how people name an origin.
func loginAt(advertise string) string {
	arguments := sshArguments(advertise)
	at := strings.LastIndexByte(arguments, ' ') + 1
	return arguments[:at] + "LOGIN+ORIGIN@" + arguments[at:]
}

func (o Origin) loginsText() string {
	if o.AnyLogin {
		return joined(o.Logins, "*")
	}
	return joined(o.Logins)
}

// waysText says by which ways one gets there.
func (o Origin) waysText() string {
	var ways []string
	for _, s := range o.Services {
		if s.Session {
			ways = append(ways, "session")
		}
		switch {
		case s.EndToEnd && s.Port == sshgate.SSHPort:
			ways = append(ways, "end-to-end")
		case s.EndToEnd:
			ways = append(ways, "port "+strconv.Itoa(int(s.Port)))
		}
	}
	return strings.Join(ways, ", ")
}

// myKeys are the sign-ins of the caller's keys.
func (c *call) myKeys(ctx context.Context) ([]sshgate.KeyLogin, error) {
	if c.who.Local {
		return nil, errors.New("you are on the gateway itself and have no keys here; see users and revoke")
	}
	all, err := c.cfg.Logins.KeyLogins(ctx)
	return slices.DeleteFunc(all, func(login sshgate.KeyLogin) bool { return login.Identity.Key() != c.who.Identity.Key() }), err
}

func keys(ctx context.Context, c *call) error {
	mine, err := c.myKeys(ctx)
	switch {
	case err != nil:
		return err
	case len(c.args) > 1 && c.args[0] == "revoke":
		return revokeKey(ctx, c, mine, strings.Join(c.args[1:], " ")) // the name of a connection has two words
	case len(c.args) > 0:
		return usageError{errors.New("keys: it is keys, or keys revoke FINGERPRINT")}
	}
	if c.flag("json") {
		for _, login := range mine {
			if err := c.json(map[string]any{
				"fingerprint": login.Fingerprint, "signed_in_at": whole(login.Identity.SignedInAt), "expires_at": whole(login.ExpiresAt),
				"this_connection": login.Fingerprint == c.who.SignIn,
			}); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, len(mine))
	for i, login := range mine {
		note := ""
		if login.Fingerprint == c.who.SignIn {
			note = "this connection's"
		}
		rows[i] = []string{login.Fingerprint, stamp(login.Identity.SignedInAt), stamp(login.ExpiresAt), note}
	}
	return c.table([]string{"FINGERPRINT", "SIGNED IN", "UNTIL", ""}, rows)
}

func revokeKey(ctx context.Context, c *call, mine []sshgate.KeyLogin, meant string) error {
	const form = "SHA256:"
	want := strings.TrimPrefix(meant, form)
	found := slices.DeleteFunc(mine, func(login sshgate.KeyLogin) bool {
		return !strings.HasPrefix(strings.TrimPrefix(login.Fingerprint, form), want)
	})
	switch {
	case want == "" || len(found) == 0:
		return fmt.Errorf("no key of yours that is remembered has the fingerprint %q; see keys", clip(meant))
	case len(found) > 1:
		return fmt.Errorf("%d of your keys begin with %q; give more of the fingerprint", len(found), clip(meant))
	}
	return c.forgetKey(ctx, found[0].Fingerprint)
}

func (c *call) forgetKey(ctx context.Context, fingerprint string) error {
	if err := c.cfg.Logins.ForgetKey(ctx, fingerprint); errors.Is(err, sshgate.ErrNotFound) {
		return fmt.Errorf("the key %s is not remembered", fingerprint)
	} else if err != nil {
		return err
	}
	return c.done(map[string]any{"forgotten": []string{fingerprint}}, "forgot the key %s", fingerprint)
}

// done says what was done.
func (c *call) done(object map[string]any, format string, args ...any) error {
	if c.flag("json") {
		return c.json(object)
	}
	_, err := fmt.Fprintln(c.out.Stdout, clean(fmt.Sprintf(format, args...)))
	return err
}

func logout(ctx context.Context, c *call) error {
	switch {
	case c.who.Local:
		return errors.New("you are on the gateway itself and are not signed in")
	case c.who.Identity.Machine():
		return errors.New("a machine does not sign in; its token is revoked on the gateway: sshgated token revoke")
	case c.flag("all"):
		n, err := c.cfg.Logins.ForgetIdentity(ctx, c.who.Identity.Key())
		if err != nil {
			return err
		}
		return c.done(map[string]any{"count": n}, "forgot %d keys and tokens; you are signed out everywhere", n)
	case c.who.SignIn == "":
		return errors.New("the sign-in of this connection is not kept, and ends with it")
	}
	return c.forgetKey(ctx, c.who.SignIn)
}

func sessions(_ context.Context, c *call) error {
	all := c.cfg.Sessions.Sessions()
	if !c.flag("all") {
		all = slices.DeleteFunc(all, func(s Session) bool { return s.Identity.Key() != c.who.Identity.Key() })
	}
	slices.SortStableFunc(all, func(a, b Session) int { return a.Since.Compare(b.Since) })
	if c.flag("json") {
		for _, s := range all {
			if err := c.json(sessionJSON(s)); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, len(all))
	for i, s := range all {
		rows[i] = []string{string(s.ID), string(s.Connection), s.Identity.String(), targetText(s.Origin, s.Login), string(s.Channel), stamp(s.Since), s.Detail}
	}
	return c.table([]string{"SESSION", "CONNECTION", "WHO", "TARGET", "CHANNEL", "SINCE", "WHAT"}, rows)
}

func targetText(origin sshgate.OriginName, login sshgate.Login) string {
	if login == "" {
		return string(origin)
	}
	return sshgate.Target{Login: login, Origin: origin}.String()
}

func sessionJSON(s Session) map[string]any {
	out := map[string]any{
		"session": s.ID, "connection": s.Connection, "identity": s.Identity.String(), "issuer": s.Identity.Issuer, "subject": s.Identity.Subject,
		"origin": s.Origin, "channel": s.Channel, "since": whole(s.Since),
	}
	for name, text := range map[string]string{"key": s.Key, "login": string(s.Login), "detail": s.Detail} {
		if text != "" {
			out[name] = text
		}
	}
	if s.Addr.IsValid() {
		out["client"] = s.Addr.String()
	}
	return out
}
