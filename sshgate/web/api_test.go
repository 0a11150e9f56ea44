package web_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/enrolment"
	"github.com/sshgate/sshgate/sshgate/gateway"
	"github.com/sshgate/sshgate/sshgate/limits"
	"github.com/sshgate/sshgate/sshgate/store"
	"github.com/sshgate/sshgate/sshgate/web"
)

// bench is a gateway's TLS port with an API, in front of a service that the test
// plays.
type bench struct {
	*port
	t       *testing.T
	api     *web.API
	broker  *endtoend.Broker
	tokens  *authflow.Tokens
	store   *store.SQLite
	events  *audit.Recorder
	limits  *limits.Limits
	service *tunnelTo
	logins  chan result // what the next sign-ins end in
	policy  *sshgate.Policy
	ca      *gateway.UserCA
	desk    *enrolment.Desk
	tunnels *connector.CA
}

// result is how a sign-in ends.
type result struct {
	id  sshgate.Identity
	err error
}

// tunnelTo is an endtoend.Tunnel that leads to a listener.
type tunnelTo struct {
	net.Listener
	dials atomic.Int32
	err   error // of the next dials
	last  connector.DialRequest
	mu    sync.Mutex
	conns []*lostConn
}

func (s *tunnelTo) Dial(ctx context.Context, req connector.DialRequest) (connector.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last = req; s.err != nil {
		return nil, s.err
	}
	s.dials.Add(1)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr().String())
	if err != nil {
		return nil, err
	}
	lost := &lostConn{TCPConn: conn.(*net.TCPConn)}
	s.conns = append(s.conns, lost)
	return lost, nil
}

// lose ends all connections as a lost tunnel does.
func (s *tunnelTo) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.lost.Store(true)
		c.Close()
	}
}

type lostConn struct {
	*net.TCPConn
	lost atomic.Bool
}

func (c *lostConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil && c.lost.Load() {
		err = connector.ErrTunnelLost
	}
	return n, err
}

// waiting is an authflow.Login that ends when the test says so.
type waiting struct{ b *bench }

func (w waiting) Prompt() authflow.Prompt {
	return authflow.Prompt{UserCode: "ABCD-EFGH", VerificationURI: "https://idp.test/device", ExpiresAt: time.Now().Add(time.Minute)}
}

func (w waiting) Wait(ctx context.Context) (sshgate.Identity, error) {
	select {
	case r := <-w.b.logins:
		return r.id, r.err
	case <-ctx.Done():
		return sshgate.Identity{}, context.Cause(ctx)
	}
}

// exchanges is a web.Workloads that knows one token.
type exchanges struct{}

func (exchanges) Exchange(_ context.Context, idToken string) (sshgate.Identity, error) {
	if idToken != "good" {
		return sshgate.Identity{}, &authflow.Failure{Code: authflow.CodeNoWorkload, Sentence: "no workload takes it", Err: errors.New("the claim x")}
	}
	return sshgate.Identity{Kind: sshgate.Workload, Issuer: "https://ci", Subject: "repo:x", Name: "ci", SignedInAt: time.Now()}, nil
}

