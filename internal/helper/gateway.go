package helper

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/internal/proxydial"
)

const (
	dialTimeout   = 20 * time.Second // to the gateway, TLS included
	answerTimeout = 30 * time.Second // of one request; a poll may be held back for 10 s
	maxAnswer     = 4 << 20          // bytes
)

// Gateway is the TLS port of a gateway.
type Gateway struct {
	Address string // HOST:PORT
	// ServerName is the name that its certificate must have. Default the host.
	ServerName string
	// Certificate is what a connector shows of itself; nil shows none.
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)

	roots  *x509.CertPool // nil: the system's
	dialer *proxydial.Dialer
	http   *http.Client
}

// NewGateway returns the gateway at HOST or HOST:PORT (443). caPEM is what signs its
// certificate; empty means what the system trusts. The proxy is that of the
// environment (HTTPS_PROXY, NO_PROXY).
func NewGateway(address string, caPEM []byte) (*Gateway, error) {
	address, err := ParseGateway(address)
	if err != nil {
		return nil, err
	}
	g := &Gateway{Address: address, dialer: proxydial.New()}
	if len(caPEM) > 0 {
		g.roots = x509.NewCertPool()
		if !g.roots.AppendCertsFromPEM(caPEM) {
			return nil, usage("the CA file has no certificate in PEM form")
		}
	}
	g.http = &http.Client{
		Timeout: answerTimeout,
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return g.dial(ctx) },
			MaxIdleConns:   1,
		},
		// A gateway does not redirect; whoever does must not get the token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return g, nil
}

// ParseGateway reads HOST or HOST:PORT.
func ParseGateway(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "https://"), "/")
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), "443"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" || strings.ContainsAny(host, "/@? ") {
		return "", usage("the gateway %q is not HOST or HOST:PORT, as in gate.example.com", s)
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}

func (g *Gateway) host() string {
	host, _, _ := net.SplitHostPort(g.Address) // parsed before
	return host
}

// dial opens a TLS connection for HTTP/1.1, through a proxy where the environment
// names one.
//
// The connection below is a *cutConn, see there.
func (g *Gateway) dial(ctx context.Context) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := g.dialTCP(ctx)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(&cutConn{Conn: raw}, &tls.Config{
		RootCAs: g.roots, ServerName: cmp.Or(g.ServerName, g.host()), GetClientCertificate: g.Certificate,
		NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, g.tlsProblem(err)
	}
	return conn, nil
}

// cutConn is a connection below TLS that knows whether it has ended. crypto/tls says
// io.EOF for an end without close_notify, too, as long as it is between records. One
// that it says before this connection has ended is the other end's own word.
type cutConn struct {
	net.Conn
	ended atomic.Bool
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.ended.Store(true)
	}
	return n, err
}

func (g *Gateway) tlsProblem(err error) *Problem {
	p := &Problem{Kind: Unreachable, Code: "tls", Text: "the gateway " + g.Address + " cannot be trusted", Err: err}
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		p.Next = "if it signs its own certificate, give its CA with --ca-file (gateway-ca.crt of a connector)"
	case errors.As(err, &wrongName):
		p.Next = "use the name that is in its certificate as --gateway"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		p.Next = "compare this machine's clock, or tell whoever runs the gateway"
	default:
		p.Text = "TLS with the gateway " + g.Address + " failed"
		p.Next = "is that the TLS port of an sshgate gateway?"
	}
	return p
}

// CloseIdle closes the connections that are kept for further requests.
func (g *Gateway) CloseIdle() { g.http.CloseIdleConnections() }

// dialTCP connects to the gateway's port, or to the proxy, which is told to.
func (g *Gateway) dialTCP(ctx context.Context) (net.Conn, error) {
	conn, err := g.dialer.DialContext(ctx, "tcp", g.Address)
	var proxy *proxydial.Error
	switch {
	case errors.As(err, &proxy):
		return nil, &Problem{Kind: Unreachable, Code: "proxy", Text: proxy.Text, Err: proxy.Err, Next: proxy.Next}
	case err != nil:
		return nil, &Problem{Kind: Unreachable, Code: "dial", Text: "the gateway " + g.Address + " cannot be reached", Err: err,
			Next: "check the name and the network, or run: sshgate doctor --gateway " + g.Address}
	}
	return conn, nil
}

// Proxy returns the proxy that the environment names for the gateway, or nil.
func (g *Gateway) Proxy() (*url.URL, error) { return g.dialer.Proxy(g.Address) }

// Credential is what the gateway knows its caller by: an access token, or the ID
// and the secret of a service token.
type Credential struct {
	Token      string
	ID, Secret string
}

// header returns the value of an Authorization header.
func (c Credential) header() string {
	switch {
	case c.ID != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.ID+":"+c.Secret))
	case c.Token != "":
		return "Bearer " + c.Token
	}
	return ""
}

// Ask makes a request and decodes the answer into out. body is a url.Values for a
// form, nil, or anything else for JSON.
func (g *Gateway) Ask(ctx context.Context, method, path string, c Credential, body, out any) error {
	req, err := g.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if header := c.header(); header != "" {
		req.Header.Set("Authorization", header)
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return g.callProblem(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return g.callProblem(err)
	}
	if resp.StatusCode != http.StatusOK {
		if p := readProblem(resp, data); p != nil {
			return p
		}
		return &Problem{Kind: Unreachable, Text: fmt.Sprintf("%s answered %s, and not as an sshgate gateway does", g.Address, printable(resp.Status)),
			Next: "is that the TLS port of a gateway?"}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return &Problem{Kind: Unreachable, Text: g.Address + " sent an answer that is none of an sshgate gateway", Err: err}
	}
	return nil
}

func (g *Gateway) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var content io.Reader
	kind := ""
	switch body := body.(type) {
	case nil:
	case url.Values:
		content, kind = strings.NewReader(body.Encode()), "application/x-www-form-urlencoded"
	default:
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content, kind = bytes.NewReader(data), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+g.Address+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "sshgate") // as the page of a sign-in shows it
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	return req, nil
}

// callProblem finds the problem in an error of net/http, which wraps it.
func (g *Gateway) callProblem(err error) error {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &Problem{Kind: Unreachable, Text: "the gateway " + g.Address + " does not answer", Err: err,
		Next: "try again, or run: sshgate doctor --gateway " + g.Address}
}

// readProblem reads the gateway's answer of no, nil where it is none of a gateway.
func readProblem(resp *http.Response, data []byte) *Problem {
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Request     string `json:"request_id"`
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") || json.Unmarshal(data, &body) != nil || body.Error == "" {
		return nil
	}
	return answerProblem(body.Error, body.Description, body.Request)
}
