package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// manifest is what an installation has written, and what was there before. It is
// written first, so that it has everything even if the machine goes down half-way.
type manifest struct {
	Version int       `json:"version"` // of this form
	Config  string    `json:"config"`
	Enabled bool      `json:"was_enabled"` // the service, before
	Active  bool      `json:"was_active"`
	Files   []written `json:"files"`
	Dirs    []string  `json:"dirs"` // made for them, the outermost first
}

// written is a file of an installation.
type written struct {
	Path     string    `json:"path"`
	SHA256   string    `json:"sha256"`
	Previous *snapshot `json:"previous"` // null: there was none
}

const manifestVersion = 1

// readManifest returns nil when nothing is installed.
func (m *Machine) readManifest() (*manifest, error) {
	file, err := m.look(m.manifestFile())
	if file == nil || err != nil {
		return nil, err
	}
	var in manifest
	if err := json.Unmarshal(file.Content, &in); err != nil {
		return nil, fmt.Errorf("reading %s, which says what is installed: %w", m.manifestFile(), err)
	}
	if in.Version != manifestVersion {
		return nil, fmt.Errorf("%s is of another version of sshgate; use that, or a later one", m.manifestFile())
	}
	return &in, nil
}

// next is the manifest of an installation on top of the old one, if there is one.
func (in *manifest) next(config string, state State) *manifest {
	if in == nil {
		return &manifest{Version: manifestVersion, Config: config, Enabled: state.enabled(), Active: state.up(), Files: []written{}, Dirs: []string{}}
	}
	next := *in
	next.Config = config
	next.Files, next.Dirs = slices.Clone(in.Files), slices.Clone(in.Dirs)
	return &next
}

func (in *manifest) find(path string) *written {
	if in == nil {
		return nil
	}
	for i := range in.Files {
		if in.Files[i].Path == path {
			return &in.Files[i]
		}
	}
	return nil
}

func (in *manifest) drop(path string) {
	in.Files = slices.DeleteFunc(in.Files, func(w written) bool { return w.Path == path })
}

func (in *manifest) put(w written) {
	if have := in.find(w.Path); have != nil {
		*have = w
		return
	}
	in.Files = append(in.Files, w)
}

func (in *manifest) addDirs(dirs []string) {
	for _, dir := range dirs {
		if !slices.Contains(in.Dirs, dir) {
			in.Dirs = append(in.Dirs, dir)
		}
	}
}

// snapshot is the manifest as a file. It has what other files had, so it is for its
// owner alone.
func (in *manifest) snapshot() *snapshot {
	text, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		panic(errors.Join(errors.New("install: the manifest"), err)) // there is nothing in it that could fail
	}
	return &snapshot{Content: append(text, '\n'), Mode: 0o600, UID: -1, GID: -1}
}

// isPrevious tells whether the file is as it was before the installation, as it is when
// that was interrupted.
func (w *written) isPrevious(now *snapshot) bool {
	if w.Previous == nil || now == nil {
		return w.Previous == nil && now == nil
	}
	return digest(w.Previous.Content) == digest(now.Content)
}

// manifestFirst plans the manifest, before everything else.
func (p *Plan) manifestFirst() error {
	path := p.machine.manifestFile()
	p.next.addDirs(p.machine.missing(path))
	now, err := p.machine.look(path)
	if p.machine.Unprivileged && errors.Is(err, fs.ErrPermission) {
		p.note("%s can only be read by root: of an earlier installation nothing is known here", path)
		return nil
	}
	if err != nil {
		return err
	}
	want := p.next.snapshot()
	if now != nil && digest(now.Content) == digest(want.Content) {
		return nil
	}
	p.file(path, now, want, "")
	last := len(p.Changes) - 1
	p.Changes = slices.Insert(p.Changes[:last], 0, p.Changes[last])
	return nil
}
