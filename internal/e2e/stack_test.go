package e2e

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp"
)

const (
	alice    = "alice@example.com"
	bob      = "bob@example.com"
	password = "correct horse"
)

// stack is a whole installation: provider, gateway, connector, origin.
type stack struct {
	t         testing.TB
	place     place // of the gateway, the provider and the clients
	dir       string
	login     string
	logLevel  string
	issuer    string
	provider  *httptest.Server
	gateway   *proc
	connector *proc
	sshd      *sshd
	sshPort   int
	tlsPort   int
	metrics   string // URL
}

// stackOptions change a stack from its defaults.
type stackOptions struct {
	sshd           string   // further lines of sshd_config
	origins        string   // the gateway's origins section, and others
	services       string   // further lines of the connector's origins section; SSHDPORT is the port of web1
	hostnames      []string // that the connector may publish besides web1
	tunnel         string   // further lines of the gateway's tunnel section
	signIn         string   // further lines of the gateway's sign_in section
	policy         string   // the gateway's policy section
	ssh            string   // further lines of the gateway's ssh section
	gatewayPrefix  []string
	deviceLifetime time.Duration
	logLevel       string // of the gateway; default debug
	place          place  // default here
	everywhere     bool   // the gateway listens on all addresses, not on 127.0.0.1 alone
}

const defaultPolicy = `
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
`

func newStack(t testing.TB, o stackOptions) *stack {
	t.Helper()
	s := prepareStack(t, o)
	s.sshd = startSSHD(t, s.path("sshd"), s.path("user_ca.pub"), freePort(t), o.sshd)
	names := []string{"connector-cert", "--config", s.path("gateway.yaml"), "--name", "rack1", "--hostname", "web1", "--out", s.path("connector")}
	for _, name := range o.hostnames {
		names = append(names, "--hostname", name)
	}
	s.sshgated(names...)
	write(t, s.path("connector/connector.yaml"), fmt.Sprintf(
		"gateway: 127.0.0.1:%d\nserver_name: gate.test\ngateway_ca_file: gateway-ca.crt\norigins:\n  - name: web1\n    url: ssh://127.0.0.1:%d\n%s", s.tlsPort, s.sshd.port, strings.ReplaceAll(o.services, "SSHDPORT", fmt.Sprint(s.sshd.port))))
	s.startGateway(o.gatewayPrefix...)
	s.startConnector()
	s.waitForOrigins(1 + strings.Count(o.services, "name:"))
	return s
}

// prepareStack returns a stack of which nothing runs but the provider.
func prepareStack(t testing.TB, o stackOptions) *stack {
	t.Helper()
	need(t, "/usr/sbin/sshd", "ssh", "ssh-keygen")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{
		t: t, place: o.place, dir: t.TempDir(), login: me.Username, logLevel: cmp.Or(o.logLevel, "debug"),
		sshPort: freePort(t), tlsPort: freePort(t),
	}
	if s.place == nil {
		s.place = here{}
	}
	s.startProvider(o.deviceLifetime)
	s.configure(o)
	write(t, s.path("user_ca.pub"), s.sshgated("ca", "--config", s.path("gateway.yaml")))
	return s
}

