package authflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	maxBody        = 1 << 20 // bytes of any answer of a provider
	requestTimeout = 15 * time.Second
	maxRedirects   = 3
)

// boundedClient returns a copy of client (nil: a new one) that trusts no
// provider to be brief, quick or well-meaning.
func boundedClient(client *http.Client) *http.Client {
	var bounded http.Client
	if client != nil {
		bounded = *client
	}
	if bounded.Timeout == 0 {
		bounded.Timeout = requestTimeout
	}
	transport := bounded.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     90 * time.Second,
		}
	}
	bounded.Transport = boundedTransport{transport}
	bounded.CheckRedirect = checkRedirect
	return &bounded
}

// checkRedirect lets metadata and keys move, within reason. A POST carries the
// device code and perhaps the secret, which go nowhere else: its redirect is
// returned as the answer.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case first.Method != http.MethodGet:
		return http.ErrUseLastResponse
	case first.URL.Scheme == "https" && req.URL.Scheme != "https":
		return errors.New("refused a redirect from https to " + req.URL.Scheme)
	case len(via) > maxRedirects:
		return errors.New("too many redirects")
	}
	return nil
}

// boundedTransport cuts answers off at maxBody. It is here because go-oidc
// reads metadata and keys whole.
type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &boundedBody{ReadCloser: res.Body, left: maxBody}
	return res, nil
}

// CloseIdleConnections makes http.Client.CloseIdleConnections work.
func (t boundedTransport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

var errTooLong = fmt.Errorf("the answer is longer than %d bytes", maxBody)

type boundedBody struct {
	io.ReadCloser
	left int // bytes that may still be read
}

func (b *boundedBody) Read(p []byte) (int, error) {
	// One byte more than is left may be read, to tell the end from too much.
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	if b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// answer is what an endpoint said: the status and the whole body.
type answer struct {
	status int
	body   []byte
}

// post sends a form to an OAuth endpoint as the client of the configuration
// (RFC 6749 section 2.3.1). An error means that there was no whole answer.
//
// x/oauth2 has DeviceAuth and DeviceAccessToken for this; the first neither
// heeds its context nor authenticates a client that has a secret, the second
// gives up on the first time-out or 5xx (RFC 8628 section 3.5 wants retries).
func (o *OIDC) post(ctx context.Context, endpoint string, auth clientAuth, form url.Values) (*answer, error) {
	// With client_secret_basic the form need not name the client, but the device
	// endpoints of Google and Dex look there alone.
	form.Set("client_id", o.cfg.ClientID)
	if auth == authPost {
		form.Set("client_secret", o.cfg.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if auth == authBasic {
		req.SetBasicAuth(url.QueryEscape(o.cfg.ClientID), url.QueryEscape(o.cfg.ClientSecret))
	}
	res, err := o.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return &answer{status: res.StatusCode, body: body}, nil
}
