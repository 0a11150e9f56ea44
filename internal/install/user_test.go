package install_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
)

// A user's own service, under a real service manager, that registers at a gateway.
func TestUser(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	const home, config = "/run/home", "/run/home/conf/sshgate"
	must(t, os.Remove("/run/bin/systemctl"))
	for name, value := range map[string]string{
		"HOME": home, "XDG_RUNTIME_DIR": "/run/user", "XDG_CONFIG_HOME": home + "/conf", "XDG_STATE_HOME": "",
		"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/bus",
	} {
		t.Setenv(name, value)
	}
	must(t, os.Mkdir("/run/user", 0o700))
	serveGateway(t, config)
	output(t, "chown", "-R", "65534:65534", home, "/run/user")
	user := func(code int, args ...string) string {
		t.Helper()
		return runProgram(t, code, nobody(built, append([]string{"connector"}, args...)...))
	}
	contains(t, user(2, "install", "--user", "-c", "none.yaml"), "there is no configuration", "sshgate connector login")
	contains(t, user(1, "install", "--user"), "your service manager has to run")
	startManager(t)

	machine, before := machineTree(t), tree(t, home)
	contains(t, user(0, "install", "--user", "--dry-run"), "write    /run/home/.local/bin/sshgate", "\n    WantedBy=default.target\n")
	sameTree(t, before, tree(t, home))
	contains(t, user(0, "install", "--user"), "sshgate-connector.service is active (running)", "loginctl enable-linger")
	verify := nobody("systemd-analyze", "--user", "verify", home+"/conf/systemd/user/sshgate-connector.service")
	if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := nobody("systemctl", "--user", "is-enabled", "sshgate-connector").CombinedOutput(); string(out) != "enabled\n" {
		t.Errorf("is-enabled: %v %s", err, out)
	}
	contains(t, user(0, "install", "--user"), "nothing to change", "is active")
	user(0, "uninstall", "--user", "--purge")
	for path := range before {
		if strings.HasPrefix(path, config) {
			delete(before, path)
		}
	}
	sameTree(t, before, tree(t, home))
	sameTree(t, machine, machineTree(t)) // none of it
}

// nobody is a command that runs without any privilege.
func nobody(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

// startManager starts the service manager of nobody, in control groups that nobody owns,
// and ends it with the test.
func startManager(t *testing.T) {
	t.Helper()
	groups := ownGroups(t)
	script := `for g; do echo $$ >"$g/cgroup.procs" || exit; done
exec setpriv --reuid 65534 --regid 65534 --clear-groups /lib/systemd/systemd --user --log-target=console`
	var log strings.Builder
	manager := exec.Command("sh", append([]string{"-c", script, "sh"}, groups...)...)
	manager.Stdout, manager.Stderr = &log, &log
	must(t, manager.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = manager.Wait()
	}()
	t.Cleanup(func() {
		_ = nobody("systemctl", "--user", "--no-block", "exit").Run()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = manager.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("the service manager: %s", log.String())
		}
	})
	eventually(t, "the service manager is up", func() bool {
		select {
		case <-ended:
			skip(t, "systemd --user cannot run here: %s", log.String())
		default:
		}
		return nobody("systemctl", "--user", "show", "-p", "Version").Run() == nil
	})
}

// ownGroups makes control groups for a service manager below the test's own, as systemd
// does for a user, and removes them with the test. See cgroups(7) for the hierarchies.
func ownGroups(t *testing.T) []string {
	t.Helper()
	var groups []string
	for line := range strings.Lines(read(t, "/proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		mounted := "/sys/fs/cgroup"
		switch {
		case fields[1] == "name=systemd":
			mounted += "/systemd"
		case fields[1] != "":
			continue
		case exists(mounted + "/unified"):
			mounted += "/unified"
		}
		group := filepath.Join(mounted, fields[2], fmt.Sprintf("sshgate-test-%d", os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			skip(t, "there can be no control group for a service manager: %v", err)
		}
		t.Cleanup(func() { _ = exec.Command("find", group, "-depth", "-type", "d", "-delete").Run() })
		output(t, "chown", "-R", "65534:65534", group)
		groups = append(groups, group)
	}
	return groups
}

// serveGateway is a gateway's tunnel, and writes to the directory what a connector needs
// for it.
func serveGateway(t *testing.T, dir string) {
	t.Helper()
	authority, err := connector.OpenCA(t.TempDir(), time.Now)
	must(t, err)
	hub, err := connector.NewHub(connector.HubConfig{Admit: func(context.Context, connector.Registration) error { return nil }})
	must(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", connector.ServerTLS(authority, authority.ServerCertificate([]string{"gate.test"}, nil)))
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if conn := conn.(*tls.Conn); conn.Handshake() == nil {
					_ = hub.Serve(context.Background(), conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		hub.Close()
		wg.Wait()
	})
	certPEM, keyPEM, err := authority.IssueConnector("rack1", []string{"web1"}, time.Hour)
	must(t, err)
	write(t, dir+"/connector.crt", string(certPEM), 0o644)
	write(t, dir+"/connector.key", string(keyPEM), 0o600)
	write(t, dir+"/gateway-ca.crt", string(authority.CertPEM()), 0o644)
	write(t, dir+"/connector.yaml", "gateway: "+listener.Addr().String()+"\nserver_name: gate.test\ngateway_ca_file: gateway-ca.crt\norigins:\n- {name: web1, url: ssh://localhost}\n", 0o644)
}
