package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/color"
	"image/png"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// demo is `sshgated dev --json`.
type demo struct {
	*proc
	t    testing.TB
	line string // what it printed on standard output
	info demoInfo
}

// demoInfo is the line that it prints.
type demoInfo struct {
	SSHCommand string `json:"ssh_command"`
	SSHAddress string `json:"ssh_address"`
	Tunnel     string `json:"tunnel_address"`
	Metrics    string `json:"metrics_url"`
	Issuer     string `json:"issuer"`
	Users      []struct {
		Email, Password string
		Allowed         bool
	} `json:"users"`
	Origin     string `json:"origin"`
	Login      string `json:"login"`
	Dir        string `json:"dir"`
	SSHConfig  string `json:"ssh_config"`
	KnownHosts string `json:"known_hosts"`
	UserCA     string `json:"user_ca"`
	GatewayCA  string `json:"gateway_ca"`
	Config     string `json:"config"`
	Env        string `json:"env"`
	PID        int    `json:"pid"`
}

// launchDemo starts `sshgated dev --json` and does not wait for it.
func launchDemo(t testing.TB, args ...string) (d *demo, stdout string) {
	t.Helper()
	stdout = filepath.Join(t.TempDir(), "stdout")
	script := append([]string{"-c", `out=$1; shift; exec "$0" dev --json "$@" >"$out"`, sshgatedBin, stdout}, args...)
	return &demo{proc: start(t, "sh", script...), t: t}, stdout
}

// startDemo starts `sshgated dev --json` and returns when it is up.
func startDemo(t testing.TB, args ...string) *demo {
	t.Helper()
	need(t, "ssh")
	d, stdout := launchDemo(t, args...)
	d.waitUp(stdout)
	return d
}

