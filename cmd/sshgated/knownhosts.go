package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/sshgate/gateway"
	gossh "golang.org/x/crypto/ssh"
)

func newKnownHosts() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "known-hosts",
		Short: "Print the gateway's lines for people's known_hosts",
		Long: `Print the gateway's host keys as lines for ~/.ssh/known_hosts, or for
/etc/ssh/ssh_known_hosts on managed machines, so that nobody has to trust the
first connection. The name is that of ssh.advertise.`,
		Example: "  sshgated known-hosts >> /etc/ssh/ssh_known_hosts",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := cfgFlag.load()
			if err != nil {
				return err
			}
			keys, err := gateway.OpenHostKeys(hostKeyDir(cfg))
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), knownHosts(cfg.SSH.Advertise, keys))
			return err
		},
	}
	cfgFlag.add(cmd)
	return cmd
}

// knownHosts returns a line for each key, for a server at HOST or HOST:PORT.
func knownHosts(address string, keys []gossh.Signer) string {
	name := address
	if host, port, err := net.SplitHostPort(address); err == nil {
		name = "[" + host + "]:" + port
		if port == "22" {
			name = host
		}
	}
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "%s %s", name, gossh.MarshalAuthorizedKey(key.PublicKey()))
	}
	return b.String()
}
