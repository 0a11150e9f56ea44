//go:build unix

package devorigin_test

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"crypto/ed25519"

	gossh "golang.org/x/crypto/ssh"
)

// openSSH is an OpenSSH client with a certificate for the origin.
type openSSH struct {
	origin *testOrigin
	args   []string // options that every tool takes
	host   string
}

// newOpenSSH skips the test where the tool is not installed.
func newOpenSSH(t *testing.T, o *testOrigin, tool string) *openSSH {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("%s is not installed", tool)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(o.addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := o.certificate(t, signer.PublicKey(), nil)
	return &openSSH{origin: o, host: host, args: []string{
		"-F", "none",
		"-o", "Port=" + port,
		"-o", "User=demo",
		"-o", "BatchMode=yes",
		"-o", "IdentitiesOnly=yes",
		"-o", "IdentityAgent=none",
		"-o", "IdentityFile=" + write("key", pem.EncodeToMemory(block)),
		"-o", "CertificateFile=" + write("key-cert.pub", gossh.MarshalAuthorizedKey(cert)),
		"-o", "UserKnownHostsFile=" + write("known_hosts", append([]byte("origin "), gossh.MarshalAuthorizedKey(o.hostKey)...)),
		"-o", "HostKeyAlias=origin",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "LogLevel=ERROR",
	}}
}

// run runs a tool with the input and returns its output, errors and exit code.
func (c *openSSH) run(t *testing.T, input string, tool string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool, append(c.args[:len(c.args):len(c.args)], args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", tool, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestOpenSSH(t *testing.T) {
	c := newOpenSSH(t, startOrigin(t), "ssh")
	for _, test := range []struct {
		name, input    string
		args           []string
		stdout, stderr string
		code           int
	}{
		{"command", "", []string{c.host, "echo out; echo err >&2; exit 3"}, "out\n", "err\n", 3},
		{"half-close", "b\na\n", []string{c.host, "sort"}, "a\nb\n", "", 0},
		{"terminal", "", []string{"-tt", c.host, "test -t 0 && echo yes; exit 5"}, "yes\r\n", "", 5},
		{"shell", "echo shell\nexit 2\n", []string{"-T", c.host}, "shell\n", "", 2},
		{"signal", "", []string{c.host, "kill -TERM $$"}, "", "", 255},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, code := c.run(t, test.input, "ssh", test.args...)
			if stdout != test.stdout || stderr != test.stderr || code != test.code {
				t.Errorf("got %q, %q, exit code %d, want %q, %q, %d", stdout, stderr, code, test.stdout, test.stderr, test.code)
			}
		})
	}
}

func TestOpenSSHWithoutCertificate(t *testing.T) {
	c := newOpenSSH(t, startOrigin(t), "ssh")
	for i, arg := range c.args {
		if strings.HasPrefix(arg, "CertificateFile=") {
			c.args[i] = "CertificateFile=none"
			if err := os.Remove(strings.TrimPrefix(arg, "CertificateFile=")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, stderr, code := c.run(t, "", "ssh", c.host, "true"); code != 255 || !strings.Contains(stderr, "Permission denied (publickey)") {
		t.Errorf("exit code %d, %q, want a refusal", code, stderr)
	}
}

func TestOpenSSHCopies(t *testing.T) {
	o := startOrigin(t)
	c := newOpenSSH(t, o, "sftp")
	data := make([]byte, 3<<20)
	rand.Read(data)
	local := filepath.Join(t.TempDir(), "local.bin")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	wantSame := func(path string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", path, len(got), len(data), err)
		}
	}
	batch := "put " + local + " by-sftp.bin\nls\nget by-sftp.bin " + local + ".back\n"
	stdout, stderr, code := c.run(t, batch, "sftp", "-b", "-", c.host)
	if code != 0 || !strings.Contains(stdout, "by-sftp.bin") {
		t.Fatalf("sftp: exit code %d, %q, %q", code, stdout, stderr)
	}
	wantSame(filepath.Join(o.dir, "by-sftp.bin"))
	wantSame(local + ".back")

	if _, stderr, code = c.run(t, "", "scp", local, c.host+":by-scp.bin"); code != 0 {
		t.Fatalf("scp: exit code %d, %q", code, stderr)
	}
	wantSame(filepath.Join(o.dir, "by-scp.bin"))
}
