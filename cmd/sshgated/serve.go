package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/internal/logging"
	gossh "golang.org/x/crypto/ssh"
)

// logFlags are the flags of the commands that log.
type logFlags struct{ level, format string }

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.level, "log-level", "info", "least level to log: debug, info, warn or error")
	cmd.Flags().StringVar(&f.format, "log-format", "auto", "text, json, or auto: text on a terminal, otherwise JSON")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"auto", "text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	log, err := logging.New(w, f.level, f.format)
	if err != nil {
		return nil, usageError{err}
	}
	return log, nil
}

// events returns the logger of audit events, which no --log-level leaves out.
func (f *logFlags) events(w io.Writer) (*slog.Logger, error) {
	return logging.New(w, "info", f.format)
}

func newServe() *cobra.Command {
	var cfgFlag configFlag
	var logging logFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGTERM or SIGINT. Then it takes no new connections, lets
running sessions go on for up to ssh.drain_timeout, and ends. A second signal
ends it at once.

A changed configuration is read within a second, or on SIGHUP: policy, origins and
workloads change at once, other settings take a restart, and of a file that cannot
be used nothing changes. Connections that the policy no longer allows end.

On the first start it makes its keys in data_dir: three host keys, the authority
whose certificates let its users into origins (see "sshgated ca"), and the
authority of its connectors (see "sshgated connector").

Audit events (sign-ins, enrolments, decisions, sessions) go to the log whatever --log-level
says. Under systemd (Type=notify) it reports when it is ready.`,
		Example: "  sshgated check --config gateway.yaml && sshgated serve --config gateway.yaml",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			reloader := newReloader(cfgFlag.path, cfgFlag.load)
			defer reloader.close()
			reloader.notify = func(state string) { notify(log, state) }
			cfg, err := cfgFlag.load()
			if err != nil {
				return err
			}
			events, err := logging.events(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			g, err := newGatewayd(cmd.Context(), cfg, log, events)
			if err != nil {
				return err
			}
			g.reloader = reloader
			if err := g.listen(); err != nil {
				g.close()
				return err
			}
			g.logStart()
			notify(log, daemon.SdNotifyReady)
			err = g.run(cmd.Context(), func() { notify(log, daemon.SdNotifyStopping) })
			log.Info("stopped")
			return err
		},
	}
	cfgFlag.add(cmd)
	logging.add(cmd)
	return cmd
}

// notify tells systemd, where it is there.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", "state", state, "err", err)
	}
}

// logStart says where the gateway is and by which keys it is known.
func (g *gatewayd) logStart() {
	for _, key := range g.hostKeys {
		g.log.Info("host key", "type", key.PublicKey().Type(), "fingerprint", gossh.FingerprintSHA256(key.PublicKey()))
	}
	g.log.Info("user certificate authority", "fingerprint", gossh.FingerprintSHA256(g.userCA.PublicKey()))
	attrs := []any{"ssh", g.sshListener.Addr().String(), "tunnel", g.tunnelListener.Addr().String()}
	if g.metricsListener != nil {
		attrs = append(attrs, "metrics", g.metricsListener.Addr().String())
	}
	g.log.Info("sshgated is up", append(attrs, "issuer", g.cfg.SignIn.Issuer, "version", programVersion(), "pid", os.Getpid())...)
}

// listenerError says which setting the address came from.
func listenerError(field, address string, err error) error {
	return fmt.Errorf("%s: listening on %s: %w", field, address, err)
}
