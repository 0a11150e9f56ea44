package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate/store"
)

// logLine is a line of the gateway's log.
type logLine map[string]any

// logLines parses the gateway's log. Every line must be a JSON object.
func (s *stack) logLines(t testing.TB) []logLine {
	t.Helper()
	var lines []logLine
	for text := range strings.Lines(s.gateway.out.String()) {
		var line logLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("a line of the log is no JSON: %v\n%s", err, text)
		}
		lines = append(lines, line)
	}
	return lines
}

// events returns the log's events of a kind.
func (s *stack) events(t testing.TB, kind string) []logLine {
	t.Helper()
	return slices.DeleteFunc(s.logLines(t), func(l logLine) bool { return l["kind"] != kind })
}

// waitForEvents waits until there are n events of a kind, and returns them. The
// last ones are written when the client has already left.
func (s *stack) waitForEvents(t testing.TB, kind string, n int) (events []logLine) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events %s", n, kind), 10*time.Second, func() error {
		if events = s.events(t, kind); len(events) != n {
			return fmt.Errorf("there are %d", len(events))
		}
		return nil
	})
	return events
}

// readyz returns the status and the JSON form of /readyz.
func (s *stack) readyz() (status int, ready bool, checks map[string]string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.metrics+"/readyz?verbose", nil)
	if err != nil {
		return 0, false, nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false, nil, err
	}
	defer res.Body.Close()
	var report struct {
		Ready  bool
		Checks []struct {
			Name, Error string
			OK          bool
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&report); err != nil {
		return 0, false, nil, err
	}
	checks = make(map[string]string)
	for _, c := range report.Checks {
		if c.OK != (c.Error == "") {
			return 0, false, nil, fmt.Errorf("check %s: ok %v, error %q", c.Name, c.OK, c.Error)
		}
		checks[c.Name] = c.Error
	}
	return res.StatusCode, report.Ready, checks, nil
}

// TestOneSignInAndOneSessionOnTheRecord looks at the metrics, the log and the
// health of a gateway that has seen exactly that, at a log level that leaves
// everything else out.
func TestOneSignInAndOneSessionOnTheRecord(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{logLevel: "error"})
	if body, err := httpGet(s.metrics + "/healthz"); err != nil || body != "ok\n" {
		t.Errorf("/healthz: %q, %v", body, err)
	}
	status, ready, checks, err := s.readyz()
	if err != nil || status != http.StatusOK || !ready || len(checks) != 4 {
		t.Errorf("/readyz: %d, %v, %v, %v", status, ready, checks, err)
	}
	c := s.newClient(t)
	r := c.signInWith(c.ssh("gate", "cat; exit 7"), alice, approveAs(alice))
	if r.code != 7 {
		t.Fatalf("%+v", r)
	}
	first := s.waitForEvents(t, "session.end", 1)[0]
	cmd := c.ssh("-o", "BatchMode=yes", "gate", "cat >&2; sleep 0.2; exit 3")
	cmd.Stdin = strings.NewReader("0123456789")
	if r := run1(t, cmd); r.code != 3 {
		t.Fatalf("%+v", r)
	}
	second := s.waitForEvents(t, "session.end", 2)[1]

	t.Run("metrics", s.testMetrics)
	t.Run("events", func(t *testing.T) { s.testEvents(t, first, second) })
	t.Run("no secrets", func(t *testing.T) { s.testNoSecrets(t, r.stderr) })
	t.Run("nothing else", func(t *testing.T) {
		for _, line := range s.logLines(t) {
			if line["kind"] == nil && line["level"] != "error" {
				t.Errorf("at --log-level error there is %v", line)
			}
		}
	})
}

