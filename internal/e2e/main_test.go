package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The programs under test, built once by TestMain.
var sshgatedBin, sshgateBin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sshgate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	sshgatedBin, sshgateBin = filepath.Join(dir, "sshgated"), filepath.Join(dir, "sshgate")
	args := []string{"build", "-o", dir}
	if os.Getenv("SSHGATE_E2E_RACE") != "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../../cmd/sshgated", "../../cmd/sshgate")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the programs under test:", err)
		return 1
	}
	code := m.Run()
	if !closeShared() && code == 0 {
		code = 1
	}
	return code
}

// need fails the test, or skips it loudly outside CI, when a program is missing.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		const advice = "%s is not installed; run internal/deps/install.sh"
		if os.Getenv("CI") != "" {
			t.Fatalf(advice, program)
		}
		t.Skipf(advice, program)
	}
}
