package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/station"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

const (
	// checkTimeout bounds the look at one origin.
	checkTimeout = 10 * time.Second
	// checksAtATime bounds how many origins are looked at together.
	checksAtATime = 8
)

func newConnectorCheck() *cobra.Command {
	var flags connectorFlags
	var asJSON bool
	var login string
	cmd := &cobra.Command{
		Use:     "check",
		Aliases: []string{"validate"},
		Short:   "Check the configuration, the certificate and the origins",
		Long: `Check what "run" needs, and publish nothing: that the configuration can be read,
that the certificate is good, names every origin and is one that the gateway takes, and
that a server answers at each origin: for ssh:// an SSH server, for others whatever takes
a connection. Prints the SSH servers' host keys as the gateway will see them;
compare the fingerprints with those of ssh-keygen -l at the server.

An SSH server is asked whether it would take the gateway's certificates, for root or for
--login; nobody signs in. That it would not, or that the gateway could not be asked, is
a warning.

Exit codes: 0 all is well, 1 something would not work, 2 a wrong flag or a
configuration that cannot be used.`,
		Example: `  sshgate connector check --config /etc/sshgate/connector.yaml
  sshgate connector check --json | jq .origins`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			if login != "" {
				if _, err := sshgate.ParseLogin(login); err != nil {
					return usageError{fmt.Errorf("--login: %w", err)}
				}
			}
			report, err := check(cmd.Context(), cfg, login, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			} else {
				err = report.print(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			if !report.OK {
				return errors.New("something would not work; see above")
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&login, "login", "", "the account to ask the SSH servers for (root)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as one JSON object")
	return cmd
}

// checkReport is what check found, as --json prints it.
type checkReport struct {
	OK          bool              `json:"ok"`
	Gateway     string            `json:"gateway"`
	Answer      gatewayReport     `json:"gateway_answer"`
	Certificate certificateReport `json:"certificate"`
	Origins     []originReport    `json:"origins"`
}

type certificateReport struct {
	Connector string    `json:"connector"`
	Hostnames []string  `json:"hostnames"`
	NotAfter  time.Time `json:"not_after"`
	// Problem is empty when the certificate is good, Warning when it is so for long.
	Problem string `json:"problem,omitempty"`
	Warning string `json:"warning,omitempty"`
}

type originReport struct {
	Name     sshgate.OriginName `json:"name"`
	Port     uint16             `json:"port"` // 22 is SSH
	Address  string             `json:"address"`
	HostKeys []hostKeyReport    `json:"host_keys"`
	// TrustsCA is whether the SSH server takes the gateway's certificates: yes, no or
	// unknown; empty for other services.
	TrustsCA string   `json:"trusts_ca,omitempty"`
	Warning  string   `json:"warning,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

type hostKeyReport struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	Key         string `json:"key"`
}

func check(ctx context.Context, cfg *config.Connector, login string, now time.Time) (*checkReport, error) {
	cfg = withRenewed(cfg, systemConnectorDir, serviceStateDir)
	// As run would, for the errors that it would end with.
	if _, err := newAgent(cfg, nil); err != nil {
		return nil, err
	}
	site, err := newSite(cfg)
	if err != nil {
		return nil, err
	}
	leaf, err := site.Credentials.Leaf()
	if err != nil {
		return nil, usageError{err}
	}
	report := &checkReport{
		Gateway:     cfg.Gateway,
		Answer:      askGateway(ctx, site, login),
		Certificate: certificateReport{Connector: leaf.Subject.CommonName, Hostnames: leaf.DNSNames, NotAfter: leaf.NotAfter},
		Origins:     make([]originReport, len(cfg.Origins)),
	}
	report.Certificate.judge(leaf, now)
	var group errgroup.Group
	group.SetLimit(checksAtATime)
	for i, o := range origins(cfg) {
		group.Go(func() error {
			report.Origins[i] = report.Answer.checkOrigin(ctx, o, leaf.DNSNames)
			return nil
		})
	}
	_ = group.Wait() // always nil: what is wrong stands in the report
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	report.OK = report.Certificate.Problem == "" && report.Answer.Problem == "" &&
		!slices.ContainsFunc(report.Origins, func(o originReport) bool { return len(o.Problems) > 0 })
	return report, nil
}

// serviceStateDir is where the system's service keeps what renews its certificate,
// the StateDirectory of its unit. Only root and the service can read it.
const serviceStateDir = "/var/lib/sshgate-connector"

// withRenewed has the certificate count that renewed the one in the system's
// directory: there it stays as "login" has put it.
func withRenewed(cfg *config.Connector, systemDir, stateDir string) *config.Connector {
	_, err := os.Stat(filepath.Join(stateDir, connector.KeyFile))
	if cfg.StateDir != "" || filepath.Dir(cfg.KeyFile) != systemDir || err != nil {
		return cfg
	}
	renewed := *cfg
	renewed.StateDir = stateDir
	return &renewed
}

func (c *certificateReport) judge(leaf *x509.Certificate, now time.Time) {
	switch {
	case now.Before(leaf.NotBefore):
		c.Problem = "it is not good before " + leaf.NotBefore.Format(time.DateTime) + "; is this machine's clock right?"
	case now.After(c.NotAfter):
		c.Problem = "it expired on " + c.NotAfter.Format(time.DateOnly) + "; let this machine in again with: sshgate connector login --force"
	default:
		c.Warning = station.CertificateOf(leaf, nil).Warning(now)
	}
}

// checkOrigin looks whether the certificate with the names permits the origin,
// whether its SSH server answers, and whether that trusts the gateway's user CA.
func (r *gatewayReport) checkOrigin(ctx context.Context, o connector.Origin, names []string) originReport {
	report := originReport{Name: o.Name, Port: o.Port, Address: o.Address, HostKeys: []hostKeyReport{}}
	if !slices.ContainsFunc(names, func(name string) bool {
		pattern, err := sshgate.ParseHostPattern(name)
		return err == nil && pattern.Match(o.Name)
	}) {
		report.Problems = append(report.Problems, "the certificate does not name it; the gateway will refuse it")
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if o.Port != sshgate.SSHPort {
		conn, err := (&net.Dialer{}).DialContext(ctx, o.Network, o.Address)
		if err != nil {
			report.Problems = append(report.Problems, err.Error())
			return report
		}
		conn.Close()
		return report
	}
	keys, err := connector.ScanHostKeys(ctx, o.Address, nil)
	if err != nil {
		report.Problems = append(report.Problems, err.Error())
		report.TrustsCA = trustUnknown
	} else {
		report.TrustsCA, report.Warning = r.trust(ctx, o.Address)
	}
	for _, line := range keys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			report.Problems = append(report.Problems, err.Error())
			continue
		}
		report.HostKeys = append(report.HostKeys, hostKeyReport{Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key), Key: line})
	}
	return report
}

// print writes the report for people.
func (r *checkReport) print(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "gateway      %s\n", r.Gateway)
	if r.Answer.Version != "" {
		fmt.Fprintf(&text, "  answers    sshgated %s, and takes the certificate\n", r.Answer.Version)
	}
	if r.Answer.Problem != "" {
		fmt.Fprintf(&text, "  PROBLEM    %s\n", r.Answer.Problem)
	}
	if r.Answer.Warning != "" {
		fmt.Fprintf(&text, "  warning    %s\n", r.Answer.Warning)
	}
	fmt.Fprintf(&text, "certificate  connector %s, good until %s, may publish %s\n",
		r.Certificate.Connector, r.Certificate.NotAfter.Format(time.DateOnly), strings.Join(r.Certificate.Hostnames, ", "))
	if r.Certificate.Problem != "" {
		fmt.Fprintf(&text, "  PROBLEM    %s\n", r.Certificate.Problem)
	}
	if r.Certificate.Warning != "" {
		fmt.Fprintf(&text, "  warning    %s\n", r.Certificate.Warning)
	}
	for _, o := range r.Origins {
		fmt.Fprintf(&text, "origin       %s at %s\n", sshgate.Endpoint{Origin: o.Name, Port: o.Port}.Short(), o.Address)
		for _, key := range o.HostKeys {
			fmt.Fprintf(&text, "  host key   %s %s\n", key.Type, key.Fingerprint)
		}
		if o.TrustsCA == trustYes {
			fmt.Fprintf(&text, "  trusts     the gateway's user CA\n")
		}
		if o.Warning != "" {
			fmt.Fprintf(&text, "  warning    %s\n", o.Warning)
		}
		for _, problem := range o.Problems {
			fmt.Fprintf(&text, "  PROBLEM    %s\n", problem)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
