package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
)

// question is what the flags of explain ask.
type question struct {
	email, subject, issuer string
	groups, claims         []string
	token, workload        string
	unverified             bool
	address, country       string
	keyType                string
	touched, verified      bool
	time                   string
	signedIn               string
	purpose                string
	origin, login          string
	channel, activity      string
	command, destination   string
	port                   uint16
}

func newExplain() *cobra.Command {
	var cfgFlag configFlag
	var q question
	var event, log string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say how the policy answers somebody, rule by rule",
		Long: `Ask the policy what it says to somebody who wants to go somewhere, and show of each
rule why it matches or does not. What the provider says of the person has to be
given: their address, groups and claims.

With --event it is a request of the log, by the id that the user was shown. The log
is read from standard input or a file, as JSON lines. The present policy answers,
and it is said whether that differs from what was decided then. Groups and claims
are those of the sign-in that the gateway remembers for the same key; where it has
none, name them.

Exit codes: 0 it was explained, 1 there is no such event, 2 a wrong flag or a
configuration that cannot be used.`,
		Example: `  sshgated explain --as alice@example.com --group ops --origin web1 --login deploy
  sshgated explain --as alice@example.com --origin web1 --command 'systemctl restart app'
  journalctl -u sshgated -o cat | sshgated explain --event r-5k2m9q4xha`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := cfgFlag.load()
			if err != nil {
				return err
			}
			if event != "" {
				return explainEvent(cmd, cfg, q, sshgate.RequestID(event), log, asJSON)
			}
			if q.origin == "" || q.email == "" && q.subject == "" && q.token == "" && q.workload == "" {
				return usageError{fmt.Errorf("--origin and one of --as, --subject, --service-token and --workload are required; see: %s --help", cmd.CommandPath())}
			}
			var r sshgate.Request
			r.Channel, r.Time, r.Identity.Issuer = sshgate.ChannelSession, time.Now(), cfg.SignIn.Issuer
			if err := q.apply(&r); err != nil {
				return usageError{err}
			}
			return printExplanation(cmd, explanationOf(r, cfg.Policy().Explain(r)), asJSON)
		},
	}
	cfgFlag.add(cmd)
	q.add(cmd)
	cmd.Flags().StringVar(&event, "event", "", "explain the decision with this request `ID` in the log")
	cmd.Flags().StringVar(&log, "log", "-", "with --event, the log `FILE`; - is standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (q *question) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.email, "as", "", "the person's verified `ADDRESS`")
	f.BoolVar(&q.unverified, "unverified", false, "the provider does not vouch for the address")
	f.StringVar(&q.subject, "subject", "", "the provider's name for the person")
	f.StringVar(&q.issuer, "issuer", "", "the `URL` of the provider (default: that of the configuration)")
	f.StringArrayVar(&q.groups, "group", nil, "a `GROUP` of the person; may be repeated")
	f.StringArrayVar(&q.claims, "claim", nil, "a claim of the ID token as `NAME=VALUE`, the value as JSON or text; may be repeated")
	f.StringVar(&q.token, "service-token", "", "the `NAME` of a service token")
	f.StringVar(&q.workload, "workload", "", "the `NAME` of a workload")
	f.StringVar(&q.address, "address", "", "the client's IP `ADDRESS`")
	f.StringVar(&q.country, "country", "", "the client's country, as in DE")
	f.StringVar(&q.keyType, "key-type", "", "the `TYPE` of the client's key, as in ssh-ed25519")
	f.BoolVar(&q.touched, "touched", false, "the key's token was touched")
	f.BoolVar(&q.verified, "verified", false, "the key's token knew its owner")
	f.StringVar(&q.time, "time", "", "when, as in 2026-01-05T12:00:00+01:00 (default: now)")
	f.StringVar(&q.signedIn, "signed-in", "", "how long ago the sign-in was, as in 2h (default: just now)")
	f.StringVar(&q.purpose, "purpose", "", "what it is for")
	f.StringVar(&q.origin, "origin", "", "where to")
	f.StringVar(&q.login, "login", "", "the account there (default: what the policy picks)")
	f.StringVar(&q.channel, "channel", "", "session, forward, unix, listen, end-to-end or tcp (default: session)")
	f.StringVar(&q.activity, "activity", "", "shell, exec, sftp, subsystem, agent or x11 (default: to open the channel)")
	f.StringVar(&q.command, "command", "", "the `LINE` to run, or the name of a subsystem")
	f.StringVar(&q.destination, "destination", "", "HOST:PORT, or the path of a socket, of a forward")
	f.Uint16Var(&q.port, "port", 0, "the port of a service other than SSH (channel tcp)")
}