func (d *demo) waitUp(stdout string) {
	d.t.Helper()
	eventually(d.t, "the demo is up", 30*time.Second, func() error {
		select {
		case <-d.done:
			return fmt.Errorf("it has ended: %v\n%s", d.err, d.out)
		default:
		}
		line, err := os.ReadFile(stdout)
		if err == nil && !bytes.HasSuffix(line, []byte("\n")) {
			err = fmt.Errorf("it printed %q", line)
		}
		d.line = string(line)
		return err
	})
	decoder := json.NewDecoder(strings.NewReader(d.line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d.info); err != nil {
		d.t.Fatalf("%s: %v", d.line, err)
	}
	if strings.Count(d.line, "\n") != 1 || len(d.info.Users) != 2 {
		d.t.Fatalf("not one line with two people: %s", d.line)
	}
}

// visitor returns somebody with nothing in their home directory.
func (d *demo) visitor(t testing.TB) *client {
	return &client{stack: &stack{place: here{}}, t: t, home: t.TempDir(), config: d.info.SSHConfig}
}

// approveAs signs in with the password that was printed.
func (d *demo) approveAs(person int) func(context.Context, string) error {
	return func(ctx context.Context, url string) error {
		return approve.Approve(ctx, nil, url, d.info.Users[person].Email, d.info.Users[person].Password)
	}
}

// shell runs a line of shell, in which {ssh} stands for the printed command.
func (d *demo) shell(c *client, line string) *exec.Cmd {
	return c.command("sh", "-c", strings.ReplaceAll(line, "{ssh}", d.info.SSHCommand))
}

// batch is the printed command in BatchMode.
func (d *demo) batch(c *client, remote string) *exec.Cmd {
	return d.shell(c, d.sshWith("BatchMode=yes")+" "+remote)
}

// sshWith is the printed command with an option.
func (d *demo) sshWith(option string) string {
	return strings.Replace(d.info.SSHCommand, "ssh ", "ssh -o "+option+" ", 1)
}

// end sends the signal; the demo must end well and soon.
func (d *demo) end(sig syscall.Signal, within time.Duration) {
	d.t.Helper()
	begin := time.Now()
	d.stop(sig)
	if d.err != nil {
		d.t.Errorf("after %v: %v\n%s", sig, d.err, d.out)
	}
	if took := time.Since(begin); took > within {
		d.t.Errorf("after %v it took %s to end", sig, took)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	t.Run("files", d.testFiles)
	t.Run("env", d.testEnv)
	t.Run("health", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			if _, err := httpGet(strings.TrimSuffix(d.info.Metrics, "/metrics") + path); err != nil {
				t.Error(err)
			}
		}
	})
	c := d.visitor(t)
	r := c.signInWith(d.shell(c, "{ssh} 'echo hello; exit 7'"), d.info.Users[0].Email, d.approveAs(0))
	if r.stdout != "hello\n" || r.code != 7 || !strings.Contains(r.stderr, "Signed in as alice@example.com. Your key is remembered for 12 h.") {
		t.Fatalf("the first ssh: %+v", r)
	}
	t.Run("the second ssh asks nothing", func(t *testing.T) {
		for _, cmd := range []*exec.Cmd{d.shell(c, "{ssh} 'echo again; exit 3'"), d.batch(c, "'echo again; exit 3'")} {
			if r := run1(t, cmd); r.stdout != "again\n" || r.stderr != "" || r.code != 3 {
				t.Errorf("%v: %+v", cmd.Args, r)
			}
		}
	})
	t.Run("terminal", func(t *testing.T) {
		need(t, "script")
		cmd := d.shell(c, `script -qec "{ssh}" /dev/null`)
		cmd.Stdin = strings.NewReader("stty -echo; tty; test -t 0 && echo is-a-$TERM; exit 5\n")
		cmd.Env = append(cmd.Env, "TERM=xterm")
		if r := run1(t, cmd); r.code != 5 || !strings.Contains(r.stdout, "/dev/pts/") || !strings.Contains(r.stdout, "is-a-xterm") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("files go both ways", func(t *testing.T) { d.testTransfer(t, c) })
	t.Run("somebody else is denied", d.testDenied)
	d.end(syscall.SIGTERM, 4*time.Second)
	if _, err := os.Stat(d.info.Dir); !os.IsNotExist(err) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
}

func (d *demo) testFiles(t *testing.T) {
	for path, mode := range map[string]fs.FileMode{
		d.info.Dir: fs.ModeDir | 0o700, d.info.SSHConfig: 0o644, d.info.KnownHosts: 0o644, d.info.UserCA: 0o644,
		d.info.Config: 0o644, d.info.Env: 0o600,
		d.info.Dir + "/id_ed25519": 0o600, d.info.Dir + "/state.json": 0o600, d.info.Dir + "/data": fs.ModeDir | 0o700,
		d.info.Dir + "/connector/connector.key": 0o600,
	} {
		if info, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
		}
	}
	for _, address := range []string{d.info.SSHAddress, d.info.Tunnel, strings.TrimPrefix(d.info.Issuer, "http://"), strings.TrimPrefix(d.info.Metrics, "http://")} {
		if !strings.HasPrefix(address, "127.0.0.1:") {
			t.Errorf("%s is not on the loopback interface", address)
		}
	}
	if d.info.PID != d.cmd.Process.Pid {
		t.Errorf("the pid is %d, want %d", d.info.PID, d.cmd.Process.Pid)
	}
	if !d.info.Users[0].Allowed || d.info.Users[1].Allowed || d.info.Users[0].Password == d.info.Users[1].Password {
		t.Errorf("the people are %+v", d.info.Users)
	}
	must(t, exec.Command(sshgatedBin, "check", "--config", d.info.Config))
}

// testEnv reads the file with a shell and compares it with the JSON.
func (d *demo) testEnv(t *testing.T) {
	for name, want := range map[string]string{
		"SSH_COMMAND": d.info.SSHCommand, "SSH_ADDRESS": d.info.SSHAddress, "TUNNEL_ADDRESS": d.info.Tunnel,
		"METRICS_URL": d.info.Metrics, "ISSUER": d.info.Issuer, "ORIGIN": d.info.Origin, "LOGIN": d.info.Login,
		"EMAIL": d.info.Users[0].Email, "PASSWORD": d.info.Users[0].Password, "DIR": d.info.Dir,
		"SSH_CONFIG": d.info.SSHConfig, "KNOWN_HOSTS": d.info.KnownHosts, "USER_CA": d.info.UserCA, "CONFIG": d.info.Config,
	} {
		cmd := exec.Command("sh", "-euc", `. "$0"; printf %s "$SSHGATE_DEV_`+name+`"`, d.info.Env)
		if got := must(t, cmd); got != want {
			t.Errorf("SSHGATE_DEV_%s is %q, want %q", name, got, want)
		}
	}
}

func (d *demo) testTransfer(t *testing.T, c *client) {
	need(t, "scp", "sftp")
	remote := t.TempDir()
	text := strings.Repeat("some text\n", 1000)
	write(t, filepath.Join(c.home, "file"), text)
	target := d.info.Login + "+" + d.info.Origin + "@gate"
	must(t, c.command("scp", "-q", "-F", d.info.SSHConfig, "file", target+":"+remote+"/scp"))
	must(t, c.command("sftp", "-q", "-F", d.info.SSHConfig, "-b", write(t, filepath.Join(c.home, "batch"),
		"rename "+remote+"/scp "+remote+"/sftp\nget "+remote+"/sftp back\n"), target))
	if got, err := os.ReadFile(filepath.Join(c.home, "back")); err != nil || string(got) != text {
		t.Errorf("got %d bytes back, %v", len(got), err)
	}
}

// testDenied signs in without a key, so that nothing is remembered, as somebody
// whom the policy lets nowhere.
func (d *demo) testDenied(t *testing.T) {
	c := d.visitor(t)
	cmd := d.shell(c, d.sshWith("PubkeyAuthentication=no")+" true")
	r := c.signInWith(cmd, d.info.Users[1].Email, d.approveAs(1))
	if r.code != 255 || !strings.Contains(r.stderr, "Signed in as bob@example.com") ||
		!strings.Contains(r.stderr, `there is no origin "demo" that you may reach`) {
		t.Errorf("%+v", r)
	}
}

func TestDemoKeepsItsState(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "it's a demo") // the printed command must quote it
	first := startDemo(t, "--dir", dir)
	known, err := os.ReadFile(first.info.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	c := first.visitor(t)
	if r := c.signInWith(first.shell(c, "{ssh} true"), first.info.Users[0].Email, first.approveAs(0)); r.code != 0 {
		t.Fatalf("the sign-in: %+v", r)
	}
	// A session that runs is given two seconds.
	session := first.shell(c, "{ssh} 'echo up; exec sleep 60'")
	stdout := newOutput()
	session.Stdout = stdout
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := stdout.wait(ctx, func(s string) string { return s }); err != nil {
		t.Fatal(err)
	}
	first.end(syscall.SIGINT, 6*time.Second)
	_ = session.Wait()
	if code := session.ProcessState.ExitCode(); code != 255 {
		t.Errorf("the session that was cut off: exit %d", code)
	}

	second := startDemo(t, "--dir", dir)
	second.info.PID = first.info.PID
	if fmt.Sprint(second.info) != fmt.Sprint(first.info) {
		t.Errorf("the second start printed\n%s, the first\n%s", second.line, first.line)
	}
	if again, err := os.ReadFile(second.info.KnownHosts); err != nil || !bytes.Equal(again, known) {
		t.Errorf("the host keys have changed: %s, before %s (%v)", again, known, err)
	}
	if r := run1(t, second.batch(c, "'echo still known'")); r.stdout != "still known\n" || r.stderr != "" || r.code != 0 {
		t.Errorf("after the restart: %+v", r)
	}
	second.end(syscall.SIGTERM, 4*time.Second)
	if _, err := os.Stat(filepath.Join(dir, "state.json")); err != nil {
		t.Errorf("the state is gone: %v", err)
	}
}

// TestDemoWithARealSSHD has an sshd that trusts DIR/user_ca.pub, which is there
// once the demo has started.
func TestDemoWithARealSSHD(t *testing.T) {
	t.Parallel()
	need(t, "/usr/sbin/sshd", "ssh", "ssh-keygen")
	dir := t.TempDir()
	sshd := startSSHD(t, filepath.Join(dir, "sshd"), filepath.Join(dir, "demo/user_ca.pub"), freePort(t), "")
	d := startDemo(t, "--dir", filepath.Join(dir, "demo"), "--origin", fmt.Sprintf("ssh://127.0.0.1:%d", sshd.port))
	c := d.visitor(t)
	r := c.signInWith(d.shell(c, `{ssh} 'echo "$SSH_CONNECTION"'`), d.info.Users[0].Email, d.approveAs(0))
	if r.code != 0 || !strings.HasSuffix(r.stdout, fmt.Sprintf(" %d\n", sshd.port)) {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(sshd.out.String(), "identity=alice@example.com") {
		t.Errorf("sshd's log does not name alice:\n%s", tail(sshd.out.String(), 3000))
	}
	d.end(syscall.SIGTERM, 4*time.Second)
}

func TestDemoWithoutItsOrigin(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	d, stdout := launchDemo(t, "--dir", t.TempDir(), "--origin", fmt.Sprintf("ssh://127.0.0.1:%d", freePort(t)))
	select {
	case <-d.done:
	case <-time.After(45 * time.Second):
		t.Fatal("it does not give up")
	}
	t.Logf("it gave up after %s", time.Since(begin).Round(time.Millisecond))
	if code := d.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(d.out.String(), "is there an ssh server at ssh://127.0.0.1:") {
		t.Errorf("exit %d:\n%s", code, d.out)
	}
	if printed, err := os.ReadFile(stdout); err != nil || len(printed) > 0 {
		t.Errorf("it printed %q, %v", printed, err)
	}
}

// TestSignInPageInABrowser loads the page of a sign-in in a real browser.
func TestSignInPageInABrowser(t *testing.T) {
	t.Parallel()
	need(t, "chromium")
	c := sharedStack(t).newClient(t)
	cmd := c.ssh("gate", "true")
	stderr := newOutput()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url, err := stderr.wait(ctx, signInURL.FindString)
	if err != nil {
		t.Fatal(err)
	}
	page := must(t, c.chromium("--dump-dom", url))
	_, code, _ := strings.Cut(url, "user_code=")
	for _, want := range []string{"<h1>Connect a terminal</h1>", `<form method="post" action="/device">`, `value="` + code + `"`, `<button type="submit">Continue</button>`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s:\n%s", want, page)
		}
	}
	// With its scripts switched off this browser prints nothing at all. That the
	// page has none to run comes to the same.
	if strings.Contains(page, "<script") || strings.Contains(page, "javascript:") {
		t.Errorf("the page has a script:\n%s", page)
	}
	picture := filepath.Join(c.home, "page.png")
	must(t, c.chromium("--window-size=600,500", "--screenshot="+picture, url))
	if n := countColours(t, picture); n < 10 {
		t.Errorf("the page shows %d colours: it is empty, or text without its style", n)
	}
}

// chromium returns a browser with a profile of its own. It refuses to run as
// root with its sandbox, and loads nothing here but pages of the test.
func (c *client) chromium(args ...string) *exec.Cmd {
	return c.command("chromium", append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir=" + c.t.TempDir()}, args...)...)
}

func countColours(t *testing.T, file string) int {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	colours := map[color.Color]bool{}
	for y := range picture.Bounds().Dy() {
		for x := range picture.Bounds().Dx() {
			colours[picture.At(x, y)] = true
		}
	}
	return len(colours)
}
