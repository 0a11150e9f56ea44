package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The calls of systemd's programs.
const (
	users   = "systemd-sysusers sshgated.conf\n"
	reload  = "systemctl daemon-reload\n"
	restart = "systemctl --no-block try-restart sshgated.service\n"
	active  = "systemctl --quiet is-active sshgate-connector.service\n"
)

// scriptCalls is what each script calls, for each way that it is called itself.
var scriptCalls = []struct {
	script string
	args   string // words; "-" is an empty one
	calls  string
}{
	{"sshgated.postinst", "configure -", users + reload},
	{"sshgated.postinst", "configure 1.0-1", users + reload + restart},
	{"sshgated.postinst", "1", users + reload},
	{"sshgated.postinst", "2", users + reload + restart},
	{"sshgated.postinst", "abort-upgrade 1.0-1", ""},
	{"sshgated.prerm", "remove", "systemctl disable --now sshgated.service\n"},
	{"sshgated.prerm", "0", "systemctl disable --now sshgated.service\n"},
	{"sshgated.prerm", "upgrade 1.0-1", ""},
	{"sshgated.prerm", "1", ""},
	{"sshgated.postrm", "remove", reload},
	{"sshgated.postrm", "purge", reload},
	{"sshgated.postrm", "0", reload},
	{"sshgated.postrm", "1", ""},
	{"sshgated.postrm", "upgrade 1.0-1", ""},

	{"sshgate.postinst", "configure -", reload},
	{"sshgate.postinst", "configure 1.0-1", reload + active},
	{"sshgate.postinst", "1", reload},
	{"sshgate.postinst", "2", reload + active},
	{"sshgate.prerm", "remove", "systemctl disable --now sshgate-connector.service\n"},
	{"sshgate.prerm", "0", "systemctl disable --now sshgate-connector.service\n"},
	{"sshgate.prerm", "upgrade 1.0-1", ""},
	{"sshgate.prerm", "1", ""},
	{"sshgate.postrm", "remove", reload},
	{"sshgate.postrm", "purge", reload},
	{"sshgate.postrm", "0", reload},
	{"sshgate.postrm", "1", ""},
}

// TestScripts runs the packages' scripts as dpkg and rpm do, where systemd runs, with
// programs in the place of systemd's that note how they were called.
func TestScripts(t *testing.T) {
	need(t, "sh")
	for _, test := range scriptCalls {
		t.Run(test.script+" "+test.args, func(t *testing.T) {
			dir := t.TempDir()
			calls := filepath.Join(dir, "calls")
			for _, program := range []string{"systemctl", "systemd-sysusers"} {
				write(t, filepath.Join(dir, program), "#!/bin/sh\necho \"${0##*/} $*\" >>"+calls+"\n", 0o755)
			}
			script := filepath.Join(dir, "script")
			write(t, script, strings.ReplaceAll(read(t, test.script), "/run/systemd/system", dir), 0o755)
			args := append([]string{script}, strings.Fields(test.args)...)
			for i, arg := range args {
				if arg == "-" {
					args[i] = ""
				}
			}
			for range 2 { // what was done half is done again
				os.Remove(calls)
				cmd := command("sh", args...)
				cmd.Env = append(cmd.Env, "PATH="+dir+":"+os.Getenv("PATH"))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				got, _ := os.ReadFile(calls) // not there without a call
				if string(got) != test.calls {
					t.Fatalf("it calls\n%swant\n%s", got, test.calls)
				}
			}
		})
	}
}

// TestVersions gives what git describe says, in the order of age.
func TestVersions(t *testing.T) {
	need(t, "bash", "dpkg", "rpm")
	var last string
	for _, test := range []struct{ described, version string }{
		{"", "0~19700102000000"},
		{"0123abc", "0~19700102000000.0123abc"},
		{"0123abc-dirty", "0~19700102000000.0123abc+dirty"},
		{"v1.2.3-rc.1", "1.2.3~rc.1"},
		{"v1.2.3-rc.1-4-g0123abc", "1.2.3~rc.1+4.g0123abc"},
		{"v1.2.3-rc.2", "1.2.3~rc.2"},
		{"v1.2.3", "1.2.3"},
		{"v1.2.3-4-g0123abc", "1.2.3+4.g0123abc"},
		{"v1.2.3-4-g0123abc-dirty", "1.2.3+4.g0123abc.dirty"},
		{"v1.2.3-14-gfedcba9", "1.2.3+14.gfedcba9"},
		{"v1.2.4", "1.2.4"},
		{"v1.10.0", "1.10.0"},
	} {
		cmd := command("./version.sh", test.described)
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=86400")
		out, err := cmd.CombinedOutput()
		version := strings.TrimSpace(string(out))
		if err != nil || version != test.version {
			t.Errorf("version.sh %q: %q, %v; want %q", test.described, version, err, test.version)
			continue
		}
		if out, err := command("dpkg", "--validate-version", version+"-1").CombinedOutput(); err != nil {
			t.Errorf("dpkg does not take the version %s: %s", version, out)
		}
		if last != "" {
			if err := command("dpkg", "--compare-versions", last+"-1", "lt", version+"-1").Run(); err != nil {
				t.Errorf("dpkg does not sort %s before %s", last, version)
			}
			compare := `%{lua: print(rpm.vercmp("` + last + `", "` + version + `"))}`
			if got := strings.TrimSpace(output(t, "rpm", "--eval", compare)); got != "-1" {
				t.Errorf("rpm does not sort %s before %s: %s", last, version, got)
			}
		}
		last = version
	}
	if out, err := command("./version.sh", "latest").CombinedOutput(); err == nil {
		t.Errorf("a tag that is no version gives %s", out)
	}
}
