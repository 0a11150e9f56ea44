package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/proxydial"
	"github.com/sshgate/sshgate/internal/station"
)

const (
	// keptLines is how many log records a running connector has ready for diag.
	keptLines = 1000
	// noSocket is the value of --status-socket for none.
	noSocket = "off"
	// statusEvery is how often systemd's status line is looked at.
	statusEvery = 2 * time.Second
)

// recording returns a logger that has the lines kept as well: what log writes, and
// from level info on the rest.
func recording(log *slog.Logger, lines *station.Lines) *slog.Logger {
	least := slog.LevelInfo
	if log.Enabled(context.Background(), slog.LevelDebug) {
		least = slog.LevelDebug
	}
	return slog.New(slog.NewMultiHandler(log.Handler(), slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: least})))
}

// certificateOf describes the connector's present certificate.
func certificateOf(cfg *config.Connector) station.Certificate {
	credentials, err := openCredentials(cfg)
	if err != nil {
		return station.CertificateOf(nil, err)
	}
	return station.CertificateOf(credentials.Leaf())
}

// openStation serves the agent's status at the path, or at the default one where that
// is "", until stop is called. Without the default one the connector runs all the same.
func openStation(path string, agent *connector.Agent, cfg *config.Connector, lines *station.Lines, log *slog.Logger) (stop func(), err error) {
	nothing := func() {}
	given := path != ""
	if !given {
		path = station.DefaultSocket(os.Getenv, os.Getuid())
	}
	switch path {
	case noSocket:
		return nothing, nil
	case "":
		log.Debug("there is no place for a status socket; --status-socket names one")
		return nothing, nil
	}
	listener, err := station.Listen(path)
	switch {
	case err != nil && given:
		return nil, usageError{fmt.Errorf("opening the status socket: %w", err)}
	case err != nil:
		log.Warn("the status socket cannot be opened; the connector runs without", "err", err)
		return nothing, nil
	}
	log.Debug("the status is served", "socket", path)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- station.Serve(ctx, listener, station.Config{
			Status:      agent.Status,
			Certificate: func() station.Certificate { return certificateOf(cfg) },
			Version:     programVersion(),
			Proxy:       proxyName(cfg.Gateway),
			Lines:       lines,
			Log:         log,
		})
	}()
	return func() {
		cancel()
		if err := <-served; err != nil {
			log.Warn("the status was no longer served", "err", err)
		}
	}, nil
}

// proxyName returns the proxy on the way to the gateway without its user and password.
func proxyName(gateway string) string {
	proxy, err := proxydial.New().Proxy(gateway)
	if err != nil || proxy == nil {
		return ""
	}
	return proxy.Scheme + "://" + proxy.Host
}

// tellSystemd keeps systemd informed until stop is called, where it wants to be: how
// the agent is, and that it is alive. Both come from the agent's status, which one
// that hangs does not return; systemd restarts it then.
func tellSystemd(status func() connector.Status, log *slog.Logger) (stop func()) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return func() {}
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog cannot be served", "err", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		look := time.NewTicker(statusEvery)
		defer look.Stop()
		var beat <-chan time.Time // never, unless there is a watchdog
		if interval > 0 {
			ticker := time.NewTicker(interval / 2)
			defer ticker.Stop()
			beat = ticker.C
		}
		for told := ""; ; {
			if line := summary(status()); line != told {
				notify(log, "STATUS="+line)
				told = line
			}
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			case <-beat:
				status()
				notify(log, daemon.SdNotifyWatchdog)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// summary says in one line how an agent is.
func summary(s connector.Status) string {
	switch station.StateOf(s) {
	case station.Stopping:
		return "stopping, " + count(s.Streams, "connection") + " left"
	case station.Connecting:
		for _, down := range s.Down {
			if down.Error != "" {
				return plain("not connected to " + s.Gateway + ": " + down.Error)
			}
		}
		return "connecting to " + s.Gateway
	}
	accepted := 0
	for _, o := range s.Origins {
		if o.State == connector.OriginAccepted {
			accepted++
		}
	}
	published := count(accepted, "origin")
	if accepted < len(s.Origins) {
		published = fmt.Sprintf("%d of %s", accepted, count(len(s.Origins), "origin"))
	}
	return "connected to " + s.Gateway + ", " + count(s.Up(), "tunnel") + ", " + published
}

// count says how many there are of something.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// plain returns a text on one line and without control characters: parts of it may
// come from another machine.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
