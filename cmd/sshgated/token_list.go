package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func newTokenList() *cobra.Command {
	var cfgFlag configFlag
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the service tokens",
		Long: `List the service tokens by name. Those that have expired or were revoked are left
out unless --all is given. The last use is accurate to about a minute.`,
		Args: noArguments,
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, _ []string, db *store.SQLite) error {
			recs, err := db.ServiceTokens(cmd.Context())
			if err != nil {
				return err
			}
			now := time.Now()
			if !all {
				recs = slices.DeleteFunc(recs, func(rec sshgate.ServiceTokenRecord) bool { return tokenState(rec, now) != tokenActive })
			}
			slices.SortStableFunc(recs, func(a, b sshgate.ServiceTokenRecord) int { return cmp.Compare(a.Name, b.Name) })
			return printTokens(cmd, recs, now, asJSON)
		}),
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "list those that have expired or were revoked too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func printTokens(cmd *cobra.Command, recs []sshgate.ServiceTokenRecord, now time.Time, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		for _, rec := range recs {
			if err := enc.Encode(tokenJSON(rec, now)); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tCREATED\tEXPIRES\tLAST USED\tSTATE")
	for _, rec := range recs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", rec.Name, rec.ID,
			tokenTime(rec.CreatedAt), tokenTime(rec.ExpiresAt), tokenTime(rec.LastUsedAt), tokenState(rec, now))
	}
	return w.Flush()
}

func newTokenShow() *cobra.Command {
	var cfgFlag configFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show ID|NAME",
		Short: "Show all that is kept of a service token",
		Args:  oneArgument("ID or name of a token"),
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, args []string, db *store.SQLite) error {
			rec, err := findToken(cmd.Context(), db, args[0])
			if err != nil {
				return err
			}
			now := time.Now()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(tokenJSON(rec, now))
			}
			return showToken(cmd, rec, now)
		}),
	}
	cfgFlag.add(cmd)
	cmd.ValidArgsFunction = completeTokens(&cfgFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func showToken(cmd *cobra.Command, rec sshgate.ServiceTokenRecord, now time.Time) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\nid\t%s\nstate\t%s\n", rec.Name, rec.ID, tokenState(rec, now))
	fmt.Fprintf(w, "created\t%s\nexpires\t%s\n", tokenTime(rec.CreatedAt), tokenTime(rec.ExpiresAt))
	if !rec.RevokedAt.IsZero() {
		fmt.Fprintf(w, "revoked\t%s\n", tokenTime(rec.RevokedAt))
	}
	fmt.Fprintf(w, "last used\t%s\n", tokenTime(rec.LastUsedAt))
	secret := "none"
	if rec.SecretHash != nil {
		secret = "set"
	}
	if now.Before(rec.PreviousUntil) {
		secret += ", the one before it is good until " + tokenTime(rec.PreviousUntil)
	}
	fmt.Fprintf(w, "secret\t%s\n", secret)
	if rec.Key != "" {
		fmt.Fprintf(w, "key\t%s\nfingerprint\t%s\n", rec.Key, rec.Fingerprint)
	}
	return w.Flush()
}
