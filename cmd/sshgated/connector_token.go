package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
	"github.com/sshgate/sshgate/sshgate/store"
)

func newConnectorToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list or revoke join tokens, which let connectors in without a person",
		Long: `A join token lets a machine in that nobody sits at: an image, a playbook, a cloud-init
file. It is good for one connector, or as many as --uses says, until its end. What it lets in has
a certificate of its own, which is listed and revoked like any other.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newJoinTokenCreate(), newJoinTokenList(), newJoinTokenRevoke())
	return cmd
}

const (
	defaultJoinLife = "1h"
	maxJoinUses     = 10_000
)

func newJoinTokenCreate() *cobra.Command {
	var cfgFlag configFlag
	var hostnames []string
	var name, expires string
	var uses int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a join token and print it, once",
		Long: `Create a join token. It is printed this once, alone on standard output, and kept as a
hash. Give it to the machine in a file or on standard input:

  sshgate connector login --gateway gate.example.com --token-file FILE

--hostname is what those who join may publish; a machine can ask for less, or for names
under a wildcard. With --name all of them are replicas of that one connector; without it
each has the name of its machine, which no other connector may have. No publish rule of
the policy is asked.`,
		Example: `  sshgated connector token create --hostname web1.example.com
  sshgated connector token create --hostname '*.lab.example.com' --uses 50 --expires 1d`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rec, err := joinTokenOf(hostnames, name, expires, uses)
			if err != nil {
				return err
			}
			token, hash := authflow.NewJoinToken()
			rec.Hash = hash
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			if err := db.AddJoinToken(cmd.Context(), rec); err != nil {
				return err
			}
			if asJSON {
				out := joinTokenJSON(rec, time.Now())
				out["token"] = token
				return json.NewEncoder(cmd.OutOrStdout()).Encode(out)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "created join token %s, good for %s until %s, for %s\n",
				rec.ID, plural(rec.Uses, "connector"), tokenTime(rec.ExpiresAt), strings.Join(rec.Hostnames, " "))
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cfgFlag.add(cmd)
	cmd.Flags().StringArrayVar(&hostnames, "hostname", nil, "a name that may be published, or a wildcard such as '*.lab.example.com' (required, repeatable)")
	cmd.Flags().StringVar(&name, "name", "", "the connector's name; by default that of the machine")
	cmd.Flags().IntVar(&uses, "uses", 1, "how many connectors it lets in")
	cmd.Flags().StringVar(&expires, "expires", defaultJoinLife, "how long the token is good for, as in 30m or 7d")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// plural counts, in words.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// joinTokenOf checks what the flags say.
func joinTokenOf(hostnames []string, name, expires string, uses int) (sshgate.JoinTokenRecord, error) {
	none := sshgate.JoinTokenRecord{}
	if len(hostnames) == 0 {
		return none, usageError{errors.New("--hostname is missing; name what the connectors may publish")}
	}
	names, err := parseHostnames(hostnames)
	if err != nil {
		return none, usageError{err}
	}
	if name != "" {
		if err := enrolment.CheckName(name); err != nil {
			return none, usageError{fmt.Errorf("--name: %w", err)}
		}
	}
	if uses < 1 || uses > maxJoinUses {
		return none, usageError{fmt.Errorf("--uses is %d; give from 1 to %d", uses, maxJoinUses)}
	}
	life, err := durationFlag("expires", expires, minTokenLife, 365*day)
	if err != nil {
		return none, err
	}
	now := time.Now().UTC()
	return sshgate.JoinTokenRecord{
		ID: sshgate.NewJoinTokenID(), Connector: name, Hostnames: names, Uses: uses, Left: uses, CreatedAt: now, ExpiresAt: now.Add(life),
	}, nil
}

func joinTokenState(rec sshgate.JoinTokenRecord, now time.Time) string {
	switch {
	case !rec.RevokedAt.IsZero():
		return "revoked"
	case rec.Left == 0:
		return "used up"
	case !now.Before(rec.ExpiresAt):
		return "expired"
	}
	return "good"
}

func joinTokenJSON(rec sshgate.JoinTokenRecord, now time.Time) map[string]any {
	out := map[string]any{
		"id": rec.ID, "state": joinTokenState(rec, now), "hostnames": rec.Hostnames, "uses": rec.Uses, "uses_left": rec.Left,
		"created_at": rec.CreatedAt, "expires_at": rec.ExpiresAt,
	}
	if rec.Connector != "" {
		out["connector"] = rec.Connector
	}
	if !rec.RevokedAt.IsZero() {
		out["revoked_at"] = rec.RevokedAt
	}
	if !rec.LastUsedAt.IsZero() {
		out["last_used_at"] = rec.LastUsedAt
	}
	return out
}

func newJoinTokenList() *cobra.Command {
	var cfgFlag configFlag
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the join tokens",
		Long:  "List the join tokens. Those that are used up, expired or revoked are left out unless --all is given.",
		Args:  noArguments,
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, _ []string, db *store.SQLite) error {
			recs, err := db.JoinTokens(cmd.Context())
			if err != nil {
				return err
			}
			now := time.Now()
			var shown []sshgate.JoinTokenRecord
			for _, rec := range recs {
				if all || joinTokenState(rec, now) == "good" {
					shown = append(shown, rec)
				}
			}
			return printJoinTokens(cmd.OutOrStdout(), shown, now, asJSON)
		}),
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "list those that are no longer good, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func printJoinTokens(w io.Writer, recs []sshgate.JoinTokenRecord, now time.Time, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		for _, rec := range recs {
			if err := enc.Encode(joinTokenJSON(rec, now)); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tUSES LEFT\tCONNECTOR\tHOSTNAMES\tEXPIRES")
	for _, rec := range recs {
		name := rec.Connector
		if name == "" {
			name = "(of the machine)"
		}
		fmt.Fprintf(table, "%s\t%s\t%d of %d\t%s\t%s\t%s\n", rec.ID, joinTokenState(rec, now), rec.Left, rec.Uses, name, strings.Join(rec.Hostnames, " "), tokenTime(rec.ExpiresAt))
	}
	return table.Flush()
}

func newJoinTokenRevoke() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a join token",
		Long: `Revoke a join token: nobody joins with it any more. Connectors that it let in stay;
revoke those with "sshgated connector revoke".`,
		Args:              oneArgument("join token, by its ID"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, args []string, db *store.SQLite) error {
			err := db.RevokeJoinToken(cmd.Context(), sshgate.JoinTokenID(args[0]), time.Now())
			if errors.Is(err, sshgate.ErrNotFound) {
				return fmt.Errorf("there is no join token %q; see: sshgated connector token list --all", args[0])
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked join token %s\n", args[0])
			return err
		}),
	}
	cfgFlag.add(cmd)
	return cmd
}
