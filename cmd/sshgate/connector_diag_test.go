package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/station"
)

// readDiag returns the files of an archive, and checks their names.
func readDiag(t *testing.T, path string) map[string]string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the archive's mode is %v", info.Mode())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for archive := tar.NewReader(zip); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		dir, name, ok := strings.Cut(header.Name, "/")
		if !ok || !strings.HasPrefix(dir, "sshgate-diag-") || header.Mode != 0o600 {
			t.Errorf("the file %s of mode %o", header.Name, header.Mode)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
}

// noSecrets looks for secrets in all that diag wrote.
func noSecrets(t *testing.T, files map[string]string, secrets ...string) {
	t.Helper()
	for name, text := range files {
		for _, secret := range secrets {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("the secret %q is in %s: ...%s...", secret, name, text[max(0, i-80):min(len(text), i+len(secret)+80)])
			}
		}
	}
}

// keyLines returns the lines of a key's file that are secret.
func keyLines(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	lines = slices.DeleteFunc(lines, func(line string) bool { return len(line) < 16 || strings.HasPrefix(line, "-----") })
	if len(lines) < 2 {
		t.Fatalf("the key has the lines %q", lines)
	}
	return lines
}

// A proxy that refuses and repeats the password that it was given, in clear and in
// base64.
func talkativeProxy(t *testing.T, password string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := conn.Read(buf)
			_, basic, _ := strings.Cut(string(buf[:n]), "Basic ")
			basic, _, _ = strings.Cut(basic, "\r\n")
			_, _ = io.WriteString(conn, "HTTP/1.1 403 not with "+password+" "+basic+"\r\nContent-Length: 0\r\n\r\n")
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

const (
	proxyPassword = "hunter2 is/secret"
	serviceSecret = "sgs_0123456789abcdefghijABCDEFGHIJ0123456789abcdefghi"
	deployToken   = "q9rT-deploy-token-\"x\""
)

// plantSecrets puts secrets wherever there can be some, and a connector's certificate
// into the folder. It returns the secrets.
func plantSecrets(t *testing.T, dir string) []string {
	t.Helper()
	if err := writeCert(dir, time.Hour, "web1"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTPS_PROXY", "http://robot:hunter2%20is%2Fsecret@"+talkativeProxy(t, proxyPassword))
	t.Setenv("http_proxy", "robot:hunter2@elsewhere.test:3128")
	t.Setenv("SSHGATE_SERVICE_TOKEN_SECRET", serviceSecret)
	t.Setenv("DEPLOY_TOKEN", deployToken)
	// A key has strayed into the file of the certificate.
	cert, _ := os.ReadFile(filepath.Join(dir, "connector.crt"))
	key, _ := os.ReadFile(filepath.Join(dir, "connector.key"))
	if err := os.WriteFile(filepath.Join(dir, "connector.crt"), append(key, cert...), 0o644); err != nil {
		t.Fatal(err)
	}
	return append(keyLines(t, filepath.Join(dir, "connector.key")), proxyPassword, "hunter2", serviceSecret, deployToken, "q9rT-deploy",
		base64.StdEncoding.EncodeToString([]byte("robot:"+proxyPassword)))
}

func TestDiagHasNoSecrets(t *testing.T) {
	dir := t.TempDir()
	secrets := plantSecrets(t, dir)
	t.Setenv("RUNTIME_DIRECTORY", dir)
	web1, stop := startSSHD(t.Fatalf)
	t.Cleanup(stop)
	c := startConnector(t, dir, "gate.test:443", web1, "--log-level", "debug")
	c.waitForLog(t, "next_try_in")
	c.waitForLog(t, "host keys of the origin were read")

	output := filepath.Join(dir, "one.tar.gz")
	var stdout lockedBuffer
	args := []string{"connector", "diag", "--config", filepath.Join(dir, "connector.yaml"), "--output", output}
	if code := Run(t.Context(), args, nil, &stdout, &stdout); code != exitOK {
		t.Fatalf("diag: %d\n%s", code, &stdout)
	}
	files := readDiag(t, output)
	files["its output"] = stdout.String()
	noSecrets(t, files, secrets...)
	for name, want := range map[string]string{
		"status.json": `"state":"connecting"`, "metrics.txt": "sshgate_connector_tunnels 0\n", "goroutines.txt": "keepConnected(...)",
		"log.jsonl": `"msg":"the tunnel is down"`, "version.txt": "go1.", "config.json": `"key_file": "` + dir, "certificate.json": `"connector": "rack1"`,
		"check.json": `"ssh-ed25519"`, "environment.txt": "HTTPS_PROXY=http://***@127.0.0.1:", "system.txt": "time: 20", "missing.txt": "the gateway's clock",
		"its output": "before\nyou send it away",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %s:\n%s", name, want, files[name])
		}
	}
	for _, want := range []string{"http_proxy=http://***@elsewhere.test:3128\n", "SSHGATE_SERVICE_TOKEN_SECRET is set\n", "RUNTIME_DIRECTORY is set\n"} {
		if !strings.Contains(files["environment.txt"], want) {
			t.Errorf("the environment has no %q:\n%s", want, files["environment.txt"])
		}
	}
	// What the socket serves is looked at as it is, too: diag takes out what it knows.
	for _, path := range []string{"/status", "/metrics", "/readyz?verbose", "/debug/log", "/debug/goroutines"} {
		_, body, err := station.Get(t.Context(), filepath.Join(dir, "status.sock"), path)
		if err != nil {
			t.Error(err)
		}
		noSecrets(t, map[string]string{path: string(body)}, secrets...)
	}
}

func TestDiagWritesNothingOver(t *testing.T) {
	output := filepath.Join(t.TempDir(), "one.tar.gz")
	if err := os.WriteFile(output, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	var stderr lockedBuffer
	if code := Run(t.Context(), []string{"connector", "diag", "--output", output}, nil, io.Discard, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "is there already") {
		t.Errorf("diag: %d\n%s", code, &stderr)
	}
	if after, _ := os.ReadFile(output); string(after) != "precious" {
		t.Error("the file was written over")
	}
}

func TestDiagWithoutAConnector(t *testing.T) {
	dir := t.TempDir()
	secrets := plantSecrets(t, dir)
	t.Chdir(dir)
	text := "gateway: " + serviceSecret + ":x:y\nservername: swordfish\norigins:\n  - name: web 1\n    url: http://robot:hunter2@web1\n"
	if err := os.WriteFile("broken.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout lockedBuffer
	if code := Run(t.Context(), []string{"connector", "diag", "--config", "broken.yaml", "--socket", filepath.Join(dir, "none.sock")}, nil, &stdout, &stdout); code != exitOK {
		t.Fatalf("diag: %d\n%s", code, &stdout)
	}
	found, _ := filepath.Glob("sshgate-diag-*.tar.gz")
	if len(found) != 1 {
		t.Fatalf("it wrote %q", found)
	}
	files := readDiag(t, found[0])
	files["its output"] = stdout.String()
	noSecrets(t, files, append(secrets, "swordfish")...)
	for _, want := range []string{"no connector answers on", "the configuration: ", "origins[0].url"} {
		if !strings.Contains(files["missing.txt"], want) {
			t.Errorf("missing.txt has no %q:\n%s", want, files["missing.txt"])
		}
	}
	if files["system.txt"] == "" || files["version.txt"] == "" || files["environment.txt"] == "" {
		t.Errorf("the archive has %v", files)
	}
}

func TestMaskProxy(t *testing.T) {
	for value, want := range map[string]string{
		"":                                   "",
		"http://proxy:3128":                  "http://proxy:3128",
		"proxy:3128":                         "http://proxy:3128",
		"https://robot:hunter2@proxy":        "https://***@proxy",
		"robot:hunter2@proxy:3128":           "http://***@proxy:3128",
		"http://proxy/?password=hunter2":     "http://proxy",
		"http://robot:hunter2%zz@proxy:3128": "(not a URL)",
	} {
		if got := maskProxy(value); got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
}

func TestScrubber(t *testing.T) {
	s := newScrubber([]string{"A_PASSWORD=correct horse", "B_TOKEN=abc", "C_TOKEN=/run/token", "D_PROXY=http://u:pass%20word@p", "E=plain"})
	for text, want := range map[string]string{
		"it is correct horse.":                                               "it is (hidden).",
		"abc /run/token plain":                                               "abc /run/token plain",
		"pass word and pass%20word, pass+word":                               "(hidden) and (hidden), (hidden)",
		"http://a:b@host/ and a@b.test":                                      "http://***@host/ and a@b.test",
		"x\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\ny": "x\n(hidden)\ny",
		"token sga_0123456789abcdefghijABCDEF.":                              "token (hidden).",
	} {
		if got := s.clean(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
