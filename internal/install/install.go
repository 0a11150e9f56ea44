// Package install sets a connector up on a machine with systemd, and takes it away
// again: the program, its service, and the trust of this machine's sshd in the gateway's
// user CA.
//
// Start with Machine.Install or Machine.Uninstall. They look at the machine, change
// nothing, and return a Plan of what there is to do; Plan.Apply does it, and puts back
// what it changed when a step fails. What was there before stands in a manifest, from
// which an uninstallation restores it.
//
// It issues no certificate and writes no configuration of the connector, and of sshd's
// configuration it touches nothing but a file of its own.
package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Unit is the name of the connector's systemd unit.
const Unit = "sshgate-connector.service"

// ConfigError says that something cannot be used as it is: the configuration, or a file
// that goes with it. The administrator mends it; nothing was changed.
type ConfigError struct{ error }

func (e ConfigError) Unwrap() error { return e.error }

// Machine is where to install.
type Machine struct {
	// Root is the directory that holds the system, for one that does not run, as
	// when an image is built. Empty, the default, means this one. Paths elsewhere
	// in this package are as they are below it.
	//
	// Nothing is started or reloaded there. Nor is sshd asked about its
	// configuration: Include, HostKey and whatever else names a file in it are
	// absolute paths, so that `sshd -t -f` would look at this machine's files. This
	// package's own reading of Include and TrustedUserCAKeys has to do.
	Root string
	// User installs for a user's own service manager and leaves the system alone.
	User *UserDirs
	// DryRun tells that no plan will be applied, so that nothing at all may change.
	DryRun bool
	// Unprivileged, for a dry run, tells that sshd cannot be asked about its
	// configuration, nor the manifest be read.
	Unprivileged bool
	// Run runs the system's programs. Required.
	Run Runner
}

// UserDirs are where a user's files are, see the XDG Base Directory Specification.
type UserDirs struct {
	Home   string
	Config string // $XDG_CONFIG_HOME, default ~/.config
	State  string // $XDG_STATE_HOME, default ~/.local/state
}

// Service is the connector to install.
type Service struct {
	// Program is the executable that runs the connector, here, not below Root.
	Program string
	// Config is the connector's configuration file.
	Config string
	// CertificateFile and KeyFile are what the configuration names.
	CertificateFile string
	KeyFile         string
	// GatewayCAFile is that of the configuration, or empty.
	GatewayCAFile string
	// SSHD is whether this machine's own sshd is published and has to trust the
	// gateway's user CA, user-ca.pub beside the configuration.
	SSHD bool
	// Force replaces files that were changed since they were installed.
	Force bool
}

// path is where p is on this machine.
func (m *Machine) path(p string) string {
	if m.Root == "" {
		return p
	}
	return filepath.Join(m.Root, p)
}

// programs are the places where the program may stay; it is copied to the last.
func (m *Machine) programs() []string {
	places := []string{"/usr/bin/sshgate", "/usr/local/bin/sshgate"}
	if m.User != nil {
		places = append(places, filepath.Join(m.User.Home, ".local/bin/sshgate"))
	}
	return places
}

func (m *Machine) unitFile() string {
	if m.User != nil {
		return filepath.Join(m.User.Config, "systemd/user", Unit)
	}
	return "/etc/systemd/system/" + Unit
}

func (m *Machine) manifestFile() string {
	if m.User != nil {
		return filepath.Join(m.User.State, "sshgate/install.json")
	}
	return "/var/lib/sshgate/install.json"
}

// running tells whether there is a service manager to talk to.
func (m *Machine) running() bool { return m.Root == "" }

