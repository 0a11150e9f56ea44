package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
)

func newExample() *cobra.Command {
	return &cobra.Command{
		Use:       "example [gateway|connector]",
		Short:     "Print a commented configuration to start from",
		Long:      "Print a commented configuration to start from: the gateway's, or a connector's.",
		Example:   "  sshgated example > /etc/sshgate/sshgated.yaml\n  sshgated example connector > connector.yaml",
		ValidArgs: []string{"gateway", "connector"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) == 1 && (args[0] == "gateway" || args[0] == "connector") {
				return nil
			}
			return usageError{fmt.Errorf("give gateway or connector; see: %s --help", cmd.CommandPath())}
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			text := config.ExampleGateway
			if len(args) == 1 && args[0] == "connector" {
				text = config.ExampleConnector
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
}
