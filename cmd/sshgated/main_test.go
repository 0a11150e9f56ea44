package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
	gossh "golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sshgated": func() {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			os.Exit(Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    scriptExits,
			"expand":   scriptExpand,
			"mode":     scriptMode,
			"busyport": scriptBusyPort,
			"freeport": scriptFreePort,
			"pin":      scriptPin,
			"certhas":  scriptCertHas,
			"setenv":   scriptSetenv,
			"firstid":  scriptFirstID,
			"secret":   scriptSecret,
			"nosecret": scriptNoSecret,
			"expired":  scriptExpired,
			"signedin": scriptSignedIn,
		},
	})
}

// scriptExits runs a command line and checks its exit code: exits CODE COMMAND...
func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

// scriptExpand replaces $NAME in a file by the script's variables: expand FILE.
func scriptExpand(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

// scriptMode checks the permissions of files: mode OCTAL FILE...
func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

// scriptBusyPort sets $NAME to the number of a port that is in use: busyport NAME.
func scriptBusyPort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// scriptFreePort sets $NAME to the number of a port that is free: freeport NAME.
func scriptFreePort(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// scriptPin pins the host key in a file for an origin: pin DATABASE ORIGIN FILE.
func scriptPin(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	db, err := store.OpenSQLite(ctx, ts.MkAbs(args[0]), time.Now)
	ts.Check(err)
	defer db.Close()
	_, err = db.PinHostKeys(ctx, sshgate.OriginName(args[1]), []sshgate.HostKeyPin{{
		Origin: sshgate.OriginName(args[1]), Key: strings.TrimSpace(ts.ReadFile(args[2])), Connector: "rack1", PinnedAt: time.Now(),
	}})
	ts.Check(err)
}

// scriptSignedIn remembers sign-ins of an identity by keys, connections and tokens:
// signedin DATABASE ISSUER SUBJECT EMAIL NAME...
func scriptSignedIn(ts *testscript.TestScript, _ bool, args []string) {
	ctx, now := context.Background(), time.Now()
	db, err := store.OpenSQLite(ctx, ts.MkAbs(args[0]), time.Now)
	ts.Check(err)
	defer db.Close()
	id := sshgate.Identity{Issuer: args[1], Subject: args[2], Email: args[3], EmailVerified: true, SignedInAt: now}
	for _, name := range args[4:] {
		if name == "token" {
			hash := sha256.Sum256([]byte(args[3]))
			ts.Check(db.PutAccessToken(ctx, sshgate.AccessTokenRecord{Hash: hash[:], Identity: id, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}))
			continue
		}
		ts.Check(db.BindKey(ctx, sshgate.KeyLogin{Fingerprint: name, Identity: id, ExpiresAt: now.Add(time.Hour)}))
	}
}

// scriptCertHas checks a connector's certificate: that it has these names, all
// of them, and is signed by the authority for about so many days:
// certhas CERT CA DAYS HOSTNAME...
func scriptCertHas(ts *testscript.TestScript, _ bool, args []string) {
	cert, ca := readCertificate(ts, args[0]), readCertificate(ts, args[1])
	days, err := strconv.Atoi(args[2])
	ts.Check(err)
	if want := args[3:]; !slices.Equal(cert.DNSNames, want) {
		ts.Fatalf("the certificate is for %q, want %q", cert.DNSNames, want)
	}
	if left := time.Until(cert.NotAfter); left > time.Duration(days)*24*time.Hour || left < time.Duration(days)*24*time.Hour-time.Hour {
		ts.Fatalf("the certificate is good for %s, want %d days", left, days)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err = cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	ts.Check(err)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		ts.Fatalf("the certificate would do for a server")
	}
	if cert.IsCA {
		ts.Fatalf("the certificate would do for an authority")
	}
}

func readCertificate(ts *testscript.TestScript, name string) *x509.Certificate {
	block, rest := pem.Decode([]byte(ts.ReadFile(name)))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		ts.Fatalf("%s is not one PEM block", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	ts.Check(err)
	return cert
}

// TestEveryCommandHasHelp runs --help of each command there is: it ends well,
// shows how to call it, and every flag has a description.
func TestEveryCommandHasHelp(t *testing.T) {
	var visit func(path []string)
	visit = func(path []string) {
		var stdout, stderr strings.Builder
		if code := Run(context.Background(), append(slices.Clone(path), "--help"), &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%v --help: exit %d, %s", path, code, &stderr)
		}
		if want := strings.Join(append([]string{"sshgated"}, path...), " "); !strings.Contains(stdout.String(), "Usage:\n  "+want) {
			t.Errorf("%v --help does not show its usage:\n%s", path, &stdout)
		}
		cmd, _, err := newRoot().Find(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(cmd.Flags().FlagUsages()) {
			if _, usage, ok := strings.Cut(strings.TrimSpace(line), "   "); !ok || strings.TrimSpace(usage) == "" {
				t.Errorf("%v: a flag without a description: %s", path, line)
			}
		}
		for _, sub := range cmd.Commands() {
			visit(append(slices.Clone(path), sub.Name()))
		}
	}
	visit(nil)
}

// TestShellWord reads back what it wrote, with a real shell.
func TestShellWord(t *testing.T) {
	for _, s := range []string{"/tmp/x-1/ssh_config", "", "a b", "it's", `back\slash`, "$(id)", "`id`", "new\nline", "*", "~", "é"} {
		for _, word := range []string{shellWord(s), shellQuote(s)} {
			if s == "" && word == "" {
				continue // never happens: paths are not empty
			}
			out, err := exec.Command("sh", "-c", "printf %s "+word).Output()
			if err != nil || string(out) != s {
				t.Errorf("%q became %s, which the shell reads as %q (%v)", s, word, out, err)
			}
		}
	}
	if got := shellWord("/tmp/sshgate-dev-1/ssh_config"); strings.Contains(got, "'") {
		t.Errorf("a plain path is quoted: %s", got)
	}
}

func TestParseHostnames(t *testing.T) {
	got, err := parseHostnames([]string{"Web1.Example.com.", "*.Lab.example.com"})
	if want := []string{"web1.example.com", "*.lab.example.com"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", "*", "*.", "*web1", "a.*.b", "**.a", "-a", "a b", "a/b", "a..b", "é", "web1:22", strings.Repeat("a", 64)} {
		if got, err := parseHostnames([]string{"good", bad}); err == nil {
			t.Errorf("%q was taken as %q", bad, got)
		} else if !strings.Contains(err.Error(), strconv.Quote(bad)) {
			t.Errorf("%q: the error does not name it: %v", bad, err)
		}
	}
}

func TestDevOriginFlag(t *testing.T) {
	for origin, want := range map[string]string{
		"ssh://127.0.0.1:2222": "127.0.0.1:2222",
		"ssh://localhost":      "localhost:22",
		"ssh://[::1]:22":       "[::1]:22",
	} {
		if got, err := (devOptions{origin: origin}).parseOrigin(); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %s", origin, got, err, want)
		}
	}
	for _, bad := range []string{"127.0.0.1:22", "http://127.0.0.1", "ssh://", "ssh://a:b", "ssh://root@a", "ssh://a/b", "ssh:a", "ssh://a?b", "ssh://a#b", "ssh://a:0", "ssh://a:70000"} {
		_, err := devOptions{origin: bad}.parseOrigin()
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), "give ssh://HOST:PORT") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestDevStateThatCannotBeRead covers a file that somebody cut or edited.
func TestDevStateThatCannotBeRead(t *testing.T) {
	for _, text := range []string{"", "{}", "not json", `{"ports":{},"passwords":{}}`} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/state.json", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr strings.Builder
		code := Run(context.Background(), []string{"dev", "--dir", dir}, &stdout, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), "state.json") || !strings.Contains(stderr.String(), "remove the file") {
			t.Errorf("%q: exit %d, %s", text, code, &stderr)
		}
	}
}

// TestCALineIsAnAuthorizedKey parses the line as sshd would.
func TestCALineIsAnAuthorizedKey(t *testing.T) {
	dir := t.TempDir()
	config := writeTestConfig(t, dir)
	var stdout, stderr strings.Builder
	if code := Run(context.Background(), []string{"ca", "--config", config}, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit %d: %s", code, &stderr)
	}
	key, comment, options, rest, err := gossh.ParseAuthorizedKey([]byte(stdout.String()))
	if err != nil || len(rest) > 0 || len(options) > 0 || key.Type() != gossh.KeyAlgoED25519 || comment != "sshgate@gate.test" {
		t.Errorf("%q: %v, %q, %q, %q, %v", &stdout, key, comment, options, rest, err)
	}
	if strings.Count(stdout.String(), "\n") != 1 {
		t.Errorf("it is not one line: %q", &stdout)
	}
}

func writeTestConfig(t *testing.T, dir string) string {
	t.Helper()
	path := dir + "/gateway.yaml"
	text := "hostname: gate.test\ndata_dir: data\nsign_in: {issuer: \"https://accounts.example.com\", client_id: sshgate}\npolicy: {applications: []}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
