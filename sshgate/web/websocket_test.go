package web_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func (b *bench) webSocket(path, header string) (*websocket.Conn, *http.Response, error) {
	b.t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS()}}
	conn, resp, err := websocket.Dial(b.t.Context(), "https://"+b.addr+path, &websocket.DialOptions{
		HTTPClient: client, HTTPHeader: http.Header{"Authorization": {header}}, Subprotocols: []string{"sshgate-connect.v1"},
	})
	if conn != nil {
		b.t.Cleanup(func() { conn.CloseNow() })
	}
	return conn, resp, err
}

// readAll reads binary messages until EOF.
func readAll(ctx context.Context, conn *websocket.Conn) (string, error) {
	var all strings.Builder
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return all.String(), err
		}
		if kind == websocket.MessageText {
			if string(data) != "EOF" {
				return all.String(), errors.New("a text message " + string(data))
			}
			return all.String(), nil
		}
		all.Write(data)
	}
}

func TestWebSocket(t *testing.T) {
	b := newAPI(t, answering)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, resp, err := b.webSocket("/connect/WEB1./22", b.bearer(person("alice")))
	if err != nil || conn.Subprotocol() != "sshgate-connect.v1" || !strings.HasPrefix(resp.Header.Get("Sshgate-Request-Id"), "r-") {
		t.Fatal(resp, err)
	}
	for _, part := range []string{"one ", "two"} {
		if err := conn.Write(ctx, websocket.MessageBinary, []byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("EOF")); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(ctx, conn); got != "got one two" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("at the end: %v", err)
	}
}

func TestWebSocketRefusals(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	for name, test := range map[string]struct {
		path, header string
		status       int
	}{
		"nobody":         {"/connect/web1/22", "", 401},
		"another port":   {"/connect/web1/23", alice, 403},
		"another origin": {"/connect/secret/22", alice, 403},
		"no port":        {"/connect/web1/x", alice, 400},
	} {
		_, resp, err := b.webSocket(test.path, test.header)
		if err == nil || resp == nil || resp.StatusCode != test.status {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	if resp, _ := b.do(http.MethodGet, "/connect/web1/22", alice, nil); resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("no WebSocket: %s", resp.Status)
	}
	if n := b.service.dials.Load(); n != 0 {
		t.Errorf("%d connections reached the tunnel", n)
	}
}

// What is no end of the service's is none of the WebSocket either, and what is none
// of the client's ends nothing well.
func TestWebSocketCut(t *testing.T) {
	ended := make(chan struct{}, 10)
	b := newAPI(t, func(conn *net.TCPConn) {
		_, _ = io.Copy(io.Discard, conn)
		ended <- struct{}{}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	alice := b.bearer(person("alice"))
	conn, _, err := b.webSocket("/connect/web1/22", alice)
	if err != nil {
		t.Fatal(err)
	}
	b.service.lose()
	if _, err := readAll(ctx, conn); websocket.CloseStatus(err) != websocket.StatusInternalError {
		t.Errorf("after the loss: %v", err)
	}
	<-ended
	for name, spoil := range map[string]func(*websocket.Conn) error{
		"gone":                  func(c *websocket.Conn) error { return c.CloseNow() },
		"another text":          func(c *websocket.Conn) error { return c.Write(ctx, websocket.MessageText, []byte("eof")) },
		"a message without end": func(c *websocket.Conn) error { return c.Write(ctx, websocket.MessageBinary, make([]byte, 1<<20)) },
		"closed before its EOF": func(c *websocket.Conn) error { go c.Close(websocket.StatusNormalClosure, ""); return nil },
	} {
		conn, _, err := b.webSocket("/connect/web1/22", alice)
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-ended:
		case <-ctx.Done():
			t.Fatalf("%s: the service is still connected", name)
		}
	}
}
