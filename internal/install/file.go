package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// errNotAFile is for something that is there and is no file that could be replaced.
var errNotAFile = errors.New("it is not a regular file")

// snapshot is a file as it was, or shall be.
type snapshot struct {
	Mode    fs.FileMode `json:"mode"`
	UID     int         `json:"uid"` // -1 is who runs this
	GID     int         `json:"gid"`
	Content []byte      `json:"content"`
}

// look returns the file, nil when there is none.
func (m *Machine) look(path string) (*snapshot, error) {
	info, err := os.Lstat(m.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, ConfigError{fmt.Errorf("cannot replace %s: %w", path, errNotAFile)}
	}
	content, err := os.ReadFile(m.path(path))
	if err != nil {
		return nil, err
	}
	file := &snapshot{Content: content, Mode: info.Mode().Perm(), UID: -1, GID: -1}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		file.UID, file.GID = int(stat.Uid), int(stat.Gid)
	}
	return file, nil
}

// put makes the file what is wanted, nil for not there. It returns the directories that
// it made. Nobody ever sees half of the file.
func (m *Machine) put(path string, want *snapshot) (made []string, err error) {
	if want == nil {
		err := os.Remove(m.path(path))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	if made, err = m.makeDirs(path); err != nil {
		return made, err
	}
	dir := filepath.Dir(m.path(path))
	f, err := os.CreateTemp(dir, ".sshgate-*")
	if err != nil {
		return made, err
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(want.Content)
	if err == nil && want.UID >= 0 && (want.UID != os.Geteuid() || want.GID != os.Getegid()) {
		err = f.Chown(want.UID, want.GID)
	}
	err = errors.Join(err, f.Chmod(want.Mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path(path))
	}
	if err != nil {
		return made, fmt.Errorf("writing %s: %w", path, err)
	}
	return made, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// missing are the directories that the file needs and that are not there, the outermost
// first.
func (m *Machine) missing(path string) []string {
	var dirs []string
	for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Lstat(m.path(dir)); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

func (m *Machine) makeDirs(path string) (made []string, err error) {
	mode := fs.FileMode(0o755)
	if m.User != nil {
		mode = 0o700 // see the XDG Base Directory Specification
	}
	for _, dir := range m.missing(path) {
		if err := os.Mkdir(m.path(dir), mode); err != nil {
			return made, err
		}
		made = append(made, dir)
		if err := os.Chmod(m.path(dir), mode); err != nil { // whatever the umask
			return made, err
		}
	}
	return made, nil
}

// removeEmpty removes those of the directories that are empty, the last first.
func (m *Machine) removeEmpty(dirs []string) {
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(m.path(dir)) // fails for one that is in use
	}
}
