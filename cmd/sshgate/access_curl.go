package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
)

func newAccessCurl() *cobra.Command {
	var flags accessFlags
	cmd := &cobra.Command{
		Use:   "curl URL [-- CURL-ARGUMENT...]",
		Short: "Run curl through the gateway",
		Long: `Run curl with the gateway as its proxy, for HTTP services of origins. The URL's host
is an origin's name and its port that of the service. What follows -- goes to curl as it
is. The credential is handed over on standard input, not on the command line.`,
		Example: `  sshgate access curl http://metrics.example.com:9100/metrics
  sshgate access curl https://wiki.example.com:8443/ -- --silent --output page.html`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name the URL; see: sshgate access curl --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			credential, _, err := taken(cmd, access) // so that a sign-in is not curl's to explain
			if err != nil {
				return err
			}
			curl, err := exec.LookPath("curl")
			if err != nil {
				return errors.New("curl is not installed")
			}
			user := credential.ID + ":" + credential.Secret
			if credential.Token != "" {
				user = "bearer:" + credential.Token
			}
			config := fmt.Sprintf("proxy = %q\nproxy-user = %q\nproxy-basic\nproxytunnel\nsuppress-connect-headers\n", "https://"+access.Gateway.Address, user)
			if ca := access.CAFile(); ca != "" {
				config += fmt.Sprintf("proxy-cacert = %q\n", ca)
			}
			run := exec.CommandContext(cmd.Context(), curl, append([]string{"--config", "-", args[0]}, args[1:]...)...)
			run.Stdin, run.Stdout, run.Stderr = strings.NewReader(config), cmd.OutOrStdout(), cmd.ErrOrStderr()
			run.Env = append(os.Environ(), "NO_PROXY=", "no_proxy=")
			return run.Run()
		},
	}
	flags.add(cmd)
	return cmd
}
