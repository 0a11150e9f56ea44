package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// from dials a port of this machine from one of its loopback addresses.
func from(t testing.TB, source string, port int) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// refusals returns how often the limit refused something.
func (s *stack) refusals(t testing.TB, limit string) float64 {
	t.Helper()
	n, err := s.metric(fmt.Sprintf("sshgate_limit_refusals_total{limit=%q}", limit))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// limited returns the events of a limit.
func (s *stack) limited(t testing.TB, limit string) (events []logLine) {
	t.Helper()
	for _, e := range s.events(t, "limit") {
		if e["detail"] == limit {
			events = append(events, e)
		}
	}
	return events
}

// TestFloodOfHalfOpenConnections takes all that one address may have; others get in.
func TestFloodOfHalfOpenConnections(t *testing.T) {
	t.Parallel()
	const flood, most = 300, 100
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	served := make(chan bool, flood)
	var conns []net.Conn
	for range flood {
		conn := from(t, "127.0.0.2", s.sshPort)
		conns = append(conns, conn)
		go func() {
			said := make([]byte, 8)
			n, _ := io.ReadFull(conn, said)
			served <- string(said[:n]) == "SSH-2.0-"
		}()
	}
	n := 0
	for range flood {
		if <-served {
			n++
		}
	}
	if n != most {
		t.Errorf("%d connections were served, want %d", n, most)
	}
	must(t, c.ssh("-b", "127.0.0.3", "gate", "true"))
	if r := run1(t, c.ssh("-v", "-b", "127.0.0.2", "gate", "true")); r.code == 0 || !strings.Contains(r.stderr, "sshgate: too many connections from this address") {
		t.Errorf("the flooding address: %+v", r)
	}
	s.newClient(t).signIn(alice) // somebody new
	if got := s.refusals(t, "startups_per_address"); got != flood-most+1 {
		t.Errorf("%v refusals, want %d", got, flood-most+1)
	}
	if events := s.limited(t, "startups_per_address"); len(events) != 1 || events[0]["client"] != "127.0.0.2" {
		t.Errorf("events %v", events)
	}
	for _, conn := range conns {
		conn.Close()
	}
	eventually(t, "the places are free again", 10*time.Second, func() error {
		if n, err := s.metric("sshgate_startups"); n != 0 || err != nil {
			return fmt.Errorf("%v, %v", n, err)
		}
		return nil
	})
	must(t, c.ssh("-b", "127.0.0.2", "gate", "true"))
}

// dribble sends the text a byte a second and returns how long it was listened to.
func dribble(conn net.Conn, text string) time.Duration {
	start := time.Now()
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		close(closed)
	}()
	for i := 0; ; i++ {
		if _, err := conn.Write([]byte{text[i%len(text)]}); err != nil {
			break
		}
		select {
		case <-closed:
			return time.Since(start)
		case <-time.After(time.Second):
		}
	}
	<-closed
	return time.Since(start)
}

