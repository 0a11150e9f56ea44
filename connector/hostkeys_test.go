package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sshgate/sshgate/sshgate"
)

func TestScanHostKeys(t *testing.T) {
	for _, kinds := range [][]string{{"ed25519"}, {"rsa"}, {"ecdsa", "rsa"}, {"rsa", "ecdsa", "ed25519"}} {
		s := &sshd{}
		switch len(kinds) {
		case 1:
			s = startSSHD(t, "127.0.0.1:0", newSigner(t, kinds[0]))
		case 2:
			s = startSSHD(t, "127.0.0.1:0", newSigner(t, kinds[0]), newSigner(t, kinds[1]))
		case 3:
			s = startSSHD(t, "127.0.0.1:0", newSigner(t, kinds[0]), newSigner(t, kinds[1]), newSigner(t, kinds[2]))
		}
		got, err := ScanHostKeys(testContext(t), s.addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if diff := cmp.Diff(s.keys, got); diff != "" {
			t.Errorf("%v: %s", kinds, diff)
		}
		if keys, err := checkHostKeys(got); err != nil || !cmp.Equal(keys, got) {
			t.Errorf("the gateway would refuse what was scanned: %v", err)
		}
	}
}

// The same with OpenSSH, one process for each connection as inetd would start it.
func TestScanHostKeysOfOpenSSH(t *testing.T) {
	const program = "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("OpenSSH's server is not installed")
	}
	// What Debian's service makes before it starts sshd, which insists on it.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil && os.Getuid() == 0 {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var config strings.Builder
	var want []string
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		file := filepath.Join(dir, kind)
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
		public, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, strings.TrimSpace(string(public)))
		fmt.Fprintf(&config, "HostKey %s\n", file)
	}
	configFile := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(configFile, []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	o := startOrigin(t, func(conn *net.TCPConn) {
		socket, err := conn.File()
		if err != nil {
			t.Error(err)
			return
		}
		defer socket.Close()
		cmd := exec.Command(program, "-i", "-e", "-f", configFile)
		cmd.Stdin, cmd.Stdout = socket, socket
		_ = cmd.Run() // fails when the scan hangs up
	})
	got, err := ScanHostKeys(testContext(t), o.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestScanHostKeysFails(t *testing.T) {
	silent := startOrigin(t, func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if keys, err := ScanHostKeys(ctx, silent.addr, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that says nothing: %v, %v", keys, err)
	}
	garbage := startOrigin(t, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
	if keys, err := ScanHostKeys(testContext(t), garbage.addr, nil); err == nil {
		t.Errorf("a server of another protocol: %v", keys)
	}
	garbage.close()
	if keys, err := ScanHostKeys(testContext(t), garbage.addr, nil); err == nil {
		t.Errorf("a closed port: %v", keys)
	}
	// Some handshakes work and others do not: half an answer is none.
	s := startSSHD(t, "127.0.0.1:0", newSigner(t, "ed25519"), newSigner(t, "rsa"))
	dials := 0
	keys, err := ScanHostKeys(testContext(t), s.addr, func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; dials == 3 {
			return nil, errors.New("too many connections")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	})
	if err == nil {
		t.Errorf("half an answer: %v", keys)
	}
}

// An origin whose SSH server is down is published without keys, and with them
// as soon as it is up; a key that changes is reported too.
func TestHostKeysAreReported(t *testing.T) {
	reports := make(chan Registration, 100)
	g := startGateway(t, func(cfg *HubConfig, _ *timing) {
		cfg.Admit = func(_ context.Context, reg Registration) error {
			reports <- reg
			return nil
		}
	})
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := reserved.Addr().String()
	reserved.Close()
	g.publish("web1", addr, func(_ *AgentConfig, quick *timing) { quick.rescan = 50 * time.Millisecond })
	if first := <-reports; len(first.HostKeys) != 0 {
		t.Errorf("keys of a server that is down: %v", first.HostKeys)
	}
	if _, err := g.dial("web1"); refusalCode(err) != CodeDialRefused {
		t.Errorf("dialling it: %v", err)
	}
	t.Run("up", func(t *testing.T) {
		s := startSSHD(t, addr, newSigner(t, "ed25519"))
		waitForReport(t, reports, s.keys)
		eventually(t, "Origins has the keys", func() bool { return cmp.Equal(g.hub.Origins()[0].HostKeys, s.keys) })
		conn, err := g.dial("web1")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	t.Run("up with other keys", func(t *testing.T) {
		s := startSSHD(t, addr, newSigner(t, "ecdsa"), newSigner(t, "ed25519"))
		waitForReport(t, reports, s.keys)
	})
}

func waitForReport(t *testing.T, reports chan Registration, keys []string) {
	t.Helper()
	deadline := time.After(testTimeout)
	for {
		select {
		case reg := <-reports:
			if cmp.Equal(reg.HostKeys, keys) {
				return
			}
		case <-deadline:
			t.Fatalf("the keys %v were not reported", keys)
		}
	}
}

// An origin that is refused is offered again: its operator may have set it right.
func TestRefusedOriginsAreOfferedAgain(t *testing.T) {
	for _, refusal := range []error{errors.New("the store is away"), &Refusal{CodeHostKeyChanged, "it has changed"}} {
		refused := make(chan struct{}, 1)
		allowed := make(chan struct{})
		g := startGateway(t, func(cfg *HubConfig, _ *timing) {
			cfg.Admit = func(context.Context, Registration) error {
				select {
				case <-allowed:
					return nil
				default:
					select {
					case refused <- struct{}{}:
					default:
					}
					return refusal
				}
			}
		})
		s := startSSHD(t, "127.0.0.1:0", newSigner(t, "ed25519"))
		g.startAgent([]Origin{{Name: "web1", Address: s.addr}}, func(_ *AgentConfig, quick *timing) {
			quick.rescan, quick.askAgain = 100*time.Millisecond, 100*time.Millisecond
		})
		<-refused
		close(allowed)
		g.waitFor(sshgate.EventOriginUp, "web1")
	}
}
