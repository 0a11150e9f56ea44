package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
)

func newConnector() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connector",
		Short: "Publish SSH servers through a gateway",
		Long: `The connector publishes SSH servers through a gateway. It dials the gateway and
the servers in its configuration, nothing else, and opens no port; "status" asks it on a
unix socket of this machine.

The gateway's operator issues its certificate with "sshgated connector-cert".`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newConnectorRun(), newConnectorCheck(), newConnectorStatus(), newConnectorDiag())
	return cmd
}

const defaultConnectorConfig = "/etc/sshgate/connector.yaml"

// connectorFlags are what the connector's commands share: a file, or all of it.
type connectorFlags struct {
	path      string
	gateway   string
	dir       string
	hostnames []string
	urls      []string
}

func (f *connectorFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.path, "config", "c", defaultConnectorConfig, "the connector's configuration `FILE`")
	flags.StringVar(&f.gateway, "gateway", "", "in place of a file: the gateway's `HOST[:PORT]` (443)")
	flags.StringVar(&f.dir, "cert-dir", "/etc/sshgate", "in place of a file: the `DIRECTORY` with connector.crt, connector.key and, unless the gateway's certificate is a public CA's, gateway-ca.crt")
	flags.StringArrayVar(&f.hostnames, "hostname", nil, "in place of a file: what to publish, `NAME[:PORT]`; repeatable, each with its --url")
	flags.StringArrayVar(&f.urls, "url", nil, "in place of a file: where it is, ssh://HOST:PORT, tcp://, rdp:// or unix:///PATH")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // these fail only for an unknown flag
	_ = cmd.MarkFlagDirname("cert-dir")
}

// load reads the configuration. An error is the user's to mend.
func (f *connectorFlags) load() (*config.Connector, error) {
	if f.gateway != "" || len(f.hostnames) > 0 || len(f.urls) > 0 {
		return f.fromFlags()
	}
	cfg, err := config.LoadConnector(f.path, os.Getenv)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError{err}
	}
	return cfg, err
}

// fromFlags makes the configuration that the flags describe, by the same rules as a
// file's.
func (f *connectorFlags) fromFlags() (*config.Connector, error) {
	switch {
	case f.gateway == "":
		return nil, usageError{errors.New("--gateway is missing; name the gateway, as in gate.example.com")}
	case len(f.hostnames) == 0 || len(f.hostnames) != len(f.urls):
		return nil, usageError{fmt.Errorf("%d --hostname and %d --url; give each hostname its URL", len(f.hostnames), len(f.urls))}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "gateway: %q\n", f.gateway)
	if _, err := os.Stat(filepath.Join(f.dir, "gateway-ca.crt")); err == nil {
		text.WriteString("gateway_ca_file: gateway-ca.crt\n")
	}
	text.WriteString("origins:\n")
	for i, hostname := range f.hostnames {
		name, port, _ := strings.Cut(hostname, ":")
		fmt.Fprintf(&text, "- {name: %q, url: %q", name, f.urls[i])
		if port != "" {
			fmt.Fprintf(&text, ", port: %q", port)
		}
		text.WriteString("}\n")
	}
	return config.ParseConnector([]byte(text.String()), filepath.Join(f.dir, "(the command line)"), os.Getenv)
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
