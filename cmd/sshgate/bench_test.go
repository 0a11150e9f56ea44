package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkStart runs whole processes, in turn: a ProxyCommand starts once for each
// connection, so the helper must start about as fast as ssh itself. Compare the
// figures of one run; "x-ssh" is the ratio.
func BenchmarkStart(b *testing.B) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		b.Skip("ssh is not installed")
	}
	program := filepath.Join(b.TempDir(), "sshgate")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	run := func(name string, args ...string) float64 {
		before := b.Elapsed()
		_ = exec.Command(name, args...).Run() // the second one fails for want of a gateway
		return float64(b.Elapsed() - before)
	}
	var ours, theirs float64
	for b.Loop() {
		theirs += run(ssh, "-V")
		ours += run(program, "access", "ssh", "--hostname", "web1", "--gateway", "127.0.0.1:1", "--no-login")
	}
	b.ReportMetric(ours/float64(b.N)/1e6, "ms/sshgate")
	b.ReportMetric(theirs/float64(b.N)/1e6, "ms/ssh")
	b.ReportMetric(ours/theirs, "x-ssh")
}
