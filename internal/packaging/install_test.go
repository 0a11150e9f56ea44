package packaging

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDeb installs the packages, upgrades them, removes and purges them, with the
// real dpkg in a directory of its own.
func TestDeb(t *testing.T) {
	sshgate, sshgated := deb(t, "sshgate"), deb(t, "sshgated")
	r := newRoot(t)
	r.dpkg("--install", sshgate, sshgated)
	r.check()
	if wanted, _ := filepath.Glob(r.path("/etc/systemd/system/*")); len(wanted) > 0 {
		t.Errorf("a service is enabled that nobody configured: %q", wanted)
	}
	r.dpkg("--install", sshgate, sshgated) // over what is there, as an upgrade is
	r.check()

	r.dpkg("--remove", "sshgate", "sshgated")
	r.dpkg("--purge", "sshgate", "sshgated")
	if left := r.files(); len(left) > 0 {
		t.Errorf("there is left: %q", left)
	}
}

// TestDebLeavesKeysAndData: what cannot be made again stays, and dpkg's user is told.
func TestDebLeavesKeysAndData(t *testing.T) {
	sshgate, sshgated := deb(t, "sshgate"), deb(t, "sshgated")
	r := newRoot(t)
	r.dpkg("--install", sshgate, sshgated)
	kept := []string{"/etc/sshgate/connector.key", "/var/lib/private/sshgate-connector/connector.crt", "/var/lib/sshgated/gateway.db"}
	for _, file := range kept {
		if err := os.MkdirAll(filepath.Dir(r.path(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, r.path(file), "secret", 0o600)
	}
	output(t, "systemctl", "--root="+r.dir, "enable", "sshgate-connector.service", "sshgated.service")

	r.dpkg("--remove", "sshgate", "sshgated")
	out := r.dpkg("--purge", "sshgate", "sshgated")
	if left := r.files(); !slices.Equal(left, kept) {
		t.Errorf("there is left %q, want %q", left, kept)
	}
	for _, file := range kept {
		if want := filepath.Dir(file) + " stays"; !strings.Contains(out, want) {
			t.Errorf("purge does not say %q:\n%s", want, out)
		}
	}
}

// TestInstalledUnits has systemd look at the units where the packages put them, and
// at nothing else of this machine than what the units name.
func TestInstalledUnits(t *testing.T) {
	sshgate, sshgated := deb(t, "sshgate"), deb(t, "sshgated")
	need(t, "systemd-analyze", "systemd-sysusers")
	r := newRoot(t)
	r.dpkg("--install", sshgate, sshgated)
	if err := os.Mkdir(r.path("/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, r.path("/bin/kill"), "#!/bin/sh\n", 0o755) // ExecReload=
	for _, target := range []string{"basic", "multi-user", "network-online", "nss-lookup", "shutdown", "sysinit"} {
		write(t, r.path("/usr/lib/systemd/system", target+".target"), "[Unit]\nDescription="+target+"\n", 0o644)
	}
	for name := range units {
		if out := output(t, "systemd-analyze", "verify", "--man=no", "--root="+r.dir, name); out != "" {
			t.Errorf("systemd-analyze verify says of %s:\n%s", name, out)
		}
	}

	users := output(t, "systemd-sysusers", "--root="+r.dir, "--dry-run", "sshgated.conf")
	if !strings.Contains(users, "sshgated") {
		t.Errorf("systemd-sysusers does not make the user:\n%s", users)
	}
}

// TestRPM looks at the packages with the real rpm.
func TestRPM(t *testing.T) {
	for name := range contents {
		path := rpm(t, name)
		need(t, "rpm")
		query := func(args ...string) string {
			t.Helper()
			return output(t, "rpm", append([]string{"--dbpath", t.TempDir(), "-qp", path}, args...)...)
		}
		if got, want := query("--qf", "%{NAME}-%{VERSION}-%{RELEASE} %{LICENSE} %{OS}"), name+"-"+version+" Apache-2.0 linux"; got != want {
			t.Errorf("the package is %q, want %q", got, want)
		}
		var files []string
		for line := range strings.Lines(query("--qf", "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]")) {
			perms, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			owner, file, _ := strings.Cut(rest, " ")
			want := "-rw-r--r--"
			switch {
			case perms[0] == 'd':
				want = "drwxr-xr-x"
				if !strings.Contains(file, "/sshgate") {
					t.Errorf("%s has the directory %s, which belongs to others", name, file)
				}
			case strings.HasPrefix(file, "/usr/bin/"):
				want = "-rwxr-xr-x"
			}
			if perms != want || owner != "root:root" {
				t.Errorf("%s is %s of %s, want %s of root:root", file, perms, owner, want)
			}
			if perms[0] != 'd' {
				files = append(files, file)
			}
		}
		checkContents(t, name, files, rpmContents[name])
		scripts := query("--scripts")
		for _, script := range []string{"postinst", "prerm", "postrm"} {
			if text := strings.TrimSpace(read(t, name+"."+script)); !strings.Contains(scripts, text) {
				t.Errorf("%s.%s is not in the package:\n%s", name, script, scripts)
			}
		}
	}
}

// TestRPMInstalls lets rpm install and remove the packages in a directory of its own,
// without the scripts, for which it wants a shell in there.
func TestRPMInstalls(t *testing.T) {
	sshgate, sshgated := rpm(t, "sshgate"), rpm(t, "sshgated")
	need(t, "rpm")
	if os.Geteuid() != 0 {
		t.Log("not run: rpm --root calls chroot, which takes root")
		return // no skip, as nothing is missing that could be installed
	}
	root := t.TempDir()
	output(t, "rpm", "--root", root, "--nodeps", "--noscripts", "--ignorearch", "--install", sshgate, sshgated)
	if out := output(t, "rpm", "--root", root, "--nodeps", "--noscripts", "--verify", "sshgate", "sshgated"); out != "" {
		t.Errorf("rpm --verify says\n%s", out)
	}
	if got := output(t, filepath.Join(root, "usr/bin/sshgate"), "version"); !strings.Contains(got, described) {
		t.Errorf("sshgate version prints %q, want %s", got, described)
	}
	output(t, "rpm", "--root", root, "--nodeps", "--noscripts", "--erase", "sshgate", "sshgated")
	for _, path := range []string{"usr/bin/sshgated", "usr/share/doc/sshgate", "etc/sshgate"} {
		if _, err := os.Stat(filepath.Join(root, path)); err == nil {
			t.Errorf("rpm --erase leaves %s", path)
		}
	}
}
