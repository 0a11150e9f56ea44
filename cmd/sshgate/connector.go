package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/enrol"
)

func newConnector() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connector",
		Short: "Publish SSH servers through a gateway",
		Long: `The connector publishes SSH servers through a gateway. It dials the gateway and
the servers in its configuration, nothing else, and opens no port; "status" asks it on a
unix socket of this machine.

Two commands set it up: "login" has this machine let in at a gateway, by somebody who
signs in; "install" makes the connector a service of the machine.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newConnectorLogin(), newConnectorRun(), newConnectorCheck(), newConnectorInstall(), newConnectorUninstall(),
		newConnectorStatus(), newConnectorDiag(), newConnectorExample())
	return cmd
}

const (
	systemConnectorDir     = "/etc/sshgate"
	defaultConnectorConfig = systemConnectorDir + "/connector.yaml"
)

// ownConnectorDir is where the files of a user's connector are: root's is the
// system's.
func ownConnectorDir() (string, error) {
	if os.Geteuid() == 0 {
		return systemConnectorDir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usageError{fmt.Errorf("there is no configuration directory: %w; name one with --cert-dir", err)}
	}
	return filepath.Join(dir, "sshgate"), nil
}

func newConnectorExample() *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print a commented configuration to start from",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), config.ExampleConnector)
			return err
		},
	}
}

// connectorFlags are what the connector's commands share: a file, or all of it.
type connectorFlags struct {
	cmd       *cobra.Command
	path      string
	gateway   string
	dir       string
	hostnames []string
	urls      []string
}

func (f *connectorFlags) add(cmd *cobra.Command) {
	f.cmd = cmd
	flags := cmd.Flags()
	flags.StringVarP(&f.path, "config", "c", defaultConnectorConfig, "the connector's configuration `FILE`; a user other than root has it in sshgate/connector.yaml of the configuration directory, where there is one")
	flags.StringVar(&f.gateway, "gateway", "", "in place of a file: the gateway's `HOST[:PORT]` (443)")
	flags.StringVar(&f.dir, "cert-dir", systemConnectorDir, "in place of a file: the `DIRECTORY` with connector.crt, connector.key and, unless the gateway's certificate is a public CA's, gateway-ca.crt")
	flags.StringArrayVar(&f.hostnames, "hostname", nil, "in place of a file: what to publish, `NAME[:PORT]`; repeatable, each with its --url")
	flags.StringArrayVar(&f.urls, "url", nil, "in place of a file: where it is, ssh://HOST:PORT, tcp://, rdp:// or unix:///PATH")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // these fail only for an unknown flag
	_ = cmd.MarkFlagDirname("cert-dir")
}

// load reads the configuration. An error is the user's to mend.
func (f *connectorFlags) load() (*config.Connector, error) {
	f.preferOwn()
	if f.gateway != "" || len(f.hostnames) > 0 || len(f.urls) > 0 {
		return f.fromFlags()
	}
	cfg, err := config.LoadConnector(f.path, os.Getenv)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError{err}
	}
	return cfg, err
}

// preferOwn has the defaults be a user's own, where "login" has put something there.
func (f *connectorFlags) preferOwn() {
	dir, err := ownConnectorDir()
	if err != nil {
		return
	}
	for flag, own := range map[string]struct {
		value *string
		path  string
		file  string
	}{
		"config":   {&f.path, filepath.Join(dir, enrol.ConfigFile), enrol.ConfigFile},
		"cert-dir": {&f.dir, dir, connector.KeyFile},
	} {
		if _, err := os.Stat(filepath.Join(dir, own.file)); err == nil && !f.cmd.Flags().Changed(flag) {
			*own.value = own.path
		}
	}
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
	if _, err := os.Stat(filepath.Join(f.dir, connector.GatewayCAFile)); err == nil {
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

func openCredentials(cfg *config.Connector) (*connector.Credentials, error) {
	credentials, err := connector.OpenCredentials(cfg.CertificateFile, cfg.KeyFile, cfg.StateDir)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w; have this machine let in with: sshgate connector login", err)
	}
	if err != nil {
		return nil, usageError{err}
	}
	return credentials, nil
}

// newSite is the gateway that the connector was let in at.
func newSite(cfg *config.Connector) (*enrol.Site, error) {
	credentials, err := openCredentials(cfg)
	if err != nil {
		return nil, err
	}
	site := &enrol.Site{Address: cfg.Gateway, ServerName: cfg.ServerName, Credentials: credentials}
	if cfg.GatewayCAFile != "" {
		if site.CAPEM, err = os.ReadFile(cfg.GatewayCAFile); err != nil {
			return nil, usageError{fmt.Errorf("the gateway's CA: %w", err)}
		}
	}
	return site, nil
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
