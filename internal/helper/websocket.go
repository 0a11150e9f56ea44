package helper

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/coder/websocket"
	"github.com/sshgate/sshgate/sshgate"
)

const (
	webSocketProtocol = "sshgate-connect.v1"
	webSocketEOF      = "EOF"
	maxMessage        = 64 << 10 // bytes
	sendSize          = 32 << 10
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
		Subprotocols: []string{webSocketProtocol},
	})
	if err != nil {
		if resp != nil && resp.Body != nil {
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
	if conn.Subprotocol() != webSocketProtocol {
		conn.CloseNow()
		return nil, errors.New("the other end does not speak " + webSocketProtocol)
	}
	conn.SetReadLimit(maxMessage)
	ctx, stop := context.WithCancel(ctx)
	return &messageStream{ctx: ctx, stop: stop, conn: conn, request: printable(resp.Header.Get("Sshgate-Request-Id"))}, nil
}

// messageStream is a WebSocket as a Stream.
type messageStream struct {
	ctx     context.Context
	stop    context.CancelFunc
	conn    *websocket.Conn
	request string

	message io.Reader   // the one being read
	ended   atomic.Bool // the service has ended its direction
}

func (s *messageStream) Request() string { return s.request }

func (s *messageStream) Read(p []byte) (int, error) {
	for {
		switch {
		case s.ended.Load():
			return 0, io.EOF
		case s.message == nil:
			if err := s.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := s.message.Read(p)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next begins the next message.
func (s *messageStream) next() error {
	kind, message, err := s.conn.Reader(s.ctx)
	if err != nil {
		return s.cutOff(err)
	}
	if kind == websocket.MessageBinary {
		s.message = message
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(message, int64(len(webSocketEOF))+1))
	if err != nil {
		return s.cutOff(err)
	}
	if string(text) != webSocketEOF {
		return errors.New("the gateway has sent a text message other than EOF")
	}
	s.ended.Store(true)
	s.conn.CloseRead(s.ctx) // which goes on to answer pings
	return nil
}

// cutOff makes sure that the end of the WebSocket is not taken for the service's.
func (s *messageStream) cutOff(err error) error {
	var closed websocket.CloseError
	if errors.As(err, &closed) && closed.Reason != "" {
		return errors.New(printable(closed.Reason))
	}
	return errors.Join(io.ErrUnexpectedEOF, err)
}

func (s *messageStream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), sendSize)]
		if err := s.conn.Write(s.ctx, websocket.MessageBinary, part); err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

// CloseWrite ends the direction to the service.
func (s *messageStream) CloseWrite() error {
	return s.conn.Write(s.ctx, websocket.MessageText, []byte(webSocketEOF))
}

// Close ends both directions at once.
func (s *messageStream) Close() error {
	defer s.stop()
	if s.ended.Load() {
		return s.conn.Close(websocket.StatusNormalClosure, "")
	}
	return s.conn.CloseNow()
}
