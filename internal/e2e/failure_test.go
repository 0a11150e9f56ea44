package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// longSession starts a session that waits, and returns when it runs.
func (c *client) longSession() (*exec.Cmd, *output) {
	c.t.Helper()
	cmd := c.ssh("gate", "echo up; exec sleep 300")
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := stdout.wait(ctx, func(s string) string { return s }); err != nil {
		c.t.Fatalf("%v\n%s", err, stderr)
	}
	return cmd, stderr
}

// endsWith255 waits until the session is over, which must take no longer than d.
func endsWith255(t testing.TB, cmd *exec.Cmd, stderr *output, says string, d time.Duration) {
	t.Helper()
	begin := time.Now()
	_ = cmd.Wait()
	t.Logf("the session ended after %s", time.Since(begin).Round(time.Millisecond))
	if code := cmd.ProcessState.ExitCode(); code != 255 {
		t.Errorf("exit %d, want 255", code)
	}
	if !strings.Contains(stderr.String(), says) {
		t.Errorf("it did not say %q:\n%s", says, stderr)
	}
	if took := time.Since(begin); took > d {
		t.Errorf("it took %s", took)
	}
}

func TestKilledConnectorEndsSessionsAndComesBack(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	cmd, stderr := c.longSession()
	s.connector.stop(syscall.SIGKILL)
	endsWith255(t, cmd, stderr, "sshgate: the connection to web1 was lost", 15*time.Second)
	r := run1(t, c.ssh("gate", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "web1 is offline") {
		t.Errorf("without a connector: %+v", r)
	}
	s.startConnector()
	s.waitForOrigins(1)
	must(t, c.ssh("gate", "true"))
}

func TestKilledGatewayComesBackWithItsSignIns(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	cmd, stderr := c.longSession()
	s.gateway.stop(syscall.SIGKILL)
	endsWith255(t, cmd, stderr, "", 15*time.Second)
	begin := time.Now()
	s.startGateway()
	s.waitForTunnels(2)
	s.waitForOrigins(1)
	t.Logf("both tunnels were back after %s", time.Since(begin).Round(time.Millisecond))
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "echo back")); r.stdout != "back\n" {
		t.Errorf("the key was forgotten: %+v", r)
	}
}

func TestKilledOriginSSHD(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	s.sshd.stop(syscall.SIGKILL)
	r := run1(t, c.ssh("gate", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "web1 cannot be reached by its connector") {
		t.Errorf("without sshd: %+v", r)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{ssh: "  drain_timeout: 2s"})
	c := s.signedIn(t)
	quick := c.ssh("gate", "echo up; sleep 1; echo finished")
	quickOut := newOutput()
	quick.Stdout = quickOut
	if err := quick.Start(); err != nil {
		t.Fatal(err)
	}
	slow, stderr := c.longSession()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := quickOut.wait(ctx, func(s string) string { return s }); err != nil {
		t.Fatal(err)
	}
	waiting := s.newClient(t).ssh("gate", "true")
	waitingErr := newOutput()
	waiting.Stderr = waitingErr
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := waitingErr.wait(ctx, signInURL.FindString); err != nil {
		t.Fatal(err)
	}
	if err := s.gateway.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = waiting.Wait()
	if !strings.Contains(waitingErr.String(), "the gateway is shutting down") {
		t.Errorf("who waits for a sign-in was told:\n%s", waitingErr)
	}
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.sshPort)); err == nil {
		conn.Close()
		t.Error("a new connection was taken during the drain")
	}
	if err := quick.Wait(); err != nil || !strings.Contains(quickOut.String(), "finished") {
		t.Errorf("a session within the grace period: %v, %q", err, quickOut)
	}
	endsWith255(t, slow, stderr, "sshgate: the gateway is shutting down", 10*time.Second)
	<-s.gateway.done
	if s.gateway.err != nil {
		t.Errorf("the gateway ended with %v", s.gateway.err)
	}
}