func (s *stack) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stack) startProvider(deviceLifetime time.Duration) {
	s.t.Helper()
	// The issuer is the server's own address, which is known once it listens.
	listener, err := s.place.listen("127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.issuer = "http://" + listener.Addr().String()
	provider, err := devidp.New(devidp.Config{
		Issuer: s.issuer, ClientID: "sshgate", PollInterval: time.Second,
		DeviceLifetime: cmp.Or(deviceLifetime, 5*time.Minute),
		RedirectURIs:   []string{fmt.Sprintf("https://127.0.0.1:%d/oauth/callback", s.tlsPort)},
		Users: []devidp.User{
			{Subject: "alice", Email: alice, EmailVerified: true, Name: "Alice", Password: password, Groups: []string{"ops"}},
			{Subject: "bob", Email: bob, EmailVerified: true, Name: "Bob", Password: password},
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: provider}}
	server.Start()
	s.provider = server
	s.t.Cleanup(server.Close)
}

func (s *stack) configure(o stackOptions) {
	s.t.Helper()
	metricsPort := freePort(s.t)
	s.metrics = fmt.Sprintf("http://127.0.0.1:%d", metricsPort)
	listen := "127.0.0.1"
	if o.everywhere {
		listen = "" // all addresses
	}
	write(s.t, s.path("gateway.yaml"), fmt.Sprintf(`
hostname: gate.test
data_dir: data
ssh:
  listen: "%s:%d"
  advertise: gate:%d
%s
tunnel:
  listen: "%s:%d"
%s
metrics:
  listen: 127.0.0.1:%d
sign_in:
  issuer: %s
  client_id: sshgate
%s
%s
%s`, listen, s.sshPort, s.sshPort, cmp.Or(o.ssh, "  drain_timeout: 5s"), listen, s.tlsPort, strings.ReplaceAll(o.tunnel, "TLSPORT", fmt.Sprint(s.tlsPort)), metricsPort, s.issuer, o.signIn, o.origins,
		strings.ReplaceAll(cmp.Or(o.policy, defaultPolicy), "LOGIN", s.login)))
}

// sshgated runs a command of the gateway's and returns what it prints.
func (s *stack) sshgated(args ...string) string {
	s.t.Helper()
	out, err := exec.Command(sshgatedBin, args...).Output()
	if err != nil {
		var stderr []byte
		if ee, ok := err.(*exec.ExitError); ok {
			stderr = ee.Stderr
		}
		s.t.Fatalf("sshgated %v: %v\n%s", args, err, stderr)
	}
	return string(out)
}

// launchGateway starts the gateway and does not wait until it is ready.
func (s *stack) launchGateway(prefix ...string) {
	s.t.Helper()
	args := append(prefix, sshgatedBin, "serve", "--config", s.path("gateway.yaml"), "--log-format", "json", "--log-level", s.logLevel)
	args = s.place.command(args...)
	s.gateway = start(s.t, args[0], args[1:]...)
}

func (s *stack) startGateway(prefix ...string) {
	s.t.Helper()
	s.launchGateway(prefix...)
	eventually(s.t, "the gateway is ready", 20*time.Second, func() error {
		select {
		case <-s.gateway.done:
			return fmt.Errorf("it has ended: %s", s.gateway.out)
		default:
		}
		_, err := s.get("/readyz")
		return err
	})
}

// startConnector starts the connector, with further flags, and without a status
// socket unless they name one: the default one is the machine's.
func (s *stack) startConnector(flags ...string) {
	s.t.Helper()
	s.connector = start(s.t, sshgateBin, append([]string{"connector", "run", "--config", s.path("connector/connector.yaml"),
		"--log-format", "json", "--grace", "1s", "--status-socket", "off"}, flags...)...)
	s.waitForTunnels(2)
}

func (s *stack) waitForTunnels(n int) {
	s.t.Helper()
	eventually(s.t, "the connector's tunnels are up", 30*time.Second, func() error {
		got, err := s.metric("sshgate_tunnels")
		if err == nil && got != float64(n) {
			err = fmt.Errorf("%v tunnels are up, want %d", got, n)
		}
		return err
	})
}

// waitForOrigins waits until so many services are published, which comes after the
// tunnels.
func (s *stack) waitForOrigins(n int) {
	s.t.Helper()
	eventually(s.t, "all services are published", 20*time.Second, func() error {
		got, err := s.metric("sshgate_origins")
		if err == nil && got != float64(n) {
			err = fmt.Errorf("%v services are published, want %d", got, n)
		}
		return err
	})
}

// metric returns the value of a metric without labels.
func (s *stack) metric(name string) (float64, error) {
	body, err := s.get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			_, err := fmt.Sscan(rest, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// get asks the gateway's port for monitoring.
func (s *stack) get(path string) (string, error) { return getBy(s.place.browser(), s.metrics+path) }

func httpGet(url string) (string, error) { return getBy(http.DefaultClient, url) }

func getBy(client *http.Client, url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// sshd is a real OpenSSH server.
type sshd struct {
	*proc
	port int
	dir  string
}

func startSSHD(t testing.TB, dir, userCA string, port int, more string) *sshd {
	t.Helper()
	return startSSHDAt(t, here{}, dir, userCA, port, more)
}

func startSSHDAt(t testing.TB, at place, dir, userCA string, port int, more string) *sshd {
	t.Helper()
	for _, d := range []string{"/run/sshd", dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		file := filepath.Join(dir, "host_"+kind)
		if _, err := os.Stat(file); err == nil {
			continue
		}
		if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	// The first value of a keyword counts in sshd_config, so more comes first.
	config := write(t, filepath.Join(dir, "sshd_config"), fmt.Sprintf(`%s
ListenAddress 127.0.0.1:%d
HostKey %[3]s/host_ed25519
HostKey %[3]s/host_ecdsa
HostKey %[3]s/host_rsa
PidFile none
TrustedUserCAKeys %[4]s
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PermitUserEnvironment no
AcceptEnv SG_*
AllowStreamLocalForwarding yes
X11Forwarding yes
MaxSessions 100
MaxStartups 300
Subsystem sftp /usr/lib/openssh/sftp-server
LogLevel VERBOSE
`, more, port, dir, userCA))
	args := at.command("/usr/sbin/sshd", "-D", "-e", "-f", config)
	d := &sshd{proc: start(t, args[0], args[1:]...), port: port, dir: dir}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	up := regexp.MustCompile(fmt.Sprintf(`Server listening on 127\.0\.0\.1 port %d\.`, port))
	if _, err := d.out.wait(ctx, up.FindString); err != nil {
		t.Fatalf("sshd is not up: %v", err)
	}
	return d
}

// shared is one stack for the tests that change nothing in it.
var shared struct {
	once  sync.Once
	stack *stack
	t     *sharedT
}

// sharedT outlives the test that came first.
type sharedT struct {
	testing.TB
	dir      string
	cleanups []func()
	failed   bool
}

func (t *sharedT) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }
func (t *sharedT) TempDir() string  { return t.dir }
func (t *sharedT) Failed() bool     { return t.failed }
func (t *sharedT) Helper()          {}
func (t *sharedT) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
func (t *sharedT) Errorf(format string, args ...any) {
	t.failed = true
	t.Logf(format, args...)
}
func (t *sharedT) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }
func (t *sharedT) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	panic("the shared stack did not come up")
}

// sharedStack returns the stack that tests share which change nothing in it.
func sharedStack(t testing.TB) *stack {
	t.Helper()
	need(t, "/usr/sbin/sshd", "ssh", "ssh-keygen")
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "sshgate-e2e-shared-")
		if err != nil {
			t.Fatal(err)
		}
		shared.t = &sharedT{dir: dir}
		defer func() {
			if failure := recover(); failure != nil {
				closeShared() // prints what the processes said
				t.Fatal(failure)
			}
		}()
		shared.stack = newStack(shared.t, stackOptions{})
	})
	if shared.stack == nil {
		t.Fatal("the shared stack did not come up")
	}
	s := *shared.stack
	s.t = t
	return &s
}

// closeShared ends the shared stack, reporting whether all was well with it.
func closeShared() bool {
	if shared.t == nil {
		return true
	}
	for i := len(shared.t.cleanups) - 1; i >= 0; i-- {
		shared.t.cleanups[i]()
	}
	os.RemoveAll(shared.t.dir)
	return !shared.t.failed
}
