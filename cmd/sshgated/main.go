// Command sshgated is the gateway: it takes SSH connections, signs people in,
// asks the access policy, and reaches origins through their connectors.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program at once
	code := Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit codes, as --help gives them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // a wrong flag or a configuration that cannot be used
)

// usageError is an error for which exitUsage is right.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Run is the whole program: it runs the command that args name until it is done
// or ctx is, and returns the exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "sshgated: %v\n", err)
	var usage usageError
	var problems *config.Error
	if errors.As(err, &usage) || errors.As(err, &problems) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sshgated",
		Short: "The sshgate gateway: SSH access with single sign-on",
		Long: `sshgated is the gateway of sshgate. People reach machines that have no open
port with the ssh, git, scp and rsync they already have; they sign in with single
sign-on, an access policy decides, and the machines only ever dial out.

Try it on this machine alone with "sshgated dev". Exit codes: 0 all is well,
1 it failed, 2 a wrong flag or a configuration that cannot be used.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		Args:              cobra.NoArgs,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(
		newServe(),
		newDev(),
		newCheck(),
		newCA(),
		newConnectorCert(),
		newHostKeys(),
		newVersion(),
	)
	for _, cmd := range append(root.Commands(), root) {
		usageForArgs(cmd)
	}
	return root
}

// usageForArgs makes a wrong argument a usage error, in cmd and below.
func usageForArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
			}
			return nil
		}
	}
}

// configFlag is the one flag that nearly all commands share.
type configFlag struct{ path string }

const defaultConfig = "/etc/sshgate/sshgated.yaml"

func (f *configFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.path, "config", "c", defaultConfig, "the gateway's configuration `FILE`")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

func (f *configFlag) load() (*config.Gateway, error) {
	cfg, err := config.LoadGateway(f.path, os.Getenv)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usageError{err}
	}
	return cfg, err
}