// apply sets in the request what the flags say.
func (q question) apply(r *sshgate.Request) error {
	if err := q.who(r); err != nil {
		return err
	}
	var err error
	if q.origin != "" {
		if r.Target.Origin, err = sshgate.ParseOriginName(q.origin); err != nil {
			return fmt.Errorf("--origin: %w", err)
		}
	}
	if q.login != "" {
		if r.Target.Login, err = sshgate.ParseLogin(q.login); err != nil {
			return fmt.Errorf("--login: %w", err)
		}
	}
	if q.purpose != "" {
		r.Purpose = q.purpose
	}
	if q.channel != "" {
		r.Channel = sshgate.Channel(q.channel)
	}
	if q.port != 0 {
		r.Channel, r.Port = sshgate.ChannelTCP, q.port
	}
	kind, detail := sshgate.ActivityKind(q.activity), q.command+q.destination
	if kind == sshgate.ActivityOpen && q.command != "" {
		kind = sshgate.ActivityExec
	}
	if kind != sshgate.ActivityOpen || detail != "" {
		r.Activity = sshgate.NewActivity(r.Channel, kind, detail)
	}
	return nil
}

// who sets what the flags say of whoever asks, and from where.
func (q question) who(r *sshgate.Request) error {
	id := &r.Identity
	var err error
	if q.address != "" {
		if r.ClientAddr, err = netip.ParseAddr(q.address); err != nil {
			return fmt.Errorf("--address: %q is no IP address", q.address)
		}
	}
	if q.time != "" {
		if r.Time, err = time.Parse(time.RFC3339, q.time); err != nil {
			return fmt.Errorf("--time: %q is no time; give one as in 2026-01-05T12:00:00+01:00", q.time)
		}
	}
	if id.SignedInAt.IsZero() {
		id.SignedInAt = r.Time
	}
	if q.signedIn != "" {
		ago, err := config.ParseDuration(q.signedIn)
		if err != nil {
			return fmt.Errorf("--signed-in: %w; give one as in 2h", err)
		}
		id.SignedInAt = r.Time.Add(-ago)
	}
	if err := q.tokenClaims(id); err != nil {
		return err
	}
	if q.email != "" {
		id.Email, id.EmailVerified = q.email, !q.unverified
	}
	if q.issuer != "" {
		id.Issuer = q.issuer
	}
	switch {
	case q.token != "":
		id.Kind, id.Name, id.Issuer = sshgate.ServiceToken, q.token, sshgate.ServiceIssuer
	case q.workload != "":
		id.Kind, id.Name = sshgate.Workload, q.workload
	}
	for _, subject := range []string{q.subject, id.Subject, q.email, id.Name} {
		if subject != "" {
			id.Subject = subject
			break
		}
	}
	if q.country != "" {
		r.Country = strings.ToUpper(q.country)
	}
	if q.keyType != "" {
		r.Key = sshgate.Key{Type: q.keyType, Touched: q.touched, Verified: q.verified}
	}
	return nil
}

// tokenClaims sets the groups and claims that the flags give.
func (q question) tokenClaims(id *sshgate.Identity) error {
	if len(q.groups) > 0 {
		id.Groups = q.groups
	}
	if len(q.claims) == 0 {
		return nil
	}
	id.Claims = map[string]any{}
	for _, claim := range q.claims {
		name, text, ok := strings.Cut(claim, "=")
		if !ok || name == "" {
			return fmt.Errorf("--claim: %q is not NAME=VALUE", claim)
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			value = text
		}
		id.Claims[name] = value
	}
	return nil
}
