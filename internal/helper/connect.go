package helper

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/sshgate/sshgate/internal/proxydial"
	"github.com/sshgate/sshgate/sshgate"
)

// Stream is a connection to a service of an origin. An end that the service did not
// send is never io.EOF.
type Stream interface {
	io.ReadWriteCloser
	// CloseWrite ends the direction to the service.
	CloseWrite() error
	// Request names the connection in the gateway's log.
	Request() string
}

// Connect joins the caller to the service, by CONNECT, or by WebSocket where
// something in between does not let that through.
func (g *Gateway) Connect(ctx context.Context, c Credential, service sshgate.Endpoint) (Stream, error) {
	stream, err := g.connect(ctx, c, service)
	var swallowed *swallowedError
	if !errors.As(err, &swallowed) {
		return stream, err
	}
	stream, wsErr := g.connectWebSocket(ctx, c, service)
	if wsErr == nil {
		return stream, nil
	}
	var p *Problem
	if errors.As(wsErr, &p) {
		return nil, p
	}
	return nil, &Problem{Kind: Unreachable, Text: "neither CONNECT nor WebSocket gets through to the gateway " + g.Address, Err: errors.Join(swallowed.err, wsErr),
		Next: "is that the TLS port of an sshgate gateway? A load balancer in front must pass TCP or WebSockets on"}
}

// swallowedError says that CONNECT was answered, but not by a gateway.
type swallowedError struct{ err error }

func (e *swallowedError) Error() string { return "CONNECT was not let through: " + e.err.Error() }

func (g *Gateway) connect(ctx context.Context, c Credential, service sshgate.Endpoint) (Stream, error) {
	conn, err := g.dial(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := g.ask(ctx, conn, c, service)
	if err != nil {
		conn.NetConn().Close()
		return nil, err
	}
	return stream, nil
}

func (g *Gateway) ask(ctx context.Context, conn *tls.Conn, c Credential, service sshgate.Endpoint) (Stream, error) {
	_ = conn.SetDeadline(time.Now().Add(connectTimeout)) // fails only on a closed connection
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	target := service.String()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{
		"Proxy-Authorization": {c.header()}, "User-Agent": {"sshgate"},
	}}
	if err := req.Write(conn); err != nil {
		return nil, g.callProblem(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &swallowedError{err}
	}
	if resp.StatusCode != http.StatusOK { // otherwise the body is the stream
		defer resp.Body.Close()
		data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is will do
		if p := readProblem(resp, data); p != nil {
			return nil, p
		}
		return nil, &swallowedError{errors.New("it was answered " + printable(resp.Status))}
	}
	if !stop() {
		return nil, ctx.Err()
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, g.callProblem(err)
	}
	return &tlsStream{Conn: conn, readAhead: &proxydial.ReadAhead{Conn: conn, Reader: reader}, request: printable(resp.Header.Get("Sshgate-Request-Id"))}, nil
}

// connectTimeout is how long the gateway may take to reach the service: it gives up
// after 30 seconds itself.
const connectTimeout = 40 * time.Second

// tlsStream is CONNECT's.
type tlsStream struct {
	*tls.Conn
	readAhead *proxydial.ReadAhead
	request   string
}

// Read tells the service's end from that of the connection.
func (s *tlsStream) Read(p []byte) (int, error) {
	n, err := s.readAhead.Read(p)
	if errors.Is(err, io.EOF) && s.NetConn().(*cutConn).ended.Load() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Request implements Stream.
func (s *tlsStream) Request() string { return s.request }

// Close cuts the connection off. Where both directions have ended there is no more
// to say.
func (s *tlsStream) Close() error { return s.NetConn().Close() }

// Carry copies from in to the stream and from the stream to out until both
// directions have ended, or one has failed. closeOut is called when the service has
// ended its direction, not when it was cut off: what reads out could take that for
// an end, and leave before it is told.
func Carry(ctx context.Context, stream Stream, in io.Reader, out io.Writer, closeOut func()) error {
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	up := make(chan error, 1)
	go func() { // ends with in, which nobody can interrupt: the caller's process ends with it
		up <- send(stream, in)
	}()
	down := make(chan error, 1)
	go func() { // ends with the stream
		_, err := io.Copy(out, stream)
		if err == nil {
			closeOut()
		}
		down <- err
	}()
	for range 2 {
		var err error
		select {
		case err = <-up:
		case err = <-down:
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
	return nil
}

func send(stream Stream, in io.Reader) error {
	_, err := io.Copy(onlyWriter{stream}, in)
	if err == nil {
		err = stream.CloseWrite()
	}
	return err
}

// onlyWriter keeps io.Copy from what else a stream may be able to do.
type onlyWriter struct{ io.Writer }

// CutOff is the problem of a connection that ended before its time.
func CutOff(service sshgate.Endpoint, stream Stream, err error) error {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Kind: Broken, Text: "the connection to " + service.Short() + " was cut off", Request: stream.Request(), Err: err, Next: "connect again"}
}
