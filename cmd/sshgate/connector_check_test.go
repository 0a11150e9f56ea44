package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sshgate/sshgate/config"
)

func TestWithRenewed(t *testing.T) {
	system, state := t.TempDir(), t.TempDir()
	cfg := &config.Connector{KeyFile: filepath.Join(system, "connector.key")}
	if got := withRenewed(cfg, system, state).StateDir; got != "" {
		t.Errorf("nothing was renewed, and it is looked for in %q", got)
	}
	if err := os.WriteFile(filepath.Join(state, "connector.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := withRenewed(cfg, system, state).StateDir; got != state {
		t.Errorf("what was renewed is looked for in %q", got)
	}
	for name, other := range map[string]*config.Connector{
		"a user's own":         {KeyFile: filepath.Join(t.TempDir(), "connector.key")},
		"with its own setting": {KeyFile: cfg.KeyFile, StateDir: system},
	} {
		if got := withRenewed(other, system, state); got != other {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
