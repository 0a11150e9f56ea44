package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/internal/install"
)

const defaultInstallWait = 30 * time.Second

const installLong = `Install the connector as a systemd service, after "sshgate connector login" has put
its configuration and certificate into /etc/sshgate. In order, and only what is not
there already:

  the program is copied to /usr/local/bin, unless it runs from there or from /usr/bin;
  sshgate-connector.service is written, unless the program's package has brought it;
  if the configuration publishes this machine's own SSH server, on a loopback address,
  its sshd is told to trust the gateway's user CA, user-ca.pub beside the configuration;
  the service is enabled and started, and has --wait to reach the gateway.

sshd checks its configuration before it is reloaded, and has to say that the trust is
in effect. When a step fails, what was changed is put back, and nothing else is. What
was there before is kept in /var/lib/sshgate/install.json, for "uninstall".

--dry-run shows each file and each command and changes nothing; it needs no root, but
without it knows sshd's configuration only as far as it can read it.

With --user it is a service of your own: no root, the program in ~/.local/bin, the
unit in ~/.config/systemd/user, the configuration by default ~/.config/sshgate/connector.yaml;
sshd is left alone.

Exit codes: 0 the service is active, 1 something failed, or it is not active yet, 2 a
wrong flag or a configuration that cannot be used.`

const installExample = `  sshgate connector install --dry-run
  sudo sshgate connector install
  sudo sshgate connector install --no-sshd --wait 2m
  sshgate connector install --user
  sshgate connector install --dry-run --json | jq -r '.changes[].path // empty'`

func newConnectorInstall() *cobra.Command {
	var flags installFlags
	var path string
	var noSSHD bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "install",
		Short:   "Install the connector as a service of this machine",
		Long:    installLong,
		Example: installExample,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			machine, err := flags.machine()
			if err != nil {
				return err
			}
			if wait < 0 {
				return usageError{fmt.Errorf("--wait is %s; it cannot be negative", wait)}
			}
			if !cmd.Flags().Changed("config") {
				path = defaultConfig(machine)
			}
			service, err := serviceFor(machine, path)
			if err != nil {
				return err
			}
			service.Force = flags.force
			service.SSHD = service.SSHD && !noSSHD
			plan, err := machine.Install(cmd.Context(), *service)
			if err != nil {
				return installError(err)
			}
			if flags.root != "" {
				return flags.carryOut(cmd, plan, nil)
			}
			return flags.carryOut(cmd, plan, &wait)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&path, "config", "c", defaultConnectorConfig, "the connector's configuration `FILE`")
	cmd.Flags().BoolVar(&noSSHD, "no-sshd", false, "leave this machine's sshd as it is")
	cmd.Flags().DurationVar(&wait, "wait", defaultInstallWait, "how long the service may take to reach the gateway")
	cmd.Flags().BoolVar(&flags.force, "force", false, "replace files that were changed since they were installed")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // fails only for an unknown flag
	return cmd
}

func newConnectorUninstall() *cobra.Command {
	var flags installFlags
	var purge bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take away what install has put on this machine",
		Long: `Stop and disable the connector's service, and make every file that "install" wrote
what it was before, by /var/lib/sshgate/install.json. A file that was changed since is
left alone and named, unless there is --force. sshd checks its configuration and is
reloaded; from then on it takes no certificate of the gateway's any more.

The configuration and the certificates stay, unless there is --purge. At the gateway the
connector remains known until its operator revokes it.

Exit codes: 0 it is gone, or was not there, 1 something failed, 2 a wrong flag.`,
		Example: `  sshgate connector uninstall --dry-run
  sudo sshgate connector uninstall
  sudo sshgate connector uninstall --purge
  sshgate connector uninstall --user`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			machine, err := flags.machine()
			if err != nil {
				return err
			}
			plan, err := machine.Uninstall(cmd.Context(), install.Removal{Config: defaultConfig(machine), Force: flags.force, Purge: purge})
			if err != nil {
				return installError(err)
			}
			return flags.carryOut(cmd, plan, nil)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&flags.force, "force", false, "take away files that were changed since they were installed, too")
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the configuration, the certificates and the service's state, too")
	return cmd
}

// installFlags are what install and uninstall share.
type installFlags struct {
	user   bool
	dryRun bool
	asJSON bool
	force  bool
	root   string
}

func (f *installFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.user, "user", false, "a service of your own, without root")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be done, in full, and change nothing")
	flags.BoolVar(&f.asJSON, "json", false, "print the plan and how it went as one JSON object")
	flags.StringVar(&f.root, "root", "", "the `DIRECTORY` of a system that is not running, as of an image that is built; file names in the configuration have to be relative")
	_ = flags.MarkHidden("root") // fails only for an unknown flag
}

// machine is where to install, as the flags say.
func (f *installFlags) machine() (*install.Machine, error) {
	m := &install.Machine{Run: install.Programs{}, DryRun: f.dryRun, Unprivileged: f.dryRun && os.Geteuid() != 0}
	switch {
	case f.user && f.root != "":
		return nil, usageError{errors.New("--user and --root exclude each other")}
	case f.user:
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		m.User = &install.UserDirs{Home: home, Config: xdg("XDG_CONFIG_HOME", home, ".config"), State: xdg("XDG_STATE_HOME", home, ".local/state")}
	case f.root != "":
		root, err := filepath.Abs(f.root)
		if err != nil {
			return nil, err
		}
		m.Root = root
	case !f.dryRun && os.Geteuid() != 0:
		return nil, errors.New("this takes root, as with sudo; --dry-run shows what it would do, and --user is for a service of your own")
	}
	return m, nil
}

