package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sockets returns the inodes of the sockets that a process has.
func sockets(t testing.TB, pid int) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	inodes := make(map[string]bool)
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil {
			continue // closed just now
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes
}

// table returns the rows of a table in /proc/PID/net whose inode, in the column, is
// one of those, without its heading.
func table(t testing.TB, pid int, name string, column int, inodes map[string]bool) [][]string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil // no such protocol in this kernel
	} else if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > column && inodes[fields[column]] {
			rows = append(rows, fields)
		}
	}
	return rows
}

// listening returns what a process can be reached at over a network, and the paths of
// the unix sockets that it listens on. It also tells how many TCP connections it has.
func listening(t testing.TB, pid int) (network, unix []string, connections int) {
	t.Helper()
	const (
		listen = "0A" // TCP_LISTEN
		bound  = "07" // a UDP socket that takes packets from anywhere
		accept = 1 << 16
	)
	inodes := sockets(t, pid)
	for _, name := range []string{"tcp", "tcp6"} {
		for _, row := range table(t, pid, name, 9, inodes) {
			connections++
			if row[3] == listen {
				network = append(network, name+" "+row[1])
			}
		}
	}
	for _, name := range []string{"udp", "udp6", "udplite", "udplite6", "raw", "raw6"} {
		for _, row := range table(t, pid, name, 9, inodes) {
			if row[3] == bound {
				network = append(network, name+" "+row[1])
			}
		}
	}
	for _, row := range table(t, pid, "packet", 8, inodes) {
		network = append(network, "packet "+row[0])
	}
	for _, row := range table(t, pid, "unix", 6, inodes) {
		if flags, err := strconv.ParseUint(row[3], 16, 32); err != nil {
			t.Fatal(err)
		} else if flags&accept != 0 {
			unix = append(unix, strings.Join(row[7:], " "))
		}
	}
	return network, unix, connections
}

// TestConnectorIsOutboundOnly looks at the sockets of the connector's process: it can
// be reached over no network, and on this machine at its status socket alone.
func TestConnectorIsOutboundOnly(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	// The path of a socket is short, t.TempDir need not be.
	dir, err := os.MkdirTemp("", "sshgate-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "status.sock")
	status := func(want int) string {
		t.Helper()
		out, err := exec.Command(sshgateBin, "connector", "status", "--socket", socket).CombinedOutput()
		if code := (&exec.ExitError{}); errors.As(err, &code) && code.ExitCode() != want || err == nil && want != 0 {
			t.Errorf("connector status: %v, want exit code %d\n%s", err, want, out)
		}
		return string(out)
	}
	s.connector.stop(syscall.SIGTERM)
	for range 2 { // the second time with the socket that the first one left behind
		s.startConnector("--status-socket", socket)
		s.waitForOrigins(1)
		network, unix, connections := listening(t, s.connector.cmd.Process.Pid)
		if len(network) != 0 {
			t.Errorf("the connector can be reached at %q", network)
		}
		if len(unix) != 1 || unix[0] != socket {
			t.Errorf("the connector listens on %q, want %s alone", unix, socket)
		}
		if connections < 2 {
			t.Errorf("%d connections were found, want its two tunnels: the tables were misread", connections)
		}
		eventually(t, "the status has the origin", 10*time.Second, func() error {
			if out := status(0); !strings.Contains(out, "origin       web1 at 127.0.0.1:"+strconv.Itoa(s.sshd.port)+", published\n") {
				return errors.New(out)
			}
			return nil
		})
		if archive := diag(t, s.path("connector/connector.yaml"), socket); !strings.Contains(archive, "difference to the gateway: ") ||
			strings.Contains(archive, "difference to the gateway: not known") || strings.Contains(archive, "missing.txt") {
			t.Errorf("connector diag:\n%s", tail(archive, 3000))
		}
		s.connector.stop(syscall.SIGKILL)
		if out := status(1); !strings.Contains(out, "no connector answers on "+socket) {
			t.Errorf("the connector was killed, and its status is\n%s", out)
		}
	}
	s.startConnector("--status-socket", socket)
	s.connector.stop(syscall.SIGTERM)
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}

	// The gateway is the counterpart: what it listens on must be found.
	if network, _, _ := listening(t, s.gateway.cmd.Process.Pid); len(network) < 3 {
		t.Errorf("the gateway can be reached at %q: the tables were misread", network)
	}
}

// diag runs "connector diag" and returns all that is in its archive, and what it printed.
func diag(t testing.TB, config, socket string) string {
	t.Helper()
	output := filepath.Join(t.TempDir(), "diag.tar.gz")
	printed, err := exec.Command(sshgateBin, "connector", "diag", "--config", config, "--socket", socket, "--output", output).CombinedOutput()
	if err != nil {
		t.Fatalf("connector diag: %v\n%s", err, printed)
	}
	text, err := exec.Command("tar", "-xzOf", output).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + string(printed)
}
