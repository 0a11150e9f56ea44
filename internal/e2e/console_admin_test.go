package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// administrated is a stack in which bob administers and alice works.
func administrated(t *testing.T) (s *stack, admin, worker *client) {
	t.Helper()
	s = newConsoleStack(t, func(o *stackOptions) {
		o.policy += "  administrators: [{email: bob@example.com}]\n"
	})
	admin, worker = s.newClient(t), s.signedIn(t)
	admin.signIn(bob)
	return s, admin, worker
}

// sleeper runs a session that lasts, and returns how it ended.
func (c *client) sleeper() (ended <-chan result) {
	c.t.Helper()
	done := make(chan result, 1)
	cmd := c.ssh("gate", "echo sleeping; exec sleep 300")
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := stdout.wait(ctx, func(s string) string { return strings.TrimSpace(s) }); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		done <- result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	}()
	return done
}

func (c *client) waitFor(ended <-chan result) result {
	c.t.Helper()
	select {
	case r := <-ended:
		return r
	case <-time.After(20 * time.Second):
		c.t.Fatal("the session goes on")
		return result{}
	}
}

func TestConsoleOfAdministrators(t *testing.T) {
	t.Parallel()
	s, admin, worker := administrated(t)
	first := worker.sleeper()
	rows := lines(t, admin.gate("sessions --all --json").stdout)
	if len(rows) != 1 || rows[0]["identity"] != alice || rows[0]["origin"] != "web1" || rows[0]["detail"] != "exec echo sleeping; exec sleep 300" {
		t.Fatalf("sessions: %v", rows)
	}
	if r := admin.gate("sessions --json"); r.stdout != "" {
		t.Errorf("the administrator has sessions: %s", r.stdout)
	}
	if r := admin.gate(fmt.Sprintf("kill %s --json", rows[0]["session"])); r.code != 0 || r.stdout != "{\"ended\":1}\n" {
		t.Errorf("kill: %+v", r)
	}
	if r := worker.waitFor(first); r.code != 255 || !strings.Contains(r.stderr, "your access to web1 has ended: an administrator has ended this session") {
		t.Errorf("the session that was killed: %+v", r)
	}
	if r := worker.gate("whoami", "-o", "BatchMode=yes"); r.code != 0 {
		t.Errorf("whose session was killed is still signed in: %+v", r)
	}
	for command, want := range map[string]string{
		"users": "alice@example.com", "users --json": `"keys":1`, "connectors": "rack1", "connectors --json": `"publishes":["hidden1","web1","web2"]`,
		"tokens": "NAME", "events -n 500": `login.success`, "events -n 500 --json": `"kind":"command"`, "whoami": "administrator", "help": "revoke USER",
		"explain web1 --user alice@example.com": `rule "alice" allows`, "explain nowhere": "no application has origin nowhere",
	} {
		if r := admin.gate(command); r.code != 0 || !strings.Contains(r.stdout, want) {
			t.Errorf("%s: exit %d, want %s: %s%s", command, r.code, want, r.stdout, r.stderr)
		}
	}
	// Whoever is revoked loses what is open, and has to sign in again.
	master := worker.master()
	second := worker.sleeper()
	if r := admin.gate("revoke alice@example.com"); r.code != 0 || !strings.Contains(r.stdout, "alice@example.com is signed out: forgot 1 ") {
		t.Errorf("revoke: %+v", r)
	}
	if r := worker.waitFor(second); r.code != 255 || !strings.Contains(r.stderr, "your access to web1 has ended") {
		t.Errorf("the session of whom was revoked: %+v", r)
	}
	eventually(t, "the connection has ended", 10*time.Second, func() error {
		if worker.ssh("-S", master, "-O", "check", "gate").Run() == nil {
			return fmt.Errorf("the master is up")
		}
		return nil
	})
	if r := worker.gate("whoami", "-o", "BatchMode=yes"); r.code != 255 || !strings.Contains(r.stderr, "not signed in") {
		t.Errorf("after the revocation: %+v", r)
	}
	out := s.gateway.out.String()
	for _, want := range []string{`"detail":"revoke alice@example.com","allowed":true`, `"detail":"sessions --all --json","allowed":true`} {
		if !strings.Contains(out, want) {
			t.Errorf("no event has %s", want)
		}
	}
}

