package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate/gateway"
	gossh "golang.org/x/crypto/ssh"
)

// Where things are below data_dir. The certificate authorities are kept apart
// from the host keys: whoever may read those need not be able to enter origins.
func hostKeyDir(cfg *config.Gateway) string  { return filepath.Join(cfg.DataDir, "hostkeys") }
func userCADir(cfg *config.Gateway) string   { return filepath.Join(cfg.DataDir, "user-ca") }
func tunnelCADir(cfg *config.Gateway) string { return filepath.Join(cfg.DataDir, "tunnel-ca") }
func databaseFile(cfg *config.Gateway) string {
	return filepath.Join(cfg.DataDir, "sshgated.db")
}

func newCA() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Print the line for the origins' TrustedUserCAKeys",
		Long: `Print the public key of the gateway's user certificate authority, which is made
on first use. An origin lets the gateway's users in when its sshd trusts it, which
"sshgate connector install" does on its machine. By hand, at the origin, with what this
command prints in /etc/ssh/sshgate_user_ca.pub:

  echo "TrustedUserCAKeys /etc/ssh/sshgate_user_ca.pub" >/etc/ssh/sshd_config.d/sshgate.conf

The private key never leaves data_dir.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := cfgFlag.load()
			if err != nil {
				return err
			}
			ca, err := gateway.OpenUserCA(userCADir(cfg))
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), caLine(ca, cfg.Hostname))
			return err
		},
	}
	cfgFlag.add(cmd)
	return cmd
}

// caLine is the authority's public key in authorized_keys form.
func caLine(ca *gateway.UserCA, hostname string) string {
	line := gossh.MarshalAuthorizedKey(ca.PublicKey())
	return string(line[:len(line)-1]) + " sshgate@" + hostname + "\n"
}
