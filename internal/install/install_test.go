package install_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// From the first look to the last trace: the whole of it, on the real paths.
func TestInstall(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	before := machineTree(t)
	must(t, os.Remove("/run/sshd")) // as while its service does not run
	dry := sshgate(t, 0, "install", "--dry-run")
	contains(t, dry, "write    "+unit+" (mode 0644", "\n    ExecStart=/usr/local/bin/sshgate connector run --config /etc/sshgate/connector.yaml\n",
		"\n    TrustedUserCAKeys /etc/ssh/sshgate_user_ca.pub\n", "run      systemctl restart --no-block", "write    "+program+" (mode 0755")
	var report struct {
		OK      bool
		Changes []struct{ Action, Path, Content string }
	}
	must(t, json.Unmarshal([]byte(sshgate(t, 0, "install", "--dry-run", "--json")), &report))
	if !report.OK || len(report.Changes) != 11 || report.Changes[0].Path != "/var/lib/sshgate/install.json" {
		t.Errorf("the plan is %+v", report)
	}
	sameTree(t, before, machineTree(t))
	called(t)
	if exists("/run/sshd") {
		t.Error("a dry run has made sshd's directory")
	}

	done := sshgate(t, 0, "install")
	contains(t, done, "sshgate-connector.service is active (running): connected to gate.test")
	called(t, "reload ssh.service", "daemon-reload", "enable sshgate-connector.service", "restart --no-block sshgate-connector.service")
	if read(t, program) != read(t, built) || !exists(wants) {
		t.Error("the program or the link in multi-user.target.wants is missing")
	}
	if info, err := os.Stat("/var/lib/sshgate/install.json"); err != nil || info.Mode() != 0o600 {
		t.Errorf("the manifest: %v %v", info.Mode(), err)
	}
	if out := output(t, "systemd-analyze", "verify", unit); strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	signIn(t)

	installed := machineTree(t)
	contains(t, sshgate(t, 0, "install"), "nothing to change", "is active")
	must(t, exec.Command(program, "connector", "install").Run()) // from where it is
	called(t)
	sameTree(t, installed, machineTree(t))

	gone := sshgate(t, 0, "uninstall")
	contains(t, gone, "remove   "+dropIn, "in /etc/sshgate stay; --purge")
	called(t, "stop sshgate-connector.service", "disable sshgate-connector.service", "reload ssh.service", "daemon-reload")
	sameTree(t, before, machineTree(t))
	contains(t, sshgate(t, 0, "uninstall"), "nothing to change", "nothing here was installed")
}

