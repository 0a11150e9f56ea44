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
)

func newConnector() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connector",
		Short: "List and revoke the certificates of connectors",
		Long: `List the certificates that were issued to connectors, and revoke them. A certificate
that is revoked ends its tunnels within a second, with the sessions in them, and
is refused from then on; the connector's log says why. "connector-cert" issues one.

Certificates that were issued before the gateway noted them are not listed.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newConnectorList(), newConnectorRevoke())
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			recs, err := db.Connectors(cmd.Context())
			if err != nil {
				return err
			}
			now := time.Now()
			if !all {
				recs = slices.DeleteFunc(recs, func(rec sshgate.ConnectorRecord) bool { return connectorState(rec, now) != "good" })
			}
			return printConnectors(cmd, recs, now, asJSON)
		},
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
			line := map[string]any{
				"connector": rec.Connector, "serial": rec.Serial, "hostnames": rec.Hostnames, "state": connectorState(rec, now),
				"issued_at": rec.IssuedAt, "expires_at": rec.ExpiresAt,
			}
			if !rec.RevokedAt.IsZero() {
				line["revoked_at"] = rec.RevokedAt
			}
			if !rec.LastSeenAt.IsZero() {
				line["last_seen_at"] = rec.LastSeenAt
			}
			if err := enc.Encode(line); err != nil {
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

func newConnectorRevoke() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "revoke NAME|SERIAL",
		Short: "Revoke a connector's certificates",
		Long: `Revoke all certificates of a connector, by its name, or one, by its serial number.
The running gateway notices within a second: the tunnels end, with the sessions in
them, and the connector is refused from then on. It cannot be undone; issue another
certificate.`,
		Example: "  sshgated connector revoke rack1",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one connector, or a serial number; see: %s --help", cmd.CommandPath())}
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			db, err := cfgFlag.openStore(cmd)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			defer db.Close()
			recs, _ := db.Connectors(cmd.Context()) // none is a list, too
			var names []string
			for _, rec := range recs {
				if connectorState(rec, time.Now()) == "good" {
					names = append(names, rec.Connector)
				}
			}
			return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			n, err := db.RevokeConnectors(cmd.Context(), args[0], time.Now())
			if errors.Is(err, sshgate.ErrNotFound) {
				return fmt.Errorf("there is no certificate of %q; see: sshgated connector list --all", args[0])
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
		},
	}
	cfgFlag.add(cmd)
	return cmd
}
