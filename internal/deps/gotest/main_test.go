package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.com/x\n\ngo 1.26\n")
	const passes = "func TestA(t *testing.T) { t.Log(\"quiet\") }\n"
	const skips = "func TestB(t *testing.T) { t.Skip(\"plink is not installed\") }\n"
	const cannot = "func TestB(t *testing.T) { t.Skip(\"impossible here: no root\") }\n"
	const measures = "func TestA(t *testing.T) { t.Log(\"measured: it: 3ms\") }\n"
	const fails = "func TestC(t *testing.T) { t.Log(\"the reason\"); t.Run(\"sub\", func(t *testing.T) { t.Error(\"the cause\") }) }\n"
	const panics = "func TestD(t *testing.T) { panic(\"the panic\") }\n"
	for _, test := range []struct {
		name, tests string
		skipsFail   bool
		code        int
		want        []string
	}{
		{"passes", passes, true, 0, []string{"ok   example.com/x", "1 passed, 0 failed, 0 skipped"}},
		{"skips", passes + skips, false, 0, []string{"SKIPPED 1", "TestB: x_test.go:5: plink is not installed", "1 passed, 0 failed, 1 skipped"}},
		{"skips in CI", passes + skips, true, 1, []string{"SKIPPED 1"}},
		{"cannot, in CI", passes + cannot, true, 0, []string{"SKIPPED 1", "impossible here: no root"}},
		{"measures", measures, false, 0, []string{"\nTestA: it: 3ms\n"}},
		{"fails", passes + fails, false, 1, []string{"the cause", "the reason", "1 passed, 2 failed"}},
		{"panics", panics, false, 1, []string{"the panic", "0 passed, 1 failed"}},
		{"does not compile", "func TestE(t *testing.T) { y() }\n", false, 1, []string{"undefined: y"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			write("x_test.go", "package x\n\nimport \"testing\"\n"+test.tests+"var _ testing.TB\n")
			var stdout, stderr strings.Builder
			code := run([]string{"-vet=off", "."}, test.skipsFail, &stdout, &stderr)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, want := range test.want {
				if !strings.Contains("\n"+stdout.String(), want) {
					t.Errorf("the output lacks %q:\n%s%s", want, stdout.String(), stderr.String())
				}
			}
			if strings.Contains(stdout.String(), "quiet") {
				t.Error("a test that passed is not quiet")
			}
		})
	}
}
