package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestDropbearClient(t *testing.T) {
	t.Parallel()
	need(t, "dbclient", "dropbearkey")
	s := sharedStack(t)
	c := s.newClient(t)
	key := filepath.Join(c.home, "dropbear_key")
	must(t, c.command("dropbearkey", "-t", "ed25519", "-f", key))
	dbclient := func() *exec.Cmd {
		return c.command("dbclient", "-y", "-y", "-i", key, "-p", fmt.Sprint(s.sshPort), s.login+"+web1@127.0.0.1", "echo hello; exit 3")
	}
	r := c.signInWith(dbclient(), alice, approveAs(alice))
	if r.stdout != "hello\n" || r.code != 3 {
		t.Errorf("first: %+v", r)
	}
	if r = run1(t, dbclient()); r.stdout != "hello\n" || r.code != 3 || signInURL.MatchString(r.stderr) {
		t.Errorf("second: %+v", r)
	}
}

func TestPuTTYClient(t *testing.T) {
	t.Parallel()
	need(t, "plink", "puttygen")
	s := sharedStack(t)
	c := s.newClient(t)
	key := filepath.Join(c.home, "key.ppk")
	must(t, c.command("puttygen", c.key, "-o", key))
	fingerprint := strings.Fields(must(t, c.command("ssh-keygen", "-l", "-f", s.path("data/hostkeys/ssh_host_ed25519_key"))))[1]
	plink := func() *exec.Cmd {
		return c.command("plink", "-batch", "-hostkey", fingerprint, "-i", key, "-P", fmt.Sprint(s.sshPort), s.login+"+web1@127.0.0.1", "echo hello; exit 3")
	}
	r := c.signInWith(plink(), alice, approveAs(alice))
	if !strings.Contains(r.stdout, "hello\n") || r.code != 3 {
		t.Errorf("first: %+v", r)
	}
	if r = run1(t, plink()); !strings.Contains(r.stdout, "hello\n") || r.code != 3 || signInURL.MatchString(r.stderr) {
		t.Errorf("second: %+v", r)
	}
}

// TestNoKeyAtAll signs in each time, since nothing can be remembered.
func TestNoKeyAtAll(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).newClient(t)
	for range 2 {
		r := c.signInWith(c.ssh("-o", "PubkeyAuthentication=no", "gate", "echo hello"), alice, approveAs(alice))
		if r.stdout != "hello\n" || strings.Contains(r.stderr, "remembered") {
			t.Errorf("%+v", r)
		}
	}
}

// TestSecondKeyIsTheOneRemembered offers an unknown key before the known one.
func TestSecondKeyIsTheOneRemembered(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	other := filepath.Join(c.home, "other")
	must(t, c.command("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", other))
	cmd := c.command("ssh", "-F", "/dev/null", "-o", "UserKnownHostsFile="+c.home+"/known_hosts", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-i", other, "-i", c.key, "-p", fmt.Sprint(c.sshPort), c.login+"+web1@127.0.0.1", "echo silent")
	if got := must(t, cmd); got != "silent\n" {
		t.Errorf("printed %q", got)
	}
}
