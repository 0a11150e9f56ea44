package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/devidp"
	"github.com/sshgate/sshgate/internal/devorigin"
	"github.com/sshgate/sshgate/sshgate"
)

// devReadyTimeout is how long `sshgated dev` may take to come up.
const devReadyTimeout = 30 * time.Second

func newDev() *cobra.Command {
	var opts devOptions
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine's loopback, to try it",
		Long: `Run a gateway, an OpenID Connect provider with a login page, a connector and an
SSH origin on the loopback interface, and print the ssh command to type in
another terminal. It stays up until Ctrl-C, or until its terminal is closed. Changes of
DIR/sshgated.yaml take effect within a second.

The built-in origin gives a shell as the user who runs this command; who may sign
in is protected by a random password that is printed. With --origin a real sshd
takes its place, which must trust the authority in DIR/user_ca.pub
(TrustedUserCAKeys).

Without --dir everything is kept in a temporary directory and removed at the end.
With it, keys, sign-ins and ports are the same at the next start.

With --json one line is printed when all is up: an object with the addresses, the
sign-in's issuer and users, origin and login, and the files that were written
(ssh_config, known_hosts, user_ca, config, env). DIR/env holds the same as
SSHGATE_DEV_... variables for a shell, and what "sshgate access" needs to find this
gateway.`,
		Example: `  sshgated dev
  sshgated dev --dir ~/.cache/sshgate-dev --origin ssh://127.0.0.1:22 --login deploy
  sshgated dev --json | jq -r .ssh_command`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			d := &dev{opts: opts, log: log}
			return d.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	logs.add(cmd)
	cmd.Flags().Lookup("log-level").DefValue = "warn"
	logs.level = "warn"
	cmd.Flags().StringVar(&opts.dir, "dir", "", "keep the state in `DIR` (default: a temporary directory)")
	cmd.Flags().StringVar(&opts.origin, "origin", "", "reach the sshd at `ssh://HOST:PORT` instead of the built-in origin")
	cmd.Flags().StringVar(&opts.login, "login", "", "account at the origin (default: your own)")
	cmd.Flags().StringVar(&opts.listen, "ssh-listen", "", "`ADDRESS` of the gateway's SSH port (default: a free port of 127.0.0.1)")
	cmd.Flags().BoolVar(&opts.json, "json", false, "print one line of JSON when all is up")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

type devOptions struct {
	dir, origin, login, listen string
	json                       bool
}

// parseOrigin returns the address of --origin.
func (o devOptions) parseOrigin() (string, error) {
	wrong := usageError{fmt.Errorf("--origin is %q; give ssh://HOST:PORT", o.origin)}
	u, err := url.Parse(o.origin)
	if err != nil || u.Hostname() == "" || *u != (url.URL{Scheme: "ssh", Host: u.Host}) {
		return "", wrong
	}
	port := cmp.Or(u.Port(), "22")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", wrong
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// run brings everything up, says so, and stays until ctx is done or a part
// fails.
func (d *dev) run(ctx context.Context, stdout io.Writer) (err error) {
	if d.opts.login == "" {
		me, err := user.Current()
		if err != nil {
			return fmt.Errorf("who are you? give --login: %w", err)
		}
		d.opts.login = me.Username
	}
	if _, err := sshgate.ParseLogin(d.opts.login); err != nil {
		return usageError{fmt.Errorf("--login: %w", err)}
	}
	removeDir, err := d.openDir()
	if err != nil {
		return err
	}
	defer removeDir()
	running, stop := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop(nil)
	start := func(what string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(running); err != nil && running.Err() == nil {
				stop(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	err = d.up(running, start)
	if err == nil {
		err = d.announce(stdout)
	}
	if err == nil {
		<-running.Done()
		err = context.Cause(running)
	}
	if ctx.Err() != nil {
		return nil // asked to end
	}
	return err
}

// up starts the parts, each when what it needs is there.
func (d *dev) up(ctx context.Context, start func(string, func(context.Context) error)) error {
	if err := d.startProvider(start); err != nil {
		return err
	}
	cfg, err := d.writeConfig()
	if err != nil {
		return err
	}
	g, err := newGatewayd(ctx, cfg, d.log, d.log)
	if err != nil {
		return err
	}
	g.reloader = newReloader(d.path(devConfigFile), d.loadConfig)
	start("terminal", watchTerminal())
	g.sshListener, g.tunnelListener, g.metricsListener = d.ssh, d.tunnel, d.metrics
	start("gateway", func(ctx context.Context) error {
		defer g.reloader.close()
		return g.run(ctx, func() {})
	})
	if err := d.writeClientFiles(g); err != nil {
		return err
	}
	address, err := d.startOrigin(g, start)
	if err != nil {
		return err
	}
	agent, err := d.newConnector(g.tunnelCA, address)
	if err != nil {
		return err
	}
	start("connector", agent.Run)
	return d.waitForOrigin(ctx, g)
}

// watchTerminal returns what fails when the terminal is closed that the program was
// started on, if any. SIGHUP alone does not mean that: it reads the configuration
// again.
func watchTerminal() func(context.Context) error {
	attached := func() bool {
		tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|syscall.O_NOCTTY, 0)
		if err == nil {
			tty.Close()
		}
		return err == nil
	}
	had := attached()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return func(ctx context.Context) error {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hangup:
				if had && !attached() {
					return errors.New("it was closed")
				}
			}
		}
	}
}

// startProvider serves the sign-in page.
func (d *dev) startProvider(start func(string, func(context.Context) error)) error {
	key, err := devidp.ParseSigningKey([]byte(d.state.SigningKey))
	if err != nil {
		return fmt.Errorf("the sign-in's key in %s: %w", d.path(devStateFile), err)
	}
	provider, err := devidp.New(devidp.Config{
		Issuer:       d.issuer(),
		ClientID:     devClientID,
		ClientName:   "sshgate",
		SigningKey:   key,
		PollInterval: time.Second,
		Log:          d.log,
		Users:        d.state.users(),
	})
	if err != nil {
		return err
	}
	start("sign-in page", func(ctx context.Context) error { return serveHTTP(ctx, d.idp, provider) })
	return nil
}

func serveHTTP(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// startOrigin returns the address of the SSH server that people shall reach,
// starting the built-in one unless another was named.
func (d *dev) startOrigin(g *gatewayd, start func(string, func(context.Context) error)) (string, error) {
	if d.opts.origin != "" {
		return d.opts.parseOrigin()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	key, err := d.originKey()
	if err != nil {
		l.Close()
		return "", err
	}
	start("origin", func(ctx context.Context) error {
		return devorigin.Serve(ctx, devorigin.Config{
			Listener: l, HostKey: key, TrustedCA: g.userCA.PublicKey(), Login: d.opts.login, Log: d.log,
		})
	})
	return l.Addr().String(), nil
}

// newConnector issues a certificate for the connector, writes its files and
// returns it.
func (d *dev) newConnector(ca *connector.CA, origin string) (*connector.Agent, error) {
	dir := d.path("connector")
	if _, err := writeConnectorCert(ca, "dev", []string{devOrigin}, 365*24*time.Hour, dir, true); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "connector.yaml")
	text := fmt.Sprintf("gateway: %s\nserver_name: %s\ncertificate_file: %s\nkey_file: %s\ngateway_ca_file: %s\norigins:\n  - name: %s\n    url: ssh://%s\n",
		d.tunnel.Addr(), devHostname, connector.CertificateFile, connector.KeyFile, connector.GatewayCAFile, devOrigin, origin)
	if err := writeFile(path, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cfg, err := config.LoadConnector(path, os.Getenv)
	if err != nil {
		return nil, err
	}
	credentials, err := connector.OpenCredentials(cfg.CertificateFile, cfg.KeyFile, cfg.StateDir)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := connector.ClientTLS(credentials, cfg.GatewayCAFile, cfg.ServerName)
	if err != nil {
		return nil, err
	}
	return connector.NewAgent(connector.AgentConfig{
		Gateway: cfg.Gateway, TLS: tlsConfig, Connections: cfg.Connections, Log: d.log,
		Origins: []connector.Origin{{Name: devOrigin, Address: origin}},
	})
}

// waitForOrigin returns when the origin can be reached.
func (d *dev) waitForOrigin(ctx context.Context, g *gatewayd) error {
	deadline := time.After(devReadyTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		pins, err := g.store.HostKeys(ctx, devOrigin)
		if err == nil && len(pins) > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return fmt.Errorf("the origin did not come up within %s; is there an ssh server at %s?", devReadyTimeout, cmp.Or(d.opts.origin, "its port"))
		}
	}
}

// announce says that all is up.
func (d *dev) announce(stdout io.Writer) error {
	if d.opts.json {
		return json.NewEncoder(stdout).Encode(d.info)
	}
	person := d.info.Users[0]
	_, err := fmt.Fprintf(stdout, `
  sshgate is up: gateway, sign-in page, connector and origin, on this machine alone.

  In another terminal, type

      %s

  It prints an address. Open it in a browser and sign in as

      %s    password  %s

  The second ssh asks nothing. Ctrl-C here ends it all.

`, d.info.SSHCommand, person.Email, person.Password)
	return err
}
