package endtoend

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Unix(1_800_000_000, 0)

// world is a tunnel, pins and a record.
type world struct {
	mu     sync.Mutex
	conn   connector.Conn
	err    error
	pinned bool
	asked  []connector.DialRequest
	events []sshgate.Event
}

func (w *world) Dial(_ context.Context, req connector.DialRequest) (connector.Conn, error) {
	w.asked = append(w.asked, req)
	return w.conn, w.err
}

func (w *world) HostKeys(context.Context, sshgate.OriginName) ([]sshgate.HostKeyPin, error) {
	if w.pinned {
		return []sshgate.HostKeyPin{{}}, nil
	}
	return nil, nil
}

func (w *world) Record(e sshgate.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func newBroker(t *testing.T, w *world) *Broker {
	t.Helper()
	host, err := sshgate.ParseHostPattern("*.lab")
	if err != nil {
		t.Fatal(err)
	}
	deploy, err := sshgate.ParseLoginTemplate("deploy")
	if err != nil {
		t.Fatal(err)
	}
	asks, err := sshgate.ParseHostPattern("asks.lab")
	if err != nil {
		t.Fatal(err)
	}
	policy := &sshgate.Policy{SessionDuration: time.Hour, Applications: []sshgate.Application{{Name: "asks", Hosts: []sshgate.HostPattern{asks}, Rules: []sshgate.Rule{{
		Name: "why", Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Everyone{}}, Logins: []sshgate.LoginTemplate{deploy}, EndToEnd: true, Purpose: true,
	}}}, {Name: "lab", Hosts: []sshgate.HostPattern{host}, Rules: []sshgate.Rule{{
		Name: "all", Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Everyone{}}, Logins: []sshgate.LoginTemplate{deploy}, EndToEnd: true, Ports: []uint16{5432},
	}}}}}
	b, err := New(Config{Policy: func() *sshgate.Policy { return policy }, Tunnel: w, HostPins: w, Events: w, DialTimeout: time.Second, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func somebody(age time.Duration) Client {
	return Client{
		Identity: sshgate.Identity{Issuer: "https://idp", Subject: "1", SignedInAt: now.Add(-age)}, Connection: "c-1", Renew: "do it again",
	}
}

func TestDenials(t *testing.T) {
	for name, test := range map[string]struct {
		host   string
		port   uint32
		age    time.Duration
		err    error
		pinned bool
		code   sshgate.DenialCode
		text   string
		dials  int
	}{
		"not allowed":         {"web1", 22, 0, nil, true, sshgate.DenialPolicy, "there is no origin", 0},
		"another port":        {"a.lab", 23, 0, nil, true, sshgate.DenialPolicy, "there is no origin", 0},
		"no name":             {"a\x1b[31m", 22, 0, nil, true, sshgate.DenialPolicy, `there is no origin "a?[31m"`, 0},
		"no port":             {"a.lab", 70000, 0, nil, true, sshgate.DenialPolicy, "there is no origin", 0},
		"for a purpose":       {"asks.lab", 22, 0, nil, true, sshgate.DenialPolicy, "asks.lab wants to be told what it is for", 0},
		"too old":             {"a.lab", 22, 2 * time.Hour, nil, true, sshgate.DenialExpired, "to renew it, do it again", 0},
		"never published":     {"a.lab", 22, 0, connector.ErrOffline, false, sshgate.DenialPolicy, "there is no origin", 1},
		"offline":             {"a.lab", 22, 0, connector.ErrOffline, true, sshgate.DenialOffline, "is offline", 1},
		"a service offline":   {"a.lab", 5432, 0, connector.ErrOffline, false, sshgate.DenialOffline, "is offline", 1},
		"no such service":     {"a.lab", 5432, 0, connector.ErrNoService, true, sshgate.DenialPolicy, "there is no origin", 1},
		"refused":             {"a.lab", 22, 0, &connector.Refusal{Code: connector.CodeDialRefused, Reason: "closed"}, true, sshgate.DenialUnreachable, "by its connector (closed)", 1},
		"too late":            {"a.lab", 22, 0, &connector.Refusal{Code: connector.CodeDialTimeout, Reason: "slow"}, true, sshgate.DenialTimeout, "(slow)", 1},
		"slower than we wait": {"a.lab", 22, 0, context.DeadlineExceeded, true, sshgate.DenialTimeout, "did not answer within 1s", 1},
		"another host key":    {"a.lab", 22, 0, &connector.Refusal{Code: connector.CodeHostKeyChanged, Reason: "x"}, true, sshgate.DenialHostKey, "has changed", 1},
		"whatever else":       {"a.lab", 22, 0, errors.New("a secret cause"), true, sshgate.DenialUnreachable, "could not be reached", 1},
	} {
		w := &world{err: test.err, pinned: test.pinned}
		b := newBroker(t, w)
		p, denial := b.Open(t.Context(), somebody(test.age), test.host, test.port)
		if p != nil || denial == nil || denial.Code != test.code || !strings.Contains(denial.UserMessage(), test.text) || strings.Contains(denial.UserMessage(), "secret") {
			t.Errorf("%s: %+v", name, denial)
		}
		if len(w.asked) != test.dials || b.Passages() != 0 {
			t.Errorf("%s: %d dials, %d passages", name, len(w.asked), b.Passages())
		}
		if len(w.events) != 1 || w.events[0].Kind != sshgate.EventDecision || w.events[0].Request != denial.RequestID || w.events[0].Allowed != (test.dials == 1) {
			t.Errorf("%s: events %+v", name, w.events)
		}
	}
}

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

func TestPassageIsOnRecord(t *testing.T) {
	ours, service := pair(t)
	w := &world{conn: ours, pinned: true}
	b := newBroker(t, w)
	p, denial := b.Open(t.Context(), somebody(0), "A.Lab.", 5432)
	if denial != nil {
		t.Fatal(denial)
	}
	if w.asked[0].Origin != "a.lab" || w.asked[0].Port != 5432 || w.asked[0].ConnectionID != "c-1" {
		t.Errorf("asked for %+v", w.asked[0])
	}
	drained := make(chan error, 1)
	go func() { drained <- b.Drain(t.Context()) }()
	client, near := pair(t)
	go func() {
		got, _ := io.ReadAll(service)
		_, _ = service.Write(append(got, got...))
		_ = service.CloseWrite()
	}()
	go func() {
		_, _ = client.Write([]byte("12345"))
		_ = client.CloseWrite()
	}()
	if err := p.Carry(t.Context(), near); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(client); string(got) != "1234512345" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if _, denial := b.Open(t.Context(), somebody(0), "a.lab", 5432); denial == nil || denial.Code != sshgate.DenialClosing {
		t.Errorf("after the drain: %+v", denial)
	}
	if len(w.events) != 3 {
		t.Fatalf("events %+v", w.events)
	}
	if start, end := w.events[1], w.events[2]; start.Kind != sshgate.EventSessionStart || end.Kind != sshgate.EventSessionEnd ||
		end.BytesIn != 5 || end.BytesOut != 10 || end.Reason != "" || end.Channel != sshgate.ChannelTCP || end.Rule != "all" || end.Detail != "A.Lab.:5432" || end.Request != p.ID {
		t.Errorf("%+v\n%+v", start, end)
	}
	p.Close() // again
	if b.Passages() != 0 {
		t.Errorf("%d passages", b.Passages())
	}
}

func TestDrainGivesUp(t *testing.T) {
	ours, _ := pair(t)
	b := newBroker(t, &world{conn: ours})
	p, denial := b.Open(t.Context(), somebody(0), "a.lab", 5432)
	if denial != nil {
		t.Fatal(denial)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := b.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || b.Passages() != 1 {
		t.Errorf("%v, %d passages", err, b.Passages())
	}
	p.Close()
	if err := b.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// The end of the context ends both directions.
func TestContextCutsPassage(t *testing.T) {
	ours, service := pair(t)
	w := &world{conn: ours}
	b := newBroker(t, w)
	p, denial := b.Open(t.Context(), somebody(0), "a.lab", 5432)
	if denial != nil {
		t.Fatal(denial)
	}
	client, near := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	carried := make(chan error, 1)
	go func() { carried <- p.Carry(ctx, near) }()
	_, _ = client.Write([]byte("x"))
	if _, err := io.ReadFull(service, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-carried; err == nil {
		t.Error("a cut is no error")
	}
	if w.events[len(w.events)-1].Reason == "" {
		t.Error("a cut is on record as an end")
	}
}

// quotas grants so many channels, sessions and connections, and counts what is
// taken.
type quotas struct{ connections, channels, sessions int }

func (q *quotas) Connection(sshgate.Identity, netip.Addr) (func(), *sshgate.Denied) {
	if q.connections == 0 {
		return nil, &sshgate.Denied{Code: sshgate.DenialLimit}
	}
	q.connections--
	return func() { q.connections++ }, nil
}

func (q *quotas) Channel(_ sshgate.Identity, _ netip.Addr, session bool) (func(), *sshgate.Denied) {
	n := 0
	if session {
		n = 1
	}
	if q.channels == 0 || q.sessions < n {
		return nil, &sshgate.Denied{Code: sshgate.DenialLimit}
	}
	q.channels--
	q.sessions -= n
	return func() {
		q.channels++
		q.sessions += n
	}, nil
}

func TestQuotas(t *testing.T) {
	ours, _ := pair(t)
	w := &world{conn: ours, pinned: true}
	b := newBroker(t, w)
	all := quotas{connections: 1, channels: 2, sessions: 1}
	q := all
	b.cfg.Quotas = &q
	alone := somebody(0)
	alone.Alone = true
	first, denial := b.Open(t.Context(), alone, "a.lab", 22)
	if denial != nil || q != (quotas{0, 1, 0}) {
		t.Fatalf("%v, %+v", denial, q)
	}
	for name, test := range map[string]struct {
		client Client
		port   uint32
	}{"a second session": {somebody(0), 22}, "a second connection": {alone, 5432}} {
		if _, denial := b.Open(t.Context(), test.client, "a.lab", test.port); denial == nil || denial.Code != sshgate.DenialLimit || q != (quotas{0, 1, 0}) {
			t.Errorf("%s: %v, %+v", name, denial, q)
		}
	}
	if len(w.asked) != 1 || b.Passages() != 1 {
		t.Errorf("%d dials, %d passages", len(w.asked), b.Passages())
	}
	if _, denial := b.Open(t.Context(), somebody(0), "web1", 5432); denial == nil || denial.Code != sshgate.DenialPolicy || q != (quotas{0, 1, 0}) {
		t.Errorf("what the policy denies: %v, %+v", denial, q)
	}
	second, denial := b.Open(t.Context(), somebody(0), "a.lab", 5432)
	if denial != nil {
		t.Fatal(denial)
	}
	first.Close()
	first.Close() // again
	second.Close()
	if q != all || b.Passages() != 0 {
		t.Errorf("at the end %+v, %d passages", q, b.Passages())
	}
}
