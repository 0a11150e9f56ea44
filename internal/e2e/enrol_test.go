package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/devidp/approve"
)

const enrolPolicy = `
policy:
  session_duration: 1h
  publish:
    - name: operators
      include: [{email: alice@example.com}]
      hostnames: [web2, "*.lab"]
  applications:
    - name: servers
      hosts: [web1, web2, "*.lab"]
      rules:
        - name: alice
          action: allow
          include: [{email: alice@example.com}]
          logins: [LOGIN]
          end_to_end: true
`

// newEnrolStack is a stack where alice lets connectors in.
func newEnrolStack(t *testing.T, more string) *stack {
	t.Helper()
	return newStack(t, stackOptions{policy: enrolPolicy, origins: more, tunnel: "  advertise: 127.0.0.1:TLSPORT"})
}

// enrolURL is the address with the code that a machine shows.
var enrolURL = regexp.MustCompile(`https://\S+/enrol\?code=\S+`)

// pin is what a machine trusts the gateway by.
func (s *stack) pin() string {
	return strings.TrimSpace(s.sshgated("connector", "pin", "--config", s.path("gateway.yaml")))
}

// connectorLogin is `sshgate connector login` for a directory.
func (s *stack) connectorLogin(c *client, dir string, args ...string) *exec.Cmd {
	return c.command(sshgateBin, append([]string{"connector", "login", "--gateway", fmt.Sprintf("127.0.0.1:%d", s.tlsPort), "--ca-pin", s.pin(),
		"--cert-dir", dir, "--url", fmt.Sprintf("ssh://127.0.0.1:%d", s.sshd.port)}, args...)...)
}

// pages is a client that trusts the gateway's own authority.
func (s *stack) pages(t *testing.T) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(s.path("connector/" + connector.GatewayCAFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
}

// review walks the pages without a browser until the person has signed in and sees
// the machine.
func (s *stack) review(t *testing.T, address, email string) (*approve.Browser, *approve.Page) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := approve.NewBrowser(s.pages(t))
	page, err := b.Get(ctx, address)
	if err != nil || len(page.Forms) != 1 {
		t.Fatalf("%v, %+v", err, page)
	}
	page, err = b.Submit(ctx, page, &page.Forms[0], nil)
	if err != nil || len(page.Links) != 1 {
		t.Fatalf("%v, %+v", err, page)
	}
	if err := approve.Approve(ctx, nil, page.Links[0], email, password); err != nil {
		t.Fatal(err)
	}
	machine := page.URL.String()
	eventually(t, "the page goes on", 20*time.Second, func() error {
		if page, err = b.Get(ctx, machine); err != nil {
			return err
		}
		if len(page.Links) > 0 {
			return errors.New("it still waits")
		}
		return nil
	})
	return b, page
}

