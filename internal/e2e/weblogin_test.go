package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// newWebStack is a stack where people sign in on the gateway's page.
func newWebStack(t *testing.T, signIn string, change func(*stackOptions)) *stack {
	t.Helper()
	o := stackOptions{policy: enrolPolicy, signIn: "  flow: web\n" + signIn, tunnel: "  advertise: 127.0.0.1:TLSPORT"}
	if change != nil {
		change(&o)
	}
	return newStack(t, o)
}

// loginURL is the address of a sign-in on the gateway's page.
var loginURL = regexp.MustCompile(`https://\S+/login/[B-Z]{4}-[B-Z]{4}`)

// find waits for what the pattern finds in the output.
func (o *output) find(t testing.TB, pattern *regexp.Regexp) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	found, err := o.wait(ctx, pattern.FindString)
	if err != nil {
		t.Fatalf("%v: %v\n%s", pattern, err, o)
	}
	return found
}

// terminal is a command in a terminal of its own.
type terminal struct {
	*output
	t    testing.TB
	cmd  *exec.Cmd
	file *os.File
	done chan struct{}
}

func inTerminal(t testing.TB, cmd *exec.Cmd) *terminal {
	t.Helper()
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{output: newOutput(), t: t, cmd: cmd, file: file, done: make(chan struct{})}
	go func() {
		defer close(term.done)
		buf := make([]byte, 4096)
		for {
			n, err := file.Read(buf)
			_, _ = term.Write(buf[:n])
			if err != nil {
				return // the command has ended, or the test
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		file.Close()
		<-term.done
	})
	return term
}

func (term *terminal) send(text string) {
	term.t.Helper()
	if _, err := term.file.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// end waits for the command's end and returns its exit code.
func (term *terminal) end() int {
	_ = term.cmd.Wait() // the code says
	<-term.done
	return term.cmd.ProcessState.ExitCode()
}

// reviewLogin walks the pages without JavaScript until the person sees who asks.
func (s *stack) reviewLogin(t *testing.T, address, email string) (*approve.Browser, *approve.Page) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := approve.NewBrowser(s.pages(t))
	page, err := b.Get(ctx, address)
	for _, values := range []url.Values{nil, {"email": {email}, "password": {password}}} {
		if err != nil || len(page.Forms) != 1 {
			t.Fatalf("%v, %+v", err, page)
		}
		if page, err = b.Submit(ctx, page, &page.Forms[0], values); err != nil || len(page.Links) != 1 {
			t.Fatalf("%v, %+v", err, page)
		}
		next, perr := page.URL.Parse(page.Links[0])
		if perr != nil {
			t.Fatal(perr)
		}
		page, err = b.Get(ctx, next.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b, page
}

// sshAt starts ssh without a terminal and returns the address that it shows.
func sshAt(t *testing.T, cmd *exec.Cmd) (address string, wait func() result) {
	t.Helper()
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address = stderr.find(t, loginURL)
	return address, func() result {
		_ = cmd.Wait() // the code says
		return result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	}
}

func TestWebLogin(t *testing.T) {
	t.Parallel()
	s := newWebStack(t, "", nil)
	t.Run("confirm", s.confirmLogin)
	t.Run("deny and report", s.reportLogin)
	t.Run("parallel", s.parallelLogins)
	t.Run("in BatchMode", s.batchLogin)
	t.Run("after the terminal left", s.lateLogin)
	t.Run("a machine", s.machineLogin)
}

func (s *stack) confirmLogin(t *testing.T) {
	c := s.newClient(t)
	address, wait := sshAt(t, c.ssh("gate", "echo hello; exit 7"))
	b, page := s.reviewLogin(t, address, alice)
	fingerprint := strings.Fields(must(t, c.command("ssh-keygen", "-lf", c.key)))[1]
	for _, want := range []string{alice, "127.0.0.1", "the same as this browser's", "OpenSSH_", fingerprint, s.login + "+web1", address[len(address)-9:]} {
		if !strings.Contains(page.Text, want) {
			t.Errorf("the page does not say %q:\n%s", want, page.Text)
		}
	}
	page = decide(t, b, page, "yes", nil)
	if r := wait(); r.stdout != "hello\n" || r.code != 7 || !strings.Contains(r.stderr, "Signed in as "+alice) || !strings.Contains(page.Text, "signed in") {
		t.Errorf("%+v; the page says %s", r, page.Text)
	}
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "echo again")); r.stdout != "again\n" || r.stderr != "" {
		t.Errorf("the next one: %+v", r)
	}
}

func (s *stack) reportLogin(t *testing.T) {
	c := s.newClient(t)
	address, wait := sshAt(t, c.ssh("gate", "true"))
	b, page := s.reviewLogin(t, address, alice)
	decide(t, b, page, "report", nil)
	if r := wait(); r.code != 255 || !strings.Contains(r.stderr, "sshgate: the sign-in was denied in the browser") {
		t.Errorf("%+v", r)
	}
	if e := s.waitForEvents(t, "login.report", 1)[0]; e["identity"] != alice || e["client"] != "127.0.0.1" || e["connection"] == "" {
		t.Errorf("%v", e)
	}
}

func (s *stack) parallelLogins(t *testing.T) {
	c := s.newClient(t)
	const n = 10
	addresses := map[string]bool{}
	waits := make([]func() result, n)
	for i := range n {
		var address string
		address, waits[i] = sshAt(t, c.ssh("gate", fmt.Sprint("echo ", i)))
		addresses[address] = true
	}
	if len(addresses) != 1 || s.waiting(t) != 1 {
		t.Fatalf("%d sign-ins were shown, %v are under way, want 1", len(addresses), s.waiting(t))
	}
	for address := range addresses {
		b, page := s.reviewLogin(t, address, alice)
		decide(t, b, page, "yes", nil)
	}
	for i, wait := range waits {
		if r := wait(); r.stdout != fmt.Sprintln(i) {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

func (s *stack) batchLogin(t *testing.T) {
	c := s.newClient(t)
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true")); r.code != 255 || !strings.Contains(r.stderr, "this key is not signed in") {
		t.Errorf("%+v", r)
	}
}

func (s *stack) lateLogin(t *testing.T) {
	c := s.newClient(t)
	cmd := c.ssh("gate", "true")
	address, wait := sshAt(t, cmd)
	b, page := s.reviewLogin(t, address, alice)
	_ = cmd.Process.Kill()
	wait()
	eventually(t, "the sign-in is given up", 5*time.Second, func() error {
		if n := s.waiting(t); n != 0 {
			return fmt.Errorf("%v are under way", n)
		}
		return nil
	})
	if page = decide(t, b, page, "yes", nil); page.Status != 409 || !strings.Contains(page.Text, "too late") {
		t.Errorf("%d %s", page.Status, page.Text)
	}
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true")); r.code != 255 {
		t.Errorf("the key is let in: %+v", r)
	}
}

func (s *stack) machineLogin(t *testing.T) {
	c := s.newClient(t)
	address, wait := startLogin(t, s.connectorLogin(c, filepath.Join(c.home, "rack2"), "--hostname", "web2", "--name", "rack2"))
	b, page := s.reviewLogin(t, address, alice)
	page = decide(t, b, page, "yes", nil)
	if r := wait(); r.code != 0 || !strings.Contains(r.stdout, "It may publish web2.") {
		t.Errorf("%+v; the page says %s", r, page.Text)
	}
}

// waiting returns how many sign-ins are under way.
func (s *stack) waiting(t testing.TB) float64 {
	t.Helper()
	n, err := s.metric("sshgate_logins_pending")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var pageNumber = regexp.MustCompile(`\b\d{6}\b`)

func TestWebLoginWithNumber(t *testing.T) {
	t.Parallel()
	s := newWebStack(t, "  confirm_code: true\n", nil)
	t.Run("typed", func(t *testing.T) {
		c := s.newClient(t)
		term := inTerminal(t, c.ssh("gate", "echo hello; tty >/dev/null; exit 7"))
		b, page := s.reviewLogin(t, term.find(t, loginURL), alice)
		if strings.Contains(term.String(), "Number on the page:") {
			t.Error("asked before somebody has signed in")
		}
		number := pageNumber.FindString(decide(t, b, page, "yes", nil).Text)
		term.find(t, regexp.MustCompile("Number on the page: "))
		term.send("000-00\r")
		term.find(t, regexp.MustCompile("That is not the number(?s:.*)Number on the page: "))
		term.send(number + "\r")
		if code := term.end(); code != 7 || !strings.Contains(term.String(), "hello") || !strings.Contains(term.String(), "Signed in as "+alice) {
			t.Errorf("exit %d:\n%s", code, term)
		}
	})
	t.Run("no terminal", func(t *testing.T) {
		c := s.newClient(t)
		address, wait := sshAt(t, c.ssh("gate", "true"))
		b, page := s.reviewLogin(t, address, alice)
		decide(t, b, page, "yes", nil)
		if r := wait(); r.code != 255 || !strings.Contains(r.stderr, "run the command in a terminal") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("helper", func(t *testing.T) {
		c := &helperClient{client: s.newClient(t), stack: &helperStack{stack: s}}
		term := inTerminal(t, c.access("login", "--no-browser"))
		b, page := s.reviewLogin(t, term.find(t, loginURL), alice)
		if !regexp.MustCompile(`Program\s*sshgate\s`).MatchString(page.Text) {
			t.Errorf("the page does not name the program:\n%s", page.Text)
		}
		number := pageNumber.FindString(decide(t, b, page, "yes", nil).Text)
		term.find(t, regexp.MustCompile("Number on the page: "))
		term.send(number + "\r")
		if code := term.end(); code != 0 || !strings.Contains(term.String(), "signed in as "+alice) {
			t.Errorf("exit %d:\n%s", code, term)
		}
	})
}

func TestWebLoginFromAnotherNetwork(t *testing.T) {
	t.Parallel()
	s := newWebStack(t, "  same_network: true\n", nil)
	c := s.newClient(t)
	far := c.ssh("-b", "127.0.7.1", "gate", "true")
	address, wait := sshAt(t, far)
	b := approve.NewBrowser(s.pages(t))
	page, err := b.Get(t.Context(), address)
	if err != nil || len(page.Forms) != 1 {
		t.Fatalf("%v, %+v", err, page)
	}
	page, err = b.Submit(t.Context(), page, &page.Forms[0], nil)
	if err != nil || page.Status != 403 || !strings.Contains(page.Text, "another network") {
		t.Errorf("%v, %+v", err, page)
	}
	if e := s.waitForEvents(t, "login.page", 1)[0]; e["detail"] != "refused" || !strings.Contains(fmt.Sprint(e["reason"]), "127.0.7.1") {
		t.Errorf("%v", e)
	}
	near, waitNear := sshAt(t, s.newClient(t).ssh("-b", "127.0.0.9", "gate", "true"))
	nearBrowser, review := s.reviewLogin(t, near, alice)
	decide(t, nearBrowser, review, "yes", nil)
	if r := waitNear(); r.code != 0 {
		t.Errorf("from the same network: %+v", r)
	}
	_ = far.Process.Kill()
	wait()
}

func TestWebLoginExpires(t *testing.T) {
	t.Parallel()
	s := newWebStack(t, "", func(o *stackOptions) { o.ssh = "  drain_timeout: 5s\n  login_timeout: 1m" })
	address, wait := sshAt(t, s.newClient(t).ssh("gate", "true"))
	b, page := s.reviewLogin(t, address, alice)
	if r := wait(); r.code != 255 || !strings.Contains(r.stderr, "not completed in time") {
		t.Errorf("%+v", r)
	}
	if page = decide(t, b, page, "yes", nil); page.Status != 409 {
		t.Errorf("%d %s", page.Status, page.Text)
	}
}
