package station

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// systemSocket is root's, and that of the systemd unit.
const systemSocket = "/run/sshgate-connector/status.sock"

// DefaultSocket is where a connector of the user serves its status: in
// RUNTIME_DIRECTORY, which systemd sets, in /run for root, or in XDG_RUNTIME_DIR. It is
// "" when there is none of these.
func DefaultSocket(env func(string) string, uid int) string {
	// A unit can have several directories (systemd.exec(5)); the first is the connector's.
	directory, _, _ := strings.Cut(env("RUNTIME_DIRECTORY"), ":")
	switch own := env("XDG_RUNTIME_DIR"); {
	case filepath.IsAbs(directory):
		return filepath.Join(directory, "status.sock")
	case uid == 0:
		return systemSocket
	case filepath.IsAbs(own):
		return filepath.Join(own, "sshgate-connector", "status.sock")
	}
	return ""
}

// FindSocket is where to look for the status of a connector that runs here: at the
// default, or otherwise at the systemd unit's.
func FindSocket(env func(string) string, uid int) string {
	own := DefaultSocket(env, uid)
	if _, err := os.Lstat(own); own == "" || err != nil {
		return systemSocket
	}
	return own
}

const (
	longestPath  = 103 // of a socket: unix(7) allows 107, other systems 103
	probeTimeout = 2 * time.Second
)

// Listen opens the socket at path, for its owner and group. Its directory is made when
// it is missing, for the owner to write and all to enter: the socket has a mode of its
// own. A socket that nobody answers on is what a process left behind that was killed,
// and is replaced; any other is left alone, and an error. Close removes it.
func Listen(path string) (net.Listener, error) {
	if len(path) > longestPath {
		return nil, fmt.Errorf("the path of the socket %s is longer than %d bytes", path, longestPath)
	}
	directory := filepath.Dir(path)
	if err := os.Mkdir(directory, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Two that start at the same time must not take each other's for left behind.
	unlock, err := lock(directory)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// lock takes the lock of a directory, flock(2), for as long as a socket is opened in
// it. Who may read the directory could hold it for ever, so the wait is bounded.
func lock(directory string) (unlock func(), err error) {
	d, err := os.Open(directory)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(probeTimeout); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("locking %s: %w", directory, err)
	}
	return func() { d.Close() }, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("another connector answers on %s", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("%s may be another connector's: %w", path, err)
}

const (
	getTimeout = 15 * time.Second
	maxAnswer  = 64 << 20 // bytes
)

// Get asks the connector at the socket, and returns its answer to a request of the
// path.
func Get(ctx context.Context, socket, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://connector"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, body, err
}
