package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
	gossh "golang.org/x/crypto/ssh"
)

func newHostKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hostkeys",
		Short: "List or forget the pinned host keys of origins",
		Long: `The gateway pins the host keys that a connector first reports for an origin and
refuses others. When an origin was reinstalled on purpose, forget its old keys;
the next that its connector reports are pinned.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newHostKeysList(), newHostKeysForget())
	return cmd
}

func newHostKeysList() *cobra.Command {
	var cfgFlag configFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the pinned host keys",
		Args:  noArguments,
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, _ []string, db *store.SQLite) error {
			pins, err := db.AllHostKeys(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printPinsJSON(cmd, pins)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ORIGIN\tTYPE\tFINGERPRINT\tCONNECTOR\tPINNED")
			for _, pin := range pins {
				kind, fingerprint := nameKey(pin.Key)
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", pin.Origin, kind, fingerprint, pin.Connector, pin.PinnedAt.Format(time.RFC3339))
			}
			return w.Flush()
		}),
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func printPinsJSON(cmd *cobra.Command, pins []sshgate.HostKeyPin) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	for _, pin := range pins {
		kind, fingerprint := nameKey(pin.Key)
		err := enc.Encode(map[string]any{
			"origin": pin.Origin, "type": kind, "fingerprint": fingerprint, "key": pin.Key,
			"connector": pin.Connector, "pinned_at": pin.PinnedAt,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func newHostKeysForget() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:     "forget ORIGIN",
		Short:   "Forget an origin's host keys, so that its next ones are pinned",
		Example: "  sshgated hostkeys forget web1.example.com",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("name one origin; see: %s --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			origin, err := sshgate.ParseOriginName(args[0])
			if err != nil {
				return usageError{err}
			}
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			n, err := db.ForgetHostKeys(cmd.Context(), origin)
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("no host key of %s is pinned; see: sshgated hostkeys list", origin)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "forgot %d host keys of %s; the next that its connector reports are pinned (it looks every few minutes, or at once when restarted)\n", n, origin)
			return err
		},
	}
	cfgFlag.add(cmd)
	return cmd
}

func (f *configFlag) openStore(cmd *cobra.Command) (*store.SQLite, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	return store.OpenSQLite(cmd.Context(), databaseFile(cfg), time.Now)
}

// withStore is a command that has the database open while it runs.
func (f *configFlag) withStore(run func(cmd *cobra.Command, args []string, db *store.SQLite) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		db, err := f.openStore(cmd)
		if err != nil {
			return err
		}
		defer db.Close()
		return run(cmd, args, db)
	}
}

// nameKey returns the type and the fingerprint of a key in authorized_keys form.
func nameKey(line string) (kind, fingerprint string) {
	key, _, _, _, err := gossh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "unreadable", ""
	}
	return key.Type(), gossh.FingerprintSHA256(key)
}
