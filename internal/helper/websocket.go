package helper

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/coder/websocket"
	"github.com/sshgate/sshgate/internal/wsstream"
	"github.com/sshgate/sshgate/sshgate"
)

// connectWebSocket is Connect for networks that let only requests through.
func (g *Gateway) connectWebSocket(ctx context.Context, c Credential, service sshgate.Endpoint) (Stream, error) {
	bounded, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	client := *g.http
	client.Timeout = 0 // it would end the connection, too
	conn, resp, err := websocket.Dial(bounded, "https://"+g.Address+"/connect/"+string(service.Origin)+"/"+strconv.Itoa(int(service.Port)), &websocket.DialOptions{
		HTTPClient:   &client,
		HTTPHeader:   http.Header{"Authorization": {c.header()}, "User-Agent": {"sshgate"}},
		Subprotocols: []string{wsstream.Protocol},
	})
	if err != nil {
		if resp != nil && resp.Body != nil {
			defer resp.Body.Close()
			data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is will do
			if p := readProblem(resp, data); p != nil {
				return nil, p
			}
		}
		var p *Problem
		if errors.As(err, &p) {
			return nil, p
		}
		return nil, err
	}
	if conn.Subprotocol() != wsstream.Protocol {
		_ = conn.CloseNow() // it is of no use
		return nil, errors.New("the other end does not speak " + wsstream.Protocol)
	}
	ctx, stop := context.WithCancel(ctx)
	return &messageStream{
		Stream: wsstream.New(ctx, conn), stop: stop, conn: conn, request: printable(resp.Header.Get("Sshgate-Request-Id")),
	}, nil
}

// messageStream is a WebSocket as a Stream.
type messageStream struct {
	*wsstream.Stream
	stop    context.CancelFunc
	conn    *websocket.Conn
	request string
}

// Request implements Stream.
func (s *messageStream) Request() string { return s.request }

// Close ends both directions at once.
func (s *messageStream) Close() error {
	defer s.stop()
	if s.Ended() {
		return s.conn.Close(websocket.StatusNormalClosure, "")
	}
	return s.conn.CloseNow()
}
