package helper

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zalando/go-keyring"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t *testing.T) (*Store, *bytes.Buffer) {
	t.Helper()
	var warn bytes.Buffer
	return &Store{Dir: filepath.Join(t.TempDir(), "of a user"), Warn: &warn}, &warn
}

func TestTokenIsKept(t *testing.T) {
	s, _ := newStore(t)
	p := s.For("gate.example.com:443")
	if got := p.Token(); got.Value != "" {
		t.Errorf("of nothing: %+v", got)
	}
	want := Token{Value: "sga_x", Identity: "alice@example.com", ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	for range 2 {
		if err := p.Keep(want); err != nil {
			t.Fatal(err)
		}
		if got := p.Token(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	for path, mode := range map[string]os.FileMode{s.Dir: 0o700 | os.ModeDir, p.dir: 0o700 | os.ModeDir, filepath.Join(p.dir, tokenFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if other := s.For("other.example.com:443").Token(); other.Value != "" {
		t.Error("another gateway gets the token")
	}
	if found, err := p.Forget(); !found || err != nil || p.Token().Value != "" {
		t.Errorf("forgotten: %v, %v", found, err)
	}
	if found, err := p.Forget(); found || err != nil {
		t.Errorf("forgotten again: %v, %v", found, err)
	}
}

// A file that cannot be read is put aside and does not keep anybody out.
func TestBrokenFilesAreHealed(t *testing.T) {
	s, warn := newStore(t)
	p := s.For("[2001:db8::1]:443")
	for _, text := range []string{"", "{", "[]", "\x00\x01"} {
		warn.Reset()
		if err := writeFile(filepath.Join(p.dir, tokenFile), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := p.Token(); got.Value != "" || !strings.Contains(warn.String(), ".broken") {
			t.Errorf("%q: %+v, said %q", text, got, warn)
		}
		warn.Reset()
		if p.Token(); warn.Len() > 0 {
			t.Errorf("%q: it says so twice: %s", text, warn)
		}
		if err := p.Keep(Token{Value: "x"}); err != nil || p.Token().Value != "x" {
			t.Errorf("%q: nothing can be kept afterwards: %v", text, err)
		}
	}
}

func TestTokenInTheKeyring(t *testing.T) {
	keyring.MockInit()
	s, _ := newStore(t)
	p := s.For("gate.example.com:443")
	if err := p.Keep(Token{Value: "of a time without one"}); err != nil {
		t.Fatal(err)
	}
	s.Keyring = system{}
	if err := p.Keep(Token{Value: "in the keyring"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(p.dir, tokenFile)); err == nil {
		t.Error("the token is in a file, too")
	}
	if got := p.Token().Value; got != "in the keyring" {
		t.Errorf("%q", got)
	}
	if found, err := p.Forget(); !found || err != nil || p.Token().Value != "" {
		t.Errorf("forgotten: %v, %v", found, err)
	}
	// One that fails is as none.
	keyring.MockInitWithError(errors.New("locked"))
	if err := p.Keep(Token{Value: "in a file"}); err != nil || p.Token().Value != "in a file" {
		t.Errorf("%v, %+v", err, p.Token())
	}
}

func TestKeyringIsPlausible(t *testing.T) {
	env := map[string]string{}
	getenv := func(name string) string { return env[name] }
	if systemKeyring(getenv) != nil {
		t.Error("without a session bus there is a keyring")
	}
	env["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
	if systemKeyring(getenv) == nil {
		t.Error("with a session bus there is none")
	}
	env["SSHGATE_KEYRING"] = "off"
	if systemKeyring(getenv) != nil {
		t.Error("off does not turn it off")
	}
}

func TestLockIsOfOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := openLock(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.unlock()
	if !first.try() || second.try() {
		t.Fatal("it is no lock")
	}
	taken := make(chan error, 1)
	go func() { taken <- second.wait() }()
	first.unlock()
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

func TestParseGateway(t *testing.T) {
	for s, want := range map[string]string{
		"gate.example.com":          "gate.example.com:443",
		"Gate.Example.com:8443":     "gate.example.com:8443",
		"https://gate.example.com/": "gate.example.com:443",
		"[2001:db8::1]":             "[2001:db8::1]:443",
		"2001:db8::1":               "[2001:db8::1]:443",
		"[2001:db8::1]:8443":        "[2001:db8::1]:8443",
	} {
		if got, err := ParseGateway(s); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", s, got, err, want)
		}
	}
	for _, s := range []string{"", ":443", "http://gate", "a b", "gate/path", "user@gate", "gate:"} {
		if got, err := ParseGateway(s); err == nil || KindOf(err) != Usage {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}

// TestBlock has a real ssh read what it prints, with paths that need quoting.
func TestBlock(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("ssh is not installed")
	}
	s := &Store{Dir: filepath.Join(t.TempDir(), "a dir with spaces"), Warn: io.Discard}
	gateway, err := NewGateway("gate.example.com:8443", nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Access{Gateway: gateway, Store: s, Place: s.For(gateway.Address), opts: Options{CAFile: "/etc/it's a ca.pem"}}
	for _, short := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "config")
		program := "/opt/it's 100% mine/sshgate"
		text := a.Block(SSHConfig{Program: program, Pattern: "*.example.com", User: "deploy", ShortCert: short})
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ssh", "-F", file, "-G", "web1.example.com").Output()
		if err != nil {
			t.Fatalf("ssh -G: %v\n%s", err, text)
		}
		settings := map[string]string{}
		for line := range strings.Lines(string(out)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			settings[name] = value
		}
		if settings["user"] != "deploy" || !strings.Contains(settings["userknownhostsfile"], s.Dir) {
			t.Errorf("ssh reads %q, %q from\n%s", settings["user"], settings["userknownhostsfile"], text)
		}
		itself, err := exec.Command("ssh", "-F", file, "-G", "gate.example.com").Output()
		if err != nil || strings.Contains(string(itself), "proxycommand") {
			t.Errorf("the gateway itself is reached by the helper: %v\n%s", err, text)
		}
		// What ssh hands to the shell, after it has expanded its tokens.
		command := strings.NewReplacer("%%", "%", "%h", "web1.example.com").Replace(settings["proxycommand"])
		words, err := exec.Command("sh", "-c", `printf '%s\n' `+command).Output()
		want := program + "\naccess\nssh\n--gateway\ngate.example.com:8443\n--ca-file\n/etc/it's a ca.pem\n--hostname\nweb1.example.com\n"
		if err != nil || string(words) != want {
			t.Errorf("the shell reads\n%swant\n%s(%v) from %s", words, want, err, settings["proxycommand"])
		}
	}
}
