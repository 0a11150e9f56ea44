package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sshgate/sshgate/connector"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sshgate": func() {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			os.Exit(Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sshd":   scriptSSHD,
			"cert":   scriptCert,
			"exits":  scriptExits,
			"expand": scriptExpand,
		},
	})
}

// scriptSSHD starts an SSH server and sets $NAME to its address: sshd NAME.
func scriptSSHD(ts *testscript.TestScript, _ bool, args []string) {
	addr, stop := startSSHD(ts.Fatalf)
	ts.Defer(stop)
	ts.Setenv(args[0], addr)
}

// scriptCert writes connector.crt, connector.key and gateway-ca.crt, good for a
// number of hours: cert HOURS HOSTNAME...
func scriptCert(ts *testscript.TestScript, _ bool, args []string) {
	hours, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(writeCert(ts.MkAbs("."), time.Duration(hours)*time.Hour, args[1:]...))
}

// scriptExpand replaces $NAME in a file by the script's variables: expand FILE.
func scriptExpand(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

// scriptExits runs a command line and checks its exit code: exits CODE COMMAND...
func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

func writeCert(dir string, validity time.Duration, hostnames ...string) error {
	now := time.Now
	if validity < 0 { // issued so long ago that it has expired
		then := time.Now().Add(2 * validity)
		now, validity = func() time.Time { return then }, -validity
	}
	ca, err := connector.OpenCA(filepath.Join(dir, "ca"), now)
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := ca.IssueConnector("rack1", hostnames, validity)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "connector.crt"), certPEM, 0o644),
		os.WriteFile(filepath.Join(dir, "connector.key"), keyPEM, 0o600),
		os.WriteFile(filepath.Join(dir, "gateway-ca.crt"), ca.CertPEM(), 0o644),
	)
}

// startSSHD starts an SSH server that lets nobody in.
func startSSHD(fatalf func(string, ...any)) (addr string, stop func()) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		fatalf("%v", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		fatalf("%v", err)
	}
	cfg := &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
		return nil, errors.New("nobody gets in")
	}}
	cfg.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fatalf("%v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				_, _, _, _ = ssh.NewServerConn(conn, cfg)
			})
		}
	})
	return listener.Addr().String(), func() {
		listener.Close()
		wg.Wait()
	}
}

func TestExpiryWarning(t *testing.T) {
	now := time.Now()
	const life = 90 * 24 * time.Hour
	for left, want := range map[time.Duration]string{
		40 * 24 * time.Hour: "",
		10 * 24 * time.Hour: "warning 10 days",
		-time.Hour:          "problem expired",
	} {
		leaf := &x509.Certificate{NotBefore: now.Add(left - life), NotAfter: now.Add(left), SerialNumber: big.NewInt(1)}
		c := certificateReport{NotAfter: leaf.NotAfter}
		c.judge(leaf, now)
		got := ""
		if c.Warning != "" {
			got = "warning"
		}
		if c.Problem != "" {
			got = "problem"
		}
		kind, detail, _ := strings.Cut(want, " ")
		if got != kind || !strings.Contains(c.Warning+c.Problem, detail) {
			t.Errorf("%s left: %+v", left, c)
		}
	}
	c := certificateReport{NotAfter: now.Add(2 * time.Hour)}
	if c.judge(&x509.Certificate{NotBefore: now.Add(time.Hour), NotAfter: c.NotAfter}, now); !strings.Contains(c.Problem, "clock") {
		t.Errorf("not good yet: %+v", c)
	}
}
