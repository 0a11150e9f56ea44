package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sshgate/sshgate/"

// mayImport says which of our packages a package may import. A key that ends in
// a slash stands for every package below it that has no key of its own; "*"
// allows all but the programs. A package that no key fits may import none, so a
// new one has to be entered here. Packages import those below them freely.
var mayImport = map[string][]string{
	"sshgate": nil,

	"authflow":           {"sshgate"},
	"connector":          {"sshgate"},
	"config":             {"sshgate"},
	"sshgate/audit":      {"sshgate"},
	"sshgate/store":      {"sshgate"},
	"sshgate/limits":     {"sshgate"},
	"sshgate/proxyproto": nil,
	"sshgate/store/":     {"sshgate", "sshgate/store"},

	"sshgate/live":      {"sshgate", "authflow"},
	"sshgate/endtoend":  {"sshgate", "connector", "sshgate/live"},
	"sshgate/enrolment": {"sshgate", "connector"},
	"sshgate/console":   {"sshgate", "connector", "sshgate/endtoend"},
	"sshgate/console/":  {"sshgate", "sshgate/console"},
	"sshgate/gateway":   {"sshgate", "authflow", "connector", "sshgate/audit", "sshgate/console", "sshgate/console/picker", "sshgate/endtoend", "sshgate/live"},
	"sshgate/web":       {"sshgate", "authflow", "connector", "sshgate/audit", "sshgate/endtoend", "sshgate/enrolment", "sshgate/live", "internal/wsstream"},

	// The origin and the provider of the demo stand for strangers.
	"internal/devorigin":     nil,
	"internal/devidp":        nil,
	"internal/devidp/":       nil,
	"internal/deps/":         nil,
	"internal/condition":     {"sshgate"},
	"internal/install":       {"internal/packaging"},
	"internal/interrupt":     nil,
	"internal/logging":       nil,
	"internal/oidcprovider":  {"internal/devidp/approve"},
	"internal/oidcprovider/": nil,
	"internal/enrol":         {"sshgate", "connector", "internal/helper", "internal/proxydial"},
	"internal/helper":        {"sshgate", "internal/proxydial", "internal/wsstream"},
	"internal/proxydial":     nil,
	"internal/station":       {"sshgate", "connector"},
	"internal/wsstream":      nil,
	"internal/":              {"sshgate", "connector", "internal/logging"},

	"cmd/": {"*"},
}

// mustNotLink says what must not be linked, directly or not. Prefixes of import
// paths; those that begin with "./" are ours.
var mustNotLink = map[string][]string{
	// The helper starts once for each connection: it stays small and starts fast.
	"cmd/sshgate": {
		"./sshgate/gateway", "./sshgate/store", "./sshgate/web", "./internal/devidp", "./internal/devorigin",
		"github.com/gliderlabs/ssh", "github.com/zitadel/", "github.com/prometheus/", "github.com/pressly/goose",
		"modernc.org/", "github.com/pkg/sftp", "cel.dev/", "./internal/condition",
	},
	"cmd/sshgated": {"testing", "go.uber.org/goleak", "pgregory.net/rapid", "./sshgate/store/storetest"},
	// What yields identities knows nothing of SSH.
	"authflow": {"golang.org/x/crypto/ssh", "github.com/gliderlabs/ssh"},
	// Neither the vocabulary nor the policy in it does any I/O.
	"sshgate": {"net/http", "os/exec", "log", "log/slog", "database/sql"},
}

// pkg is what the test reads of "go list -json".
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// list returns the packages by their import path, and the module's own by the
// path inside it.
func list(t *testing.T) (all, ours map[string]pkg) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	all, ours = make(map[string]pkg), make(map[string]pkg)
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all, ours
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
		if path, ok := strings.CutPrefix(p.ImportPath, module); ok {
			ours[path] = p
		}
	}
}

// allowed returns what the package may import, from the most specific key.
func allowed(path string) []string {
	if list, ok := mayImport[path]; ok {
		return list
	}
	for prefix := path; prefix != ""; {
		prefix = prefix[:strings.LastIndexByte(strings.TrimSuffix(prefix, "/"), '/')+1]
		if list, ok := mayImport[prefix]; ok {
			return list
		}
	}
	return nil
}

// permits tells whether the package may import the other one of ours.
func permits(path, imported string) bool {
	if strings.HasPrefix(imported, "cmd/") {
		return strings.HasPrefix(imported, path+"/")
	}
	list := allowed(path)
	return slices.Contains(list, "*") || slices.Contains(list, imported) ||
		strings.HasPrefix(imported, path+"/")
}

func TestDirections(t *testing.T) {
	_, ours := list(t)
	for path, p := range ours {
		for _, imported := range p.Imports {
			if imported, ok := strings.CutPrefix(imported, module); ok && !permits(path, imported) {
				t.Errorf("%s imports %s, and may only import %q", path, imported, allowed(path))
			}
		}
	}
	for key := range mayImport { // so that the table does not outlive what it is about
		if !strings.HasSuffix(key, "/") {
			if _, ok := ours[key]; !ok {
				t.Errorf("the table has %s, which does not exist", key)
			}
		}
	}
}

func TestVocabularyIsStandardLibraryOnly(t *testing.T) {
	all, ours := list(t)
	for _, path := range ours["sshgate"].Imports {
		if !all[path].Standard {
			t.Errorf("sshgate imports %s, which is not of the standard library", path)
		}
	}
}

func TestNotLinked(t *testing.T) {
	_, ours := list(t)
	for path, banned := range mustNotLink {
		p, ok := ours[path]
		if !ok {
			t.Errorf("there is no package %s", path)
			continue
		}
		for _, ban := range banned {
			if own, ok := strings.CutPrefix(ban, "./"); ok {
				ban = module + own
			}
			links := func(dep string) bool {
				return dep == ban || strings.HasPrefix(dep, strings.TrimSuffix(ban, "/")+"/")
			}
			if i := slices.IndexFunc(p.Deps, links); i >= 0 {
				t.Errorf("%s links %s", path, p.Deps[i])
			}
		}
	}
}

func TestPermits(t *testing.T) {
	for _, test := range []struct {
		path, imported string
		want           bool
	}{
		{"sshgate", "config", false},
		{"config", "sshgate", true},
		{"config", "sshgate/store", false},
		{"sshgate/gateway", "sshgate/store", false},
		{"sshgate/gateway", "sshgate/gateway/inner", true},
		{"sshgate/store/storetest", "sshgate/store", true},
		{"internal/new", "sshgate/gateway", false},
		{"toplevel", "sshgate", false},
		{"cmd/sshgated", "sshgate/store", true},
		{"cmd/sshgated", "cmd/sshgate", false},
		{"internal/new", "cmd/sshgated", false},
	} {
		if got := permits(test.path, test.imported); got != test.want {
			t.Errorf("%s may import %s: %v, want %v", test.path, test.imported, got, test.want)
		}
	}
}