// decide presses a button of the page that shows the machine.
func decide(t *testing.T, b *approve.Browser, page *approve.Page, decision string, values url.Values) *approve.Page {
	t.Helper()
	if len(page.Forms) != 1 || !page.Forms[0].HasButton("decision", decision) {
		t.Fatalf("the page has no button %s: %s", decision, page.Text)
	}
	all := url.Values{"decision": {decision}}
	for name, value := range values {
		all[name] = value
	}
	page, err := b.Submit(t.Context(), page, &page.Forms[0], all)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// startLogin starts a login and returns the address that it shows.
func startLogin(t *testing.T, cmd *exec.Cmd) (address string, wait func() result) {
	t.Helper()
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	address, err := stderr.wait(ctx, enrolURL.FindString)
	if err != nil {
		_ = cmd.Process.Kill()
		t.Fatal(err)
	}
	return address, func() result {
		_ = cmd.Wait() // the code says
		return result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	}
}

func TestEnrolBySignIn(t *testing.T) {
	t.Parallel()
	s := newEnrolStack(t, "")
	c := s.newClient(t)
	dir := filepath.Join(c.home, "rack2")
	address, wait := startLogin(t, s.connectorLogin(c, dir, "--hostname", "web2", "--name", "rack2"))
	b, page := s.review(t, address, alice)
	host, _ := os.Hostname()
	_, code, _ := strings.Cut(address, "code=")
	for _, want := range []string{"alice@example.com", host, "127.0.0.1", "web2", code} {
		if !strings.Contains(page.Text, want) {
			t.Errorf("the page does not name %s:\n%s", want, page.Text)
		}
	}
	if page = decide(t, b, page, "yes", nil); !strings.Contains(page.Text, "let in") {
		t.Fatalf("%s: %s", page.Alert, page.Text)
	}
	r := wait()
	if r.code != 0 || !strings.Contains(r.stdout, "This machine is the connector rack2") || !strings.Contains(r.stdout, "It may publish web2.") {
		t.Fatalf("%+v", r)
	}
	for name, mode := range map[string]os.FileMode{
		"connector.key": 0o600, "connector.crt": 0o644, "gateway-ca.crt": 0o644, "user-ca.pub": 0o644, "connector.yaml": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if ca := strings.TrimSpace(readFile(t, filepath.Join(dir, "user-ca.pub"))); !strings.HasPrefix(readFile(t, s.path("user_ca.pub")), ca) {
		t.Errorf("the user CA is %s", ca)
	}

	check := must(t, c.command(sshgateBin, "connector", "check", "--config", filepath.Join(dir, "connector.yaml"), "--login", s.login))
	for _, want := range []string{"and takes the certificate", "trusts     the gateway's user CA"} {
		if !strings.Contains(check, want) {
			t.Errorf("check does not print %s:\n%s", want, check)
		}
	}
	start(t, sshgateBin, "connector", "run", "--config", filepath.Join(dir, "connector.yaml"), "--status-socket", "off")
	s.waitForOrigins(2)
	c.signIn(alice)
	if got := must(t, c.ssh("-o", "BatchMode=yes", s.login+"+web2@gate", "echo through")); got != "through\n" {
		t.Errorf("%q", got)
	}
	list := s.sshgated("connector", "show", "--config", s.path("gateway.yaml"), "rack2")
	for _, want := range []string{"let in by alice@example.com", "origin       web2", "machine      " + host} {
		if !strings.Contains(list, want) {
			t.Errorf("connector show has no %q:\n%s", want, list)
		}
	}

	t.Run("on record", func(t *testing.T) {
		events := s.events(t, "enrolment")
		if len(events) != 2 || events[1]["identity"] != alice || events[1]["allowed"] != true || events[1]["rule"] != "operators" {
			t.Errorf("%v", events)
		}
	})
	t.Run("nothing is overwritten", func(t *testing.T) {
		r := run1(t, s.connectorLogin(c, dir, "--hostname", "web2"))
		if r.code != 1 || !strings.Contains(r.stderr, "exists: this machine was let in before; give --force") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("another pin", func(t *testing.T) {
		r := run1(t, s.connectorLogin(c, filepath.Join(c.home, "other"), "--ca-pin", "sha256:"+strings.Repeat("0", 64)))
		if r.code != 6 || !strings.Contains(r.stderr, "is not the one with that pin") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the name of another's connector", func(t *testing.T) {
		address, wait := startLogin(t, s.connectorLogin(c, filepath.Join(c.home, "third"), "--hostname", "box.lab", "--name", "rack1"))
		b, page := s.review(t, address, alice)
		if page = decide(t, b, page, "yes", nil); !strings.Contains(page.Alert, "Another connector is called rack1") {
			t.Errorf("%q", page.Alert)
		}
		if page = decide(t, b, page, "yes", url.Values{"name": {"rack2"}}); !strings.Contains(page.Alert, "replica") {
			t.Errorf("%q", page.Alert)
		}
		if page = decide(t, b, page, "yes", url.Values{"name": {"rack3"}}); !strings.Contains(page.Text, "let in") {
			t.Errorf("%s: %s", page.Alert, page.Text)
		}
		if r := wait(); r.code != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a replica", func(t *testing.T) {
		address, wait := startLogin(t, s.connectorLogin(c, filepath.Join(c.home, "replica"), "--hostname", "web2", "--name", "rack2"))
		b, page := s.review(t, address, alice)
		if page = decide(t, b, page, "yes", url.Values{"replica": {"yes"}}); !strings.Contains(page.Text, "let in") {
			t.Fatalf("%s: %s", page.Alert, page.Text)
		}
		if r := wait(); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		replica := start(t, sshgateBin, "connector", "run", "--config", filepath.Join(c.home, "replica/connector.yaml"), "--status-socket", "off")
		s.waitForTunnels(6)
		replica.stop(syscall.SIGTERM)
	})
	t.Run("the domains to choose from", func(t *testing.T) {
		address, wait := startLogin(t, s.connectorLogin(c, filepath.Join(c.home, "choice"), "--name", "rack4", "--json"))
		b, page := s.review(t, address, alice)
		for _, want := range []string{"web2", "*.lab", ".lab"} {
			if !strings.Contains(page.Text, want) {
				t.Errorf("the page does not offer %s: %s", want, page.Text)
			}
		}
		if page = decide(t, b, page, "yes", url.Values{"hostname": nil, "hostnames": {"bank.example.com"}}); !strings.Contains(page.Alert, "You may not hand out bank.example.com") {
			t.Errorf("%q", page.Alert)
		}
		if page = decide(t, b, page, "yes", url.Values{"hostname": nil, "hostnames": {"a.lab, b.lab"}}); !strings.Contains(page.Text, "let in") {
			t.Fatalf("%s: %s", page.Alert, page.Text)
		}
		var got struct{ Hostnames []string }
		if r := wait(); r.code != 0 || json.Unmarshal([]byte(r.stdout), &got) != nil || !slices.Equal(got.Hostnames, []string{"a.lab", "b.lab"}) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("denied", func(t *testing.T) {
		address, wait := startLogin(t, s.connectorLogin(c, filepath.Join(c.home, "denied"), "--hostname", "c.lab", "--name", "rack5"))
		b, page := s.review(t, address, alice)
		decide(t, b, page, "report", nil)
		if r := wait(); r.code != 4 || !strings.Contains(r.stderr, "said no") {
			t.Errorf("%+v", r)
		}
		events := s.events(t, "enrolment")
		if last := events[len(events)-1]; last["allowed"] == true || !strings.Contains(fmt.Sprint(last["reason"]), "reported as suspicious") {
			t.Errorf("%v", last)
		}
	})
	t.Run("somebody who may not", func(t *testing.T) {
		cmd := s.connectorLogin(c, filepath.Join(c.home, "bobs"), "--hostname", "d.lab", "--name", "rack6")
		address, wait := startLogin(t, cmd)
		_, page := s.review(t, address, bob)
		if !strings.Contains(page.Text, "You may not let connectors in") || len(page.Forms) > 0 {
			t.Errorf("%s", page.Text)
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		if r := wait(); r.code == 0 {
			t.Errorf("%+v", r)
		}
		if _, err := os.Stat(filepath.Join(c.home, "bobs/connector.key")); err == nil {
			t.Error("a key was left behind")
		}
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Join tokens, and what is refused: a token twice, a name of another connector, a
// name that the certificate lacks, a certificate that has expired.
func TestEnrolByTokenAndIntruders(t *testing.T) {
	t.Parallel()
	s := newEnrolStack(t, "")
	c := s.newClient(t)
	config := s.path("gateway.yaml")
	token := s.sshgated("connector", "token", "create", "--config", config, "--hostname", "*.lab", "--hostname", "web1")
	join := func(dir, name string) result {
		cmd := s.connectorLogin(c, filepath.Join(c.home, dir), "--token-file", "-", "--name", name, "--hostname", "web1", "--hostname", "box.lab")
		cmd.Stdin = strings.NewReader(token)
		return run1(t, cmd)
	}
	if r := join("one", "rack1"); r.code != 1 || !strings.Contains(r.stderr, "another connector is called rack1") {
		t.Fatalf("the name of another: %+v", r)
	}
	if r := join("one", "rogue"); r.code != 1 || !strings.Contains(r.stderr, "web1 belongs to the connector rack1") {
		t.Fatalf("the hostname of another: %+v", r)
	}
	// An administrator may give a token with a name: then it is for that connector. What
	// another has published it still does not get.
	token = s.sshgated("connector", "token", "create", "--config", config, "--hostname", "*.lab", "--hostname", "web1", "--name", "rogue")
	if r := join("one", ""); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := join("two", ""); r.code != 4 || !strings.Contains(r.stderr, "the join token is unknown, used up, expired or revoked") {
		t.Fatalf("the token a second time: %+v", r)
	}
	eventually(t, "the replay is on record", 10*time.Second, func() error {
		events := s.events(t, "enrolment")
		if last := events[len(events)-1]; last["allowed"] == true || !strings.Contains(fmt.Sprint(last["detail"]), "join token jt-") {
			return fmt.Errorf("the last is %v", last)
		}
		return nil
	})

	rogue := filepath.Join(c.home, "one/connector.yaml")
	write(t, rogue, readFile(t, rogue)+fmt.Sprintf("  - name: bank\n    url: ssh://127.0.0.1:%d\n", s.sshd.port))
	p := start(t, sshgateBin, "connector", "run", "--config", rogue, "--status-socket", "off", "--log-format", "json")
	s.waitForOrigins(2) // web1 of rack1, and box.lab
	refused := map[string]string{}
	eventually(t, "what is refused is on record", 10*time.Second, func() error {
		for _, e := range s.events(t, "origin.refused") {
			refused[fmt.Sprint(e["origin"])] = fmt.Sprint(e["identity"], ": ", e["reason"])
		}
		if len(refused) != 2 {
			return fmt.Errorf("%v", refused)
		}
		return nil
	})
	if !strings.Contains(refused["web1"], "connector rogue: it belongs to the connector rack1") || !strings.Contains(refused["bank"], "does not name it") {
		t.Errorf("%v", refused)
	}
	for _, want := range []string{"it belongs to the connector rack1; an administrator can change that", "does not name it, only:"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("the connector's log has no %q", want)
		}
	}
	c.signIn(alice)
	must(t, c.ssh("-o", "BatchMode=yes", s.login+"+box.lab@gate", "true"))

	t.Run("released by an administrator", func(t *testing.T) {
		s.connector.stop(syscall.SIGTERM)
		s.waitForOrigins(1)
		s.sshgated("connector", "release", "--config", config, "web1")
		_ = p.cmd.Process.Signal(syscall.SIGHUP) // it registers again
		s.waitForOrigins(2)
	})
	t.Run("an expired certificate", func(t *testing.T) {
		dir := t.TempDir()
		ca, err := connector.OpenCA(s.path("data/tunnel-ca"), func() time.Time { return time.Now().Add(-2 * time.Hour) })
		if err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM, err := ca.IssueConnector("old", []string{"old.lab"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "connector.crt"), string(certPEM))
		write(t, filepath.Join(dir, "connector.key"), string(keyPEM))
		if err := os.Chmod(filepath.Join(dir, "connector.key"), 0o600); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "gateway-ca.crt"), string(ca.CertPEM()))
		write(t, filepath.Join(dir, "connector.yaml"), fmt.Sprintf("gateway: 127.0.0.1:%d\ngateway_ca_file: gateway-ca.crt\norigins: [{name: old.lab, url: 'ssh://127.0.0.1:%d'}]\n", s.tlsPort, s.sshd.port))
		p := start(t, sshgateBin, "connector", "run", "--config", filepath.Join(dir, "connector.yaml"), "--status-socket", "off")
		eventually(t, "it is on record", 10*time.Second, func() error {
			for _, e := range s.events(t, "credential") {
				if e["identity"] == "connector old" && strings.Contains(fmt.Sprint(e["reason"]), "expired") {
					return nil
				}
			}
			return errors.New("it is not")
		})
		eventually(t, "the connector says so", 10*time.Second, func() error {
			if !strings.Contains(p.out.String(), "this connector's certificate expired on") {
				return errors.New(p.out.String())
			}
			return nil
		})
	})
}

// A certificate that lives for a minute is renewed twice, by real processes, while a
// session goes on.
func TestCertificateRenewsItself(t *testing.T) {
	t.Parallel()
	s := newEnrolStack(t, "connectors: {certificate_ttl: 1m}\n")
	c := s.newClient(t)
	dir := filepath.Join(c.home, "brief")
	token := s.sshgated("connector", "token", "create", "--config", s.path("gateway.yaml"), "--hostname", "brief.lab")
	cmd := s.connectorLogin(c, dir, "--token-file", "-", "--name", "brief")
	cmd.Stdin = strings.NewReader(token)
	must(t, cmd)
	start(t, sshgateBin, "connector", "run", "--config", filepath.Join(dir, "connector.yaml"), "--status-socket", "off")
	s.waitForOrigins(2)
	c.signIn(alice)
	session := c.ssh("-o", "BatchMode=yes", s.login+"+brief.lab@gate", "cat")
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := newOutput()
	session.Stdout = out
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, "two renewals", 2*time.Minute, func() error {
		if _, err := fmt.Fprintln(in, "still here"); err != nil {
			return err
		}
		list := s.sshgated("connector", "list", "--config", s.path("gateway.yaml"), "--all", "--json")
		if n := strings.Count(list, `"via":"renewal"`); n < 2 {
			return fmt.Errorf("%d renewals", n)
		}
		return nil
	})
	t.Logf("measured: two renewals of a certificate that lives for 1m0s after %s", time.Since(begin).Round(time.Second))
	must(t, c.ssh("-o", "BatchMode=yes", s.login+"+brief.lab@gate", "true"))
	in.Close()
	if err := session.Wait(); err != nil || !strings.Contains(out.String(), "still here") {
		t.Errorf("the session: %v, %q", err, out)
	}
	for _, e := range s.events(t, "origin.down") {
		t.Errorf("an origin was down: %v", e)
	}
}
