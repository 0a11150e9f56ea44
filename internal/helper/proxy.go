package helper

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// dialProxy connects to the target through an HTTP proxy, RFC 9110 section 9.3.6.
func dialProxy(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	name := proxy.Scheme + "://" + proxy.Host // without the password
	port := map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	if port == "" {
		return nil, usage("the proxy %s is not supported; HTTPS_PROXY takes http:// and https://", name)
	}
	if proxy.Port() != "" {
		port = proxy.Port()
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, &Problem{Kind: Unreachable, Code: "proxy", Text: "the proxy " + name + " cannot be reached", Err: err, Next: "check HTTPS_PROXY and NO_PROXY"}
	}
	if proxy.Scheme == "https" {
		secured := tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &Problem{Kind: Unreachable, Code: "proxy", Text: "TLS with the proxy " + name + " failed", Err: err, Next: "check HTTPS_PROXY"}
		}
		conn = secured
	}
	through, err := askProxy(ctx, conn, proxy, name, target)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return through, nil
}

func askProxy(ctx context.Context, conn net.Conn, proxy *url.URL, name, target string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	broken := func(err error) error {
		return &Problem{Kind: Unreachable, Code: "proxy", Text: "the proxy " + name + " does not answer", Err: err, Next: "check HTTPS_PROXY and NO_PROXY"}
	}
	if err := req.Write(conn); err != nil {
		return nil, broken(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, broken(err)
	}
	if resp.StatusCode != http.StatusOK { // otherwise the body is the connection
		resp.Body.Close()
		next := "ask whoever runs the proxy"
		if resp.StatusCode == http.StatusProxyAuthRequired {
			next = "put user and password into HTTPS_PROXY, as in http://user:password@proxy:3128"
		}
		return nil, &Problem{Kind: Unreachable, Code: "proxy", Text: fmt.Sprintf("the proxy %s answered %s to a connection to %s", name, printable(resp.Status), target), Next: next}
	}
	return &readAhead{Conn: conn, reader: reader}, nil
}

// readAhead is a connection of which more may have been read already.
type readAhead struct {
	net.Conn
	reader *bufio.Reader
}

func (c *readAhead) Read(p []byte) (int, error) {
	if n := c.reader.Buffered(); n > 0 {
		return c.reader.Read(p[:min(len(p), n)])
	}
	return c.Conn.Read(p)
}
