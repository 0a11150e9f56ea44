package install

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	sshdConfig = "/etc/ssh/sshd_config"
	userCAFile = "/etc/ssh/sshgate_user_ca.pub"
	dropIn     = "/etc/ssh/sshd_config.d/sshgate.conf"
	trustLine  = "TrustedUserCAKeys " + userCAFile
	dropInText = "# Written by sshgate connector install: people come in with certificates that the\n" +
		"# gateway has issued.\n" + trustLine + "\n"
	includeLine = "Include /etc/ssh/sshd_config.d/*.conf"
)

// sshd plans what makes this machine's sshd trust the gateway's user CA.
func (p *Plan) sshd(ctx context.Context, caFile string) error {
	m := p.machine
	text, keys, err := m.readUserCA(caFile)
	if err != nil {
		return ConfigError{err}
	}
	ask := m.running() && !m.Unprivileged
	if ask {
		err := m.sshdTest(ctx)
		if m.DryRun && errors.Is(err, errNoDirectory) {
			ask, err = false, nil
		}
		if err != nil {
			return fmt.Errorf("sshd cannot use its configuration as it is, so nothing was changed; mend it, or leave sshd out with --no-sshd: %w", err)
		}
	}
	settings, err := m.sshdSettings(ctx, ask)
	if err != nil {
		return err
	}
	file := settings["trustedusercakeys"]
	have, err := os.ReadFile(m.path(file))
	switch {
	case file == "none", file == "":
	case err == nil && hasKeys(string(have), keys):
		p.note("sshd trusts the gateway's user CA already, in %s", file)
		return nil
	case file == userCAFile: // named in sshd_config itself; only the file is missing, or of another gateway
	default:
		p.Problems = append(p.Problems, m.otherCA(file, text))
		return nil
	}
	p.bracketSSHD(ctx)
	if err := p.write(userCAFile, []byte(text), 0o644, sshdPart); err != nil {
		return err
	}
	if file != userCAFile {
		if err := p.write(dropIn, []byte(dropInText), 0o644, sshdPart); err != nil {
			return err
		}
	}
	p.checkSSHD()
	p.reloadSSHD(ctx)
	p.noteSettings(settings)
	return nil
}

// otherCA is the advice for an sshd that trusts another CA. TrustedUserCAKeys takes one
// file, and the first that is named, so a drop-in would do nothing, or take the others'
// access away.
func (m *Machine) otherCA(file, text string) string {
	where := ""
	if first, err := m.firstSetting("trustedusercakeys"); err == nil && first != nil {
		where = fmt.Sprintf(" (%s line %d)", first.file, first.line)
	}
	return fmt.Sprintf("sshd already trusts the CAs in %s%s, and it takes one file alone, so sshd was left as it is; add this to %s:\n%s", file, where, file, strings.TrimSpace(text))
}

// noteSettings notes what would keep people out all the same.
func (p *Plan) noteSettings(settings map[string]string) {
	if settings["pubkeyauthentication"] == "no" {
		p.note("sshd has PubkeyAuthentication no, with which it takes no certificate")
	}
	if file := settings["authorizedprincipalsfile"]; file != "" && file != "none" {
		p.note("sshd has AuthorizedPrincipalsFile %s: an account takes a certificate only if the account's own name stands in that file", file)
	}
}

// checkSSHD plans to ask sshd whether it can use its configuration, and whether the
// trust is in effect.
func (p *Plan) checkSSHD() {
	m := p.machine
	if m.running() {
		p.add(&Change{Action: Check, Command: []string{"sshd", "-t"}, part: sshdPart, apply: func(ctx context.Context) error {
			err := m.sshdTest(ctx)
			if err != nil {
				err = fmt.Errorf("sshd cannot use its configuration with the change, and was not reloaded: %w", err)
			}
			return err
		}})
	}
	check := &Change{Action: Check, part: sshdPart, Note: "it has trustedusercakeys " + userCAFile}
	if m.running() {
		check.Command = []string{"sshd", "-T"}
	} else {
		check.Path = sshdConfig
	}
	check.apply = func(ctx context.Context) error {
		settings, err := m.sshdSettings(ctx, m.running())
		if err == nil && settings["trustedusercakeys"] != userCAFile {
			err = partError{m.notInEffect(), true}
		}
		return err
	}
	p.add(check)
}

// notInEffect is why sshd does not take the drop-in, and what to do about it.
func (m *Machine) notInEffect() error {
	first, err := m.firstSetting("trustedusercakeys")
	switch {
	case err != nil:
		return fmt.Errorf("%s is not in effect, so sshd was left as it is: %w", dropIn, err)
	case first == nil:
		return fmt.Errorf("%s does not include %s, so sshd was left as it is; add this line at the top of %s and install again: %s", sshdConfig, dropIn, sshdConfig, includeLine)
	case first.value != userCAFile:
		return fmt.Errorf("line %d of %s has TrustedUserCAKeys %s, and the first one counts, so sshd was left as it is; remove that line and install again", first.line, first.file, first.value)
	}
	return fmt.Errorf("sshd does not take TrustedUserCAKeys from line %d of %s, so it was left as it is; add this line at the top of %s and install again: %s", first.line, first.file, sshdConfig, trustLine)
}

