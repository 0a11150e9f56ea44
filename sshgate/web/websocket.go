package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/sshgate/sshgate/sshgate/endtoend"
)

const (
	webSocketProtocol = "sshgate-connect.v1"
	webSocketEOF      = "EOF"            // the text message that ends a direction
	maxMessage        = 64 << 10         // bytes
	pingInterval      = 25 * time.Second // below the idle limits of balancers
)

// websocket is CONNECT for networks that let only requests through, RFC 6455.
func (a *API) websocket(w http.ResponseWriter, r *http.Request) {
	who, p := a.authenticate(r, http.StatusUnauthorized, "Authorization")
	if p != nil {
		fail(w, *p)
		return
	}
	host, port, p := parsePort(r.PathValue("host"), r.PathValue("port"))
	if p != nil {
		fail(w, *p)
		return
	}
	if r.Header.Get("Upgrade") == "" || r.ProtoMajor != 1 {
		w.Header().Set("Upgrade", "websocket")
		fail(w, problem{status: http.StatusUpgradeRequired, code: "bad_request", text: "this path takes WebSockets over HTTP/1.1"})
		return
	}
	passage, denial := a.cfg.Broker.Open(r.Context(), who.client(), host, port)
	if denial != nil {
		fail(w, ofDenial(denial))
		return
	}
	w.Header().Set("Sshgate-Request-Id", string(passage.ID))
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{webSocketProtocol}})
	if err != nil { // and answered
		passage.Close()
		return
	}
	a.carryMessages(r.Context(), conn, passage)
}

func (a *API) carryMessages(ctx context.Context, conn *websocket.Conn, passage *endtoend.Passage) {
	defer conn.CloseNow()
	conn.SetReadLimit(maxMessage)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := &messageStream{ctx: ctx, conn: conn}
	var pings sync.WaitGroup
	defer pings.Wait()
	defer cancel() // before the wait
	pings.Go(func() { stream.keepAlive() })
	if err := passage.Carry(ctx, stream); err != nil {
		a.cfg.Log.Debug("an end-to-end connection failed", "request", passage.ID, "err", err)
		_ = conn.Close(websocket.StatusInternalError, "the connection was lost") // the client may be gone
		return
	}
	_ = conn.Close(websocket.StatusNormalClosure, "") // the client may be gone
}

// messageStream is a WebSocket as an endtoend.Stream.
type messageStream struct {
	ctx  context.Context
	conn *websocket.Conn

	message io.Reader // the one being read
	ended   bool      // the client has sent EOF

	busy    atomic.Bool  // something was carried since the last tick
	writing atomic.Int32 // calls of Write under way
}

func (s *messageStream) Read(p []byte) (int, error) {
	for {
		if s.ended {
			return 0, io.EOF
		}
		if s.message == nil {
			if err := s.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := s.message.Read(p)
		s.busy.Store(true)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next begins the next message. The end of the WebSocket is not the end of the
// client's direction, which EOF is.
func (s *messageStream) next() error {
	kind, message, err := s.conn.Reader(s.ctx)
	if err != nil {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	if kind == websocket.MessageBinary {
		s.message = message
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(message, int64(len(webSocketEOF))+1))
	if err != nil {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	if string(text) != webSocketEOF {
		return errors.New("the client has sent a text message other than EOF")
	}
	s.ended = true
	s.conn.CloseRead(s.ctx) // which goes on to answer pings
	return nil
}

func (s *messageStream) Write(p []byte) (int, error) {
	s.writing.Add(1)
	defer s.writing.Add(-1)
	s.busy.Store(true)
	if err := s.conn.Write(s.ctx, websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite ends the direction to the client.
func (s *messageStream) CloseWrite() error {
	return s.conn.Write(s.ctx, websocket.MessageText, []byte(webSocketEOF))
}

// Close cuts the connection off, with a status that is no normal end.
func (s *messageStream) Close() error {
	return s.conn.Close(websocket.StatusInternalError, "the connection was lost")
}

// keepAlive pings the client while nothing else is said, until the stream has
// ended. Not in between: a ping that has to wait for five seconds, as behind a
// client that reads slowly, ends the connection.
func (s *messageStream) keepAlive() {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			if s.busy.Swap(false) || s.writing.Load() > 0 {
				continue
			}
			ctx, cancel := context.WithTimeout(s.ctx, pingInterval)
			err := s.conn.Ping(ctx)
			cancel()
			if err != nil && s.ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
				return // reading finds it, too
			}
		}
	}
}