func (s *stack) testMetrics(t *testing.T) {
	body, err := httpGet(s.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sshgate_logins_started_total 1`,
		`sshgate_logins_total{result="success"} 1`,
		`sshgate_logins_total{result="key"} 1`,
		`sshgate_logins_pending 0`,
		`sshgate_decisions_total{allowed="true",channel="session"} 2`,
		`sshgate_sessions_total{channel="session"} 2`,
		`sshgate_sessions_active 0`,
		`sshgate_session_bytes_total{direction="in"} 10`,
		`sshgate_session_bytes_total{direction="out"} 10`,
		`sshgate_session_duration_seconds_count 2`,
		`sshgate_tunnels 2`,
		`sshgate_tunnel_streams 0`,
		`sshgate_audit_failures_total 0`,
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			name, _, _ := strings.Cut(want, " ")
			name, _, _ = strings.Cut(name, "{")
			t.Errorf("/metrics has no %s, but:\n%s", want, strings.Join(regexp.MustCompile(`(?m)^`+name+`.*$`).FindAllString(body, -1), "\n"))
		}
	}
	for _, want := range []string{`sshgate_build_info{go="go`, `sshgate_host_keys_total{allowed="true"} `, "go_goroutines ", "process_open_fds "} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

// testEvents looks at all events of the two sessions that ended with first and
// second.
func (s *stack) testEvents(t *testing.T, first, second logLine) {
	for kind, n := range map[string]int{
		"login.start": 1, "login.success": 1, "login.key": 1, "login.failure": 0,
		"decision": 2, "session.start": 2, "session.end": 2, "origin.up": 1,
	} {
		events := s.events(t, kind)
		if len(events) != n {
			t.Errorf("%d events %s, want %d", len(events), kind, n)
		}
		for _, e := range events {
			if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(e["time"])); err != nil || time.Since(at) > time.Minute {
				t.Errorf("%s at %v: %v", kind, e["time"], err)
			}
			if level := e["level"]; level != "info" {
				t.Errorf("%s has level %v", kind, level)
			}
			if msg, _ := e["msg"].(string); msg == "" {
				t.Errorf("%s has no message", kind)
			}
		}
	}
	who := logLine{"identity": alice, "subject": "alice", "issuer": s.issuer, "client": "127.0.0.1"}
	where := logLine{"origin": "web1", "login": s.login, "client": "127.0.0.1"}
	session := logLine{"channel": "session", "application": "servers", "rule": "alice"}
	for i, end := range []logLine{first, second} {
		expectFields(t, s.events(t, "decision")[i], who, where, logLine{"channel": "session", "application": "servers", "rule": "alice", "allowed": true, "request": end["request"], "connection": end["connection"]})
		expectFields(t, s.events(t, "session.start")[i], who, where, session, logLine{"request": end["request"], "connection": end["connection"]})
		expectFields(t, end, who, where, session)
		if id, _ := end["request"].(string); !regexp.MustCompile(`^r-[a-z2-9]{10}$`).MatchString(id) {
			t.Errorf("the request is %q", id)
		}
	}
	expectFields(t, s.events(t, "login.start")[0], where, logLine{"connection": first["connection"], "key": first["key"]})
	expectFields(t, s.events(t, "login.success")[0], who, logLine{"connection": first["connection"], "key": first["key"]})
	expectFields(t, s.events(t, "login.key")[0], who, logLine{"connection": second["connection"], "key": first["key"]})
	expectFields(t, first, logLine{"exit": "7"})
	expectFields(t, second, logLine{"exit": "3", "bytes_in": 10.0, "bytes_out": 10.0, "detail": "exec cat >&2; sleep 0.2; exit 3"})
	if seconds, _ := second["duration"].(float64); seconds < 0.2 || seconds > 30 {
		t.Errorf("the session took %v seconds", second["duration"])
	}
	if key, _ := first["key"].(string); !strings.HasPrefix(key, "SHA256:") {
		t.Errorf("the key is %q", key)
	}
}

func expectFields(t *testing.T, event logLine, wants ...logLine) {
	t.Helper()
	for _, want := range wants {
		for name, value := range want {
			if event[name] != value {
				t.Errorf("%v: %s is %v, want %v", event["kind"], name, event[name], value)
			}
		}
	}
}

// testNoSecrets looks for what must never be logged, in the logs of the gateway
// and the connector.
func (s *stack) testNoSecrets(t *testing.T, terminal string) {
	_, userCode, ok := strings.Cut(signInURL.FindString(terminal), "user_code=")
	if !ok {
		t.Fatalf("no code in %q", terminal)
	}
	for name, log := range map[string]string{"gateway": s.gateway.out.String(), "connector": s.connector.out.String()} {
		for what, secret := range map[string]string{
			"the user code": userCode, "an ID token": "eyJ", "a private key": "PRIVATE KEY",
			"a device code": "device_code", "the password": password, "an access token": "access_token",
		} {
			if strings.Contains(log, secret) {
				t.Errorf("the log of the %s has %s:\n%s", name, what, tail(log, 4000))
			}
		}
	}
}

func TestNotReadyWithoutTheProvider(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	s.provider.Close()
	s.gateway.stop(syscall.SIGTERM) // it keeps the provider's metadata while it runs
	s.launchGateway()
	eventually(t, "the gateway says that the provider is away", 20*time.Second, func() error {
		status, ready, checks, err := s.readyz()
		if err == nil && (status != http.StatusServiceUnavailable || ready || checks["sign_in"] == "" || checks["serving"] != "" || checks["store"] != "") {
			err = fmt.Errorf("%d, %v, %v", status, ready, checks)
		}
		return err
	})
	if _, err := httpGet(s.metrics + "/readyz"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "not ready: sign_in") {
		t.Errorf("/readyz: %v", err)
	}
	if _, err := httpGet(s.metrics + "/healthz"); err != nil {
		t.Error(err)
	}
	// Who has signed in before gets in, and others are told.
	s.waitForTunnels(2)
	s.waitForOrigins(1)
	must(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
	if r := run1(t, s.newClient(t).ssh("gate", "true")); r.code != 255 || !strings.Contains(r.stderr, "the identity provider can't be reached, try again later") {
		t.Errorf("a new key: %+v", r)
	}
}

func TestNotReadyWhileDraining(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{ssh: "  drain_timeout: 10s"})
	c := s.signedIn(t)
	session, stderr := c.longSession()
	if err := s.gateway.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "/readyz is 503", 5*time.Second, func() error {
		status, ready, checks, err := s.readyz()
		if err == nil && (status != http.StatusServiceUnavailable || ready || checks["serving"] == "" || checks["store"] != "" || checks["sign_in"] != "") {
			err = fmt.Errorf("%d, %v, %v", status, ready, checks)
		}
		return err
	})
	// With the last session the drain ends, long before its timeout.
	begin := time.Now()
	_ = session.Process.Signal(syscall.SIGTERM)
	_ = session.Wait()
	<-s.gateway.done
	if took := time.Since(begin); took > 6*time.Second || s.gateway.err != nil {
		t.Errorf("the gateway ended after %s with %v; the session said %s", took, s.gateway.err, stderr)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{ssh: "  drain_timeout: 1h"})
	session, _ := s.signedIn(t).longSession()
	defer func() { _ = session.Wait() }()
	if err := s.gateway.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drain has begun", 5*time.Second, func() error {
		status, _, _, err := s.readyz()
		if err == nil && status != http.StatusServiceUnavailable {
			err = fmt.Errorf("/readyz is %d", status)
		}
		return err
	})
	s.gateway.stop(syscall.SIGTERM)
	var exit *exec.ExitError
	if !errors.As(s.gateway.err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", s.gateway.err)
	}
}