// reloadSSHD plans the reload of the unit that is active.
func (p *Plan) reloadSSHD(ctx context.Context) {
	m := p.machine
	if !m.running() {
		return
	}
	unit := m.sshdUnit(ctx)
	if unit == "" {
		p.note("neither ssh.service nor sshd.service is active: an sshd that runs all the same has to be sent SIGHUP, others take the change when they start")
		return
	}
	p.run(sshdPart, m.systemctl("reload", unit), nil)
}

// sshdUnit is sshd's active unit, or empty.
func (m *Machine) sshdUnit(ctx context.Context) string {
	for _, unit := range []string{"ssh.service", "sshd.service"} {
		if all, err := m.show(ctx, unit, "ActiveState"); err == nil && all["ActiveState"] == "active" {
			return unit
		}
	}
	return ""
}

// bracketSSHD goes before sshd's files in the plan: when they are back as they were, an
// sshd that has read the others reads these.
func (p *Plan) bracketSSHD(ctx context.Context) {
	m := p.machine
	p.add(&Change{hidden: true, part: sshdPart, undo: func(ctx context.Context) error {
		if !p.ran("reload") {
			return nil
		}
		_, err := m.command(ctx, m.systemctl("reload", m.sshdUnit(ctx)))
		return err
	}})
}

// sshdSettings are the settings in effect outside of Match blocks, by their names in
// lower case. Unless sshd is to be asked it is TrustedUserCAKeys alone.
func (m *Machine) sshdSettings(ctx context.Context, ask bool) (map[string]string, error) {
	if !ask {
		first, err := m.firstSetting("trustedusercakeys")
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = &setting{value: "none"}
		}
		return map[string]string{"trustedusercakeys": first.value}, nil
	}
	out, err := m.sshdRun(ctx, "-T")
	if err != nil {
		return nil, err
	}
	settings := make(map[string]string)
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		settings[key] = value
	}
	return settings, nil
}

// sshdTest has sshd check its configuration.
func (m *Machine) sshdTest(ctx context.Context) error {
	_, err := m.sshdRun(ctx, "-t")
	return err
}

// errNoDirectory is why Debian's sshd looks at nothing while its service does not run.
var errNoDirectory = errors.New("sshd has no directory for privilege separation, as it does not run")

func (m *Machine) sshdRun(ctx context.Context, arg string) (string, error) {
	program := "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("sshd"); err != nil {
			return "", errors.New("the configuration publishes this machine's SSH server, and there is no sshd, neither /usr/sbin/sshd nor in PATH; install OpenSSH's server, or leave it out with --no-sshd")
		}
	}
	out, err := m.Run.Run(ctx, program, arg)
	_, dir, missing := strings.Cut(fmt.Sprint(err), "Missing privilege separation directory: ")
	switch {
	case !missing:
		return out, err
	case m.DryRun:
		return "", errNoDirectory
	}
	// As its unit makes it, and harmless where it stays.
	if err := os.Mkdir(strings.TrimSpace(dir), 0o755); err != nil {
		return "", errors.Join(errNoDirectory, err)
	}
	return m.Run.Run(ctx, program, arg)
}

// readUserCA returns the text of the file and the keys in it.
func (m *Machine) readUserCA(path string) (text string, keys []string, err error) {
	data, err := os.ReadFile(m.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("there is no %s, the gateway's user CA, which this machine's sshd is to trust; \"sshgate connector login\" puts it there; without that save the line that \"sshgated ca\" prints on the gateway, or leave sshd out with --no-sshd", path)
	}
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, ok := publicKey(line)
		if !ok {
			return "", nil, fmt.Errorf("%s has a line that is not a public key; expected what \"sshgated ca\" prints, one line for each key", path)
		}
		text += line + "\n"
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return "", nil, fmt.Errorf("%s has no key; expected what \"sshgated ca\" prints, one line for each key", path)
	}
	return text, keys, nil
}

// publicKey returns type and key of a line of authorized_keys without options, and
// without the comment. The key has the type in it once more (RFC 4253, section 6.6).
func publicKey(line string) (string, bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return "", false
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(blob) < 4 {
		return "", false
	}
	size := binary.BigEndian.Uint32(blob)
	if uint64(size) > uint64(len(blob)-4) || string(blob[4:4+size]) != fields[0] {
		return "", false
	}
	return fields[0] + " " + fields[1], true
}

// hasKeys tells whether the text of a TrustedUserCAKeys file has all of the keys.
func hasKeys(text string, keys []string) bool {
	var have []string
	for line := range strings.Lines(text) {
		if key, ok := publicKey(line); ok {
			have = append(have, key)
		}
	}
	return !slices.ContainsFunc(keys, func(key string) bool { return !slices.Contains(have, key) })
}

// inSSHDir makes a path of sshd's configuration absolute, as sshd does for Include.
func inSSHDir(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/etc/ssh", path)
}