// person is somebody who just signed in.
func person(name string) sshgate.Identity {
	return sshgate.Identity{Issuer: "https://idp.test", Subject: name, Email: name + "@example.com", EmailVerified: true, SignedInAt: time.Now()}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// benchPolicy lets alice reach web1 end to end and its port 5432, as deploy, and
// web2 in sessions alone; backup the same port; the workload ci web1. alice hands out
// web1, web2 and *.lab, too.
func benchPolicy() *sshgate.Policy {
	deploy, anyLogin := must(sshgate.ParseLoginTemplate("deploy")), must(sshgate.ParseLoginTemplate("*"))
	everything := []sshgate.HostPattern{must(sshgate.ParseHostPattern("web1"))}
	publish := sshgate.PublishRule{Name: "ops", Include: []sshgate.Selector{sshgate.Email{"alice@example.com"}}}
	for _, text := range []string{"web1", "web2", "*.lab"} {
		publish.Hostnames = append(publish.Hostnames, must(sshgate.ParseHostPattern(text)))
	}
	return &sshgate.Policy{SessionDuration: time.Hour, Publish: []sshgate.PublishRule{publish}, Applications: []sshgate.Application{
		{Name: "web", Hosts: everything, Rules: []sshgate.Rule{
			{Name: "alice", Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Email{"alice@example.com"}}, Logins: []sshgate.LoginTemplate{deploy}, EndToEnd: true, Ports: []uint16{5432}},
			{Name: "backup", Action: sshgate.Service, Include: []sshgate.Selector{sshgate.ServiceTokenNamed{"backup"}}, Ports: []uint16{5432}},
			{Name: "ci", Action: sshgate.Service, Include: []sshgate.Selector{sshgate.WorkloadNamed{"ci"}}, Logins: []sshgate.LoginTemplate{anyLogin}, EndToEnd: true},
		}},
		{Name: "sessions", Hosts: []sshgate.HostPattern{must(sshgate.ParseHostPattern("web2"))}, Rules: []sshgate.Rule{
			{Name: "alice", Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Email{"alice@example.com"}}, Logins: []sshgate.LoginTemplate{deploy}},
		}},
	}}
}

// newAPI starts a gateway whose service is served by serve. change may alter the
// configuration first, when b.addr is known.
func newAPI(t *testing.T, serve func(*net.TCPConn), change ...func(*bench, *web.APIConfig)) *bench {
	t.Helper()
	b := &bench{t: t, events: audit.NewRecorder(1000), logins: make(chan result), policy: benchPolicy()}
	b.store = must(store.OpenSQLite(t.Context(), t.TempDir()+"/db", nil))
	b.tokens = authflow.NewTokens(authflow.TokensConfig{Access: b.store, Services: b.store})
	b.ca = must(gateway.OpenUserCA(t.TempDir()))
	b.service = &tunnelTo{Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := b.service.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	pin := sshgate.HostKeyPin{Origin: "web1", Key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8f", Connector: "c", PinnedAt: time.Now()}
	must(b.store.PinHostKeys(t.Context(), "web1", []sshgate.HostKeyPin{pin}))
	policy := func() *sshgate.Policy { return b.policy }
	b.limits = must(limits.New(limits.Config{Record: b.events.Record, Failures: sshgate.Rate{Count: 20, Per: time.Minute}}))
	t.Cleanup(b.limits.Close)
	b.broker = must(endtoend.New(endtoend.Config{Policy: policy, Tunnel: b.service, HostPins: b.store, Events: b.events, Quotas: b.limits}))
	pending := authflow.NewPending(func(context.Context, authflow.Asker) (authflow.Login, error) { return waiting{b}, nil }, 10)
	b.tunnels = must(connector.OpenCA(t.TempDir()+"/ca", nil))
	b.desk = must(enrolment.New(enrolment.Config{Policy: policy, CA: b.tunnels, Store: b.store, Events: b.events}))
	serveAPI := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.api.ServeHTTP(w, r) })
	b.port = start(t, web.ServerConfig{HTTP: serveAPI, TLS: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: b.tunnels.Pool()}})
	cfg := web.APIConfig{
		Hostname: "gate.test", URL: "https://gate.test", SSH: "gate.test:22", HostKeys: []ssh.PublicKey{b.ca.PublicKey()}, Version: "1",
		Policy: policy, Broker: b.broker, Tokens: b.tokens, Workloads: func() web.Workloads { return exchanges{} }, SignIns: pending, HostPins: b.store, CA: b.ca, Events: b.events, Limits: b.limits,
		Enrolment: b.desk, CheckConnector: b.checkConnector,
		Origins: func() []connector.OriginStatus {
			return []connector.OriginStatus{
				{Origin: "web1", Port: 5432, Connectors: []string{"c"}},
				{Origin: "web2", Port: 22, Connectors: []string{"c"}},
				{Origin: "secret", Port: 22, Connectors: []string{"c"}},
			}
		},
	}
	for _, f := range change {
		f(b, &cfg)
	}
	b.api = must(web.NewAPI(cfg))
	t.Cleanup(func() {
		b.desk.Close()
		b.api.Close()
		b.service.Close()
		b.service.lose()
		serving.Wait()
		pending.Close()
		b.store.Close()
	})
	return b
}

