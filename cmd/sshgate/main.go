// Command sshgate is what runs where the gateway is not: the connector, which
// publishes SSH servers through a gateway, and the helper that reaches them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/internal/interrupt"
)

func main() {
	ctx, _ := interrupt.Context(syscall.SIGINT, syscall.SIGTERM)
	os.Exit(Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// The exit codes, as --help gives them.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // a wrong flag or a configuration that cannot be used
	// exitInterrupted is that of a command that a signal ended, 128 and SIGINT.
	exitInterrupted = 130
)

// usageError is an error for which exitUsage is right.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Run is the whole program: it runs the command that args name until it is done
// or ctx is, and returns the exit code.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var child *exec.ExitError
	if errors.As(err, &child) { // which has said why itself
		return child.ExitCode()
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "sshgate: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "sshgate: %v\n", err)
	var problem *helper.Problem
	if errors.As(err, &problem) {
		return int(problem.Kind)
	}
	var usage usageError
	var problems *config.Error
	if errors.As(err, &usage) || errors.As(err, &problems) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sshgate",
		Short: "Reach and publish SSH servers through an sshgate gateway",
		Long: `sshgate runs where the gateway is not. Its connector runs at an SSH server, or
near it, and publishes it through the gateway without an open port: it only ever
dials out. "sshgate access" is for those who want to get there over HTTPS; with plain
ssh nothing needs to be installed.

Exit codes: 0 all is well, 1 it failed, 2 a wrong flag or a configuration that
cannot be used; "access" has more.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommand,
		RunE:          help,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(newAccess(), newConnector(), newDoctor(), newVersion())
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
