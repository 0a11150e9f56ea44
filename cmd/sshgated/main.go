// Command sshgated is the gateway: it takes SSH connections, signs people in,
// asks the access policy, and reaches origins through their connectors.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	_ "time/tzdata" // for policies, where the machine has none

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/internal/condition"
	"github.com/sshgate/sshgate/internal/interrupt"
)

func main() {
	ctx, stop := interrupt.Context(syscall.SIGINT, syscall.SIGTERM)
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

// exitCode is an error that somebody was told of already, and the code for it.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

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
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(stderr, "sshgated: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
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
		Args:              subcommand,
		RunE:              help,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(
		newServe(),
		newDev(),
		newCheck(),
		newCtl(),
		newExplain(),
		newCA(),
		newConnector(),
		newConnectorCert(),
		newHostKeys(),
		newKnownHosts(),
		newLogins(),
		newToken(),
		newExample(),
		newVersion(),
	)
	return root
}

// help is what a command does that only holds others.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// subcommand checks the arguments of such a command: there is none but the name
// of another, which cobra has looked for.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("unknown command %q; see: %s --help", args[0], cmd.CommandPath())}
}

// noArguments checks the arguments of a command that takes flags only.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("unexpected argument %q; see: %s --help", args[0], cmd.CommandPath())}
}

// configFlag is the one flag that nearly all commands share.
type configFlag struct{ path string }

const defaultConfig = "/etc/sshgate/sshgated.yaml"

func (f *configFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.path, "config", "c", defaultConfig, "the gateway's configuration `FILE`")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// reader reads configurations, as every command does.
var reader = config.Reader{Env: os.Getenv, Condition: condition.Compile}

// load reads the configuration. An error is the user's to mend.
func (f *configFlag) load() (*config.Gateway, error) {
	cfg, err := reader.LoadGateway(f.path)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}