func TestMistakeInTheConfiguration(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "gateway.yaml"), "hostname: gate.test\ndata_dir: data\nssh:\n  listen: [1]\nsign_in:\n  client_id: x\npolicy: {}\n")
	r := run1(t, exec.Command(sshgatedBin, "serve", "--config", file))
	if r.code != 2 || !strings.Contains(r.stderr, file+":4:11: ssh.listen: ") || !strings.Contains(r.stderr, ": sign_in.issuer: ") {
		t.Errorf("%+v", r)
	}
}

// minutePolicy is the default one with the shortest session duration there is.
var minutePolicy = strings.Replace(defaultPolicy, "session_duration: 1h", "session_duration: 1m", 1)

func TestSignInExpires(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{policy: minutePolicy})
	c := s.signedIn(t)
	s.gateway.stop(syscall.SIGTERM)
	expiry := s.ageSignIns(50 * time.Second)
	s.startGateway()
	s.waitForTunnels(2)
	s.waitForOrigins(1)
	// A session that lasts, and a connection without one.
	running, socket := c.talk(), filepath.Join(c.home, "control")
	must(t, c.ssh("-M", "-S", socket, "-o", "BatchMode=yes", "-o", "ControlPersist=60", "gate", "true"))
	must(t, c.ssh("-S", socket, "gate", "true"))
	_ = running.cmd.Wait()
	running.says(t, "your access to web1 has ended: your sign-in has expired (request r-")
	late := time.Since(expiry).Round(time.Millisecond)
	t.Logf("the session ended %s after the sign-in", late)
	if late < 0 || late > 2*time.Second {
		t.Errorf("the session ended %s after the sign-in", late)
	}
	eventually(t, "the key is no longer taken", 30*time.Second, func() error {
		r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
		if early := time.Until(expiry); r.code == 255 && early > time.Second {
			t.Fatalf("the sign-in ended %s early: %s", early, r.stderr)
		}
		if r.code != 255 || !strings.Contains(r.stderr, "this key is not signed in") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if err := c.ssh("-S", socket, "-O", "check", "gate").Run(); err == nil {
		t.Error("the connection without a session goes on")
	}
	ends := s.events(t, "session.end")
	if last := ends[len(ends)-1]; !strings.Contains(fmt.Sprint(last["reason"]), "older than the session duration of 1m0s") && !strings.Contains(fmt.Sprint(last["reason"]), "has expired") {
		t.Errorf("the last session ended with %v", last)
	}

	again := c.signInWith(c.ssh("gate", "echo again"), alice, approveAs(alice))
	if again.stdout != "again\n" || again.code != 0 {
		t.Errorf("the next sign-in: %+v", again)
	}
	must(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
}

// ageSignIns makes all sign-ins older by d, in the state of a gateway that does
// not run, and returns when the last one ends.
func (s *stack) ageSignIns(d time.Duration) (expiry time.Time) {
	s.t.Helper()
	ctx := context.Background()
	db, err := store.OpenSQLite(ctx, s.path("data/sshgated.db"), time.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	logins, err := db.KeyLogins(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, login := range logins {
		login.Identity.SignedInAt = login.Identity.SignedInAt.Add(-d)
		login.ExpiresAt = login.ExpiresAt.Add(-d)
		if err := db.BindKey(ctx, login); err != nil {
			s.t.Fatal(err)
		}
		expiry = login.ExpiresAt
	}
	if expiry.IsZero() {
		s.t.Fatal("there is no sign-in")
	}
	return expiry
}

func TestDeviceCodeExpires(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{deviceLifetime: 3 * time.Second})
	c := s.newClient(t)
	begin := time.Now()
	r := run1(t, c.ssh("gate", "true"))
	if r.code != 255 || !strings.Contains(r.stderr, "sshgate: the sign-in was not completed in time") {
		t.Errorf("%+v", r)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %s", took)
	}
	failure := s.waitForEvents(t, "login.failure", 1)[0]
	if failure["level"] != "warn" || failure["reason"] == nil || !strings.HasPrefix(fmt.Sprint(failure["key"]), "SHA256:") {
		t.Errorf("%v", failure)
	}
}
