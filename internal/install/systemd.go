package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// Runner runs a program and returns what it prints to standard output. An error has
// what it says on standard error.
type Runner interface {
	Run(ctx context.Context, name string, args ...string) (string, error)
}

// Programs is the Runner of this machine's programs.
type Programs struct{}

// Run implements Runner.
func (Programs) Run(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if said := strings.TrimSpace(stderr.String()); err != nil && said != "" {
		err = errors.New(said)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(append([]string{name}, args...), " "), err)
	}
	return stdout.String(), err
}

// State is what systemd says of the service.
type State struct {
	Active string `json:"active_state"` // active, activating, inactive, failed and others
	Sub    string `json:"sub_state"`
	Status string `json:"status,omitempty"` // in the service's own words

	file       string // enabled, disabled and others
	invocation string // differs from start to start
}

// up tells whether the service is on its way or there.
func (s State) up() bool {
	return s.Active == "active" || s.Active == "activating" || s.Active == "reloading"
}

func (s State) enabled() bool { return s.file == "enabled" }

// systemctl is the command line that does something with the machine's services.
func (m *Machine) systemctl(args ...string) []string {
	line := []string{"systemctl"}
	switch {
	case m.User != nil:
		line = append(line, "--user")
	case m.Root != "":
		line = append(line, "--root="+m.Root)
	}
	return append(line, args...)
}

// command runs a command line.
func (m *Machine) command(ctx context.Context, line []string) (string, error) {
	return m.Run.Run(ctx, line[0], line[1:]...)
}

// State asks systemd about the service. Below a Root there is only whether it is
// enabled.
func (m *Machine) State(ctx context.Context) (State, error) {
	if !m.running() {
		out, _ := m.command(ctx, m.systemctl("is-enabled", Unit)) // fails unless it is
		return State{Active: "inactive", file: strings.TrimSpace(out)}, nil
	}
	all, err := m.show(ctx, Unit, "ActiveState,SubState,StatusText,UnitFileState,InvocationID")
	if err != nil && m.User != nil {
		err = fmt.Errorf("%w; your service manager has to run, which it does where you are signed in yourself, rather than by su or sudo", err)
	}
	return State{
		Active: all["ActiveState"], Sub: all["SubState"], Status: all["StatusText"],
		file: all["UnitFileState"], invocation: all["InvocationID"],
	}, err
}

// show returns properties of a unit, which need not exist.
func (m *Machine) show(ctx context.Context, unit, properties string) (map[string]string, error) {
	out, err := m.command(ctx, m.systemctl("show", "-p", properties, unit))
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), "=")
		all[key] = value
	}
	return all, nil
}

// systemdVersion is systemd's, or 0 where it is not known.
func (m *Machine) systemdVersion(ctx context.Context) int {
	if !m.running() {
		return 0 // this machine's systemd is not the one that will run
	}
	out, err := m.Run.Run(ctx, "systemctl", "--version")
	fields := strings.Fields(out) // systemd 252 (252.38-1~deb12u1)
	if err != nil || len(fields) < 2 {
		return 0
	}
	version, _ := strconv.Atoi(fields[1])
	return version
}

// bracketService goes before the service's files in the plan, so that it is undone after
// them: systemd reads them again, and a service that ran is started as it was.
func (p *Plan) bracketService(before State) {
	m := p.machine
	p.add(&Change{hidden: true, undo: func(ctx context.Context) error {
		var failed []error
		if p.ran("daemon-reload") {
			_, err := m.command(ctx, m.systemctl("daemon-reload"))
			failed = append(failed, err)
		}
		if before.up() && (p.ran("restart") || p.ran("stop")) {
			_, err := m.command(ctx, m.systemctl("restart", "--no-block", Unit))
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	}})
}
