package wsstream

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two ends of a WebSocket.
func pair(t *testing.T) (a, b *Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	accepted, done := make(chan *websocket.Conn, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- conn
		<-done
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(done) })
	client, _, err := websocket.Dial(ctx, server.URL, &websocket.DialOptions{Subprotocols: []string{Protocol}})
	if err != nil {
		t.Fatal(err)
	}
	other := <-accepted
	t.Cleanup(func() {
		client.CloseNow()
		other.CloseNow()
	})
	return New(ctx, client), New(ctx, other)
}

func TestEachDirectionEndsByItself(t *testing.T) {
	a, b := pair(t)
	data := make([]byte, 1<<20)
	rand.Read(data)
	go func() {
		_, _ = a.Write(data)
		_ = a.CloseWrite()
	}()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if !b.Ended() || a.Ended() {
		t.Errorf("ended: %v, %v", a.Ended(), b.Ended())
	}
	if _, err := io.WriteString(b, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = b.CloseWrite()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Errorf("%q, %v", got, err)
	}
	if a.Quiet() || !a.Quiet() {
		t.Error("Quiet does not tell")
	}
}

func TestEndsThatAreNone(t *testing.T) {
	for name, end := range map[string]func(*Stream){
		"gone":         func(s *Stream) { s.conn.CloseNow() },
		"closed":       func(s *Stream) { go s.conn.Close(websocket.StatusNormalClosure, "") },
		"given up":     func(s *Stream) { go s.conn.Close(websocket.StatusInternalError, "lost") },
		"another text": func(s *Stream) { _ = s.conn.Write(s.ctx, websocket.MessageText, []byte("end")) },
		"too large":    func(s *Stream) { _ = s.conn.Write(s.ctx, websocket.MessageBinary, make([]byte, maxMessage+1)) },
	} {
		a, b := pair(t)
		end(a)
		if _, err := io.ReadAll(b); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
