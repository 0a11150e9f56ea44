package packaging

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The version of the packages under test.
const described, version = "v9.8.7-rc.1", "9.8.7~rc.1-1"

// contents are the files of each package, without those whose names depend on the
// commands and on docs.
var contents = map[string][]string{
	"sshgate": {
		"/usr/bin/sshgate",
		"/usr/lib/systemd/system/sshgate-connector.service",
		"/usr/share/bash-completion/completions/sshgate",
		"/usr/share/doc/sshgate/CHANGELOG.md",
		"/usr/share/doc/sshgate/NOTICES",
		"/usr/share/doc/sshgate/README.md",
		"/usr/share/doc/sshgate/SECURITY.md",
		"/usr/share/doc/sshgate/examples/com.github.sshgate.connector.plist",
		"/usr/share/doc/sshgate/examples/connector.yaml",
		"/usr/share/doc/sshgate/examples/sshgate-connector.openrc",
		"/usr/share/fish/vendor_completions.d/sshgate.fish",
	},
	"sshgated": {
		"/usr/bin/sshgated",
		"/usr/lib/systemd/system/sshgated.service",
		"/usr/lib/sysusers.d/sshgated.conf",
		"/usr/share/bash-completion/completions/sshgated",
		"/usr/share/doc/sshgated/CHANGELOG.md",
		"/usr/share/doc/sshgated/NOTICES",
		"/usr/share/doc/sshgated/README.md",
		"/usr/share/doc/sshgated/SECURITY.md",
		"/usr/share/doc/sshgated/examples/sshgated.yaml",
		"/usr/share/fish/vendor_completions.d/sshgated.fish",
	},
}

// Where the formats differ.
var (
	debContents = map[string][]string{
		"sshgate":  {"/usr/share/doc/sshgate/copyright", "/usr/share/zsh/vendor-completions/_sshgate"},
		"sshgated": {"/usr/share/doc/sshgated/copyright", "/usr/share/zsh/vendor-completions/_sshgated"},
	}
	rpmContents = map[string][]string{
		"sshgate":  {"/usr/share/licenses/sshgate/LICENSE", "/usr/share/zsh/site-functions/_sshgate"},
		"sshgated": {"/usr/share/licenses/sshgated/LICENSE", "/usr/share/zsh/site-functions/_sshgated"},
	}
	// Manual pages, and the documents that the README links.
	open = regexp.MustCompile(`^/usr/share/(man/man1/sshgate(-[a-z]+)*\.1\.gz|man/man8/sshgated(-[a-z]+)*\.8\.gz|doc/sshgated?/docs/[a-z]+\.md)$`)
	// Of these there is one whatever else changes.
	manuals = map[string]string{"sshgate": "/usr/share/man/man1/sshgate.1.gz", "sshgated": "/usr/share/man/man8/sshgated.8.gz"}
)

// packages are made once, for the architecture that the test runs on.
var packages struct {
	once sync.Once
	dir  string
	out  []byte
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if packages.dir != "" {
		os.RemoveAll(packages.dir)
	}
	os.Exit(code)
}

// makePackages returns the folder with the packages.
func makePackages(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the packages are for Linux")
	}
	need(t, "bash", "make", "gzip")
	if _, err := command("../deps/tool.sh", "nfpm").Output(); err != nil {
		missing(t, "nfpm cannot be built")
	}
	inputs, _ := filepath.Glob("*")
	for _, input := range inputs {
		os.Stat(input) // so that go test knows what the result depends on
	}
	packages.once.Do(func() {
		packages.dir, packages.err = os.MkdirTemp("", "sshgate-packages-")
		if packages.err == nil {
			cmd := command("./package.sh", packages.dir, runtime.GOARCH)
			cmd.Env = append(cmd.Env, "VERSION="+described)
			packages.out, packages.err = cmd.CombinedOutput()
		}
	})
	if packages.err != nil {
		t.Fatalf("package.sh: %v\n%s", packages.err, packages.out)
	}
	return packages.dir
}

// deb and rpm return the path of a package.
func deb(t *testing.T, name string) string {
	t.Helper()
	return one(t, filepath.Join(makePackages(t), name+"_"+version+"_*.deb"))
}

func rpm(t *testing.T, name string) string {
	t.Helper()
	return one(t, filepath.Join(makePackages(t), name+"-"+version+".*.rpm"))
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("there is not one %s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// checkContents compares the files of a package with what it should have.
func checkContents(t *testing.T, name string, files, more []string) {
	t.Helper()
	want := slices.Concat(contents[name], more)
	for _, file := range append(want, manuals[name]) {
		if !slices.Contains(files, file) {
			t.Errorf("%s has no %s", name, file)
		}
	}
	for _, file := range files {
		if !slices.Contains(want, file) && !open.MatchString(file) {
			t.Errorf("%s has %s", name, file)
		}
	}
}

// root is a directory that dpkg installs to.
type root struct {
	*testing.T
	dir string
}

func newRoot(t *testing.T) root {
	t.Helper()
	need(t, "dpkg", "dpkg-deb", "systemctl")
	r := root{t, t.TempDir()}
	for _, dir := range []string{"updates", "info"} {
		if err := os.MkdirAll(r.path("/var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, r.path("/var/lib/dpkg/status"), "", 0o644)
	return r
}

func (r root) path(elements ...string) string {
	return filepath.Join(append([]string{r.dir}, elements...)...)
}

// dpkg runs dpkg for the root alone: with the scripts of the packages, which are told
// by DPKG_ROOT, without the machine's log and its list of files to leave out.
func (r root) dpkg(args ...string) string {
	r.Helper()
	return output(r.T, "dpkg", append([]string{"--root=" + r.dir, "--force-script-chrootless", "--force-not-root",
		"--log=" + r.path("/var/lib/dpkg/log"), "--path-include=/*"}, args...)...)
}

// files returns what is in the root besides dpkg's own files, directories left out.
func (r root) files() []string {
	r.Helper()
	var files []string
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file := strings.TrimPrefix(path, r.dir)
		if file == "/var/lib/dpkg" {
			return fs.SkipDir
		}
		if !entry.IsDir() {
			files = append(files, file)
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return files
}

// check looks at what the packages installed: files, modes and owners.
func (r root) check() {
	r.Helper()
	for name := range contents {
		var files []string
		for _, file := range strings.Fields(r.dpkg("--listfiles", name)) {
			info, err := os.Lstat(r.path(file))
			if err != nil {
				r.Error(err)
				continue
			}
			want := fs.FileMode(0o644)
			if info.IsDir() || strings.HasPrefix(file, "/usr/bin/") {
				want = 0o755
			}
			if info.Mode().Perm() != want || !info.IsDir() && !info.Mode().IsRegular() {
				r.Errorf("%s has mode %v, want %v", file, info.Mode(), want)
			}
			if stat := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (stat.Uid != 0 || stat.Gid != 0) {
				r.Errorf("%s is owned by %d:%d", file, stat.Uid, stat.Gid)
			}
			if !info.IsDir() {
				files = append(files, file)
			}
		}
		checkContents(r.T, name, files, debContents[name])
		if info, err := os.Stat(r.path("/etc/sshgate")); err != nil || !info.IsDir() {
			r.Errorf("/etc/sshgate is not there: %v", err)
		}
		want := fmt.Sprintf("%s %s ", name, described)
		if got := output(r.T, r.path("/usr/bin", name), "version"); !strings.HasPrefix(got, want) {
			r.Errorf("%s version prints %q, want %q", name, got, want)
		}
	}
}