// signIn runs the machine's real sshd with its configuration, and signs in with a
// certificate of the gateway's user CA.
func signIn(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	// PAM has no bearing on certificates, and its modules want what there is not here.
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-p", port, "-o", "ListenAddress=127.0.0.1", "-o", "UsePAM=no")
	var log strings.Builder
	sshd.Stderr = &log
	must(t, sshd.Start())
	ended := make(chan error, 1)
	go func() { ended <- sshd.Wait() }()
	defer func() {
		_ = sshd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	}()
	eventually(t, "sshd listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	dir := t.TempDir()
	output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key")
	client := func() ([]byte, error) {
		return exec.Command("ssh", "-F", "none", "-p", port, "-i", dir+"/key", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", "echo in").CombinedOutput()
	}
	if out, err := client(); err == nil {
		t.Errorf("without a certificate: %s", out)
	}
	output(t, "ssh-keygen", "-q", "-s", caDir+"/user-ca", "-I", "test", "-n", "root", "-V", "+5m", dir+"/key.pub")
	if out, err := client(); err != nil || !strings.HasSuffix(string(out), "in\n") {
		t.Errorf("with a certificate: %v\n%s", err, out)
	}
}

// A step that fails takes back those before it, and the service runs on as it was.
func TestRollBack(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	before := machineTree(t)
	for _, word := range []string{"restart", "enable", "daemon-reload"} {
		write(t, "/run/fail", word, 0o644)
		text := sshgate(t, 1, "install")
		contains(t, text, "no "+word+" today", "undo     write "+unit, "put back")
		sameTree(t, before, machineTree(t))
		if exists("/run/up") {
			t.Errorf("%s fails: the service runs", word)
		}
	}
	calls(t)
	write(t, "/run/fail", "reload", 0o644)
	contains(t, sshgate(t, 1, "install"), "no reload today")
	sameTree(t, before, machineTree(t))
	write(t, "/run/fail", "restart", 0o644)
	calls(t)
	sshgate(t, 1, "install")
	called(t, "reload ssh.service", "daemon-reload", "enable sshgate-connector.service", "restart --no-block sshgate-connector.service",
		"disable sshgate-connector.service", "reload ssh.service", "daemon-reload")

	must(t, os.Remove("/run/fail"))
	sshgate(t, 0, "install")
	installed := machineTree(t)
	write(t, "/run/fail", "daemon-reload", 0o644)
	contains(t, sshgate(t, 1, "uninstall"), "no daemon-reload today")
	sameTree(t, installed, machineTree(t))
	if !exists("/run/up") {
		t.Error("the service that could not be uninstalled does not run")
	}
}

func TestSSHDDoesNotInclude(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	write(t, "/etc/ssh/sshd_config", "PermitRootLogin no\nMatch User x\n  Include /etc/ssh/sshd_config.d/*.conf\n", 0o644)
	before := tree(t, "/etc/ssh")
	text := sshgate(t, 1, "install")
	contains(t, text, "/etc/ssh/sshd_config does not include "+dropIn, "add this line at the top of /etc/ssh/sshd_config and install again: Include /etc/ssh/sshd_config.d/*.conf", "is active")
	sameTree(t, before, tree(t, "/etc/ssh"))
	called(t, "daemon-reload", "enable sshgate-connector.service", "restart --no-block sshgate-connector.service")
	if strings.Contains(read(t, "/var/lib/sshgate/install.json"), "/etc/ssh/") {
		t.Error("the manifest has sshd's files")
	}

	write(t, "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n", 0o644)
	sshgate(t, 0, "install")
	called(t, "reload ssh.service")
	signIn(t)
}

func TestSSHDIsBroken(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	write(t, "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nNonsense yes\n", 0o644)
	before := machineTree(t)
	contains(t, sshgate(t, 1, "install"), "/etc/ssh/sshd_config: line 2: Bad configuration option: Nonsense", "nothing was changed", "--no-sshd")
	sameTree(t, before, machineTree(t))
	called(t)
	contains(t, sshgate(t, 0, "install", "--no-sshd"), "is active")
	write(t, "/etc/sshgate/connector.yaml", strings.Replace(read(t, "/etc/sshgate/connector.yaml"), "localhost", "192.0.2.1", 1), 0o644)
	sshgate(t, 0, "install") // another machine's sshd is nothing to it
	sshgate(t, 0, "uninstall")
}

func TestSSHDTrustsAnother(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	ours := read(t, "/etc/sshgate/user-ca.pub")
	const other = "/etc/ssh/other_ca.pub"
	write(t, other, strings.Replace(userCA(t), "a gateway", "others", 1), 0o644)
	for where, config := range map[string]string{
		"/etc/ssh/sshd_config line 1":              "TrustedUserCAKeys " + other + "\nInclude /etc/ssh/sshd_config.d/*.conf\n",
		"/etc/ssh/sshd_config line 3":              "Include /etc/ssh/sshd_config.d/*.conf\n\ntrustedusercakeys=\"" + other + "\"\n",
		"/etc/ssh/sshd_config.d/other.conf line 1": "Include sshd_config.d/*.conf\n",
	} {
		write(t, "/etc/ssh/sshd_config", config, 0o644)
		_ = os.Remove("/etc/ssh/sshd_config.d/other.conf")
		if strings.Contains(where, "other.conf") {
			write(t, "/etc/ssh/sshd_config.d/other.conf", "TrustedUserCAKeys "+other+"\n", 0o644)
		}
		before := tree(t, "/etc/ssh")
		contains(t, sshgate(t, 1, "install"), "("+where+")", "add this to "+other+":\n"+ours)
		sameTree(t, before, tree(t, "/etc/ssh"))
	}
	write(t, other, read(t, other)+"\n# the gateway\n"+ours, 0o644)
	before := tree(t, "/etc/ssh")
	contains(t, sshgate(t, 0, "install"), "trusts the gateway's user CA already, in "+other)
	sameTree(t, before, tree(t, "/etc/ssh"))

	write(t, "/etc/ssh/sshd_config", "TrustedUserCAKeys none\nInclude /etc/ssh/sshd_config.d/*.conf\n", 0o644)
	before = tree(t, "/etc/ssh")
	contains(t, sshgate(t, 1, "install"), "line 1 of /etc/ssh/sshd_config has TrustedUserCAKeys none", "remove that line")
	sameTree(t, before, tree(t, "/etc/ssh"))
}

// What was there before comes back, and what was changed since stays.
func TestUninstallRestores(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	write(t, program, "#!/bin/sh\necho older\n", 0o700)
	must(t, os.Chown(program, 1, 2))
	write(t, unit, "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n", 0o600)
	output(t, "systemctl", "enable", "sshgate-connector.service")
	write(t, "/run/up", "1", 0o644)
	must(t, os.Remove("/etc/ssh/sshd_config.d"))
	before := machineTree(t)
	calls(t)

	contains(t, sshgate(t, 0, "install", "--dry-run"), "-ExecStart=/bin/true", "+ExecStart=/usr/local/bin/sshgate")
	write(t, "/run/fail", "restart", 0o644)
	sshgate(t, 1, "install")
	sameTree(t, before, machineTree(t))
	must(t, os.Remove("/run/fail"))
	sshgate(t, 0, "install")
	sshgate(t, 0, "uninstall")
	sameTree(t, before, machineTree(t))
	if !exists("/run/up") {
		t.Error("the service that ran before does not run")
	}

	sshgate(t, 0, "install")
	write(t, dropIn, "# mine\n", 0o644)
	write(t, unit, read(t, unit)+"# mine\n", 0o644)
	contains(t, sshgate(t, 2, "install"), unit+" was changed since it was installed; --force replaces it")
	contains(t, sshgate(t, 0, "uninstall"), dropIn+" was changed since", unit+" was changed since")
	if read(t, dropIn) != "# mine\n" || exists(ca) || exists("/etc/ssh/sshgate_user_ca.pub") {
		t.Error("the changed file is gone, or the others are not")
	}
	contains(t, sshgate(t, 0, "uninstall", "--force"), "remove   "+dropIn, "replace  "+unit)
	sameTree(t, before, machineTree(t))

	sshgate(t, 0, "install")
	must(t, os.MkdirAll("/var/lib/private/sshgate-connector", 0o700))
	must(t, os.Symlink("private/sshgate-connector", "/var/lib/sshgate-connector"))
	write(t, "/etc/sshgate/sshgated.yaml", "the gateway's\n", 0o644)
	sshgate(t, 0, "uninstall", "--purge")
	if left := tree(t, "/etc/sshgate"); len(left) != 2 || exists("/var/lib/sshgate-connector") || exists("/var/lib/private/sshgate-connector") {
		t.Errorf("after --purge there is %q", left)
	}
}

// A package's unit is used as it is.
func TestPackageUnit(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	must(t, syscall.Mount("none", "/usr/lib/systemd/system", "tmpfs", 0, "mode=755")) // over the distribution's
	sshgate(t, 0, "install", "--no-sshd")
	shipped := strings.ReplaceAll(read(t, unit), "RestartSec=5", "RestartSec=7")
	sshgate(t, 0, "uninstall")
	write(t, "/usr/lib/systemd/system/sshgate-connector.service", shipped, 0o644)
	calls(t)
	sshgate(t, 0, "install", "--no-sshd")
	if exists(unit) || !exists(wants) {
		t.Error("there is a unit besides the package's, or it is not enabled")
	}
	sshgate(t, 0, "uninstall")

	write(t, "/run/version", "254", 0o644)
	write(t, "/usr/lib/systemd/system/sshgate-connector.service", strings.ReplaceAll(shipped, "/etc/sshgate", "/srv"), 0o644)
	sshgate(t, 0, "install", "--no-sshd")
	contains(t, read(t, unit), "\nRestartSec=5\nRestartSteps=5\nRestartMaxDelaySec=60\n")
}

// What is missing is said, with what to do, and nothing is changed.
func TestRefusals(t *testing.T) {
	if !ownMachine(t) {
		return
	}
	unprivileged := func(code int, args ...string) string {
		t.Helper()
		return runProgram(t, code, nobody(built, append([]string{"connector"}, args...)...))
	}
	write(t, "/run/calls", "", 0o666)
	contains(t, unprivileged(1, "install"), "this takes root")
	contains(t, unprivileged(1, "uninstall"), "this takes root")
	contains(t, unprivileged(0, "install", "--dry-run"), "write    "+dropIn)
	write(t, "/etc/ssh/sshd_config", "", 0o644)
	contains(t, sshgate(t, 2, "install", "--user", "--root", "/"), "exclude each other")
	contains(t, sshgate(t, 2, "install", "--wait", "-1s"), "--wait is -1s")
	contains(t, sshgate(t, 2, "install", "--config", "/etc/none.yaml"), "there is no configuration /etc/none.yaml", "sshgate connector login")

	must(t, os.Chmod("/etc/sshgate/connector.yaml", 0o600))
	contains(t, sshgate(t, 2, "install"), "cannot read /etc/sshgate/connector.yaml", "chmod o+r /etc/sshgate/connector.yaml")
	must(t, os.Chmod("/etc/sshgate/connector.yaml", 0o644))
	for dir, want := range map[string]string{
		"/etc/ssh gate":    "/etc/ssh gate/connector.yaml has a character",
		t.TempDir() + "/x": "the service does not see",
	} {
		login(t, dir, "gate.test")
		contains(t, sshgate(t, 2, "install", "-c", dir+"/connector.yaml"), want)
	}
	for name, want := range map[string]string{
		"user-ca.pub":   "sshgated ca",
		"connector.crt": "sshgate connector login",
		"connector.key": "sshgate connector login",
	} {
		text := read(t, "/etc/sshgate/"+name)
		must(t, os.Remove("/etc/sshgate/"+name))
		contains(t, sshgate(t, 2, "install"), "there is no", name, want)
		write(t, "/etc/sshgate/"+name, text, 0o600)
	}
	write(t, "/etc/sshgate/user-ca.pub", "ssh-rsa "+strings.Fields(read(t, "/etc/sshgate/user-ca.pub"))[1], 0o644)
	contains(t, sshgate(t, 2, "install"), "a line that is not a public key")
	must(t, os.Remove("/run/systemd/system"))
	contains(t, sshgate(t, 1, "install"), "does not run systemd", "docs/packages.md", "--root")
	if exists(unit) || exists(program) || exists("/var/lib/sshgate") {
		t.Error("something was changed")
	}
}
