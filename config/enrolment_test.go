package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
)

const withPolicy = "hostname: gate.example.com\ndata_dir: state\n" + goodSignIn + "\npolicy:\n  applications: []\n"

func TestPublishRules(t *testing.T) {
	g, err := config.ParseGateway([]byte(withPolicy+`  publish:
    - name: ops
      include: [{group: ops}]
      require: [{address: 10.0.0.0/8}]
      exclude: [{email: bob@example.com}]
      hostnames: [web1, "*.Lab"]
    - {name: all, include: [{everyone: true}], hostnames: "*"}
`), filepath.Join(t.TempDir(), "gateway.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Policy().Publish) != 2 {
		t.Fatalf("%+v", g.Policy().Publish)
	}
	ops, all := g.Policy().Publish[0], g.Policy().Publish[1]
	if ops.Name != "ops" || len(ops.Include) != 1 || len(ops.Require) != 1 || len(ops.Exclude) != 1 || len(ops.Hostnames) != 2 || ops.Hostnames[1].String() != "*.lab" {
		t.Errorf("%+v", ops)
	}
	if all.Hostnames[0].String() != "*" || !slices.Equal(all.Include, []sshgate.Selector{sshgate.Everyone{}}) {
		t.Errorf("%+v", all)
	}
}

func TestPublishRulesRefused(t *testing.T) {
	lines := strings.Count(withPolicy, "\n")
	_, err := config.ParseGateway([]byte(withPolicy+`  publish:
    - {include: [{everyone: true}], hostnames: [a]}
    - {name: a, hostnames: [a]}
    - {name: b, include: [{everyone: true}]}
    - {name: c, include: [{service_token: x}], hostnames: [a]}
    - {name: a, include: [{everyone: true}], hostnames: ["a*", "a b"], logins: [x]}
`), filepath.Join(t.TempDir(), "gateway.yaml"), nil)
	if err == nil {
		t.Fatal("taken")
	}
	for i, piece := range []string{"publish[0].name", "publish[1].include", "publish[2].hostnames", "publish[3].include[0]", "publish[4].hostnames[0]"} {
		found := false
		for line := range strings.Lines(err.Error()) {
			found = found || strings.Contains(line, "policy."+piece) && strings.Contains(line, "gateway.yaml:"+strconv.Itoa(lines+2+i)+":")
		}
		if !found {
			t.Errorf("no line about %s:\n%v", piece, err)
		}
	}
	if !strings.Contains(err.Error(), `unknown key "logins"`) || !strings.Contains(err.Error(), "publish[4].hostnames[1]") {
		t.Errorf("%v", err)
	}
}

func TestConnectorsCertificateTTL(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 90 * 24 * time.Hour, "1m": time.Minute, "7d": 7 * 24 * time.Hour, "3650d": 3650 * 24 * time.Hour, "59s": 0, "3651d": 0, "0s": 0, "-1h": 0, "90": 0} {
		doc := smallestGateway + "\n"
		if text != "" {
			doc += "connectors: {certificate_ttl: " + text + "}\n"
		}
		g, err := config.ParseGateway([]byte(doc), filepath.Join(t.TempDir(), "gateway.yaml"), nil)
		switch {
		case want == 0 && (err == nil || !strings.Contains(err.Error(), "connectors.certificate_ttl")):
			t.Errorf("%s: %v", text, err)
		case want != 0 && (err != nil || g.Connectors.CertificateTTL != want):
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What systemd hands over stands in for files, which need not be there then.
func TestConnectorUnderSystemd(t *testing.T) {
	const text = "gateway: gate.example.com\norigins: [{name: web1, url: \"ssh://localhost\"}]\n"
	pair := func(crt, key string) string {
		dir := t.TempDir()
		for _, name := range []string{crt, key} {
			if name != "" {
				write(t, dir, name, "x", 0o440) // as systemd has them
			}
		}
		return dir
	}
	files, credentials := t.TempDir(), pair("connector.crt", "connector.key")
	write(t, files, "connector.crt", "x", 0o644)
	write(t, files, "connector.key", "x", 0o600)
	for name, tt := range map[string]struct {
		dir, more   string
		env         map[string]string
		key, state  string
		wantProblem string
	}{
		"alone":                    {dir: files, key: files + "/connector.key"},
		"credentials":              {dir: files, env: map[string]string{"CREDENTIALS_DIRECTORY": credentials}, key: credentials + "/connector.key"},
		"credentials, and no file": {dir: t.TempDir(), env: map[string]string{"CREDENTIALS_DIRECTORY": credentials}, key: credentials + "/connector.key"},
		"before files that are named": {dir: files, more: "certificate_file: connector.crt\nkey_file: connector.key\n",
			env: map[string]string{"CREDENTIALS_DIRECTORY": credentials}, key: credentials + "/connector.key"},
		"half a pair":        {dir: files, env: map[string]string{"CREDENTIALS_DIRECTORY": pair("connector.crt", "")}, key: files + "/connector.key"},
		"other credentials":  {dir: files, env: map[string]string{"CREDENTIALS_DIRECTORY": pair("a", "b")}, key: files + "/connector.key"},
		"neither":            {dir: t.TempDir(), env: map[string]string{"CREDENTIALS_DIRECTORY": pair("", "connector.key")}, wantProblem: "there is no file"},
		"a state directory":  {dir: files, env: map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, key: files + "/connector.key", state: "/var/lib/a"},
		"one that is named":  {dir: files, more: "state_dir: state\n", env: map[string]string{"STATE_DIRECTORY": "/var/lib/a"}, key: files + "/connector.key", state: files + "/state"},
		"one that is a file": {dir: files, more: "state_dir: connector.crt\n", wantProblem: "state_dir: " + files + "/connector.crt is not a directory"},
	} {
		k, err := config.ParseConnector([]byte(text+tt.more), filepath.Join(tt.dir, "connector.yaml"), func(name string) string { return tt.env[name] })
		if tt.wantProblem != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantProblem) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if k.KeyFile != tt.key || filepath.Dir(k.CertificateFile) != filepath.Dir(tt.key) || k.StateDir != tt.state {
			t.Errorf("%s: %s %s %s", name, k.CertificateFile, k.KeyFile, k.StateDir)
		}
		if _, err := os.Stat(k.KeyFile); err != nil {
			t.Error(err)
		}
	}
}
