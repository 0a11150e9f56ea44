package enrol

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/sshgate"
)

// The files of a connector besides those of its certificate.
const (
	ConfigFile = "connector.yaml"
	UserCAFile = "user-ca.pub" // what the origins' sshd has to trust
)

const maxLabel = 63 // RFC 1035 section 2.3.4

// Place is the directory of a connector's files.
type Place struct {
	Dir   string
	Force bool // replace a certificate that is there
}

// Prepare makes the directory, and fails where what is let in could not be kept:
// better before a person is asked than after.
func (p Place) Prepare() error {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return p.problem(err)
	}
	for _, name := range []string{connector.KeyFile, connector.CertificateFile} {
		path := filepath.Join(p.Dir, name)
		if _, err := os.Lstat(path); err == nil && !p.Force {
			return &helper.Problem{Kind: helper.Broken, Text: path + " exists: this machine was let in before", Next: "give --force to replace it, or another --cert-dir"}
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.problem(err)
		}
	}
	f, err := os.CreateTemp(p.Dir, ".new-*")
	if err != nil {
		return p.problem(err)
	}
	f.Close()
	return os.Remove(f.Name())
}

func (p Place) problem(err error) error {
	return &helper.Problem{Kind: helper.Usage, Text: "the connector's files cannot be written", Err: err, Next: "run it with sudo, or name a directory of yours with --cert-dir"}
}

// Keep writes what was issued, and returns the paths of what it wrote. caPEM is what
// signs the gateway's certificate, empty where that is an authority that the system
// trusts. config is the text of a configuration; one that is there is left alone.
func (p Place) Keep(issued *Issued, caPEM []byte, config string) (written []string, err error) {
	path := func(name string) string { return filepath.Join(p.Dir, name) }
	write := func(name string, data []byte) {
		if err == nil {
			err = connector.WriteFile(path(name), data, 0o644)
		}
		if err == nil {
			written = append(written, path(name))
		}
	}
	if err := connector.WritePair(path(connector.CertificateFile), path(connector.KeyFile), issued.CertPEM, issued.KeyPEM); err != nil {
		return nil, fmt.Errorf("keeping the certificate: %w", err)
	}
	written = append(written, path(connector.CertificateFile), path(connector.KeyFile))
	if len(caPEM) > 0 {
		write(connector.GatewayCAFile, caPEM)
	} else if err := os.Remove(path(connector.GatewayCAFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return written, err // of another gateway, or of this one before
	}
	write(UserCAFile, []byte(strings.TrimSpace(issued.UserCA)+"\n"))
	if _, statErr := os.Lstat(path(ConfigFile)); errors.Is(statErr, fs.ErrNotExist) {
		write(ConfigFile, []byte(config))
	}
	if err != nil {
		return written, fmt.Errorf("keeping what the gateway sent: %w", err)
	}
	return written, nil
}

// Config returns the text of a configuration that publishes the hostnames: in a
// wildcard's domain the machine by its own name.
func Config(gateway string, ownCA bool, hostnames []string, machine, url string) string {
	var b strings.Builder
	b.WriteString("# Made by sshgate connector login. All settings: sshgate connector example\n\n")
	fmt.Fprintf(&b, "gateway: %q\n", gateway)
	if ownCA {
		fmt.Fprintf(&b, "gateway_ca_file: %s\n", connector.GatewayCAFile)
	}
	b.WriteString("\norigins:\n")
	for _, name := range Origins(hostnames, machine) {
		fmt.Fprintf(&b, "  - name: %q\n    url: %q\n", name, url)
	}
	return b.String()
}

// Origins returns what a machine publishes that may publish the hostnames: exact
// names as they are, and in a wildcard's domain the machine by its own name.
func Origins(hostnames []string, machine string) []sshgate.OriginName {
	short := label(machine)
	var origins []sshgate.OriginName
	for _, hostname := range hostnames {
		if hostname == "*" {
			hostname = short
		} else if suffix, wildcard := strings.CutPrefix(hostname, "*."); wildcard {
			hostname = short + "." + suffix
		}
		if name, err := sshgate.ParseOriginName(hostname); err == nil && !slices.Contains(origins, name) {
			origins = append(origins, name)
		}
	}
	return origins
}

// label makes a name of one label of what a machine calls itself.
func label(machine string) string {
	short, _, _ := strings.Cut(strings.ToLower(machine), ".")
	short = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, short), "-")
	return cmp.Or(short[:min(len(short), maxLabel)], "machine")
}