// TestSlowLoris dribbles bytes into both ports, at every stage before a sign-in.
func TestSlowLoris(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{ssh: "  drain_timeout: 5s\n  handshake_timeout: 3s"})
	secured := func() net.Conn {
		conn := tls.Client(from(t, "127.0.0.2", s.tlsPort), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := conn.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	var all sync.WaitGroup
	for name, stage := range map[string]struct {
		conn net.Conn
		text string
		most time.Duration
	}{
		"ssh version":        {from(t, "127.0.0.2", s.sshPort), "SSH-2.0-slowly", 3 * time.Second},
		"ssh lines before":   {from(t, "127.0.0.2", s.sshPort), "x\r\n", 3 * time.Second},
		"ssh key exchange":   {afterVersion(t, from(t, "127.0.0.2", s.sshPort)), "\x00\x00\x08\x00\x04\x14" + strings.Repeat("x", 100), 3 * time.Second},
		"TLS hello":          {from(t, "127.0.0.2", s.tlsPort), "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 100), 10 * time.Second},
		"HTTP request":       {secured(), "GET /" + strings.Repeat("x", 100), 10 * time.Second},
		"HTTP headers":       {afterText(t, secured(), "GET / HTTP/1.1\r\nHost: gate.test\r\n"), "X: x\r\n", 10 * time.Second},
		"HTTP body":          {afterText(t, secured(), "POST /oauth/token HTTP/1.1\r\nHost: gate.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\n"), "a=b&", 30 * time.Second},
		"PROXY header":       {from(t, "127.0.0.2", s.sshPort), "PROXY TCP4 ", 5 * time.Second}, // refused when it is one
		"nothing on the TLS": {from(t, "127.0.0.2", s.tlsPort), "\x16", 10 * time.Second},
	} {
		all.Go(func() {
			if took := dribble(stage.conn, stage.text); took > stage.most+4*time.Second {
				t.Errorf("%s: held its place for %v, want %v", name, took, stage.most)
			}
		})
	}
	s.signedIn(t)
	all.Wait()
	if n := s.refusals(t, "slow_handshake"); n < 5 {
		t.Errorf("%v slow handshakes", n)
	}
	if events := s.limited(t, "slow_handshake"); len(events) != 1 {
		t.Errorf("%d events", len(events))
	}
}

// afterVersion returns a connection on which the client has said its version.
func afterVersion(t *testing.T, conn net.Conn) net.Conn {
	return afterText(t, conn, "SSH-2.0-slow\r\n")
}

func afterText(t *testing.T, conn net.Conn, text string) net.Conn {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestPendingPerAddress has machines of one address wait for their sign-ins.
func TestPendingPerAddress(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{origins: "  max_pending_per_address: 1"})
	first := s.newClient(t)
	shown := newOutput()
	waiting := first.ssh("gate", "true")
	waiting.Stderr = shown
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := shown.wait(t.Context(), signInURL.FindString)
	if err != nil {
		t.Fatal(err)
	}
	second := s.newClient(t)
	r := run1(t, second.ssh("gate", "true"))
	if r.code == 0 || !strings.Contains(r.stderr, "sshgate: too many sign-ins from this address wait for their browser (1 at most)") {
		t.Errorf("%+v", r)
	}
	if r := second.signInWith(second.ssh("-b", "127.0.0.2", "gate", "true"), alice, approveAs(alice)); r.code != 0 {
		t.Errorf("from another address: %+v", r)
	}
	if err := approveAs(alice)(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Wait(); err != nil {
		t.Errorf("the first: %v\n%s", err, shown)
	}
	s.newClient(t).signIn(alice) // the place is free again
	if n := s.refusals(t, "pending_per_address"); n != 1 || len(s.limited(t, "pending_per_address")) != 1 {
		t.Errorf("%v refusals, events %v", n, s.limited(t, "pending_per_address"))
	}
}

// TestSessionsPerIdentity counts modes A and B together.
func TestSessionsPerIdentity(t *testing.T) {
	t.Parallel()
	need(t, "ssh-keygen")
	s, c := jumpStack(t, stackOptions{ssh: "  drain_timeout: 5s\n  max_sessions_per_identity: 2"})
	c.signIn(bob) // whose shell is refused, for the limit is about who
	alices := s.newClient(t)
	alices.knowOrigin("web1", s.sshd.dir)
	r := alices.signInWith(alices.ssh("jump", "true"), alice, approveAs(alice))
	if strings.Contains(r.stderr, "too many") {
		t.Fatalf("%+v", r)
	}
	hold := func() (end func()) {
		cmd := alices.ssh("-N", "-o", "ControlMaster=no", "-W", "web1:22", "jump")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := newOutput()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.wait(t.Context(), func(text string) string { return text[:min(len(text), 4)] }); err != nil {
			t.Fatal(err)
		}
		return func() {
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	first, second := hold(), hold()
	defer second()
	r = run1(t, alices.ssh("-W", "web1:22", "jump"))
	if r.code == 0 || !strings.Contains(r.stderr, "too many sessions are open in your name (2 at most)") {
		t.Errorf("mode B: %+v", r)
	}
	r = run1(t, alices.ssh("gate", "true"))
	if r.code == 0 || !strings.Contains(r.stderr, "too many sessions are open in your name (2 at most)") {
		t.Errorf("mode A: %+v", r)
	}
	first()
	eventually(t, "the place is free again", 10*time.Second, func() error {
		if r := run1(t, alices.ssh("gate", "true")); strings.Contains(r.stderr, "too many") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if n := s.refusals(t, "sessions_per_identity"); n < 2 {
		t.Errorf("%v refusals", n)
	}
	if events := s.limited(t, "sessions_per_identity"); len(events) != 1 || events[0]["identity"] != alice {
		t.Errorf("events %v", events)
	}
}

// TestBusyToolsAreNotHindered is an editor with thirty connections beside fifty
// forks of a configuration tool, all at once and with one sign-in.
func TestBusyToolsAreNotHindered(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{sshd: "MaxSessions 200"})
	c := s.newClient(t)
	stderr := newOutput()
	var all sync.WaitGroup
	for i := range 80 {
		args := []string{"gate", fmt.Sprint("echo ", i)}
		if i < 30 {
			args = append([]string{"-D", fmt.Sprint("127.0.0.1:", freePort(t))}, args...)
		}
		cmd := c.ssh(args...)
		cmd.Stderr = stderr
		all.Go(func() {
			if out, err := cmd.Output(); err != nil || string(out) != fmt.Sprintln(i) {
				t.Errorf("%d printed %q, %v", i, out, err)
			}
		})
	}
	eventually(t, "all wait for the sign-in", time.Minute, func() error {
		if n, err := s.metric("sshgate_startups"); n != 80 || err != nil {
			return fmt.Errorf("%v do, %v", n, err)
		}
		return nil
	})
	url, err := stderr.wait(t.Context(), signInURL.FindString)
	if err == nil {
		err = approveAs(alice)(t.Context(), url)
	}
	if err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if n := len(s.events(t, "login.start")); n != 80 {
		t.Errorf("%d connections waited for the sign-in", n)
	}
	if events := s.events(t, "limit"); len(events) != 0 {
		t.Errorf("limits were reached: %v", events)
	}
}

// proxies is HAProxy before both ports, with each version of the header.
type proxies struct{ sshV1, sshV2, tls int }

// proxyAddress is where HAProxy connects from.
const proxyAddress = "127.0.0.9"

func (s *stack) startHAProxy(t *testing.T) proxies {
	t.Helper()
	p := proxies{freePort(t), freePort(t), freePort(t)}
	var config strings.Builder
	config.WriteString("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n")
	for _, port := range []struct {
		listen, to int
		option     string
	}{{p.sshV1, s.sshPort, "send-proxy"}, {p.sshV2, s.sshPort, "send-proxy-v2 check check-send-proxy inter 200ms"}, {p.tls, s.tlsPort, "send-proxy-v2 check inter 200ms"}} {
		fmt.Fprintf(&config, "listen p%d\n  bind 127.0.0.1:%d\n  source %s\n  server gate 127.0.0.1:%d %s\n", port.listen, port.listen, proxyAddress, port.to, port.option)
	}
	path := write(t, filepath.Join(t.TempDir(), "haproxy.cfg"), config.String())
	start(t, "haproxy", "-db", "-f", path)
	eventually(t, "HAProxy is up", 10*time.Second, func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.tls))
		if err == nil {
			conn.Close()
		}
		return err
	})
	return p
}

const proxiedPolicy = `
policy:
  session_duration: 1h
  applications:
    - name: servers
      hosts: [web1]
      rules:
        - name: alice
          action: allow
          include: [{email: alice@example.com}]
          exclude: [{address: [127.0.0.6, 127.0.0.9]}]
          logins: [LOGIN]
`

// TestProxyProtocol puts HAProxy in front of both ports.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	need(t, "haproxy")
	s := newStack(t, stackOptions{policy: proxiedPolicy, origins: "proxy_protocol: {ssh: " + proxyAddress + ", tunnel: [" + proxyAddress + "]}"})
	p := s.startHAProxy(t)
	c := s.signedIn(t) // directly, which needs no header
	through := func(port int, source string) result {
		return run1(t, c.ssh("-p", fmt.Sprint(port), "-b", source, "-o", fmt.Sprintf("HostKeyAlias=[127.0.0.1]:%d", s.sshPort), "gate", "echo $SSH_CONNECTION"))
	}
	for _, port := range []int{p.sshV1, p.sshV2} {
		if r := through(port, "127.0.0.5"); r.code != 0 {
			t.Errorf("through port %d: %+v", port, r)
		}
		if r := through(port, "127.0.0.6"); r.code == 0 || !strings.Contains(r.stderr, "there is no origin") {
			t.Errorf("from an address that the policy excludes: %+v", r)
		}
	}
	seen := map[any]int{}
	for _, e := range s.events(t, "decision") {
		seen[e["client"]]++
	}
	if seen["127.0.0.1"] == 0 || seen["127.0.0.5"] != 2 || seen["127.0.0.6"] != 2 || seen[proxyAddress] != 0 {
		t.Errorf("the record has the addresses %v", seen)
	}
	if out := s.connector.out.String(); !strings.Contains(out, "127.0.0.5") {
		t.Error("the connector is not told the client's address")
	}
	s.testProxiedTLS(t, p)
	s.testSpoofing(t, p)
}

func (s *stack) testProxiedTLS(t *testing.T, p proxies) {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return from(t, "127.0.0.5", p.tls), nil
		},
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://gate.test/api/v1/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer x")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if events := s.waitForEvents(t, "credential", 1); resp.StatusCode != http.StatusUnauthorized || events[0]["client"] != "127.0.0.5" {
		t.Errorf("%s, %v", resp.Status, events)
	}
}

