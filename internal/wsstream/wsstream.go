// Package wsstream is a byte stream with two ends of its own over a WebSocket (RFC
// 6455), which has but one: binary messages carry the bytes, the text message EOF
// ends its sender's direction. Whatever else ends the WebSocket is a failure. Both
// the gateway and the helper speak it; sshgate/web/API.md says how.
package wsstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/coder/websocket"
)

const (
	// Protocol is the WebSocket's subprotocol.
	Protocol = "sshgate-connect.v1"
	// maxMessage is what is taken, sendSize what is sent at a time.
	maxMessage = 64 << 10 // bytes
	sendSize   = 32 << 10

	eof = "EOF"
)

// Stream is one end. Read is for one goroutine, and so is Write with CloseWrite.
type Stream struct {
	ctx  context.Context
	conn *websocket.Conn

	message io.Reader   // the one being read
	ended   atomic.Bool // the other end has ended its direction
	moved   atomic.Bool // something was carried since Quiet was asked
	writing atomic.Bool
}

// New returns the stream of a WebSocket that has just been opened. ctx ends it.
func New(ctx context.Context, conn *websocket.Conn) *Stream {
	conn.SetReadLimit(maxMessage)
	return &Stream{ctx: ctx, conn: conn}
}

// Read returns io.EOF when the other end has ended its direction, and for no other
// reason.
func (s *Stream) Read(p []byte) (int, error) {
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
		s.moved.Store(true)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next begins the next message.
func (s *Stream) next() error {
	kind, message, err := s.conn.Reader(s.ctx)
	if err != nil {
		return cutOff(err)
	}
	if kind == websocket.MessageBinary {
		s.message = message
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(message, int64(len(eof))+1))
	switch {
	case err != nil:
		return cutOff(err)
	case string(text) != eof:
		return errors.New("the other end has sent a text message other than EOF")
	}
	s.ended.Store(true)
	s.conn.CloseRead(s.ctx) // which goes on to answer pings
	return nil
}

// cutOff returns why the WebSocket has ended.
func cutOff(err error) error {
	var closed websocket.CloseError
	if errors.As(err, &closed) && closed.Reason != "" {
		return fmt.Errorf("the other end gave up: %q", closed.Reason)
	}
	return fmt.Errorf("%w: %s", io.ErrUnexpectedEOF, err.Error()) // not wrapped: it may be io.EOF
}

// Write sends p in as many messages as it takes.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writing.Store(true)
	defer s.writing.Store(false)
	for len(p) > 0 {
		part := p[:min(len(p), sendSize)]
		s.moved.Store(true)
		if err := s.conn.Write(s.ctx, websocket.MessageBinary, part); err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

// CloseWrite ends the direction to the other end.
func (s *Stream) CloseWrite() error {
	return s.conn.Write(s.ctx, websocket.MessageText, []byte(eof))
}

// Ended tells that the other end has ended its direction.
func (s *Stream) Ended() bool { return s.ended.Load() }

// Quiet tells that nothing was carried since it was last asked, and nothing is being
// written.
func (s *Stream) Quiet() bool { return !s.moved.Swap(false) && !s.writing.Load() }
