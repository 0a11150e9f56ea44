package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/sshgate"
)

// serviceFlag is --hostname.
type serviceFlag struct{ hostname, destination string }

func (f *serviceFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.hostname, "hostname", "", "the origin, `NAME[:PORT]`; the port is 22 unless it is given")
}

// parse returns the service that is meant.
func (f *serviceFlag) parse() (sshgate.Endpoint, error) {
	name := f.hostname
	if f.destination != "" {
		name = f.destination
	}
	if name == "" {
		return sshgate.Endpoint{}, usageError{errors.New("--hostname is missing; name the origin, as in web1.example.com")}
	}
	service, err := sshgate.ParseEndpoint(name)
	if err != nil {
		return service, usageError{fmt.Errorf("--hostname: %w", err)}
	}
	return service, nil
}

func newAccessSSH() *cobra.Command {
	var flags accessFlags
	var service serviceFlag
	cmd := &cobra.Command{
		Use:   "ssh",
		Short: "Carry a connection on standard input and output, as a ProxyCommand",
		Long: `Connect to a service of an origin and carry it on standard input and output, for
ssh's ProxyCommand and whatever else works that way. Both directions end on their own.
The exit code is not 0 when the connection was cut off.`,
		Example: `  ssh -o ProxyCommand='sshgate access ssh --hostname %h' deploy@web1.example.com
  sshgate access ssh --hostname db1.example.com:5432 < query`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			endpoint, err := service.parse()
			if err != nil {
				return err
			}
			access, err := flags.find()
			if err != nil {
				return err
			}
			stream, err := access.Connect(cmd.Context(), endpoint)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if err := helper.Carry(cmd.Context(), stream, cmd.InOrStdin(), out, func() { closeOutput(out) }); err != nil {
				return helper.CutOff(endpoint, stream, err)
			}
			return nil
		},
	}
	flags.add(cmd)
	service.add(cmd)
	cmd.Flags().StringVar(&service.destination, "destination", "", "`NAME:PORT` in place of --hostname")
	return cmd
}

func newAccessSSHGen() *cobra.Command {
	var flags accessFlags
	var service serviceFlag
	var login string
	cmd := &cobra.Command{
		Use:   "ssh-gen",
		Short: "Get an SSH certificate for minutes",
		Long: `Get a certificate for a key of this machine, with which an origin that trusts the
gateway's CA (TrustedUserCAKeys) lets you in, end to end and without authorized_keys.
The key is made once; the certificate is good for minutes and used again until it nears
its end. "sshgate access ssh-config --short-lived-cert" prints how ssh uses it.

It prints nothing when all is well.`,
		Example: `  Match host *.example.com exec "sshgate access ssh-gen --hostname %h --login %r"`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			endpoint, err := service.parse()
			if err != nil {
				return err
			}
			access, err := flags.find()
			if err != nil {
				return err
			}
			_, err = access.Certificate(cmd.Context(), endpoint.String(), login)
			return err
		},
	}
	flags.add(cmd)
	service.add(cmd)
	cmd.Flags().StringVar(&login, "login", "", "the account at the origin, ssh's %r; without it the certificate is for all that the policy names")
	return cmd
}

func newAccessSSHConfig() *cobra.Command {
	var flags accessFlags
	var hostname string
	config := helper.SSHConfig{}
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print what belongs into ~/.ssh/config",
		Long: `Print a block for ~/.ssh/config with which ssh, scp, git and all that run ssh reach
an origin, or every origin of a domain, through this gateway. The host keys that the
gateway has pinned are noted in a known_hosts file of its own, which the block names;
a key that is noted already is never replaced.

With --short-lived-cert the origin lets you in by a certificate of the gateway, so that
it needs no authorized_keys.`,
		Example: `  sshgate access ssh-config --hostname web1.example.com >> ~/.ssh/config
  sshgate access ssh-config --hostname '*.example.com' --short-lived-cert`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			if config.Program, err = programPath(); err != nil {
				return err
			}
			pattern, err := sshgate.ParseHostPattern(hostname)
			if hostname == "" || err != nil {
				return usageError{errors.New("--hostname is missing or no name; give an origin, or '*.example.com' for all of a domain")}
			}
			config.Pattern = pattern.String()
			if err := access.NoteHostKeys(cmd.Context(), pattern); err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), access.Block(config))
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&hostname, "hostname", "", "the origin, or `'*.SUFFIX'` for all of a domain")
	cmd.Flags().StringVar(&config.User, "user", "", "the account at the origin; default: as ssh finds it")
	cmd.Flags().BoolVar(&config.ShortCert, "short-lived-cert", false, "use certificates of the gateway")
	return cmd
}

// programPath is how ssh is to run this program: by its own path, links resolved
// only where needed to make it absolute.
func programPath() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding out the path of this program: %w", err)
	}
	return filepath.Abs(path)
}
