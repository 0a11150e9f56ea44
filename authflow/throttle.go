package authflow

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// keysPause is the least time between two fetches of an issuer's keys. Every
	// token with a bad signature would cause one, and anybody may send such.
	keysPause = 5 * time.Second
	// maxKept bounds what a throttle keeps. Issuers name the addresses.
	maxKept = 64
)

// throttle answers a GET from what the same address answered within keysPause,
// errors included. Metadata passes: discovery has a pause of its own.
type throttle struct {
	next http.RoundTripper // its bodies are bounded
	now  func() time.Time

	mu   sync.Mutex
	kept map[string]keptAnswer // by address
}

type keptAnswer struct {
	at   time.Time
	res  http.Response // without its body
	body []byte
	err  error
}

// throttled returns a copy of client that asks for keys at most once in a while.
func throttled(client *http.Client, now func() time.Time) *http.Client {
	limited := *client
	limited.Transport = &throttle{next: client.Transport, now: now, kept: make(map[string]keptAnswer)}
	return &limited
}

func (t *throttle) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || strings.HasSuffix(req.URL.Path, "/.well-known/openid-configuration") {
		return t.next.RoundTrip(req)
	}
	address := req.URL.String()
	if kept, ok := t.recent(address); ok {
		return kept.answer(req)
	}
	fresh := keptAnswer{at: t.now()}
	res, err := t.next.RoundTrip(req)
	if err == nil {
		fresh.res = *res
		fresh.body, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	fresh.err = err
	if req.Context().Err() == nil { // otherwise it says nothing about the issuer
		t.keep(address, fresh)
	}
	return fresh.answer(req)
}

func (t *throttle) recent(address string) (keptAnswer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept, ok := t.kept[address]
	return kept, ok && t.now().Sub(kept.at) < keysPause
}

func (t *throttle) keep(address string, answer keptAnswer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) >= maxKept {
		clear(t.kept)
	}
	t.kept[address] = answer
}

// answer returns the response once more, as that to req.
func (k keptAnswer) answer(req *http.Request) (*http.Response, error) {
	if k.err != nil {
		return nil, k.err
	}
	res := k.res
	res.Header = k.res.Header.Clone()
	res.Body = io.NopCloser(bytes.NewReader(k.body))
	res.Request = req
	return &res, nil
}

// CloseIdleConnections makes http.Client.CloseIdleConnections work.
func (t *throttle) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}
