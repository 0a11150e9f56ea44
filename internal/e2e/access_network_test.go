package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// corporateProxy is a forward proxy that wants a password.
func corporateProxy(t *testing.T) (address string, connects *atomic.Int32) {
	t.Helper()
	connects = new(atomic.Int32)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:pass word"))
	port := serveTCP(t, func(client *net.TCPConn) {
		buffered := bufio.NewReader(client)
		req, err := http.ReadRequest(buffered)
		if err != nil {
			return
		}
		if req.Method != http.MethodConnect || req.Header.Get("Proxy-Authorization") != want {
			fmt.Fprint(client, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n")
			return
		}
		upstream, err := net.Dial("tcp", strings.Replace(req.Host, "gate.test", "127.0.0.1", 1)) // the one name that it resolves
		if err != nil {
			fmt.Fprint(client, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
			return
		}
		defer upstream.Close()
		connects.Add(1)
		fmt.Fprint(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(upstream, buffered)
			_ = upstream.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(client, upstream)
		_ = client.CloseWrite()
		<-done
	})
	return fmt.Sprintf("127.0.0.1:%d", port), connects
}

// TestAccessThroughACorporateProxy gives the gateway a name, since addresses of
// the loopback never go through a proxy.
func TestAccessThroughACorporateProxy(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	backup := h.createToken(t, "backup")
	proxy, connects := corporateProxy(t)
	ask := func(env ...string) result {
		cmd := backup.as(c.access("ssh", "--hostname", fmt.Sprintf("web1:%d", h.echo), "--gateway", fmt.Sprintf("gate.test:%d", h.tlsPort)))
		cmd.Env = append(cmd.Env, env...)
		cmd.Stdin = strings.NewReader("q")
		return run1(t, cmd)
	}
	// The name does not exist: only the proxy, which is told to, can get there.
	if r := ask(); r.code != 6 || !strings.Contains(r.stderr, "gate.test") {
		t.Errorf("without a proxy: %+v", r)
	}
	r := ask("HTTPS_PROXY=http://user:wrong@" + proxy)
	if r.code != 6 || !strings.Contains(r.stderr, "407") || strings.Contains(r.stderr, "wrong") {
		t.Errorf("with a wrong password: %+v", r)
	}
	before := connects.Load()
	if r := ask("HTTPS_PROXY=http://user:pass%20word@" + proxy); r.stdout != "got q" || r.code != 0 || connects.Load() == before {
		t.Errorf("through the proxy: %+v", r)
	}
	before = connects.Load()
	cmd := backup.as(c.access("ssh", "--hostname", fmt.Sprintf("web1:%d", h.echo)))
	cmd.Env = append(cmd.Env, "HTTPS_PROXY=http://user:pass%20word@"+proxy, "NO_PROXY=127.0.0.1")
	cmd.Stdin = strings.NewReader("q")
	if r := run1(t, cmd); r.stdout != "got q" || connects.Load() != before {
		t.Errorf("with NO_PROXY: %+v, %d connections through the proxy", r, connects.Load()-before)
	}
}

// TestConnectorThroughACorporateProxy: the connector's way out, too.
func TestConnectorThroughACorporateProxy(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackOptions{})
	c := s.signedIn(t)
	s.connector.stop(syscall.SIGTERM)
	proxy, connects := corporateProxy(t)
	s.connector = start(t, "env", "HTTPS_PROXY=http://user:pass%20word@"+proxy, sshgateBin, "connector", "run",
		"--gateway", fmt.Sprintf("gate.test:%d", s.tlsPort), "--cert-dir", s.path("connector"), "--hostname", "web1", "--url", fmt.Sprintf("ssh://127.0.0.1:%d", s.sshd.port), "--status-socket", "off")
	s.waitForOrigins(1)
	must(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
	if connects.Load() == 0 {
		t.Error("it does not go through the proxy")
	}
}

// balancer stands for a load balancer that ends TLS and knows requests only: it
// swallows CONNECT, and lets WebSockets through.
func balancer(t *testing.T, h *helperStack) (address, caFile string) {
	t.Helper()
	authority, err := os.ReadFile(h.path("connector/gateway-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", h.tlsPort)})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			http.Error(w, "<html>405 Not Allowed</html>", http.StatusMethodNotAllowed)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), writeCertificate(t, server.Certificate())
}

func writeCertificate(t *testing.T, cert *x509.Certificate) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
}

func TestAccessByWebSocket(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	backup := h.createToken(t, "backup")
	address, ca := balancer(t, h)
	through := func(args ...string) result {
		cmd := backup.as(c.access(append([]string{"ssh", "--gateway", address, "--ca-file", ca}, args...)...))
		cmd.Stdin = strings.NewReader(strings.Repeat("0123456789abcdef", 1<<16))
		return run1(t, cmd)
	}
	r := through("--hostname", fmt.Sprintf("web1:%d", h.echo))
	if r.code != 0 || len(r.stdout) != len("got ")+1<<20 {
		t.Errorf("exit %d, %d bytes: %s", r.code, len(r.stdout), r.stderr)
	}
	if r := through("--hostname", fmt.Sprintf("web1:%d", h.hidden)); r.code != 3 || !strings.Contains(r.stderr, "request r-") {
		t.Errorf("a port that no rule allows: %+v", r)
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	c.login(alice)
	doctor := func(args ...string) (result, map[string]string) {
		t.Helper()
		r := run1(t, c.run(sshgateBin, append([]string{"doctor", "--json"}, args...)...))
		var report struct {
			Checks []struct{ Name, Status, Advice string } `json:"checks"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || len(report.Checks) < 5 {
			t.Fatalf("%v: %+v, %v", args, r, err)
		}
		status := map[string]string{}
		for _, check := range report.Checks {
			status[check.Name] = check.Status
			if check.Status == "fail" && check.Advice == "" {
				t.Errorf("%v: %s fails without advice", args, check.Name)
			}
		}
		return r, status
	}
	if r, status := doctor("--hostname", "web1"); r.code != 0 {
		t.Errorf("all is well, and yet: exit %d, %v\n%s", r.code, status, r.stdout)
	}
	if r, _ := doctor("--hostname", "nowhere"); r.code == 0 {
		t.Error("it finds nothing wrong with an origin that does not exist")
	}
	if r, _ := doctor("--gateway", fmt.Sprintf("127.0.0.1:%d", freePort(t))); r.code == 0 {
		t.Error("it finds nothing wrong with a closed port")
	}
	text := must(t, c.run(sshgateBin, "doctor", "--hostname", "web1"))
	if strings.Count(text, "ok") < 5 {
		t.Errorf("it prints\n%s", text)
	}
}
