package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Removal is what an uninstallation takes away.
type Removal struct {
	// Config is the configuration to purge where no manifest names it.
	Config string
	// Force removes or restores files even if they were changed since.
	Force bool
	// Purge removes the configuration, the certificates and the service's state too.
	Purge bool
}

// Uninstall plans to take away what Install has put there, and to restore what was there
// before.
func (m *Machine) Uninstall(ctx context.Context, r Removal) (*Plan, error) {
	if err := m.hasSystemd(); err != nil {
		return nil, err
	}
	old, err := m.readManifest()
	if err != nil {
		return nil, err
	}
	p := &Plan{machine: m, old: old, force: r.Force}
	if old == nil {
		p.note("nothing here was installed by sshgate connector install: there is no %s", m.manifestFile())
	} else {
		r.Config = old.Config
		if err := p.uninstall(ctx); err != nil {
			return nil, err
		}
	}
	if r.Purge {
		return p, p.purge(r.Config)
	}
	if old != nil {
		p.note("the configuration and the certificates in %s stay; --purge removes them", filepath.Dir(r.Config))
	}
	return p, nil
}

// uninstall plans the way back to what the manifest has.
func (p *Plan) uninstall(ctx context.Context) error {
	m := p.machine
	state, err := m.State(ctx)
	if err != nil {
		return err
	}
	p.bracketService(state)
	if m.running() && state.Active != "inactive" && state.Active != "failed" {
		p.run("", m.systemctl("stop", Unit), nil) // the bracket starts it again
	}
	if state.enabled() {
		p.run("", m.systemctl("disable", Unit), nil)
	}
	p.add(&Change{hidden: true, undo: func(ctx context.Context) error {
		if !p.ran("disable") {
			return nil
		}
		_, err := m.command(ctx, m.systemctl("enable", Unit))
		return err
	}})
	p.bracketSSHD(ctx)
	left, sshd, err := p.restoreFiles()
	if err != nil {
		return err
	}
	if sshd && m.running() {
		p.checkRestoredSSHD()
		p.reloadSSHD(ctx)
	}
	if m.running() {
		p.run("", m.systemctl("daemon-reload"), nil)
	}
	if p.old.Enabled {
		p.run("", m.systemctl("enable", Unit), nil)
	}
	if p.old.Active && m.running() {
		p.run("", m.systemctl("start", "--no-block", Unit), nil)
	}
	return p.removeManifest(left)
}

// restoreFiles plans that each file becomes what it was, but for those that were changed
// since, which it returns. Sshd is whether one of sshd's is among the others.
func (p *Plan) restoreFiles() (left []written, sshd bool, err error) {
	for _, w := range slices.Backward(p.old.Files) {
		now, err := p.machine.look(w.Path)
		if err != nil && !errors.Is(err, errNotAFile) {
			return nil, false, err
		}
		in := part("")
		if strings.HasPrefix(w.Path, "/etc/ssh/") {
			in = sshdPart
		}
		changed := now == nil || digest(now.Content) != w.SHA256
		switch {
		case err == nil && w.isPrevious(now):
		case err != nil:
			left = append(left, w)
			p.note("%s is no regular file any more and is left alone", w.Path)
		case changed && !p.force:
			left = append(left, w)
			p.note("%s was changed since it was installed and is left alone; --force takes it away", w.Path)
		default:
			p.file(w.Path, now, w.Previous, in)
			sshd = sshd || in == sshdPart
		}
	}
	slices.Reverse(left)
	return left, sshd, nil
}

// checkRestoredSSHD plans to ask sshd whether it can use its configuration. If it cannot,
// that is not due to the one line that is gone: nothing is put back, but a reload would
// be sshd's end.
func (p *Plan) checkRestoredSSHD() {
	p.add(&Change{Action: Check, Command: []string{"sshd", "-t"}, part: sshdPart, apply: func(ctx context.Context) error {
		err := p.machine.sshdTest(ctx)
		if err != nil {
			err = partError{fmt.Errorf("sshd was not reloaded, as it cannot use its configuration; mend that and reload it: %w", err), false}
		}
		return err
	}})
}

// removeManifest plans the end of the manifest, or one of what is left, and of the
// directories that were made.
func (p *Plan) removeManifest(left []written) error {
	path := p.machine.manifestFile()
	now, err := p.machine.look(path)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		rest := *p.old
		rest.Files = left
		p.file(path, now, rest.snapshot(), "")
		return nil
	}
	p.file(path, now, nil, "")
	for _, dir := range slices.Backward(p.old.Dirs) {
		p.removeDir(dir)
	}
	return nil
}

// removeDir plans that a directory goes, unless it is in use.
func (p *Plan) removeDir(dir string) {
	if _, err := os.Lstat(p.machine.path(dir)); err != nil {
		return
	}
	p.add(&Change{Action: Remove, Path: dir, Note: "if it is empty then", apply: func(context.Context) error {
		_ = os.Remove(p.machine.path(dir)) // fails for one that is in use
		return nil
	}})
}

// purge plans that the configuration goes, and what belongs to it: the directory may be
// the gateway's too.
func (p *Plan) purge(config string) error {
	m := p.machine
	dir := filepath.Dir(config)
	for _, name := range []string{filepath.Base(config), "connector.key", "connector.crt", "gateway-ca.crt", "user-ca.pub"} {
		path := filepath.Join(dir, name)
		now, err := m.look(path)
		switch {
		case errors.Is(err, errNotAFile):
			p.note("%s is not a regular file and is left alone", path)
		case err != nil:
			return err
		case now != nil:
			p.file(path, now, nil, "")
		}
	}
	p.removeDir(dir)
	name := strings.TrimSuffix(Unit, ".service")
	state := []string{"/var/lib/private/" + name, "/var/lib/" + name} // the unit's StateDirectory
	if m.User != nil {
		state = []string{filepath.Join(m.User.State, name), filepath.Join(m.User.Config, name)} // before systemd 254
	}
	for _, dir := range state {
		if _, err := os.Lstat(m.path(dir)); err == nil {
			p.add(&Change{Action: Remove, Path: dir, Note: "with all that is in it", apply: func(context.Context) error {
				return os.RemoveAll(m.path(dir))
			}})
		}
	}
	return nil
}