func TestGarbageBeforeTheVersion(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{ssh: "  handshake_timeout: 2s"})
	address := fmt.Sprintf("127.0.0.1:%d", s.sshPort)
	random := make([]byte, 1<<16)
	_, _ = rand.Read(random)
	for name, garbage := range map[string][]byte{
		"nothing":      nil,
		"random":       random,
		"http":         []byte("GET / HTTP/1.1\r\nHost: gate\r\n\r\n"),
		"endless line": bytes.Repeat([]byte("a"), 1<<16),
		"tls":          {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03},
		"bad kex":      append([]byte("SSH-2.0-x\r\n"), random...),
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = conn.Write(garbage) // the gateway may hang up on the way
		if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
			t.Errorf("%s: the gateway did not hang up", name)
		}
		conn.Close()
	}
	// The same on the tunnel's port.
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.tlsPort))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write(random)
	conn.Close()
	s.signedIn(t)
}

func TestChangedHostKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	s.sshd.stop(syscall.SIGKILL)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		for _, suffix := range []string{"", ".pub"} {
			if err := os.Remove(filepath.Join(s.sshd.dir, "host_"+kind+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.sshd = startSSHD(t, s.path("sshd"), s.path("user_ca.pub"), s.sshd.port, "")
	refused := func(when string) {
		t.Helper()
		r := run1(t, c.ssh("gate", "true"))
		if r.code != 255 || !strings.Contains(r.stderr, "the host key of web1 has changed") {
			t.Errorf("%s: %+v", when, r)
		}
	}
	refused("before the connector has noticed")
	s.connector.stop(syscall.SIGTERM)
	s.startConnector()
	eventually(t, "the connector's log says what to do", 20*time.Second, func() error {
		if !strings.Contains(s.connector.out.String(), "sshgated hostkeys forget web1") {
			return fmt.Errorf("it does not: %s", s.connector.out)
		}
		return nil
	})
	refused("after the connector has reported the new keys")
	s.sshgated("hostkeys", "forget", "--config", s.path("gateway.yaml"), "web1")
	s.connector.stop(syscall.SIGTERM)
	s.startConnector()
	s.waitForOrigins(1)
	must(t, c.ssh("gate", "true"))
}

func TestOriginThatDoesNotTrustTheCA(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{sshd: "TrustedUserCAKeys none"})
	c := s.newClient(t)
	r := c.signInWith(c.ssh("gate", "true"), alice, approveAs(alice))
	if r.code != 255 || !strings.Contains(r.stderr, "TrustedUserCAKeys") {
		t.Errorf("exit %d:\n%s", r.code, r.stderr)
	}
}

func TestOriginByKeyFileAndByAgent(t *testing.T) {
	t.Parallel()
	need(t, "ssh-agent", "ssh-add")
	dir := t.TempDir()
	key := filepath.Join(dir, "origin_key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	trusting := fmt.Sprintf("TrustedUserCAKeys none\nAuthorizedKeysFile %s.pub", key)

	t.Run("key", func(t *testing.T) {
		s := newStack(t, stackOptions{sshd: trusting, origins: "origins:\n  - {name: web1, auth: key, key_file: " + key + "}"})
		c := s.signedIn(t)
		if got := must(t, c.ssh("gate", "echo by key")); got != "by key\n" {
			t.Errorf("printed %q", got)
		}
	})
	t.Run("agent", func(t *testing.T) {
		s := newStack(t, stackOptions{sshd: trusting, origins: "origins:\n  - {name: web1, auth: agent}"})
		c := s.newClient(t)
		r := c.signInWith(c.ssh("gate", "true"), alice, approveAs(alice))
		if r.code != 255 || !strings.Contains(r.stderr, "ssh -A ") {
			t.Errorf("without an agent: exit %d\n%s", r.code, r.stderr)
		}
		socket := c.startAgent(key)
		for _, extra := range [][]string{nil, {"-tt"}} {
			cmd := c.ssh(append(append([]string{"-A"}, extra...), "gate", "echo by agent; ssh-add -l")...)
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
			if got := must(t, cmd); !strings.Contains(got, "by agent") || !strings.Contains(got, "ED25519") {
				t.Errorf("printed %q", got)
			}
		}
		cmd := c.command("sftp", "-q", "-F", c.config, "-o", "ForwardAgent=yes", "-b", write(t, filepath.Join(dir, "batch"), "pwd\n"), "gate")
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
		must(t, cmd)
	})
}

// TestCertificateSaysWho reads what the origin's sshd logs of the certificate.
func TestCertificateSaysWho(t *testing.T) {
	t.Parallel()
	s := sharedStack(t)
	c := s.signedIn(t)
	must(t, c.ssh("gate", "true"))
	scanner := bufio.NewScanner(strings.NewReader(s.sshd.out.String()))
	for scanner.Scan() {
		if line := scanner.Text(); strings.Contains(line, "Accepted publickey for "+s.login) &&
			strings.Contains(line, "identity=alice@example.com") && strings.Contains(line, "ID session=c-") {
			return
		}
	}
	t.Errorf("sshd's log does not name alice and the session:\n%s", tail(s.sshd.out.String(), 3000))
}

// TestRevokedConnector: what is revoked while it is up is out within a second, and
// is told why when it comes back.
func TestRevokedConnector(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	config := []string{"--config", s.path("gateway.yaml")}
	list := s.sshgated(append([]string{"connector", "list"}, config...)...)
	if !strings.Contains(list, "rack1") || !strings.Contains(list, "good") {
		t.Errorf("the list:\n%s", list)
	}
	session, stderr := c.longSession()
	begin := time.Now()
	s.sshgated(append([]string{"connector", "revoke", "rack1"}, config...)...)
	endsWith255(t, session, stderr, "the connection to web1 was lost: the gateway no longer lets its connector in", 15*time.Second)
	t.Logf("the session ended %s after the command", time.Since(begin).Round(time.Millisecond))
	eventually(t, "the connector's log says why", 20*time.Second, func() error {
		if !strings.Contains(s.connector.out.String(), "was revoked on") {
			return fmt.Errorf("it does not: %s", s.connector.out)
		}
		return nil
	})
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true")); r.code != 255 || !strings.Contains(r.stderr, "web1 is offline") {
		t.Errorf("afterwards: %+v", r)
	}
	if events := s.events(t, "credential"); len(events) == 0 || events[0]["identity"] != "connector rack1" || events[0]["level"] != "warn" {
		t.Errorf("events: %v", events)
	}
	if list := s.sshgated(append([]string{"connector", "list", "--all"}, config...)...); !strings.Contains(list, "revoked") {
		t.Errorf("the list:\n%s", list)
	}
	// Another certificate lets it in again.
	s.sshgated(append([]string{"connector-cert", "--name", "rack1", "--hostname", "web1", "--out", s.path("connector"), "--force"}, config...)...)
	s.waitForOrigins(1)
	must(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
}

// TestConnectorReloads: SIGHUP changes what is published, and a mistake does not.
func TestConnectorReloads(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{hostnames: []string{"db1"}})
	file := s.path("connector/connector.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(text, wants string) {
		t.Helper()
		write(t, file, text)
		if err := s.connector.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the connector says so", 10*time.Second, func() error {
			if !strings.Contains(s.connector.out.String(), wants) {
				return fmt.Errorf("it says %s", tail(s.connector.out.String(), 500))
			}
			return nil
		})
	}
	reload(string(before)+"  - name: db1\n    url: tcp://127.0.0.1:5432\n", "the configuration was read again")
	s.waitForOrigins(2)
	reload(string(before)+"  - nonsense\n", "the configuration cannot be used; what was published before stays")
	s.waitForOrigins(2)
	reload(string(before), `"origins":1`)
	s.waitForOrigins(1)
	must(t, s.signedIn(t).ssh("-o", "BatchMode=yes", "gate", "true"))
}

// TestConnectorWithoutAFile has all that it needs on its command line.
func TestConnectorWithoutAFile(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	s.connector.stop(syscall.SIGTERM)
	if err := os.Remove(s.path("connector/connector.yaml")); err != nil {
		t.Fatal(err)
	}
	s.connector = start(t, sshgateBin, "connector", "run", "--gateway", fmt.Sprintf("127.0.0.1:%d", s.tlsPort), "--cert-dir", s.path("connector"),
		"--hostname", "web1", "--url", fmt.Sprintf("ssh://127.0.0.1:%d", s.sshd.port), "--hostname", "web1:9100", "--url", "unix:///run/nothing.sock", "--status-socket", "off")
	s.waitForOrigins(2)
	must(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
}
