package packaging

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// units are the systemd units by their names.
var units = map[string]string{
	"sshgate-connector.service": ConnectorUnit,
	"sshgated.service":          GatewayUnit,
}

// unitFile writes a unit whose programs exist, and returns its path.
func unitFile(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"sshgate", "sshgated"} {
		write(t, filepath.Join(dir, program), "#!/bin/sh\n", 0o755)
	}
	path := filepath.Join(dir, name)
	write(t, path, strings.ReplaceAll(units[name], "/usr/bin/sshgate", dir+"/sshgate"), 0o644)
	return path
}

// systemd says everything that it does not understand in a unit, and takes the rest.
func TestUnitsAreUnderstood(t *testing.T) {
	need(t, "systemd-analyze")
	for name := range units {
		t.Run(name, func(t *testing.T) {
			if out := output(t, "systemd-analyze", "verify", "--man=no", unitFile(t, name)); out != "" {
				t.Errorf("systemd-analyze verify says\n%s", out)
			}
		})
	}
}

// TestExposure keeps the sandboxes as tight as they are; 10 is none at all.
func TestExposure(t *testing.T) {
	need(t, "systemd-analyze")
	const most = 2.0
	level := regexp.MustCompile(`Overall exposure level for .*: ([0-9.]+)`)
	for name := range units {
		t.Run(name, func(t *testing.T) {
			out := output(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", unitFile(t, name))
			found := level.FindStringSubmatch(out)
			if found == nil {
				t.Fatalf("systemd-analyze security gives no exposure:\n%s", out)
			}
			exposure, err := strconv.ParseFloat(found[1], 64)
			if err != nil || exposure >= most {
				t.Errorf("the exposure is %s (%v), want less than %.1f:\n%s", found[1], err, most, out)
			}
		})
	}
}

func TestOpenRCScriptParses(t *testing.T) {
	need(t, "sh")
	output(t, "sh", "-n", "sshgate-connector.openrc")
}

// TestPlist reads the property list as launchd does: a dictionary, in which each key
// comes before its value.
func TestPlist(t *testing.T) {
	const label = "com.github.sshgate.connector"
	file, err := os.Open(label + ".plist")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stack, texts []string
	for decoder := xml.NewDecoder(file); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			stack = append(stack, token.Name.Local)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" {
				texts = append(texts, strings.Join(stack, "/")+" "+text)
			}
		}
	}
	for _, want := range [][]string{
		{"plist/dict/key Label", "plist/dict/string " + label},
		{"plist/dict/key ProgramArguments", "plist/dict/array/string /usr/local/bin/sshgate",
			"plist/dict/array/string connector", "plist/dict/array/string run"},
	} {
		i := slices.Index(texts, want[0])
		if i < 0 || len(texts) < i+len(want) || !slices.Equal(texts[i:i+len(want)], want) {
			t.Errorf("the property list has no %q:\n%s", want, strings.Join(texts, "\n"))
		}
	}
}
