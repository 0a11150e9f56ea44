package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
)

func newConnectorCert() *cobra.Command {
	var cfgFlag configFlag
	var name, out string
	var hostnames []string
	var days int
	var force bool
	cmd := &cobra.Command{
		Use:   "connector-cert",
		Short: "Issue a connector's certificate by hand",
		Long: `Issue the certificate with which a connector publishes origins, where "sshgate connector
login" at the machine cannot be used; there the key would never leave the machine. The
certificate names the hostnames that the connector may publish; others are refused.
Three files are written to --out, for the directory of the connector's configuration:

  connector.crt    the certificate
  connector.key    its private key, for its owner alone
  gateway-ca.crt   the authority that signs the gateway's own certificate,
                   for gateway_ca_file, unless tunnel.certificate_file is set

No rule of the policy is asked. The certificate renews itself like any other.`,
		Example: `  sshgated connector-cert --name rack1 --hostname web1.example.com --out rack1
  sshgated connector-cert --name lab --hostname '*.lab.example.com' --out lab`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" || len(hostnames) == 0 {
				return usageError{fmt.Errorf("--name and --hostname are required; see: %s --help", cmd.CommandPath())}
			}
			if days < 1 || days > 3650 {
				return usageError{fmt.Errorf("--days is %d; give from 1 to 3650", days)}
			}
			names, err := parseHostnames(hostnames)
			if err != nil {
				return usageError{err}
			}
			issued, err := issueConnectorCert(cmd, &cfgFlag, name, names, time.Duration(days)*24*time.Hour, out, force)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "issued a certificate for connector %s, good for %d days, that may publish %s\nfiles in %s: %s, %s, %s\n",
				issued.Connector, days, strings.Join(names, ", "), out, connector.CertificateFile, connector.KeyFile, connector.GatewayCAFile)
			return err
		},
	}
	cfgFlag.add(cmd)
	cmd.Flags().StringVar(&name, "name", "", "what the connector is called in logs and events (required)")
	cmd.Flags().StringArrayVar(&hostnames, "hostname", nil, "a name that it may publish, or a wildcard such as '*.lab.example.com' (required, repeatable)")
	cmd.Flags().StringVarP(&out, "out", "o", ".", "`DIRECTORY` for the files, made if it does not exist")
	cmd.Flags().IntVar(&days, "days", 365, "how long the certificate is good for")
	cmd.Flags().BoolVar(&force, "force", false, "replace files that exist")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

// issueConnectorCert issues a certificate and notes it, so that it can be revoked.
func issueConnectorCert(cmd *cobra.Command, cfgFlag *configFlag, name string, hostnames []string, validity time.Duration, dir string, force bool) (sshgate.ConnectorRecord, error) {
	none := sshgate.ConnectorRecord{}
	cfg, err := cfgFlag.load()
	if err != nil {
		return none, err
	}
	ca, err := connector.OpenCA(tunnelCADir(cfg), time.Now)
	if err != nil {
		return none, err
	}
	db, err := cfgFlag.openStore(cmd)
	if err != nil {
		return none, err
	}
	defer db.Close()
	issued, err := writeConnectorCert(ca, name, hostnames, validity, dir, force)
	if err != nil {
		return none, err
	}
	return issued, db.AddConnector(cmd.Context(), issued)
}

// parseHostnames checks what a connector shall be allowed to publish.
func parseHostnames(hostnames []string) ([]string, error) {
	var names []string
	for _, hostname := range hostnames {
		base, wildcard := strings.CutPrefix(hostname, "*.")
		name, err := sshgate.ParseOriginName(base)
		if err != nil {
			return nil, fmt.Errorf("--hostname %q: %w", hostname, err)
		}
		if wildcard {
			names = append(names, "*."+string(name))
		} else {
			names = append(names, string(name))
		}
	}
	return names, nil
}

// writeConnectorCert issues a certificate and writes a connector's three files. It
// returns what to note of the certificate.
func writeConnectorCert(ca *connector.CA, name string, hostnames []string, validity time.Duration, dir string, force bool) (sshgate.ConnectorRecord, error) {
	certPEM, keyPEM, err := ca.IssueConnector(name, hostnames, validity)
	if err != nil {
		return sshgate.ConnectorRecord{}, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return sshgate.ConnectorRecord{}, err
	}
	issued := sshgate.ConnectorRecord{
		Serial: pair.Leaf.SerialNumber.Text(16), Connector: name, Hostnames: hostnames, Via: sshgate.ViaCommand,
		IssuedAt: time.Now(), ExpiresAt: pair.Leaf.NotAfter,
	}
	return issued, writeConnectorFiles(certPEM, keyPEM, ca.CertPEM(), dir, force)
}

func writeConnectorFiles(certPEM, keyPEM, caPEM []byte, dir string, force bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{connector.KeyFile, keyPEM, 0o600},
		{connector.CertificateFile, certPEM, 0o644},
		{connector.GatewayCAFile, caPEM, 0o644},
	}
	if !force {
		for _, f := range files {
			if _, err := os.Lstat(filepath.Join(dir, f.name)); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s exists; give --force to replace it", filepath.Join(dir, f.name))
			}
		}
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// writeFile puts the file in place whole, with that mode from the start.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
