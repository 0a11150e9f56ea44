package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/logging"
	"github.com/sshgate/sshgate/internal/proxydial"
	"github.com/sshgate/sshgate/internal/station"
)

const defaultGrace = 30 * time.Second

func newConnectorRun() *cobra.Command {
	var flags connectorFlags
	var level, format, statusSocket string
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the connector",
		Long: `Run the connector until SIGTERM or SIGINT. Then it takes no new connections, lets
running ones go on for up to --grace, and ends with exit code 0. A second signal
ends it at once. A gateway that is away is tried again without end.

What to publish stands in a file, or in --gateway with --hostname and --url. SIGHUP
has the file read again: what it publishes then is what counts, and a file with a
mistake changes nothing. Other settings take a restart.

The way to the gateway is through HTTPS_PROXY unless NO_PROXY names it; the ways to
the origins never are.

Before it publishes anything it looks whether the gateway takes its certificate, and
whether the SSH servers are there and trust the gateway's user CA, and logs what is
missing. The certificate renews itself when two thirds of its life are over; open
connections go on. Under systemd (Type=notify) the connector reports ready
when the first connection is registered, says how it is in the unit's status line,
and serves the watchdog (WatchdogSec=).

How it is can be asked on a unix socket, see "status". A default one that cannot be
opened is left out, with a line in the log; one that --status-socket names must work.

Exit codes: 0 it was told to stop, 1 it failed, 2 a wrong flag or a configuration
that cannot be used.`,
		Example: `  sshgate connector run --config /etc/sshgate/connector.yaml
  sshgate connector run --gateway gate.example.com --hostname web1.example.com --url ssh://localhost:22
  sshgate connector run --log-level debug --log-format text`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			if grace < 0 {
				return usageError{fmt.Errorf("--grace is %s; it cannot be negative", grace)}
			}
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			return runConnector(cmd.Context(), cfg, &flags, statusSocket, grace, log)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&level, "log-level", "info", "least level to log: debug, info, warn or error")
	cmd.Flags().StringVar(&format, "log-format", logging.Auto, "text, json, or auto: text on a terminal, otherwise JSON")
	cmd.Flags().DurationVar(&grace, "grace", defaultGrace, "how long running connections may go on after a signal")
	cmd.Flags().StringVar(&statusSocket, "status-socket", "", `unix socket for "sshgate connector status", a `+"`PATH`"+`, or off for none (default below $RUNTIME_DIRECTORY, /run for root, or $XDG_RUNTIME_DIR)`)
	// These fail only for an unknown flag.
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{logging.Auto, logging.Text, logging.JSON}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// runConnector runs what the configuration says, with its status at the socket.
func runConnector(ctx context.Context, cfg *config.Connector, flags *connectorFlags, statusSocket string, grace time.Duration, log *slog.Logger) error {
	lines := station.NewLines(keptLines)
	log = recording(log, lines)
	agent, err := newAgent(cfg, log)
	if err != nil {
		return err
	}
	site, err := newSite(cfg)
	if err != nil {
		return err
	}
	closeStation, err := openStation(statusSocket, agent, cfg, lines, log)
	if err != nil {
		return err
	}
	defer closeStation()
	prove(ctx, cfg, site, log)
	defer startRenewing(site, agent, log)()
	return runAgent(ctx, agent, grace, func() { reloadOrigins(agent, flags, log) }, log)
}

func newLog(w io.Writer, level, format string) (*slog.Logger, error) {
	log, err := logging.New(w, level, format)
	if err != nil {
		return nil, usageError{err}
	}
	return log, nil
}

func newAgent(cfg *config.Connector, log *slog.Logger) (*connector.Agent, error) {
	credentials, err := openCredentials(cfg)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := connector.ClientTLS(credentials, cfg.GatewayCAFile, cfg.ServerName)
	if err != nil {
		return nil, usageError{err}
	}
	agent, err := connector.NewAgent(connector.AgentConfig{
		Gateway:     cfg.Gateway,
		TLS:         tlsConfig,
		Connections: cfg.Connections,
		Origins:     origins(cfg),
		Software:    "sshgate/" + programVersion(),
		DialGateway: proxydial.New().DialContext,
		Log:         log,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return agent, nil
}

// reloadOrigins has the agent publish what the configuration says now.
func reloadOrigins(agent *connector.Agent, flags *connectorFlags, log *slog.Logger) {
	cfg, err := flags.load()
	if err == nil {
		err = agent.SetOrigins(origins(cfg))
	}
	if err != nil {
		log.Error("the configuration cannot be used; what was published before stays", "err", err)
		return
	}
	log.Info("the configuration was read again", "origins", len(cfg.Origins))
}

// runAgent runs the agent until ctx is done and its connections are, too.
func runAgent(ctx context.Context, agent *connector.Agent, grace time.Duration, reload func(), log *slog.Logger) error {
	log.Info("the connector starts", "version", programVersion())
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	defer tellSystemd(agent.Status, log)()
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(context.WithoutCancel(ctx)) }() // Shutdown ends it
	ready := agent.Ready()
	for {
		select {
		case <-ready:
			ready = nil // once
			notify(log, daemon.SdNotifyReady+"\nSTATUS="+summary(agent.Status()))
			continue
		case <-hangup:
			reload()
			continue
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		break
	}
	notify(log, daemon.SdNotifyStopping)
	log.Info("stopping; running connections may finish", "connections", agent.Stats().Streams, "grace", grace)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := agent.Shutdown(bounded); err != nil {
		log.Warn("connections were cut at the end of the grace time")
	}
	err := <-ended
	log.Info("stopped")
	return err
}

// notify tells systemd, where it is there.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", "state", state, "err", err)
	}
}