// xdg is a base directory. One that is not absolute does not count.
func xdg(variable, home, otherwise string) string {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(home, otherwise)
}

func defaultConfig(m *install.Machine) string {
	if m.User != nil {
		return filepath.Join(m.User.Config, "sshgate/connector.yaml")
	}
	return defaultConnectorConfig
}

// serviceFor is the service that the configuration describes.
func serviceFor(m *install.Machine, path string) (*install.Service, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cfg, err := config.LoadConnector(filepath.Join("/", m.Root, path), os.Getenv)
	if err != nil {
		return nil, adviseLogin(err, filepath.Join("/", m.Root, filepath.Dir(path)))
	}
	s := &install.Service{
		Program: program, Config: path,
		CertificateFile: cfg.CertificateFile, KeyFile: cfg.KeyFile, GatewayCAFile: cfg.GatewayCAFile,
	}
	for _, file := range []*string{&s.CertificateFile, &s.KeyFile, &s.GatewayCAFile} {
		if *file == "" || m.Root == "" {
			continue
		}
		inside, ok := strings.CutPrefix(*file, strings.TrimSuffix(m.Root, "/")+"/")
		if !ok {
			return nil, usageError{fmt.Errorf("the configuration names %s, which is outside of %s; write file names relative to the configuration", *file, m.Root)}
		}
		*file = "/" + inside
	}
	for _, o := range cfg.Origins {
		s.SSHD = s.SSHD || o.URL.Scheme == "ssh" && isThisMachine(o.URL.Host)
	}
	return s, nil
}

// adviseLogin adds to the error of a configuration what makes one, if that has not
// happened.
func adviseLogin(err error, dir string) error {
	const advice = `to get the configuration and the certificate, run "sshgate connector login"`
	if errors.Is(err, fs.ErrNotExist) {
		return usageError{fmt.Errorf("%w; %s", err, advice)}
	}
	for _, name := range []string{"connector.crt", "connector.key"} {
		if _, statErr := os.Stat(filepath.Join(dir, name)); errors.Is(statErr, fs.ErrNotExist) {
			return fmt.Errorf("%w\n%s", err, advice)
		}
	}
	return err
}

// isThisMachine tells whether HOST:PORT is a loopback address, or localhost.
func isThisMachine(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return false
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// installError has the exit code of what the administrator has to mend.
func installError(err error) error {
	var wrong install.ConfigError
	if errors.As(err, &wrong) {
		return usageError{err}
	}
	return err
}

// installReport is how it went, as --json prints it.
type installReport struct {
	OK       bool              `json:"ok"`
	DryRun   bool              `json:"dry_run"`
	Changes  []*install.Change `json:"changes"`
	Notes    []string          `json:"notes,omitempty"`
	Problems []string          `json:"problems,omitempty"`
	Service  *install.State    `json:"service,omitempty"`
}

// carryOut applies the plan, or shows it, and waits for the service unless wait is nil.
func (f *installFlags) carryOut(cmd *cobra.Command, plan *install.Plan, wait *time.Duration) error {
	report := installReport{DryRun: f.dryRun, Changes: plan.Steps(), Notes: plan.Notes, Problems: plan.Problems}
	out := cmd.OutOrStdout()
	if f.asJSON {
		out = io.Discard
	}
	if plan.Empty() {
		fmt.Fprintln(out, "nothing to change")
	}
	var err error
	if f.dryRun {
		printPlan(out, plan)
		if len(plan.Problems) > 0 {
			err = errors.New("not all of it could be done; see above")
		}
	} else {
		err = plan.Apply(cmd.Context(), func(line string) { fmt.Fprintln(out, line) })
	}
	for _, note := range plan.Notes {
		fmt.Fprintf(out, "note     %s\n", note)
	}
	if !f.dryRun && wait != nil && !plan.Undone() {
		var waitErr error
		report.Service, waitErr = f.await(cmd.Context(), out, plan, *wait)
		err = errors.Join(err, waitErr)
	}
	report.OK = err == nil
	if f.asJSON {
		if err := json.NewEncoder(cmd.OutOrStdout()).Encode(report); err != nil {
			return err
		}
	}
	return err
}

// printPlan shows what would be done.
func printPlan(out io.Writer, plan *install.Plan) {
	for _, c := range plan.Steps() {
		fmt.Fprintln(out, c)
		for line := range strings.Lines(c.Detail()) {
			fmt.Fprint(out, "    "+strings.TrimRight(line, "\n")+"\n")
		}
	}
	for _, problem := range plan.Problems {
		fmt.Fprintf(out, "PROBLEM  %s\n", problem)
	}
}

// await waits until the service is active, and says what to look at if it is not.
func (f *installFlags) await(ctx context.Context, out io.Writer, plan *install.Plan, wait time.Duration) (*install.State, error) {
	state, err := plan.Wait(ctx, wait)
	if err != nil {
		return nil, err
	}
	status := ""
	if state.Status != "" {
		status = ": " + state.Status
	}
	if state.Active == "active" {
		fmt.Fprintf(out, "%s is active (%s)%s\n", install.Unit, state.Sub, status)
		return &state, nil
	}
	journal := "journalctl -u "
	if f.user {
		journal = "journalctl --user -u "
	}
	return &state, fmt.Errorf("%s is installed but not active yet: it is %s (%s)%s; see: %s",
		install.Unit, state.Active, state.Sub, status, journal+strings.TrimSuffix(install.Unit, ".service"))
}
