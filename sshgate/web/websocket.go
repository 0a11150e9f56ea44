package web

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/sshgate/sshgate/internal/wsstream"
	"github.com/sshgate/sshgate/sshgate/endtoend"
)

// pingInterval is below the idle limits of balancers.
const pingInterval = 25 * time.Second

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
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wsstream.Protocol}})
	if err != nil { // and answered
		passage.Close()
		return
	}
	a.carryMessages(r.Context(), conn, passage)
}

func (a *API) carryMessages(ctx context.Context, conn *websocket.Conn, passage *endtoend.Passage) {
	defer func() { _ = conn.CloseNow() }() // closed already, as a rule
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := &messageStream{Stream: wsstream.New(ctx, conn), conn: conn}
	var pings sync.WaitGroup
	defer pings.Wait()
	defer cancel() // before the wait
	pings.Go(func() { stream.keepAlive(ctx) })
	if err := passage.Carry(ctx, stream); err != nil {
		a.cfg.Log.Debug("an end-to-end connection failed", "request", passage.ID, "err", err)
		return // the stream is closed
	}
	_ = conn.Close(websocket.StatusNormalClosure, "") // the client may be gone
}

// messageStream is a WebSocket as an endtoend.Stream.
type messageStream struct {
	*wsstream.Stream
	conn *websocket.Conn
}

// Close cuts the connection off, with a status that is no normal end.
func (s *messageStream) Close() error {
	return s.conn.Close(websocket.StatusInternalError, "the connection was lost")
}

// keepAlive pings the client while nothing else is said, until ctx is done. Not in
// between: a ping that has to wait for five seconds, as behind a client that reads
// slowly, ends the connection.
func (s *messageStream) keepAlive(ctx context.Context) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.Quiet() {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, pingInterval)
		err := s.conn.Ping(bounded)
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			return // reading finds it, too
		}
	}
}
