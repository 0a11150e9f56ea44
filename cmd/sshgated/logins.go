package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func newLogins() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logins",
		Short: "List or revoke the sign-ins that are remembered",
		Long: `Whoever signs in is remembered until the policy's session duration ends: by the SSH
key that was proven, by the access token of "sshgate access login" or of a job, or, where
there is neither, as long as the connection lasts.

What these commands do takes effect within a second, without a restart: connections that
a revoked sign-in let in end, and the next asks for another. To keep somebody out, have
the policy deny them, or the provider.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newLoginsList(), newLoginsRevoke())
	return cmd
}

// The kinds of sign-ins, as list prints them.
const (
	loginByKey        = "key"
	loginByToken      = "token"
	loginByConnection = "connection"
)

// login is one sign-in that is remembered.
type login struct {
	kind     string
	by       string // the key's fingerprint, or the connection; empty for a token
	identity sshgate.Identity
	expires  time.Time
}

// findLogins returns all sign-ins, by identity.
func findLogins(ctx context.Context, db *store.SQLite) (all []login, err error) {
	keys, err := db.KeyLogins(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		l := login{kind: loginByKey, by: k.Fingerprint, identity: k.Identity, expires: k.ExpiresAt}
		if connection, ok := strings.CutPrefix(k.Fingerprint, sshgate.NoKey("")); ok {
			l.kind, l.by = loginByConnection, connection
		}
		all = append(all, l)
	}
	tokens, err := db.AccessTokens(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range tokens {
		all = append(all, login{kind: loginByToken, identity: rec.Identity, expires: rec.ExpiresAt})
	}
	slices.SortStableFunc(all, func(a, b login) int { return strings.Compare(a.identity.String(), b.identity.String()) })
	return all, nil
}

func newLoginsList() *cobra.Command {
	var cfgFlag configFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List who is signed in, by which key or token, and until when",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			all, err := findLogins(cmd.Context(), db)
			if err != nil {
				return err
			}
			if asJSON {
				return printLoginsJSON(cmd, all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "IDENTITY\tBY\tKEY\tSIGNED IN\tEXPIRES")
			for _, l := range all {
				by := l.by
				if by == "" {
					by = "-"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", plain(l.identity.String()), l.kind, by, tokenTime(l.identity.SignedInAt), tokenTime(l.expires))
			}
			return w.Flush()
		},
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func printLoginsJSON(cmd *cobra.Command, all []login) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	for _, l := range all {
		out := map[string]any{
			"identity": l.identity.String(), "issuer": l.identity.Issuer, "subject": l.identity.Subject, "by": l.kind,
			"signed_in_at": l.identity.SignedInAt, "expires_at": l.expires,
		}
		if l.by != "" {
			out[l.kind] = l.by
		}
		if err := enc.Encode(out); err != nil {
			return err
		}
	}
	return nil
}

// plain replaces what a terminal would not show as it stands: providers choose names.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func newLoginsRevoke() *cobra.Command {
	var cfgFlag configFlag
	var issuer string
	cmd := &cobra.Command{
		Use:   "revoke KEY|IDENTITY",
		Short: "End a sign-in, with the connections that it let in",
		Long: `End the sign-in of one SSH key, given by its SHA256:... fingerprint, or all sign-ins of
an identity with its access tokens, given by the verified e-mail address or the provider's
subject. Running connections end within a second; their users read why.

It keeps nobody from signing in again: have the policy deny them, or the provider.`,
		Example: `  sshgated logins revoke alice@example.com
  sshgated logins revoke SHA256:Gs0pvYvYRjtxaYDLmkKU2dWpbWDr2dWzcRFY/5mYbKI`,
		Args: oneArgument("fingerprint of a key, or identity"),
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			if strings.HasPrefix(args[0], "SHA256:") {
				return revokeKey(cmd, db, args[0])
			}
			return revokeIdentity(cmd, db, args[0], issuer)
		},
	}
	cfgFlag.add(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.Flags().StringVar(&issuer, "issuer", "", "the identity's provider, where several have one of that name")
	return cmd
}

func revokeKey(cmd *cobra.Command, db *store.SQLite, fingerprint string) error {
	err := db.ForgetKey(cmd.Context(), fingerprint)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("no sign-in is remembered by the key %s; see: sshgated logins list", fingerprint)
	}
	if err == nil {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked the sign-in of the key %s\n", fingerprint)
	}
	return err
}

func revokeIdentity(cmd *cobra.Command, db *store.SQLite, name, issuer string) error {
	all, err := findLogins(cmd.Context(), db)
	if err != nil {
		return err
	}
	var found []sshgate.Identity
	for _, l := range all {
		id := l.identity
		named := name == id.Subject || name == id.String() || id.VerifiedEmail() != "" && strings.EqualFold(name, id.VerifiedEmail())
		known := slices.ContainsFunc(found, func(other sshgate.Identity) bool { return other.Key() == id.Key() })
		if named && !known && (issuer == "" || issuer == id.Issuer) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return fmt.Errorf("nobody is signed in as %q; see: sshgated logins list", name)
	case 1:
	default:
		var several []string
		for _, id := range found {
			several = append(several, fmt.Sprintf("%s of %s", plain(id.Subject), plain(id.Issuer)))
		}
		return fmt.Errorf("%q is the name of several: %s; give the subject, or --issuer", name, strings.Join(several, ", "))
	}
	n, err := db.ForgetIdentity(cmd.Context(), found[0].Key())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked %d sign-ins of %s\n", n, plain(found[0].String()))
	return err
}
