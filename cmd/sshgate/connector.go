package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
)

func newConnector() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connector",
		Short: "Publish SSH servers through a gateway",
		Long: `The connector publishes SSH servers through a gateway. It dials the gateway and
the servers in its configuration, nothing else, and opens no port.

The gateway's operator issues its certificate with "sshgated connector-cert".`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newConnectorRun(), newConnectorCheck())
	return cmd
}

const defaultConnectorConfig = "/etc/sshgate/connector.yaml"

// connectorFlags are what the connector's commands share.
type connectorFlags struct{ path string }

func (f *connectorFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.path, "config", "c", defaultConnectorConfig, "the connector's configuration `FILE`")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // fails only for an unknown flag
}

// load reads the configuration. An error is the user's to mend.
func (f *connectorFlags) load() (*config.Connector, error) {
	cfg, err := config.LoadConnector(f.path, os.Getenv)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError{err}
	}
	return cfg, err
}

// origins are the configuration's in the form that the connector takes.
func origins(cfg *config.Connector) []connector.Origin {
	origins := make([]connector.Origin, len(cfg.Origins))
	for i, o := range cfg.Origins {
		origins[i] = connector.Origin{Name: o.Name, Port: o.Port, Network: "tcp", Address: o.URL.Host}
		if o.URL.Scheme == "unix" {
			origins[i].Network, origins[i].Address = "unix", o.URL.Path
		}
	}
	return origins
}
