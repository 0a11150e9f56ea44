package install_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
)

// childEnv has the program under test, in the environment of a test that runs on a
// machine of its own.
const childEnv = "SSHGATE_INSTALL_TEST"

const (
	program = "/usr/local/bin/sshgate"
	unit    = "/etc/systemd/system/sshgate-connector.service"
	wants   = "/etc/systemd/system/multi-user.target.wants/sshgate-connector.service"
	ca      = "/etc/ssh/sshgate_user_ca.pub"
	dropIn  = "/etc/ssh/sshd_config.d/sshgate.conf"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(childEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "sshgate-install-*")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // not only root runs the program
	}
	if err == nil {
		built = filepath.Join(dir, "sshgate")
		build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", built, "../../cmd/sshgate")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "building the program under test:", err)
		return 1
	}
	return m.Run()
}

// built is the program under test, outside of any place where it could stay.
var built string

// skip skips the test loudly, but fails it where everything has to run.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// need skips the test when a program is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			skip(t, "%s is not installed; run internal/deps/install.sh", name)
		}
	}
}

// ownMachine runs the test once more as root, in a mount namespace in which it may do
// with /etc, /run, /var/lib and /usr/local/bin as it likes, and returns false when that
// has ended. There it returns true.
func ownMachine(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childEnv) != "" {
		built = os.Getenv(childEnv)
		makeMachine(t)
		return true
	}
	need(t, "unshare", "setpriv", "cp", "/usr/sbin/sshd", "ssh", "ssh-keygen", "systemctl", "systemd-analyze", "/lib/systemd/systemd")
	line := []string{"unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run", "^" + t.Name() + "$", "-test.v"}
	environ := childEnv + "=" + built
	if os.Geteuid() != 0 {
		if exec.Command("sudo", "-n", "true").Run() != nil {
			skip(t, "it takes root, or a sudo that asks for no password")
		}
		line = append([]string{"sudo", "-n", "env", environ}, line...)
	} else if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		skip(t, "there are no mount namespaces: %v %s", err, out)
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), environ)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in its own mount namespace: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), mode))
	must(t, os.Chmod(path, mode))
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// output runs a command that must not fail.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// systemctl stands for the one program that there can be no real one of, without systemd
// as process 1. It notes how it is called in /run/calls, fails for the word in /run/fail,
// and has the real one enable and disable, which needs no running systemd.
const systemctl = `#!/bin/sh
echo "$*" >>/run/calls
for word; do
	if [ "$word" = "$(cat /run/fail 2>/dev/null)" ]; then echo "no $word today" >&2; exit 1; fi
done
case "$1 $4" in
--version*) echo "systemd $(cat /run/version 2>/dev/null || echo 252) (of the test)" ;;
enable*|disable*) exec /usr/bin/systemctl --root=/ -q "$@" ;;
"show ssh.service") echo ActiveState=active ;;
"show sshd.service") echo ActiveState=inactive ;;
"show sshgate-connector.service")
	if [ -e /run/up ]; then echo ActiveState=active; else echo ActiveState=inactive; fi
	echo SubState=running
	echo StatusText=connected to gate.test
	echo "InvocationID=$(cat /run/up 2>/dev/null)"
	echo "UnitFileState=$(/usr/bin/systemctl --root=/ is-enabled sshgate-connector.service 2>/dev/null)" ;;
restart*|start*) date +%N >/run/up ;;
stop*) rm -f /run/up ;;
esac
`

