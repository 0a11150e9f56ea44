package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/station"
)

// diagTimeout bounds each of the parts of diag that ask others.
const diagTimeout = 30 * time.Second

func newConnectorDiag() *cobra.Command {
	var flags connectorFlags
	var socket, output string
	cmd := &cobra.Command{
		Use:   "diag",
		Short: "Collect what helps to find out why a connector does not work",
		Long: `Write an archive with what others need who help: the running connector's status,
metrics, goroutines and last log lines, the configuration in effect, facts of the
certificate, this machine's system and clock, and what "check" finds now. Without a
running connector, or without a configuration that can be read, it has the rest.

Keys, passwords and tokens are left out. Names and addresses of machines and the
people who connected are in it: look through it before you send it away.

Exit codes: 0 the archive was written, 1 it could not be, 2 a wrong flag or a file
that is there already.`,
		Example: `  sudo sshgate connector diag
  sudo sshgate connector diag --config /etc/sshgate/connector.yaml --output /tmp/diag.tar.gz
  tar -xzOf sshgate-diag-*.tar.gz | less`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return diag(cmd.Context(), cmd.OutOrStdout(), &flags, findSocket(socket), output)
		},
	}
	flags.add(cmd)
	addSocketFlag(cmd, &socket)
	cmd.Flags().StringVarP(&output, "output", "o", "", "the archive to write, a `FILE` (default sshgate-diag-HOST-TIME.tar.gz)")
	_ = cmd.MarkFlagFilename("output", "tar.gz", "tgz") // fails only for an unknown flag
	return cmd
}

func diag(ctx context.Context, stdout io.Writer, flags *connectorFlags, socket, output string) error {
	name := diagName(time.Now())
	if output == "" {
		output = name + ".tar.gz"
	}
	file, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return usageError{fmt.Errorf("%s is there already; name another file with --output", output)}
	} else if err != nil {
		return err
	}
	b := &bundle{name: name, now: time.Now(), scrub: newScrubber(os.Environ())}
	b.collect(ctx, flags, socket)
	err = context.Cause(ctx)
	if err == nil {
		err = b.write(file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		os.Remove(output)
		return fmt.Errorf("writing %s: %w", output, err)
	}
	return b.print(stdout, output)
}

// diagName is what the archive and the folder in it are called.
func diagName(now time.Time) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	host = regexp.MustCompile(`[^A-Za-z0-9.-]`).ReplaceAllString(host, "_")
	return "sshgate-diag-" + host + "-" + now.UTC().Format("20060102T150405Z")
}

// bundle is an archive that is being collected.
type bundle struct {
	name     string
	now      time.Time
	scrub    *scrubber
	files    []bundleFile
	problems []string // what could not be had
}

type bundleFile struct {
	name string
	text string
}

func (b *bundle) add(name, text string) {
	b.files = append(b.files, bundleFile{name, text})
}

func (b *bundle) addJSON(name string, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		b.failed(name, err)
		return
	}
	b.add(name, string(text)+"\n")
}

func (b *bundle) failed(what string, err error) {
	b.problems = append(b.problems, what+": "+err.Error())
}

func (b *bundle) collect(ctx context.Context, flags *connectorFlags, socket string) {
	b.version()
	b.fromConnector(ctx, socket)
	cfg, err := flags.load()
	if err != nil {
		b.failed("the configuration", withoutValues(err))
	} else {
		b.scrub.hideFile(cfg.KeyFile)
		if cfg.StateDir != "" {
			b.scrub.hideFile(filepath.Join(cfg.StateDir, connector.KeyFile))
		}
		b.fromConfig(ctx, cfg)
	}
	b.environment(os.Environ())
	b.system(ctx, cfg)
}

func (b *bundle) version() {
	text := fmt.Sprintf("sshgate %s\n", programVersion())
	if info, ok := debug.ReadBuildInfo(); ok {
		text += info.String()
	}
	b.add("version.txt", text)
}

// fromConnector asks the running connector.
func (b *bundle) fromConnector(ctx context.Context, socket string) {
	status, _, err := fetchStatus(ctx, socket)
	switch {
	case err == nil:
		b.add("status.json", string(status))
	case errors.Is(err, context.DeadlineExceeded):
		b.failed("status.json", err) // it hangs; then its goroutines are what matters
	default:
		b.failed("the running connector", err)
		return
	}
	for _, part := range []struct{ path, name string }{
		{"/metrics", "metrics.txt"}, {"/debug/goroutines", "goroutines.txt"}, {"/debug/log", "log.jsonl"},
	} {
		code, body, err := station.Get(ctx, socket, part.path)
		switch {
		case err != nil:
			b.failed(part.name, err)
		case code != http.StatusOK:
			b.failed(part.name, fmt.Errorf("%s has the status %d", part.path, code))
		default:
			b.add(part.name, string(body))
		}
	}
}

// fromConfig has what the configuration leads to.
func (b *bundle) fromConfig(ctx context.Context, cfg *config.Connector) {
	type origin struct {
		Name string `json:"name"`
		Port uint16 `json:"port"`
		URL  string `json:"url"`
	}
	list := make([]origin, len(cfg.Origins))
	for i, o := range cfg.Origins {
		list[i] = origin{Name: string(o.Name), Port: o.Port, URL: o.URL.String()} // which has no user
	}
	b.addJSON("config.json", map[string]any{
		"gateway": cfg.Gateway, "server_name": cfg.ServerName, "connections": cfg.Connections, "origins": list,
		"certificate_file": cfg.CertificateFile, "key_file": cfg.KeyFile, "gateway_ca_file": cfg.GatewayCAFile,
	})
	b.addJSON("certificate.json", certificateOf(withRenewed(cfg, systemConnectorDir, serviceStateDir)))
	ctx, cancel := context.WithTimeout(ctx, diagTimeout)
	defer cancel()
	report, err := check(ctx, cfg, "", b.now)
	if err != nil {
		b.failed("check.json", err)
		return
	}
	b.addJSON("check.json", report)
}

// quoted is a text in quotes as %q writes it.
var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`)

// withoutValues returns a configuration's error without the values that it quotes:
// somebody may have put a secret in the wrong place.
func withoutValues(err error) error {
	var problems *config.Error
	if errors.As(err, &problems) {
		return errors.New(quoted.ReplaceAllString(err.Error(), `"..."`))
	}
	return err
}

// write writes the archive, with nothing in it that must not leave the machine.
func (b *bundle) write(w io.Writer) error {
	if len(b.problems) > 0 {
		b.add("missing.txt", strings.Join(b.problems, "\n")+"\n")
	}
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for _, f := range b.files {
		text := b.scrub.clean(f.text)
		header := &tar.Header{Name: b.name + "/" + f.name, Mode: 0o600, Size: int64(len(text)), ModTime: b.now, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.WriteString(archive, text); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

// print says what was written, and what to do with it.
func (b *bundle) print(w io.Writer, output string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "wrote %s with:\n", output)
	for _, f := range b.files {
		fmt.Fprintf(&text, "  %-16s %s\n", f.name, size(uint64(len(f.text))))
	}
	if len(b.problems) > 0 {
		text.WriteString("what could not be had:\n")
		for _, problem := range b.problems {
			fmt.Fprintf(&text, "  %s\n", plain(b.scrub.clean(problem)))
		}
	}
	fmt.Fprintf(&text, "Names and addresses of machines are in it, and who connected. Look through it before\nyou send it away: tar -xzOf %s | less\n", filepath.Clean(output))
	_, err := io.WriteString(w, text.String())
	return err
}
