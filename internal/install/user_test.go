package install_test

import (
	"context"
	"crypto/tls"
	"os"
	"os/exec"
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
	const home = "/run/home"
	must(t, os.Mkdir(home, 0o755))
	must(t, os.Mkdir("/run/user", 0o700))
	must(t, os.Remove("/run/bin/systemctl"))
	for name, value := range map[string]string{
		"HOME": home, "XDG_RUNTIME_DIR": "/run/user", "XDG_CONFIG_HOME": home + "/conf", "XDG_STATE_HOME": "",
		"DBUS_SESSION_BUS_ADDRESS": "", // unset below
	} {
		t.Setenv(name, value)
	}
	must(t, os.Unsetenv("DBUS_SESSION_BUS_ADDRESS"))
	contains(t, sshgate(t, 2, "install", "--user"), "there is no configuration /run/home/conf/sshgate/connector.yaml")
	config := home + "/conf/sshgate"
	login(t, config, "gate.test")
	contains(t, sshgate(t, 1, "install", "--user"), "your service manager has to run")
	serveGateway(t, config)
	startManager(t)

	machine, before := machineTree(t), tree(t, home)
	contains(t, sshgate(t, 0, "install", "--user", "--dry-run"), "write    /run/home/.local/bin/sshgate", "\n    WantedBy=default.target\n")
	sameTree(t, before, tree(t, home))
	contains(t, sshgate(t, 0, "install", "--user"), "sshgate-connector.service is active (running)", "loginctl enable-linger")
	if out := output(t, "systemd-analyze", "--user", "verify", config+"/../systemd/user/sshgate-connector.service"); strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	contains(t, output(t, "systemctl", "--user", "is-enabled", "sshgate-connector"), "enabled")
	contains(t, sshgate(t, 0, "install", "--user"), "nothing to change", "is active")
	sshgate(t, 0, "uninstall", "--user", "--purge")
	after := tree(t, home)
	for path := range before {
		if strings.HasPrefix(path, config) {
			if _, ok := after[path]; ok {
				t.Errorf("%s is still there", path)
			}
			delete(before, path)
		}
	}
	sameTree(t, before, after)
	sameTree(t, machine, machineTree(t)) // none of it
}

// startManager starts the user's service manager, and ends it with the test.
func startManager(t *testing.T) {
	t.Helper()
	var log strings.Builder
	manager := exec.Command("/lib/systemd/systemd", "--user", "--log-target=console")
	manager.Stdout, manager.Stderr = &log, &log
	must(t, manager.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = manager.Wait()
	}()
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "--user", "--no-block", "exit").Run()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = manager.Process.Signal(syscall.SIGKILL)
			<-ended
		}
	})
	eventually(t, "the service manager is up", func() bool {
		select {
		case <-ended:
			skip(t, "systemd --user cannot run here: %s", log.String())
		default:
		}
		return exec.Command("systemctl", "--user", "show", "-p", "Version").Run() == nil
	})
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
