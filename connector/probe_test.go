package connector

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// probeCertificate makes a user CA, and a certificate of it for a key that is gone.
func probeCertificate(t *testing.T, login string) (caLine []byte, cert *ssh.Certificate) {
	t.Helper()
	_, caKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ssh.NewSignerFromKey(caKey)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	cert = &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, KeyId: "probe", ValidPrincipals: []string{login},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return ssh.MarshalAuthorizedKey(ca.PublicKey()), cert
}

// output is what a program writes, while it does.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startOpenSSH starts the system's sshd with lines for its configuration, of which the
// first of a keyword counts.
func startOpenSSH(t *testing.T, lines string) (address string, log *output) {
	t.Helper()
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v", err)
		}
		t.Skipf("%v", err)
	}
	if os.Getuid() == 0 { // where sshd puts the process that talks to strangers
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	listener.Close()
	config := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf("%s\nListenAddress %s\nHostKey %s/host\nPidFile none\nAuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nLogLevel DEBUG1\n",
		lines, address, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log = new(output)
	cmd := exec.Command(sshd, "-D", "-e", "-f", config)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address, log
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("sshd is not up: %v\n%s", err, log)
		}
	}
}

// OpenSSH says whether it trusts the CA, and nobody signs in.
func TestProbeOpenSSH(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	caLine, cert := probeCertificate(t, me.Username)
	otherLine, _ := probeCertificate(t, me.Username)
	write := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "ca.pub")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	trusts := "TrustedUserCAKeys " + write(caLine)
	for name, tt := range map[string]struct {
		lines, login string
		want         bool
	}{
		"trusted":                {trusts, me.Username, true},
		"trusted, and more":      {trusts + "\nAuthenticationMethods publickey,keyboard-interactive\nKbdInteractiveAuthentication yes", me.Username, true},
		"not trusted":            {"", me.Username, false},
		"another is trusted":     {"TrustedUserCAKeys " + write(otherLine), me.Username, false},
		"not for the login":      {trusts, "nobody", false},
		"no such login":          {trusts, "no-such-login", false},
		"after one try no more":  {"MaxAuthTries 1", me.Username, false},
		"of users that are kept": {trusts + "\nDenyUsers " + me.Username, me.Username, false},
	} {
		address, log := startOpenSSH(t, tt.lines)
		taken, err := ProbeCertificate(t.Context(), address, cert, tt.login, nil)
		if taken != tt.want || err != nil {
			t.Errorf("%s: %v, %v\n%s", name, taken, err, log)
		}
		if text := log.String(); strings.Contains(text, "Accepted publickey") || tt.want && strings.Contains(text, "Failed publickey") {
			t.Errorf("%s: more than a question:\n%s", name, text)
		}
	}
	address, _ := startOpenSSH(t, trusts+"\nPubkeyAuthentication no\nPasswordAuthentication yes")
	if taken, err := ProbeCertificate(t.Context(), address, cert, me.Username, nil); taken || err == nil {
		t.Errorf("a server that takes no keys at all: %v, %v", taken, err)
	}
}

// Where the certificate is taken the question ends, before a signature.
func TestProbeSignsNothing(t *testing.T) {
	_, cert := probeCertificate(t, "root")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	cfg := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			asked++
			if key.Type() != ssh.CertAlgoED25519v01 {
				return nil, errors.New("it is no certificate")
			}
			return &ssh.Permissions{}, nil
		},
		AuthLogCallback: func(_ ssh.ConnMetadata, method string, err error) {
			if method == "publickey" {
				t.Errorf("a signature was sent: %v", err)
			}
		},
	}
	cfg.AddHostKey(host)
	address := answer(t, func(conn net.Conn) {
		if _, _, _, err := ssh.NewServerConn(conn, cfg); err == nil {
			t.Error("somebody signed in")
		}
	})
	if taken, err := ProbeCertificate(t.Context(), address, cert, "root", nil); !taken || err != nil || asked != 1 {
		t.Errorf("%v, %v, asked %d times", taken, err, asked)
	}

	// A connection that breaks at the question is no answer.
	cfg.AuthLogCallback = nil
	cut := make(chan net.Conn, 1)
	cfg.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		(<-cut).Close()
		return nil, errors.New("too late")
	}
	address = answer(t, func(conn net.Conn) {
		cut <- conn
		_, _, _, _ = ssh.NewServerConn(conn, cfg)
	})
	if taken, err := ProbeCertificate(t.Context(), address, cert, "root", nil); taken || err == nil {
		t.Errorf("cut off: %v, %v", taken, err)
	}
}

// answer serves one connection, and returns where.
func answer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

func TestProbeOfNoSSHServer(t *testing.T) {
	_, cert := probeCertificate(t, "root")
	for name, serve := range map[string]func(net.Conn){
		"silence":  func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"garbage":  func(conn net.Conn) { _, _ = io.WriteString(conn, strings.Repeat("\x00\xff\r\n", 20_000)) },
		"HTTP":     func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"an end":   func(net.Conn) {},
		"a banner": func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0-x\r\n") },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if taken, err := ProbeCertificate(ctx, answer(t, serve), cert, "root", nil); taken || err == nil {
			t.Errorf("%s: %v, %v", name, taken, err)
		}
		cancel()
	}
	if taken, err := ProbeCertificate(t.Context(), "127.0.0.1:1", cert, "root", nil); taken || err == nil {
		t.Errorf("a closed port: %v, %v", taken, err)
	}
}