// answering echoes what it got, once the client has half-closed.
func answering(conn *net.TCPConn) {
	got, _ := io.ReadAll(conn)
	_, _ = conn.Write(append([]byte("got "), got...))
}

// bearer returns the header of an access token of the identity.
func (b *bench) bearer(id sshgate.Identity) string {
	b.t.Helper()
	return "Bearer " + must(b.tokens.Issue(b.t.Context(), id, time.Now().Add(time.Hour)))
}

// serviceToken makes one and returns its header.
func (b *bench) serviceToken(name string, expires time.Time) (id sshgate.ServiceTokenID, header string) {
	b.t.Helper()
	secret, hash := authflow.NewSecret()
	id = sshgate.NewServiceTokenID()
	err := b.store.CreateServiceToken(b.t.Context(), sshgate.ServiceTokenRecord{ID: id, Name: name, SecretHash: hash, CreatedAt: time.Now(), ExpiresAt: expires})
	if err != nil {
		b.t.Fatal(err)
	}
	return id, basic(string(id), secret)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// do makes a request. body is a url.Values for a form, or text.
func (b *bench) do(method, path, header string, body any) (*http.Response, map[string]any) {
	b.t.Helper()
	var content io.Reader
	kind := "application/json"
	switch body := body.(type) {
	case url.Values:
		content, kind = strings.NewReader(body.Encode()), "application/x-www-form-urlencoded"
	case string:
		content = strings.NewReader(body)
	}
	req := must(http.NewRequestWithContext(b.t.Context(), method, "https://"+b.addr+path, content))
	req.Header.Set("Content-Type", kind)
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS()}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got map[string]any
	data := must(io.ReadAll(resp.Body))
	if err := json.Unmarshal(data, &got); err != nil && len(data) > 0 && resp.Header.Get("Content-Type") == "application/json" {
		b.t.Fatalf("%s %s: %s", method, path, data)
	}
	return resp, got
}

// connect sends CONNECT, and early right behind it, and returns the connection with
// the answer.
func (b *bench) connect(target, header, early string) (*tls.Conn, *bufio.Reader, *http.Response) {
	b.t.Helper()
	conn := b.dial(b.t, "http/1.1")
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if header != "" {
		request += "Proxy-Authorization: " + header + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"+early); err != nil {
		b.t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		b.t.Fatalf("CONNECT %s: %v", target, err)
	}
	return conn, reader, resp
}

// problemOf reads an answer of no.
func problemOf(t *testing.T, resp *http.Response) (code, request string) {
	t.Helper()
	var p struct {
		Error     string `json:"error"`
		RequestID string `json:"request_id"`
	}
	body := must(io.ReadAll(resp.Body))
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("%s: %s", resp.Status, body)
	}
	return p.Error, p.RequestID
}

func TestConnect(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	_, backup := b.serviceToken("backup", time.Now().Add(time.Hour))
	for name, test := range map[string]struct{ target, header string }{
		"a person":         {"web1:22", alice},
		"in capitals":      {"WEB1.:22", alice},
		"another service":  {"web1:5432", alice},
		"a service token":  {"web1:5432", backup},
		"a token by Basic": {"web1:22", basic("bearer", strings.TrimPrefix(alice, "Bearer "))},
	} {
		conn, reader, resp := b.connect(test.target, test.header, "early ")
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Sshgate-Request-Id"), "r-") {
			t.Errorf("%s: %s", name, resp.Status)
			continue
		}
		_, _ = io.WriteString(conn, "late")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := must(io.ReadAll(reader)); string(got) != "got early late" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := b.service.last; got.Origin != "web1" || got.Identity == "" || !got.ClientAddr.IsValid() {
		t.Errorf("the tunnel was asked for %+v", got)
	}
}

