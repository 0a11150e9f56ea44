package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sshgate/sshgate/internal/packaging"
)

// backOff makes systemd wait longer from restart to restart, for versions that know how.
const (
	backOff      = "RestartSteps=5\nRestartMaxDelaySec=60"
	backOffSince = 254
)

// systemOnly are the unit's settings that a user's service manager does not have: the
// user is who they are, the files are theirs, and namespaces and capabilities are not
// theirs to change.
var systemOnly = []string{
	"Wants", "After",
	"User", "DynamicUser", "LoadCredential", "CapabilityBoundingSet", "AmbientCapabilities",
	"PrivateDevices", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectClock", "ProtectControlGroups",
	"ProtectHome", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
	"ProtectProc", "ProtectSystem", "RemoveIPC",
}

// fitForUnit checks that no path has a character that means something in a unit's
// setting, or might.
func fitForUnit(paths ...string) error {
	for _, path := range paths {
		if strings.ContainsFunc(path, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("./_-@+", r)
		}) {
			return ConfigError{fmt.Errorf("%s has a character that a systemd unit might take for something else; use letters, digits and ./_-@+", path)}
		}
	}
	return nil
}

// renderUnit is the connector's unit for the service.
func renderUnit(s Service, program string, version int, user bool) string {
	var out strings.Builder
	var comment []string // lines that belong to the next setting
	flush := func(line string) {
		for _, c := range append(comment, line) {
			out.WriteString(c + "\n")
		}
		comment = nil
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(packaging.ConnectorUnit, "\n"), "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch {
		case strings.HasPrefix(line, "#"):
			if user {
				line = strings.Replace(line, "systemctl edit", "systemctl --user edit", 1)
			}
			comment = append(comment, line)
		case user && slices.Contains(systemOnly, key):
			comment = nil
		case user && key == "WantedBy":
			flush("WantedBy=default.target")
		case key == "ExecStart":
			flush("ExecStart=" + program + " connector run --config " + s.Config)
		case key == "LoadCredential" && strings.HasPrefix(value, "connector.key:"):
			flush("LoadCredential=connector.key:" + s.KeyFile)
		case key == "LoadCredential" && strings.HasPrefix(value, "connector.crt:"):
			flush("LoadCredential=connector.crt:" + s.CertificateFile)
		case key == "RestartSec" && version >= backOffSince:
			flush(line + "\n" + backOff)
		case line == "" && strings.HasSuffix(out.String(), "\n\n"):
		default:
			flush(line)
		}
	}
	return out.String()
}

// unit plans the service's unit, unless the program's package has one that does.
func (p *Plan) unit(ctx context.Context, s Service, program string) error {
	m := p.machine
	text := renderUnit(s, program, m.systemdVersion(ctx), m.User != nil)
	if m.User == nil {
		_, err := os.Lstat(m.path(m.unitFile()))
		if errors.Is(err, fs.ErrNotExist) && m.packageUnitFits(text) {
			return nil
		}
	}
	err := p.write(m.unitFile(), []byte(text), 0o644, "")
	if errors.Is(err, errNotAFile) {
		err = fmt.Errorf("%w; if the unit is masked: %s", err, strings.Join(m.systemctl("unmask", Unit), " "))
	}
	return err
}

// packageUnitFits tells whether a package has brought a unit with the same paths.
func (m *Machine) packageUnitFits(text string) bool {
	for _, dir := range []string{"/usr/lib/systemd/system/", "/lib/systemd/system/"} {
		if have, err := os.ReadFile(m.path(dir + Unit)); err == nil {
			return slices.Equal(unitPaths(string(have)), unitPaths(text))
		}
	}
	return false
}

// unitPaths are the lines of a unit that name the program and its files.
func unitPaths(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "ExecStart=") || strings.HasPrefix(line, "LoadCredential=") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}
