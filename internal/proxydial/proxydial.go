// Package proxydial opens TCP connections through the HTTP proxy that the
// environment names (HTTPS_PROXY, NO_PROXY), or without one where it names none.
package proxydial

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// Error is a problem with the proxy: what happened, and what to do. It never holds
// the proxy's password.
type Error struct {
	Text string
	Next string
	Err  error // may be nil
}

// Error returns all of it.
func (e *Error) Error() string {
	text := e.Text
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text + "; " + e.Next
}

func (e *Error) Unwrap() error { return e.Err }

// Dialer knows the environment's proxy, as it was when New was called.
type Dialer struct {
	proxy func(*url.URL) (*url.URL, error)
}

// New reads the environment.
func New() *Dialer { return &Dialer{proxy: httpproxy.FromEnvironment().ProxyFunc()} }

// Proxy returns the proxy on the way to HOST:PORT, or nil.
func (d *Dialer) Proxy(address string) (*url.URL, error) {
	proxy, err := d.proxy(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, &Error{Text: "HTTPS_PROXY cannot be read as a URL", Next: "write http://HOST:PORT or https://HOST:PORT"}
	}
	return proxy, nil
}

// DialContext connects to HOST:PORT. What the proxy did wrong is an *Error.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	proxy, err := d.Proxy(address)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	return through(ctx, proxy, address)
}

// through connects to the target by CONNECT, RFC 9110 section 9.3.6.
func through(ctx context.Context, proxy *url.URL, target string) (net.Conn, error) {
	name := proxy.Scheme + "://" + proxy.Host
	port := map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	if port == "" {
		return nil, &Error{Text: "the proxy " + name + " is not supported", Next: "HTTPS_PROXY takes http:// and https://"}
	}
	if proxy.Port() != "" {
		port = proxy.Port()
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, &Error{Text: "the proxy " + name + " cannot be reached", Next: "check HTTPS_PROXY and NO_PROXY", Err: err}
	}
	if proxy.Scheme == "https" {
		secured := tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &Error{Text: "TLS with the proxy " + name + " failed", Next: "check HTTPS_PROXY", Err: err}
		}
		conn = secured
	}
	joined, err := ask(ctx, conn, proxy.User, name, target)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return joined, nil
}

func ask(ctx context.Context, conn net.Conn, user *url.Userinfo, name, target string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed one
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	silent := func(err error) error {
		return &Error{Text: "the proxy " + name + " does not answer", Next: "check HTTPS_PROXY and NO_PROXY", Err: err}
	}
	if err := req.Write(conn); err != nil {
		return nil, silent(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, silent(err)
	}
	if resp.StatusCode != http.StatusOK { // otherwise the body is the connection
		resp.Body.Close()
		next := "ask whoever runs the proxy"
		if resp.StatusCode == http.StatusProxyAuthRequired {
			next = "put user and password into HTTPS_PROXY, as in http://user:password@proxy:3128"
		}
		// Not in the proxy's own words: they could repeat the password.
		answer := strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
		return nil, &Error{Text: fmt.Sprintf("the proxy %s answered %s to a connection to %s", name, answer, target), Next: next}
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return &ReadAhead{Conn: conn, Reader: reader}, nil
}

// ReadAhead is a connection of which more may have been read already.
type ReadAhead struct {
	net.Conn
	Reader *bufio.Reader
}

// Read returns what was read ahead first.
func (c *ReadAhead) Read(p []byte) (int, error) {
	if n := c.Reader.Buffered(); n > 0 {
		return c.Reader.Read(p[:min(len(p), n)])
	}
	return c.Conn.Read(p)
}