func TestConnectRefusesBeforeTheOrigin(t *testing.T) {
	b := newAPI(t, answering)
	alice, bob := b.bearer(person("alice")), b.bearer(person("bob"))
	stale := person("alice")
	stale.SignedInAt = time.Now().Add(-2 * time.Hour)
	expired := "Bearer " + must(b.tokens.Issue(t.Context(), person("alice"), time.Now().Add(time.Millisecond)))
	_, late := b.serviceToken("late", time.Now().Add(time.Millisecond))
	id, revoked := b.serviceToken("gone", time.Now().Add(time.Hour))
	if err := b.store.RevokeServiceToken(t.Context(), id, time.Now()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond) // both have expired
	_, other := b.serviceToken("other", time.Now().Add(time.Hour))
	for name, test := range map[string]struct {
		target, header string
		status         int
		code           string
	}{
		"no credential":        {"web1:22", "", 407, "token_required"},
		"nonsense":             {"web1:22", "Digest x", 407, "token_unknown"},
		"an empty bearer":      {"web1:22", "Bearer ", 407, "token_unknown"},
		"an unknown token":     {"web1:22", "Bearer sga_" + strings.Repeat("a", 49), 407, "token_unknown"},
		"an expired token":     {"web1:22", expired, 407, "token_expired"},
		"an expired service":   {"web1:22", late, 407, "token_expired"},
		"a revoked service":    {"web1:22", revoked, 407, "token_revoked"},
		"another's secret":     {"web1:22", basic(string(id), "sgs_x"), 407, "token_unknown"},
		"a sign-in too old":    {"web1:22", b.bearer(stale), 407, "sign_in_expired"},
		"somebody else":        {"web1:22", bob, 403, "denied"},
		"an unnamed service":   {"web1:5432", other, 403, "denied"},
		"another port":         {"web1:23", alice, 403, "denied"},
		"sessions alone":       {"web2:22", alice, 403, "denied"},
		"an unknown name":      {"nowhere:22", alice, 403, "denied"},
		"an address":           {"127.0.0.1:22", alice, 403, "denied"},
		"an IPv6 address":      {"[::1]:22", alice, 403, "denied"},
		"port 0":               {"web1:0", alice, 403, "denied"},
		"no port":              {"web1", alice, 400, "bad_request"},
		"a port out of range":  {"web1:65558", alice, 400, "bad_request"},
		"a port that is a sum": {"web1:+22", alice, 400, "bad_request"},
	} {
		_, _, resp := b.connect(test.target, test.header, "")
		if test.status == 400 && resp.Header.Get("Content-Type") != "application/json" { // net/http's own
			if resp.StatusCode != test.status {
				t.Errorf("%s: %s", name, resp.Status)
			}
			continue
		}
		code, _ := problemOf(t, resp)
		if resp.StatusCode != test.status || code != test.code {
			t.Errorf("%s: %d %s, want %d %s", name, resp.StatusCode, code, test.status, test.code)
		}
		if resp.StatusCode == 407 && len(resp.Header["Proxy-Authenticate"]) == 0 {
			t.Errorf("%s: without Proxy-Authenticate", name)
		}
	}
	if n := b.service.dials.Load(); n != 0 {
		t.Errorf("%d connections reached the tunnel", n)
	}
}

// Names cannot be probed for: unknown and forbidden get the same answer.
func TestUnknownAndForbiddenAnswerAlike(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	text := func(resp *http.Response) string {
		body := string(must(io.ReadAll(resp.Body)))
		_, id, _ := strings.Cut(body, `"request_id":"`)
		id, _, _ = strings.Cut(id, `"`)
		return strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(body, id, "ID"), "secret", "NAME"), "absent", "NAME")
	}
	_, _, one := b.connect("secret:22", alice, "")
	_, _, two := b.connect("absent:22", alice, "")
	if a, b := text(one), text(two); a != b {
		t.Errorf("%s\n%s", a, b)
	}
	ask := func(name string) string {
		resp, got := b.do(http.MethodGet, "/api/v1/origins/"+name, alice, nil)
		return strings.ReplaceAll(fmt.Sprint(resp.StatusCode, got["error"], got["error_description"]), name, "NAME")
	}
	if a, b := ask("secret"), ask("absent"); a != b {
		t.Errorf("%s\n%s", a, b)
	}
}