func TestConsoleEventsFollow(t *testing.T) {
	t.Parallel()
	_, admin, worker := administrated(t)
	cmd := admin.ssh("-o", "User=bob", "gate", "events --follow --json -n 0")
	out := newOutput()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range 20 { // until the first is followed
		must(t, worker.ssh("gate", "true"))
		if strings.Contains(out.String(), "session.end") {
			break
		}
	}
	text, err := out.wait(ctx, func(s string) string {
		if strings.Contains(s, `"kind":"session.end"`) && strings.HasSuffix(s, "\n") {
			return s
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	lines(t, text) // all of it is JSON
}

// ctl runs sshgated ctl on the gateway's machine.
func (s *stack) ctl(args ...string) result {
	s.t.Helper()
	return run1(s.t, exec.Command(sshgatedBin, append(append([]string{"ctl"}, args...), "--config", s.path("gateway.yaml"))...))
}

// TestCtl runs commands on a gateway that was started while the provider was down.
func TestCtl(t *testing.T) {
	t.Parallel()
	s := newConsoleStack(t, nil)
	worker := s.signedIn(t)
	s.provider.Close()
	s.gateway.stop(syscall.SIGTERM)
	if r := s.ctl("whoami"); r.code != 1 || !strings.Contains(r.stderr, "no gateway answers on "+s.path("data/ctl.sock")) {
		t.Errorf("without a gateway: %+v", r)
	}
	s.launchGateway()
	eventually(t, "the gateway answers", 20*time.Second, func() error {
		if r := s.ctl("whoami"); r.code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	info, err := os.Stat(s.path("data/ctl.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	s.waitForTunnels(2)
	ended := worker.sleeper() // a key that is remembered needs no provider
	for _, test := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"whoami"}, 0, "administrator", ""},
		{[]string{"whoami", "--json"}, 0, `"issuer":"sshgate:local"`, ""},
		{[]string{"ls"}, 0, "hidden1", ""},
		{[]string{"sessions", "--all", "--json"}, 0, `"identity":"alice@example.com"`, ""},
		{[]string{"users"}, 0, "alice@example.com", ""},
		{[]string{"connectors", "--json"}, 0, "rack1", ""},
		{[]string{"events", "-n", "5", "--json"}, 0, `"kind"`, ""},
		{[]string{"explain", "--user", alice, "web1"}, 0, `rule "alice" allows`, ""},
		{[]string{"kill", "nothing"}, 1, "", `no session or connection "nothing" is open`},
		{[]string{"kill"}, 2, "", "SESSION|CONNECTION"},
		{[]string{"keys"}, 1, "", "on the gateway itself"},
		{[]string{"help"}, 2, "", "unknown flag"}, // it has none
		{[]string{"users", "--nonsense"}, 2, "", "unknown flag"},
		{[]string{"revoke", alice}, 0, "ended 1 sessions", ""},
	} {
		r := s.ctl(test.args...)
		if r.code != test.code || !strings.Contains(r.stdout, test.stdout) || !strings.Contains(r.stderr, test.stderr) || test.stderr == "" && r.stderr != "" {
			t.Errorf("ctl %q: %+v", test.args, r)
		}
	}
	if r := worker.waitFor(ended); r.code != 255 || !strings.Contains(r.stderr, "your access was revoked by an administrator") {
		t.Errorf("the session of whom was revoked: %+v", r)
	}
	if out := s.gateway.out.String(); !strings.Contains(out, `"kind":"command"`) || !strings.Contains(out, fmt.Sprintf(`"identity":"uid %d (`, os.Geteuid())) {
		t.Error("the commands are not on record")
	}
}
