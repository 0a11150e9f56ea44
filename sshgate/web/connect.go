package web

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// connect joins the client to a service of an origin, RFC 9110 section 9.3.6.
func (a *API) connect(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 {
		fail(w, problem{status: http.StatusHTTPVersionNotSupported, code: "bad_version", text: "CONNECT takes HTTP/1.1 here; do not offer h2 in ALPN"})
		return
	}
	who, p := a.authenticate(r, http.StatusProxyAuthRequired, "Proxy-Authorization", "Authorization")
	if p != nil {
		fail(w, *p)
		return
	}
	host, port, p := splitTarget(r.Host)
	if p != nil {
		fail(w, *p)
		return
	}
	passage, denial := a.cfg.Broker.Open(r.Context(), who.client(), host, port)
	if denial != nil {
		p := ofDenial(denial)
		if p.status == http.StatusUnauthorized {
			p.status = http.StatusProxyAuthRequired
		}
		fail(w, p)
		return
	}
	stream, err := hijack(w)
	if err != nil {
		passage.Close()
		a.cfg.Log.Error("a connection could not be taken over", "request", passage.ID, "err", err)
		fail(w, problem{status: http.StatusInternalServerError, code: "unavailable", text: "the connection cannot be taken over", request: passage.ID})
		return
	}
	if _, err := fmt.Fprintf(stream, "HTTP/1.1 200 Connection established\r\nSshgate-Request-Id: %s\r\n\r\n", passage.ID); err != nil {
		passage.Close()
		stream.Close()
		return
	}
	if err := passage.Carry(r.Context(), stream); err != nil {
		a.cfg.Log.Debug("an end-to-end connection failed", "request", passage.ID, "err", err)
		return
	}
	stream.finish()
}

// splitTarget reads HOST:PORT.
func splitTarget(target string) (host string, port uint32, p *problem) {
	host, text, err := net.SplitHostPort(target)
	if err != nil {
		p := badRequest("the target of CONNECT is HOST:PORT, as in web1:22")
		return "", 0, &p
	}
	return parsePort(host, text)
}

func parsePort(host, text string) (string, uint32, *problem) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		p := badRequest("the port is not a number from 1 to 65535")
		return "", 0, &p
	}
	return host, uint32(port), nil
}

// tlsStream is a hijacked connection as an endtoend.Stream.
type tlsStream struct {
	*tls.Conn
	unread *bufio.Reader // what net/http has read already, and then the connection
}

// hijack takes the connection over from net/http, with what was read ahead.
func hijack(w http.ResponseWriter) (*tlsStream, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	secured, ok := conn.(*tls.Conn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("it is a %T and not TLS", conn)
	}
	if err := secured.SetDeadline(time.Time{}); err != nil {
		conn.Close()
		return nil, err
	}
	return &tlsStream{Conn: secured, unread: buffered.Reader}, nil
}

// Read returns what was read ahead first. The end of the connection is not the
// client's end.
func (s *tlsStream) Read(p []byte) (int, error) {
	if s.unread != nil && s.unread.Buffered() > 0 {
		return s.unread.Read(p[:min(len(p), s.unread.Buffered())])
	}
	n, err := s.Conn.Read(p)
	if raw, ok := s.NetConn().(interface{ cut() bool }); ok && errors.Is(err, io.EOF) && raw.cut() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close cuts the connection off. Without the close_notify that tls.Conn's own
// Close would send, the client can tell that from an end.
func (s *tlsStream) Close() error { return s.NetConn().Close() }

// finish ends a connection both of whose directions have ended.
func (s *tlsStream) finish() { s.Conn.Close() }

var _ io.ReadWriteCloser = (*tlsStream)(nil)
