package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/station"
	"github.com/sshgate/sshgate/sshgate"
)

func newConnectorStatus() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how the running connector is",
		Long: `Ask the connector that runs on this machine whether it is connected, what the gateway
says about its origins, and what to do about those that it refuses.

The connector answers on a unix socket, which "run" opens: below $RUNTIME_DIRECTORY or
$XDG_RUNTIME_DIR, or for root and the systemd unit /run/sshgate-connector/status.sock.
Root and the connector's own user and group may ask. The socket speaks HTTP, for health
checks and Prometheus, too: /status, /healthz, /readyz, /metrics.

Exit codes: 0 it is connected, 1 it is not, or no connector runs here, 2 a wrong flag.`,
		Example: `  sshgate connector status
  sshgate connector status --json | jq '.origins[] | select(.state != "accepted")'
  curl --unix-socket /run/sshgate-connector/status.sock http://connector/metrics`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, report, err := fetchStatus(cmd.Context(), findSocket(socket))
			if err != nil {
				return err
			}
			if asJSON {
				_, err = cmd.OutOrStdout().Write(body)
			} else {
				err = printStatus(cmd.OutOrStdout(), report)
			}
			if err != nil {
				return err
			}
			if problem := station.Problem(report); problem != "" {
				return errors.New(plain(problem))
			}
			return nil
		},
	}
	addSocketFlag(cmd, &socket)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the answer as the connector gives it, one JSON object")
	return cmd
}

func addSocketFlag(cmd *cobra.Command, socket *string) {
	cmd.Flags().StringVar(socket, "socket", "", "the connector's status socket, a `PATH` (default where run opens it)")
	_ = cmd.MarkFlagFilename("socket", "sock") // fails only for an unknown flag
}

func findSocket(given string) string {
	if given != "" {
		return given
	}
	return station.FindSocket(os.Getenv, os.Getuid())
}

// fetchStatus returns what the connector at the socket says of itself, as it is and
// read.
func fetchStatus(ctx context.Context, socket string) ([]byte, station.Report, error) {
	var report station.Report
	code, body, err := station.Get(ctx, socket, "/status")
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, report, fmt.Errorf("%s may not be read; run this as root or as the connector's user", socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, report, fmt.Errorf("no connector answers on %s; start it with systemctl start sshgate-connector or sshgate connector run, or name its socket with --socket", socket)
	case err != nil:
		return nil, report, fmt.Errorf("asking the connector at %s: %w", socket, err)
	case code != http.StatusOK:
		return nil, report, fmt.Errorf("what answers on %s is not a connector of this version: status %d", socket, code)
	}
	if err := json.Unmarshal(body, &report); err != nil {
		return nil, report, fmt.Errorf("what answers on %s is not a connector of this version: %w", socket, err)
	}
	return body, report, nil
}

// statusPage is a report for people, lines of a name and what there is to say.
type statusPage struct{ strings.Builder }

func (p *statusPage) line(name, format string, args ...any) {
	fmt.Fprintf(p, "%-12s %s\n", plain(name), plain(fmt.Sprintf(format, args...)))
}

func printStatus(w io.Writer, r station.Report) error {
	p := &statusPage{}
	p.line("state", "%s", r.State)
	p.line("gateway", "%s", r.Gateway)
	if r.Proxy != "" {
		p.line("proxy", "%s", r.Proxy)
	}
	p.line("connector", "version %s, process %d, up %s", r.Version, r.PID, age(r.Time.Sub(r.Started)))
	p.tunnels(r)
	p.certificate(r)
	for _, o := range r.Origins {
		p.origin(o)
	}
	p.totals(r)
	_, err := io.WriteString(w, p.String())
	return err
}

func (p *statusPage) tunnels(r station.Report) {
	p.line("tunnels", "%d of %d", r.Up(), r.Up()+len(r.Down))
	for _, t := range r.Tunnels {
		more := ""
		if t.Draining {
			more = ", ends with them"
		}
		p.line("  "+t.ID, "to %s, up %s, %s%s", t.Remote, age(r.Time.Sub(t.Since)), count(t.Streams, "connection"), more)
	}
	for _, d := range r.Down {
		next := "is being opened"
		if wait := d.Next.Sub(r.Time); wait > 0 {
			next = "next try in " + age(wait)
		}
		if d.Error != "" {
			next += "; " + d.Error
		}
		p.line("  not up", "%s", next)
	}
}

func (p *statusPage) certificate(r station.Report) {
	c := r.Certificate
	if c.Error == "" {
		p.line("certificate", "connector %s, good until %s, may publish %s", c.Connector, c.NotAfter.Format(time.DateOnly), strings.Join(c.Hostnames, ", "))
	}
	if problem := c.Problem(r.Time); problem != "" {
		p.line("  PROBLEM", "%s", problem)
	} else if warning := c.Warning(r.Time); warning != "" {
		p.line("  warning", "%s", warning)
	}
}

func (p *statusPage) origin(o connector.ServiceStatus) {
	name := sshgate.Endpoint{Origin: o.Name, Port: o.Port}.Short()
	p.line("origin", "%s at %s, %s", name, o.Address, map[connector.OriginState]string{
		connector.OriginAccepted: "published", connector.OriginRefused: "refused", connector.OriginWaiting: "not published yet",
	}[o.State])
	if o.State == connector.OriginRefused {
		p.line("  PROBLEM", "%s (%s)", o.Reason, o.Code)
		p.line("  what to do", "%s", o.Advice)
	}
	if o.Scan == nil {
		return
	}
	for _, key := range o.Scan.HostKeys {
		p.line("  host key", "%s %s", key.Type, key.Fingerprint)
	}
	if o.Scan.Error != "" {
		p.line("  PROBLEM", "its SSH server does not answer: %s", o.Scan.Error)
	}
}

func (p *statusPage) totals(r station.Report) {
	t := r.Totals
	refused := uint64(0)
	var codes []string
	for _, code := range slices.Sorted(maps.Keys(t.Refused)) {
		refused += t.Refused[code]
		codes = append(codes, fmt.Sprintf("%s %d", code, t.Refused[code]))
	}
	failed := ""
	if refused > 0 {
		failed = fmt.Sprintf(", %d failed (%s)", refused, strings.Join(codes, ", "))
	}
	p.line("connections", "%d now, %d so far%s", r.Streams, t.Served, failed)
	p.line("bytes", "%s to origins, %s from them", size(t.BytesIn), size(t.BytesOut))
	p.line("line", "%d tunnels opened, %d lost, %d attempts failed", t.Opened, t.Lost, t.Failed)
}

// age is a duration for people.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// size is a number of bytes for people.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
