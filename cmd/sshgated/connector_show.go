package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func newConnectorShow() *cobra.Command {
	var cfgFlag configFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show NAME|SERIAL",
		Short: "Show a connector: its certificates, who let it in, what it owns",
		Long: `Show all that is known of a connector, or of one certificate: who let it in and when,
from which machine and address, what renewed it, and which origins belong to it. An
origin belongs to the first connector that publishes it; "release" changes that.`,
		Example:           "  sshgated connector show rack1",
		Args:              oneArgument("connector, or serial number"),
		ValidArgsFunction: completeConnectors(&cfgFlag),
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, args []string, db *store.SQLite) error {
			recs, err := db.Connectors(cmd.Context())
			if err != nil {
				return err
			}
			recs = slices.DeleteFunc(recs, func(rec sshgate.ConnectorRecord) bool { return rec.Connector != args[0] && rec.Serial != args[0] })
			if len(recs) == 0 {
				return noConnector(args[0])
			}
			owners, err := db.OriginOwners(cmd.Context())
			if err != nil {
				return err
			}
			owners = slices.DeleteFunc(owners, func(o sshgate.OriginOwner) bool { return o.Connector != recs[0].Connector })
			return showConnector(cmd.OutOrStdout(), recs, owners, time.Now(), asJSON)
		}),
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func noConnector(name string) error {
	return fmt.Errorf("there is no certificate of %q; see: sshgated connector list --all", name)
}

func showConnector(w io.Writer, recs []sshgate.ConnectorRecord, owners []sshgate.OriginOwner, now time.Time, asJSON bool) error {
	name := recs[0].Connector
	origins := make([]sshgate.OriginName, len(owners))
	for i, o := range owners {
		origins[i] = o.Origin
	}
	if asJSON {
		var certificates []map[string]any
		for _, rec := range recs {
			certificates = append(certificates, connectorJSON(rec, now))
		}
		return json.NewEncoder(w).Encode(map[string]any{"connector": name, "origins": origins, "certificates": certificates})
	}
	var text strings.Builder
	fmt.Fprintf(&text, "connector %s\n", name)
	for _, o := range owners {
		fmt.Fprintf(&text, "  origin       %s, since %s\n", o.Origin, tokenTime(o.Since))
	}
	for _, rec := range recs {
		fmt.Fprintf(&text, "certificate %s (%s)\n", rec.Serial, connectorState(rec, now))
		for _, line := range [][2]string{
			{"hostnames", strings.Join(rec.Hostnames, " ")}, {"let in", letIn(rec)}, {"machine", rec.Machine}, {"address", addressOf(rec)},
			{"issued", tokenTime(rec.IssuedAt)}, {"expires", tokenTime(rec.ExpiresAt)}, {"last seen", tokenTime(rec.LastSeenAt)},
		} {
			if line[1] != "" {
				fmt.Fprintf(&text, "  %-12s %s\n", line[0], line[1])
			}
		}
		if !rec.RevokedAt.IsZero() {
			fmt.Fprintf(&text, "  %-12s %s\n", "revoked", tokenTime(rec.RevokedAt))
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func addressOf(rec sshgate.ConnectorRecord) string {
	if !rec.Address.IsValid() {
		return ""
	}
	return rec.Address.String()
}

// letIn says how a certificate came to be.
func letIn(rec sshgate.ConnectorRecord) string {
	by := ""
	switch {
	case rec.Approver != "":
		by = " by " + rec.Approver
	case rec.JoinToken != "":
		by = " with join token " + string(rec.JoinToken)
	}
	switch rec.Via {
	case sshgate.ViaSignIn, sshgate.ViaToken:
		return "let in" + by
	case sshgate.ViaRenewal:
		return "renews " + rec.Renews + cmp.Or(strings.Replace(by, " ", ", let in ", 1), "")
	case sshgate.ViaCommand:
		return "issued on the gateway"
	}
	return "not noted"
}

func newConnectorRelease() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "release HOSTNAME",
		Short: "Let another connector have an origin",
		Long: `Let the next connector that publishes the origin have it. An origin belongs to the
first connector that published it: another one is refused, also while the first is
away, until this is done or the first is revoked. Its host keys stay pinned; see
"sshgated hostkeys forget".`,
		Example:           "  sshgated connector release web1.example.com",
		Args:              oneArgument("origin"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := sshgate.ParseOriginName(args[0])
			if err != nil {
				return usageError{err}
			}
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			err = db.ReleaseOrigin(cmd.Context(), name)
			if errors.Is(err, sshgate.ErrNotFound) {
				return fmt.Errorf("%s belongs to no connector", name)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s belongs to the next connector that publishes it\n", name)
			return err
		},
	}
	cfgFlag.add(cmd)
	return cmd
}

func newConnectorPin() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "pin",
		Short: "Print what connector login --ca-pin takes",
		Long: `Print the pin of the authority that signs the gateway's own certificate: the SHA-256
of its public key. A machine that has nothing of the gateway yet can trust it by that.
It is not needed where tunnel.certificate_file has a certificate of a public authority.

  sshgate connector login --gateway gate.example.com --ca-pin "$PIN"`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := cfgFlag.load()
			if err != nil {
				return err
			}
			if cfg.Tunnel.CertificateFile != "" {
				return errors.New("the gateway shows the certificate in tunnel.certificate_file, which no pin is for; where no public authority has signed it, give its own with: sshgate connector login --ca-file")
			}
			ca, err := connector.OpenCA(tunnelCADir(cfg), time.Now)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), ca.Pin())
			return err
		},
	}
	cfgFlag.add(cmd)
	return cmd
}
