package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
)

const testTimeout = 20 * time.Second

// lockedBuffer is a buffer that a program writes to while the test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startHub is a gateway's tunnel port, with a certificate of the CA in dir.
func startHub(t *testing.T, dir string) (*connector.Hub, string) {
	t.Helper()
	ca, err := connector.OpenCA(filepath.Join(dir, "ca"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := connector.NewHub(connector.HubConfig{Admit: func(context.Context, connector.Registration) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", connector.ServerTLS(ca, ca.ServerCertificate([]string{"gate.test"}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if tc := conn.(*tls.Conn); tc.Handshake() == nil {
					_ = hub.Serve(context.Background(), tc)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		hub.Close()
		wg.Wait()
	})
	return hub, listener.Addr().String()
}

// From the start to SIGTERM, with a connection that outlives the signal, as
// systemd sees it.
func TestConnectorRun(t *testing.T) {
	dir := t.TempDir()
	if err := writeCert(dir, time.Hour, "web1"); err != nil {
		t.Fatal(err)
	}
	hub, gateway := startHub(t, dir)
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	go func() {
		for {
			conn, err := origin.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "not ssh\r\n") // ends the scans at once
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	states, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer states.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("RUNTIME_DIRECTORY", dir+":/elsewhere")

	c := startConnector(t, dir, gateway, origin.Addr().String())
	expectState(t, states, "READY=1\nSTATUS=connected to "+gateway+", ")
	expectState(t, states, "WATCHDOG=1")
	expectState(t, states, "STATUS=connected to "+gateway+", 2 tunnels, 1 origin")
	expectState(t, states, "WATCHDOG=1")
	conn, err := hub.Dial(context.Background(), connector.DialRequest{Origin: "web1", RequestID: "r-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if code, out := askStatus(t, "--socket", filepath.Join(dir, "status.sock")); code != exitOK || !strings.Contains(out, "state        connected\n") ||
		!strings.Contains(out, "web1 at "+origin.Addr().String()+", published") {
		t.Errorf("status: %d\n%s", code, out)
	}
	c.stop() // SIGTERM
	expectState(t, states, "STOPPING=1")
	expectState(t, states, "STATUS=stopping, 1 connection left")
	if code, out := askStatus(t, "--json"); code != exitFailed || !strings.Contains(out, `"state":"stopping"`) {
		t.Errorf("status while it stops: %d\n%s", code, out)
	}
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "not ssh\r\nhello\n" {
		t.Errorf("after SIGTERM: %q, %v", got, err)
	}
	conn.Close()
	select {
	case <-c.done:
		if c.code != exitOK {
			t.Errorf("exit code %d", c.code)
		}
	case <-time.After(testTimeout):
		t.Fatal("the connector does not end")
	}
	if _, err := os.Lstat(filepath.Join(dir, "status.sock")); !os.IsNotExist(err) {
		t.Errorf("the status socket is still there: %v", err)
	}
	for _, want := range []string{`"msg":"connected"`, `"request":"r-1"`, `"msg":"stopped"`, `"time":"20`} {
		if !strings.Contains(c.stderr.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, c.stderr.String())
		}
	}
}

// expectState reads what systemd is told until it is that.
func expectState(t *testing.T, states *net.UnixConn, want string) {
	t.Helper()
	_ = states.SetReadDeadline(time.Now().Add(testTimeout))
	var told []string
	buf := make([]byte, 1024)
	for {
		n, err := states.Read(buf)
		if err != nil {
			t.Fatalf("systemd was told %q, %v; want %s", told, err, want)
		}
		if strings.HasPrefix(string(buf[:n]), want) {
			return
		}
		told = append(told, string(buf[:n]))
	}
}

// askStatus runs "connector status" and returns its exit code and all it printed.
func askStatus(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out lockedBuffer
	code := Run(t.Context(), append([]string{"connector", "status"}, args...), nil, &out, &out)
	return code, out.String()
}