// makeMachine gives the process directories of its own, and puts there what `sshgate
// connector login` leaves behind.
func makeMachine(t *testing.T) {
	t.Helper()
	must(t, syscall.Mount("none", "/run", "tmpfs", 0, "mode=755"))
	const dir = "/run/machine"
	must(t, os.Mkdir(dir, 0o755))
	output(t, "cp", "-a", "/etc", dir)
	for _, path := range []string{"/etc", "/var/lib", "/usr/local/bin"} {
		must(t, os.MkdirAll(dir+path, 0o755))
		must(t, syscall.Mount(dir+path, path, "", syscall.MS_BIND, ""))
	}
	must(t, os.MkdirAll("/run/systemd/system", 0o755))
	must(t, os.MkdirAll("/run/sshd", 0o755))
	write(t, "/run/bin/systemctl", systemctl, 0o755)
	t.Setenv("PATH", "/run/bin:"+os.Getenv("PATH"))
	// What a machine has that was not installed with it.
	must(t, os.RemoveAll("/etc/sshgate"))
	must(t, os.RemoveAll("/etc/ssh/sshd_config.d"))
	write(t, "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n", 0o644)
	must(t, os.Mkdir("/etc/ssh/sshd_config.d", 0o755))
	output(t, "ssh-keygen", "-A")
	login(t, "/etc/sshgate", "gate.test")
}

// login makes the files of a connector that publishes this machine's sshd.
func login(t *testing.T, dir, gateway string) {
	t.Helper()
	authority, err := connector.OpenCA(t.TempDir(), time.Now)
	must(t, err)
	certPEM, keyPEM, err := authority.IssueConnector("rack1", []string{"web1"}, time.Hour)
	must(t, err)
	write(t, dir+"/connector.crt", string(certPEM), 0o644)
	write(t, dir+"/connector.key", string(keyPEM), 0o600)
	write(t, dir+"/gateway-ca.crt", string(authority.CertPEM()), 0o644)
	write(t, dir+"/user-ca.pub", userCA(t), 0o644)
	write(t, dir+"/connector.yaml", "gateway: "+gateway+"\ngateway_ca_file: gateway-ca.crt\norigins:\n- {name: web1, url: ssh://localhost}\n", 0o644)
}

// userCA returns the public key of a gateway's user CA. The private one is the file
// user-ca in caDir.
func userCA(t *testing.T) string {
	t.Helper()
	caDir = t.TempDir()
	output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a gateway", "-f", caDir+"/user-ca")
	return read(t, caDir+"/user-ca.pub")
}

var caDir string

// sshgate runs the program, checks its exit code, and returns what it prints, errors
// last.
func sshgate(t *testing.T, code int, args ...string) string {
	t.Helper()
	return runProgram(t, code, exec.Command(built, append([]string{"connector"}, args...)...))
}

func runProgram(t *testing.T, code int, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text := stdout.String() + stderr.String()
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%s: exit code %d, want %d\n%s", strings.Join(cmd.Args[1:], " "), got, code, text)
	}
	return text
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in:\n%s", want, text)
		}
	}
}

// calls returns how systemctl was called to change something, and forgets it.
func calls(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("/run/calls")
	if !errors.Is(err, fs.ErrNotExist) {
		must(t, err)
	}
	_ = os.Remove("/run/calls")
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "show ") && !strings.HasPrefix(line, "--version") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func called(t *testing.T, want ...string) {
	t.Helper()
	if got := calls(t); !slices.Equal(got, want) {
		t.Errorf("systemctl was called\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// tree is all that an installation could touch, by its path: kind, mode, owner and
// content.
func tree(t *testing.T, roots ...string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, root := range roots {
		must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			stat := info.Sys().(*syscall.Stat_t)
			all[path] = fmt.Sprintf("%s %d %d ", info.Mode(), stat.Uid, stat.Gid)
			switch {
			case info.Mode().IsRegular():
				text, err := os.ReadFile(path)
				all[path] += string(text)
				return err
			case info.Mode()&fs.ModeSymlink != 0:
				to, err := os.Readlink(path)
				all[path] += to
				return err
			}
			return nil
		}))
	}
	return all
}

func machineTree(t *testing.T) map[string]string {
	t.Helper()
	return tree(t, "/etc", "/var/lib", "/usr/local/bin")
}

// sameTree checks that nothing is different from what was before.
func sameTree(t *testing.T, before, after map[string]string) {
	t.Helper()
	for path, what := range before {
		if got, ok := after[path]; !ok {
			t.Errorf("%s is gone", path)
		} else if got != what {
			t.Errorf("%s was\n%.300q\nand is\n%.300q", path, what, got)
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			t.Errorf("%s is new", path)
		}
	}
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within ten seconds", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
