package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list, rotate or revoke service tokens",
		Long: `A service token is how a machine proves who it is: a secret, an SSH public key,
or both. Rules with "action: service" say what it may reach, and name it:

  - {name: nightly, action: service, include: [{service_token: backup}], logins: [backup]}

The gateway keeps no secret, only its hash. What these commands do takes effect at
once, without a restart.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newTokenCreate(), newTokenList(), newTokenShow(), newTokenRotate(), newTokenRevoke())
	return cmd
}

const (
	day = 24 * time.Hour

	defaultTokenLife = "365d"
	minTokenLife     = time.Minute
	maxTokenLife     = 3650 * day
	maxOverlap       = 90 * day
)

var tokenName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// checkTokenName keeps names fit for logs, shells and rules. A name must not
// look like an ID, because rules name tokens by either.
func checkTokenName(name string) error {
	switch {
	case !tokenName.MatchString(name):
		return usageError{fmt.Errorf("%q is not a name for a token; use up to 64 of a-z 0-9 . _ - that begin with a letter or digit", name)}
	case strings.HasPrefix(name, sshgate.ServiceTokenPrefix):
		return usageError{fmt.Errorf("the name %q looks like an ID; choose one that does not begin with %s", name, sshgate.ServiceTokenPrefix)}
	}
	return nil
}

// durationFlag reads a duration as the configuration has it.
func durationFlag(name, value string, least, most time.Duration) (time.Duration, error) {
	d, err := config.ParseDuration(value)
	if err != nil {
		return 0, usageError{fmt.Errorf("--%s: %w; give a number with its unit, as in 12h or 30d", name, err)}
	}
	if d < least || d > most {
		return 0, usageError{fmt.Errorf("--%s is %s; give from %s to %s", name, value, shortDuration(least), shortDuration(most))}
	}
	return d, nil
}

func shortDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	}
	return strings.TrimSuffix(d.String(), "0s")
}

// oneArgument checks the arguments of a command that takes exactly one.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("give one %s; see: %s --help", what, cmd.CommandPath())}
		}
		return nil
	}
}

// findToken returns the token of that ID or name. A name is that of the token
// that is not revoked, or of the newest that was.
func findToken(ctx context.Context, db *store.SQLite, idOrName string) (sshgate.ServiceTokenRecord, error) {
	missing := fmt.Errorf("there is no service token %q; see: sshgated token list --all", idOrName)
	if strings.HasPrefix(idOrName, sshgate.ServiceTokenPrefix) {
		rec, err := db.ServiceToken(ctx, sshgate.ServiceTokenID(idOrName))
		if errors.Is(err, store.ErrNotFound) {
			return rec, missing
		}
		return rec, err
	}
	all, err := db.ServiceTokens(ctx)
	if err != nil {
		return sshgate.ServiceTokenRecord{}, err
	}
	var found sshgate.ServiceTokenRecord
	for _, rec := range slices.Backward(all) { // the newest first
		if rec.Name == idOrName && (found.ID == "" || rec.RevokedAt.IsZero()) {
			found = rec
		}
	}
	if found.ID == "" {
		return found, missing
	}
	return found, nil
}

// completeTokens offers the names of the tokens that are not revoked.
func completeTokens(cfgFlag *configFlag) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cfg, err := cfgFlag.load()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		// The Tab key makes no database.
		if _, err := os.Stat(databaseFile(cfg)); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		db, err := store.OpenSQLite(cmd.Context(), databaseFile(cfg), time.Now)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer db.Close()
		all, err := db.ServiceTokens(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, rec := range all {
			if rec.RevokedAt.IsZero() {
				names = append(names, rec.Name)
			}
		}
		slices.Sort(names)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// The states of a service token, as list and show print them.
const (
	tokenActive  = "active"
	tokenExpired = "expired"
	tokenRevoked = "revoked"
)

func tokenState(rec sshgate.ServiceTokenRecord, now time.Time) string {
	switch {
	case !rec.RevokedAt.IsZero():
		return tokenRevoked
	case !now.Before(rec.ExpiresAt):
		return tokenExpired
	}
	return tokenActive
}

// tokenJSON is what is printed of a token for programs. It has no secret unless
// one is put in.
func tokenJSON(rec sshgate.ServiceTokenRecord, now time.Time) map[string]any {
	out := map[string]any{
		"id": rec.ID, "name": rec.Name, "state": tokenState(rec, now), "has_secret": rec.SecretHash != nil,
		"created_at": rec.CreatedAt, "expires_at": rec.ExpiresAt,
	}
	if rec.Key != "" {
		out["key"], out["fingerprint"] = rec.Key, rec.Fingerprint
	}
	for name, t := range map[string]time.Time{
		"previous_secret_until": rec.PreviousUntil, "revoked_at": rec.RevokedAt, "last_used_at": rec.LastUsedAt,
	} {
		if !t.IsZero() {
			out[name] = t
		}
	}
	return out
}

// tokenTime writes a time for people; never where there is none.
func tokenTime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
