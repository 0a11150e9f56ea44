package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/sshgate/sshgate/sshgate/console"
	"github.com/sshgate/sshgate/sshgate/console/ctl"
)

func newCtl() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ctl",
		Short: "Run a command of the running gateway, on its own machine",
		Long: `Run a command of the running gateway, over a socket in data_dir that only root and the
service's user may use. Both are administrators there, whatever the policy says, and
every command is on record with the user and the process. It needs no sign-in: it is
the way in when the provider is down.

People run the same commands as "ssh GATEWAY COMMAND". Exit codes: 0 done, 1 it failed or no
gateway is running, 2 not understood, 3 not allowed.`,
		Example: "  sudo sshgated ctl sessions --all\n  sudo sshgated ctl revoke mallory@example.com",
		Args:    subcommand,
		RunE:    help,
	}
	for _, command := range console.Commands() {
		if command.Name != "help" {
			cmd.AddCommand(newCtlCommand(command))
		}
	}
	return cmd
}

// newCtlCommand has the flags of a command for help and completion. What they mean
// is the gateway's to say.
func newCtlCommand(command console.Command) *cobra.Command {
	var cfgFlag configFlag
	var socket string
	cmd := &cobra.Command{
		Use:               strings.TrimSpace(command.Name + " " + command.Args),
		Short:             command.Short,
		Long:              strings.TrimSpace(command.Short + ".\n\n" + command.Long),
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if socket == "" {
				cfg, err := cfgFlag.load()
				if err != nil {
					return err
				}
				socket = ctlSocket(cfg.DataDir)
			}
			code, err := ctl.Call(cmd.Context(), socket, ctlWords(cmd, args), cmd.OutOrStdout(), cmd.ErrOrStderr())
			return cmp.Or(err, codeError(code))
		},
	}
	command.AddFlags(cmd.Flags())
	cfgFlag.add(cmd)
	cmd.Flags().StringVar(&socket, "socket", "", "the gateway's socket, in place of that in the data_dir of the configuration")
	_ = cmd.MarkFlagFilename("socket")
	return cmd
}

// ctlWords is the command line for the gateway: the flags that are its own, and the
// arguments.
func ctlWords(cmd *cobra.Command, args []string) []string {
	words := []string{cmd.Name()}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case f.Name == "config" || f.Name == "socket":
		case f.Value.Type() == "bool" && f.Value.String() == "true":
			words = append(words, "--"+f.Name)
		default:
			words = append(words, "--"+f.Name+"="+f.Value.String())
		}
	})
	if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "-") }) {
		words = append(words, "--")
	}
	return append(words, args...)
}

// codeError is nil for a command that went well.
func codeError(code int) error {
	if code == exitOK {
		return nil
	}
	return exitCode(code)
}