func (s *stack) testSpoofing(t *testing.T, p proxies) {
	t.Helper()
	if n := s.refusals(t, "proxy_header"); n != 0 {
		t.Fatalf("%v refusals of good headers and health checks: %v", n, s.limited(t, "proxy_header"))
	}
	const header = "PROXY TCP4 127.0.0.5 127.0.0.1 1234 22\r\n"
	for i, spoof := range []struct {
		source string
		port   int
		text   string
	}{
		{"127.0.0.4", s.sshPort, header + "SSH-2.0-x\r\n"},
		{"127.0.0.4", s.tlsPort, header},
		{"127.0.0.4", s.sshPort, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x05\x7f\x00\x00\x01\x04\xd2\x00\x16SSH-2.0-x\r\n"},
		{"127.0.0.4", p.sshV1, header + "SSH-2.0-x\r\n"}, // behind the proxy
		{proxyAddress, s.sshPort, "SSH-2.0-x\r\n"},       // the proxy without a header
		{proxyAddress, s.sshPort, "PROXY TCP4 127.0.0.5 127.0.0.1 1234\r\n"},
		{proxyAddress, s.sshPort, "PROXY " + strings.Repeat("x", 4096)},
	} {
		conn := afterText(t, from(t, spoof.source, spoof.port), spoof.text)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.Copy(io.Discard, conn) // what came before the end is the version at most
		if n := s.refusals(t, "proxy_header"); n != float64(i+1) {
			t.Errorf("%q from %s: %v refusals, want %d", spoof.text[:20], spoof.source, n, i+1)
		}
	}
	for _, e := range s.logLines(t) {
		if e["kind"] == "limit" && e["client"] == "127.0.0.5" {
			t.Errorf("a spoofed address was believed: %v", e)
		}
	}
	s.gateway.stop(syscall.SIGTERM)
}