// A lost tunnel is no end of the service, and a client that is cut off no end of the
// client's.
func TestCutConnections(t *testing.T) {
	ended := make(chan error, 1)
	b := newAPI(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "hello")
		_, err := io.Copy(io.Discard, conn)
		_, werr := conn.Write([]byte("more"))
		ended <- errors.Join(err, werr)
	})
	alice := b.bearer(person("alice"))
	raw := must(net.Dial("tcp", b.addr))
	watched := &eofConn{Conn: raw}
	cfg := clientTLS("http/1.1")
	cfg.ServerName = "127.0.0.1"
	conn := tls.Client(watched, cfg)
	defer raw.Close()
	fmt.Fprintf(conn, "CONNECT web1:22 HTTP/1.1\r\nHost: web1:22\r\nProxy-Authorization: %s\r\n\r\n", alice)
	reader := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect}); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if _, err := io.ReadFull(reader, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	b.service.lose()
	if _, err := reader.ReadByte(); err == nil || !watched.eof.Load() {
		t.Errorf("after the loss: %v, and the connection below has not ended: a close_notify", err)
	}
	<-ended
	if end := must(b.events.Wait(t.Context(), func(e sshgate.Event) bool { return e.Kind == sshgate.EventSessionEnd })); end.Reason == "" {
		t.Errorf("session.end: %+v", end)
	}

	client, clientReader, _ := b.connect("web1:22", alice, "")
	if _, err := io.ReadFull(clientReader, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	client.NetConn().Close()
	<-ended
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := b.events.Wait(ctx, func(e sshgate.Event) bool {
		return e.Kind == sshgate.EventSessionEnd && strings.Contains(e.Reason, "unexpected EOF")
	}); err != nil {
		t.Errorf("a client that was cut off is not on record as one: %v", err)
	}
}

type eofConn struct {
	net.Conn
	eof atomic.Bool
}

func (c *eofConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.eof.Store(true)
	}
	return n, err
}

func TestConnectCarriesMuch(t *testing.T) {
	b := newAPI(t, func(conn *net.TCPConn) {
		_, _ = io.Copy(conn, conn)
		_ = conn.CloseWrite()
	})
	conn, reader, _ := b.connect("web1:22", b.bearer(person("alice")), "")
	_ = conn.SetReadDeadline(time.Time{})
	data := make([]byte, 32<<20)
	rand.Read(data)
	var sent sync.WaitGroup
	sent.Go(func() {
		_, _ = conn.Write(data)
		_ = conn.CloseWrite()
	})
	if got := must(io.ReadAll(reader)); !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, of %d", len(got), len(data))
	}
	sent.Wait()
}

func TestConnectTakesHTTP1(t *testing.T) {
	b := newAPI(t, answering)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://"+b.addr, nil))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("%s %s", resp.Proto, resp.Status)
	}
}

// A connection that is taken over outlasts the time limits of requests.
func TestConnectOutlastsTimeLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	t.Parallel()
	b := newAPI(t, answering)
	conn, reader, _ := b.connect("web1:22", b.bearer(person("alice")), "early ")
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	time.Sleep(31 * time.Second) // longer than a request may take: no event tells
	_, _ = io.WriteString(conn, "late")
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(reader); string(got) != "got early late" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDrainLetsConnectionsFinish(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	conn, reader, _ := b.connect("web1:22", alice, "")
	drained := make(chan error, 1)
	go func() { drained <- b.broker.Drain(t.Context()) }()
	for { // until it drains
		_, _, resp := b.connect("web1:22", alice, "")
		if code, _ := problemOf(t, resp); code == "shutting_down" && resp.StatusCode == 503 {
			break
		}
	}
	if n := b.broker.Passages(); n != 1 {
		t.Errorf("%d passages are open", n)
	}
	_, _ = io.WriteString(conn, "x")
	_ = conn.CloseWrite()
	if got := must(io.ReadAll(reader)); string(got) != "got x" {
		t.Errorf("%q", got)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}