// Install plans the installation. An error is of type ConfigError when something has to
// be mended first.
func (m *Machine) Install(ctx context.Context, s Service) (*Plan, error) {
	if err := m.usable(s); err != nil {
		return nil, err
	}
	old, err := m.readManifest()
	if m.Unprivileged && errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	state, err := m.State(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{machine: m, old: old, force: s.Force, before: state, next: old.next(s.Config, state)}
	p.bracketService(state)
	program, err := p.program(s.Program)
	if err != nil {
		return nil, err
	}
	if err := p.unit(ctx, s, program); err != nil {
		return nil, err
	}
	changed := len(p.Steps()) > 0
	if s.SSHD && m.User == nil {
		if err := p.sshd(ctx, filepath.Join(filepath.Dir(s.Config), "user-ca.pub")); err != nil {
			return nil, err
		}
	}
	p.start(state, changed)
	if len(p.Steps()) == 0 {
		p.Changes = nil
		return p, nil
	}
	if m.User != nil {
		p.note("it runs while you are signed in; to have it run from the start of the machine on: loginctl enable-linger")
	}
	return p, p.manifestFirst()
}

// usable checks what the service would fail on.
func (m *Machine) usable(s Service) error {
	if err := m.hasSystemd(); err != nil {
		return err
	}
	if m.User != nil {
		return fitForUnit(s.Config, m.User.Home)
	}
	if err := fitForUnit(s.Config, s.CertificateFile, s.KeyFile); err != nil {
		return err
	}
	for _, p := range []string{s.Config, s.GatewayCAFile} {
		if p == "" {
			continue
		}
		if err := m.readableToService(p); err != nil {
			return ConfigError{err}
		}
	}
	return nil
}

func (m *Machine) hasSystemd() error {
	if !m.running() {
		info, err := os.Stat(m.Root)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", m.Root)
		}
		if err != nil {
			return ConfigError{err}
		}
		return nil
	}
	// As sd_booted(3) does.
	if info, err := os.Stat("/run/systemd/system"); err != nil || !info.IsDir() {
		return errors.New("this machine does not run systemd (there is no /run/systemd/system); docs/packages.md has how to run the connector under OpenRC and launchd, and --root DIR installs into a system that is not running")
	}
	return nil
}

// readableToService checks that the service's user, who is nobody in particular, can
// read the file, and that the unit's sandbox leaves it there.
func (m *Machine) readableToService(p string) error {
	for _, hidden := range []string{"/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/"} {
		if strings.HasPrefix(p, hidden) {
			return fmt.Errorf("the service does not see %s, as it sees nothing below %s; put it into /etc/sshgate", p, hidden)
		}
	}
	need := fs.FileMode(0o004)
	for q := p; q != "/"; q = filepath.Dir(q) {
		info, err := os.Stat(m.path(q))
		if err != nil {
			return err
		}
		if info.Mode().Perm()&need == 0 {
			return fmt.Errorf("the service's user cannot read %s, as %s has mode %04o; there is no secret in it: chmod o+%s %s",
				p, q, info.Mode().Perm(), map[fs.FileMode]string{0o004: "r", 0o001: "x"}[need], q)
		}
		need = 0o001
	}
	return nil
}

// program plans the copy of the executable, and returns where the service finds it.
func (p *Plan) program(executable string) (string, error) {
	data, err := os.ReadFile(executable)
	if err != nil {
		return "", err
	}
	places := p.machine.programs()
	for _, place := range places {
		if p.machine.running() && place == executable {
			return place, nil
		}
	}
	for _, place := range places {
		if have, err := os.ReadFile(p.machine.path(place)); err == nil && string(have) == string(data) {
			return place, nil
		}
	}
	place := places[len(places)-1]
	return place, p.write(place, data, 0o755, "")
}

// start plans what gets the service to run.
func (p *Plan) start(state State, changed bool) {
	m := p.machine
	if changed && m.running() {
		p.run("", m.systemctl("daemon-reload"), nil)
	}
	if !state.enabled() {
		p.run("", m.systemctl("enable", Unit), m.systemctl("disable", Unit))
	}
	if m.running() && (changed || !state.up()) {
		var undo []string
		if !state.up() {
			undo = m.systemctl("stop", Unit)
		}
		p.run("", m.systemctl("restart", "--no-block", Unit), undo)
	}
}

// pollEvery is how often Wait looks.
const pollEvery = 250 * time.Millisecond

// Wait waits, once the plan is applied, until the service is active, has failed, or the
// time is over, and returns what it is then.
func (p *Plan) Wait(ctx context.Context, atMost time.Duration) (State, error) {
	deadline := time.Now().Add(atMost)
	for {
		state, err := p.machine.State(ctx)
		// A restart that has yet to begin leaves the state as it was.
		begun := !p.ran("restart") || state.invocation == "" || state.invocation != p.before.invocation
		ended := state.Active == "active" || state.Active == "failed"
		if err != nil || begun && ended || !time.Now().Before(deadline) {
			return state, err
		}
		select {
		case <-ctx.Done():
			return state, context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}
