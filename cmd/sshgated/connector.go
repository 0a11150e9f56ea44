package main

import (
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

func newConnector() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connector",
		Short: "List, show and revoke connectors, and make tokens that let them in",
		Long: `Connectors are let in by people who sign in (sshgate connector login), by join tokens,
or by "connector-cert" on the gateway. Each has a certificate, which renews itself. One
that is revoked ends its tunnels within a second, with the sessions in them, and
is refused from then on; the connector's log says why.

Certificates that were issued before the gateway noted them are not listed.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newConnectorList(), newConnectorShow(), newConnectorRevoke(), newConnectorRelease(), newConnectorToken(), newConnectorPin())
	return cmd
}

func connectorState(rec sshgate.ConnectorRecord, now time.Time) string {
	switch {
	case !rec.RevokedAt.IsZero():
		return "revoked"
	case !now.Before(rec.ExpiresAt):
		return "expired"
	}
	return "good"
}

func newConnectorList() *cobra.Command {
	var cfgFlag configFlag
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the certificates",
		Long: `List the certificates by the connector's name. Those that have expired or were
revoked are left out unless --all is given. When it was last seen is accurate to about
a minute, and not renewed while a tunnel is up.`,
		Args: noArguments,
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, _ []string, db *store.SQLite) error {
			recs, err := db.Connectors(cmd.Context())
			if err != nil {
				return err
			}
			now := time.Now()
			if !all {
				recs = slices.DeleteFunc(recs, func(rec sshgate.ConnectorRecord) bool { return connectorState(rec, now) != "good" })
			}
			return printConnectors(cmd, recs, now, asJSON)
		}),
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "list those that have expired or were revoked too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func printConnectors(cmd *cobra.Command, recs []sshgate.ConnectorRecord, now time.Time, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		for _, rec := range recs {
			if err := enc.Encode(connectorJSON(rec, now)); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CONNECTOR\tSTATE\tHOSTNAMES\tEXPIRES\tLAST SEEN\tSERIAL")
	for _, rec := range recs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", rec.Connector, connectorState(rec, now), strings.Join(rec.Hostnames, " "),
			tokenTime(rec.ExpiresAt), tokenTime(rec.LastSeenAt), rec.Serial)
	}
	return w.Flush()
}

// connectorJSON is what is printed of a certificate for programs.
func connectorJSON(rec sshgate.ConnectorRecord, now time.Time) map[string]any {
	out := map[string]any{
		"connector": rec.Connector, "serial": rec.Serial, "hostnames": rec.Hostnames, "state": connectorState(rec, now),
		"issued_at": rec.IssuedAt, "expires_at": rec.ExpiresAt,
	}
	for name, text := range map[string]string{
		"via": string(rec.Via), "approved_by": rec.Approver, "join_token": string(rec.JoinToken), "machine": rec.Machine,
		"address": addressOf(rec), "renews": rec.Renews,
	} {
		if text != "" {
			out[name] = text
		}
	}
	for name, t := range map[string]time.Time{"revoked_at": rec.RevokedAt, "last_seen_at": rec.LastSeenAt} {
		if !t.IsZero() {
			out[name] = t
		}
	}
	return out
}

// completeConnectors offers the names of connectors that are let in.
func completeConnectors(cfgFlag *configFlag) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		db, err := cfgFlag.openStore(cmd)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer db.Close()
		recs, _ := db.Connectors(cmd.Context()) // none is a list, too
		var names []string
		for _, rec := range recs {
			if rec.Good(time.Now()) {
				names = append(names, rec.Connector)
			}
		}
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

func newConnectorRevoke() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "revoke NAME|SERIAL",
		Short: "Revoke a connector's certificates",
		Long: `Revoke all certificates of a connector, by its name, or one, by its serial number.
The running gateway notices within a second: the tunnels end, with the sessions in
them, and the connector is refused from then on; its origins are free for another. A
serial number stands for the certificates that renewed it, too. It cannot be undone;
let the connector in again.`,
		Example:           "  sshgated connector revoke rack1",
		Args:              oneArgument("connector, or serial number"),
		ValidArgsFunction: completeConnectors(&cfgFlag),
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, args []string, db *store.SQLite) error {
			n, err := db.RevokeConnectors(cmd.Context(), args[0], time.Now())
			if errors.Is(err, sshgate.ErrNotFound) {
				return noConnector(args[0])
			}
			if err != nil {
				return err
			}
			if n == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "the certificates of %s were revoked before\n", args[0])
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "revoked %d of the certificates of %s\n", n, args[0])
			return nil
		}),
	}
	cfgFlag.add(cmd)
	return cmd
}
