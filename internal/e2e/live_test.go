package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// livePolicy lets alice and bob in, in all three modes.
const livePolicy = `
policy:
  session_duration: 1h
  applications:
    - name: servers
      hosts: [web1]
      rules:
        - name: alice
          action: allow
          include: [{email: alice@example.com}]
          logins: [LOGIN]
          end_to_end: true
          ports: [ECHO]
        - name: bob
          action: allow
          include: [{email: bob@example.com}]
          logins: [LOGIN]
        - name: backup
          action: service
          include: [{service_token: backup}]
          logins: [LOGIN]
          end_to_end: true
          ports: [ECHO]
`

// withinASecond is the promise of what is live, from the change until the client's
// program has ended.
const withinASecond = time.Second

// edit replaces parts of the gateway's configuration as editors do, by a new file.
func (s *stack) edit(t testing.TB, oldnew ...string) (changed time.Time) {
	t.Helper()
	path := s.path("gateway.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path+".new", strings.NewReplacer(oldnew...).Replace(string(text)))
	changed = time.Now()
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return changed
}

// ended waits until the program is done, and measures since when.
func ended(t testing.TB, what string, changed time.Time, wait func() error) {
	t.Helper()
	_ = wait() // it was cut off
	took := time.Since(changed).Round(time.Millisecond)
	t.Logf("%s ended %s after the change", what, took)
	if took > withinASecond {
		t.Errorf("%s ended only after %s", what, took)
	}
}

// says fails the test unless the session's terminal has the line, at its end.
func (k *talk) says(t testing.TB, text string) {
	t.Helper()
	if all := k.stderr.String(); !strings.Contains(all, "\r\nsshgate: "+text) || !strings.HasSuffix(all, ")\r\n") || !strings.Contains(all, "(request r-") {
		t.Errorf("it does not say %q:\n%q", text, all)
	}
	if code := k.cmd.ProcessState.ExitCode(); code != 255 {
		t.Errorf("exit %d, want 255", code)
	}
}

// passage is a program whose connection to the echo service is open.
func (c *helperClient) passage(as func(*exec.Cmd) *exec.Cmd) *exec.Cmd {
	c.t.Helper()
	reached := c.stack.reached.Load()
	cmd := as(c.access("ssh", "--hostname", fmt.Sprintf("web1:%d", c.stack.echo)))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "hello"); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "the service is reached", 20*time.Second, func() error {
		if c.stack.reached.Load() == reached {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	return cmd
}

func newLiveStack(t *testing.T) *helperStack {
	t.Helper()
	h := newHelperStack(t, "")
	h.edit(t, helperPolicyOf(h), strings.NewReplacer("LOGIN", h.login, "ECHO", fmt.Sprint(h.echo)).Replace(livePolicy))
	eventually(t, "the policy is in force", 5*time.Second, func() error {
		if !strings.Contains(h.gateway.out.String(), "the configuration was read again") {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	return h
}

func helperPolicyOf(h *helperStack) string {
	return strings.NewReplacer("LOGIN", h.login, "ECHO", fmt.Sprint(h.echo)).Replace(helperPolicy)
}

// TestPolicyChangeEndsConnections: of what is open in all three modes that ends which
// is no longer allowed, within a second, and nothing else.
func TestPolicyChangeEndsConnections(t *testing.T) {
	h := newLiveStack(t)
	helper := h.newHelper(t)
	helper.login(alice)
	c := &client{stack: h.stack, t: t, home: helper.home, config: helper.config, key: helper.key}
	c.signIn(alice)
	c.knowOrigin("web1", h.sshd.dir)
	other := h.newClient(t)
	other.signIn(bob)

	stays, session := other.talk(), c.talk()
	jumped := c.background("web1", "exec sleep 300")
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.background("-N", "-L", fmt.Sprintf("%s:127.0.0.1:%d", local, h.echo), "gate")
	var forward net.Conn
	eventually(t, "the forward is up", 10*time.Second, func() (err error) {
		forward, err = net.Dial("tcp", local)
		return err
	})
	defer forward.Close()
	passage := helper.passage(func(cmd *exec.Cmd) *exec.Cmd { return cmd })
	h.waitForEvents(t, "session.start", 7) // two of the sign-ins

	changed := h.edit(t, "          end_to_end: true\n", "", fmt.Sprintf("          ports: [%d]\n", h.echo), "")
	ended(t, "ssh -J", changed, func() error { <-jumped.done; return nil })
	ended(t, "the passage", changed, passage.Wait)
	session.goesOn(t)
	stays.goesOn(t)

	changed = h.edit(t, "email: alice@example.com", "email: carol@example.com")
	ended(t, "the session", changed, session.cmd.Wait)
	session.says(t, "your access to web1 has ended: the access policy has changed (request r-")
	_ = forward.SetReadDeadline(time.Now().Add(10 * time.Second))
	ended(t, "the forward", changed, func() error { _, err := io.ReadAll(forward); return err })
	stays.goesOn(t)
	h.checkEndings(t)
}

// checkEndings looks at the record: a decision and an end for each of the four.
func (h *helperStack) checkEndings(t *testing.T) {
	t.Helper()
	reasons := make(map[any]string)
	for _, end := range h.waitForEvents(t, "session.end", 6) {
		if reason := fmt.Sprint(end["reason"]); strings.Contains(reason, "policy has changed") {
			reasons[end["request"]] = reason
		}
	}
	if len(reasons) != 4 {
		t.Errorf("ended by the policy: %v", reasons)
	}
	denied := 0
	for _, decision := range h.events(t, "decision") {
		if decision["allowed"] == true {
			continue
		}
		if denied++; reasons[decision["request"]] != decision["reason"] {
			t.Errorf("a decision that ended nothing: %v", decision)
		}
	}
	if denied != 4 {
		t.Errorf("%d decisions denied, want 4", denied)
	}
}

// TestTerminalIsToldWhy: a shell with a terminal gets the line, too.
func TestTerminalIsToldWhy(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	shell := c.ssh("-tt", "-o", "BatchMode=yes", "gate", "echo ready; exec sleep 300")
	out := newOutput()
	shell.Stdout, shell.Stderr = out, out
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shell is up", 10*time.Second, func() error {
		if !strings.Contains(out.String(), "ready") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	changed := s.edit(t, "email: alice@example.com", "email: bob@example.com")
	_ = shell.Wait()
	t.Logf("the shell ended %s after the change", time.Since(changed).Round(time.Millisecond))
	if !strings.Contains(out.String(), "\r\nsshgate: your access to web1 has ended: the access policy has changed (request r-") {
		t.Errorf("%q", out)
	}
}

// TestBadConfigurationChangesNothing: it is in the log, the metrics and the detail of
// /readyz, and that is all.
func TestBadConfigurationChangesNothing(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	k := s.signedIn(t).talk()
	wait := func(what string, want float64) {
		t.Helper()
		eventually(t, what, 5*time.Second, func() error {
			got, err := s.metric("sshgate_config_valid")
			if err == nil && got != want {
				err = fmt.Errorf("sshgate_config_valid is %v", got)
			}
			return err
		})
	}
	s.edit(t, "email: alice@example.com", "mail: alice@example.com", "hosts: [web1]", "hosts: [a..b]")
	wait("the bad file is noticed", 0)
	status, ready, checks, err := s.readyz()
	if err != nil || status != http.StatusOK || !ready || !strings.Contains(checks["configuration"], "a..b") || !strings.Contains(checks["configuration"], "mail") {
		t.Errorf("/readyz: %d, %v, %v, %v", status, ready, checks, err)
	}
	if log := s.gateway.out.String(); !strings.Contains(log, `"level":"error"`) || !strings.Contains(log, "the one before stays in force") {
		t.Errorf("the log has no error:\n%s", tail(log, 2000))
	}
	if n, err := s.metric(`sshgate_config_reloads_total{result="failure"}`); n != 1 || err != nil {
		t.Errorf("failures: %v, %v", n, err)
	}
	k.goesOn(t)
	s.edit(t, "mail: alice@example.com", "email: alice@example.com", "hosts: [a..b]", "hosts: [web1]")
	wait("the file is mended", 1)
	if err := s.gateway.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGHUP", 5*time.Second, func() error {
		n, err := s.metric(`sshgate_config_reloads_total{result="success"}`)
		if err == nil && n != 2 {
			err = fmt.Errorf("%v reloads", n)
		}
		return err
	})
	k.goesOn(t)
	if _, _, checks, err = s.readyz(); err != nil || checks["configuration"] != "" {
		t.Errorf("/readyz: %v, %v", checks, err)
	}
}

// TestRevocationsEndConnections: what a command of another process takes back.
func TestRevocationsEndConnections(t *testing.T) {
	h := newLiveStack(t)
	config := h.path("gateway.yaml")
	person, machine := h.newHelper(t), h.newHelper(t)
	person.signIn(alice)
	person.login(alice)
	other := h.newClient(t)
	other.signIn(bob)
	backup := h.createToken(t, "backup", "--key", machine.key+".pub")

	stays, session, job := other.talk(), person.talk(), machine.talk()
	idle := person.master()
	passage := person.passage(func(cmd *exec.Cmd) *exec.Cmd { return cmd })
	jobs := machine.passage(backup.as)

	h.sshgated("token", "revoke", "--config", config, "backup")
	changed := time.Now()
	ended(t, "the machine's session", changed, job.cmd.Wait)
	job.says(t, "your access to web1 has ended: the service token backup was revoked on ")
	ended(t, "the machine's passage", changed, jobs.Wait)
	session.goesOn(t)

	h.sshgated("logins", "revoke", "--config", config, alice)
	changed = time.Now()
	ended(t, "the session", changed, session.cmd.Wait)
	session.says(t, "your access to web1 has ended: your sign-in was revoked (request r-")
	ended(t, "the passage", changed, passage.Wait)
	ended(t, "the idle connection", changed, func() error {
		for person.ssh("-S", idle, "-O", "check", "gate").Run() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	stays.goesOn(t)
	if r := run1(t, person.ssh("-o", "BatchMode=yes", "gate", "true")); r.code != 255 || !strings.Contains(r.stderr, "this key is not signed in") {
		t.Errorf("afterwards: %+v", r)
	}
	if list := h.sshgated("logins", "list", "--config", config); strings.Contains(list, alice) || !strings.Contains(list, bob) {
		t.Errorf("logins list:\n%s", list)
	}
}
