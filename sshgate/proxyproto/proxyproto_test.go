package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port is a listener whose connections say their address and echo.
type port struct {
	*Listener
	mu      sync.Mutex
	reasons []string
}

func listen(t testing.TB, cfg Config) *port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{}
	cfg.Refused = func(peer netip.Addr, reason string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reasons = append(p.reasons, peer.String()+" "+reason)
	}
	p.Listener = Listen(l, cfg)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := p.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, conn.RemoteAddr().String()+"|")
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		p.Close()
		serving.Wait()
	})
	return p
}

// say sends the parts one after the other and returns the whole answer.
func (p *port) say(t testing.TB, parts ...string) string {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	for i, part := range parts {
		if i > 0 {
			time.Sleep(30 * time.Millisecond) // so that it comes alone
		}
		if _, err := io.WriteString(conn, part); err != nil {
			break
		}
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn) // a reset is an answer, too
	return string(answer)
}

func (p *port) refusals() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reasons
}

// v2 returns a header of version 2.
func v2(command, family byte, addresses string) string {
	header := []byte("\r\n\r\n\x00\r\nQUIT\n")
	header = append(header, 0x20|command, family)
	return string(binary.BigEndian.AppendUint16(header, uint16(len(addresses)))) + addresses
}

const (
	v4Pair = "\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x00\x16"
	v6Pair = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x30\x39\x00\x16"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func TestTrusted(t *testing.T) {
	p := listen(t, Config{Trusted: loopback})
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\n":      "192.0.2.1:12345",
		"PROXY TCP6 2001:db8::1 2001:db8::2 12345 22\r\n": "[2001:db8::1]:12345",
		"PROXY UNKNOWN\r\n":                               "127.0.0.1:",
		"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n":   "127.0.0.1:",
		v2(1, 0x11, v4Pair):                               "192.0.2.1:12345",
		v2(1, 0x11, v4Pair+"\x04\x00\x03abc"):             "192.0.2.1:12345",
		v2(1, 0x21, v6Pair):                               "[2001:db8::1]:12345",
		v2(0, 0x00, ""):                                   "127.0.0.1:",
		v2(0, 0x11, v4Pair):                               "127.0.0.1:",
		v2(1, 0x31, strings.Repeat("/run/x\x00\x00", 2*13)+strings.Repeat("\x00", 8)): "127.0.0.1:",
	} {
		if got := p.say(t, header+"SSH-2.0-x\r\n"); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "|SSH-2.0-x\r\n") {
			t.Errorf("%q: answered %q, want %s; %q", header, got, want, p.refusals())
		}
	}
	if len(p.refusals()) != 0 {
		t.Errorf("refused: %q", p.refusals())
	}
}

func TestTrustedButWrong(t *testing.T) {
	p := listen(t, Config{Trusted: loopback, Timeout: 200 * time.Millisecond})
	parts := [][]string{
		{"SSH-2.0-x\r\n"},
		{"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\nSSH-2.0-x\r\n"},
		{"PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n"},
		{"PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\n"},
		{"PROXY TCP5 192.0.2.1 10.0.0.1 12345 22\r\n"},
		{"PROXY " + strings.Repeat("x", 10_000)},
		{v2(1, 0x11, v4Pair[:11])},
		{v2(2, 0x11, v4Pair)},
		{v2(1, 0x13, v4Pair)},
		{v2(1, 0x11, v4Pair+strings.Repeat("\x04\x00\xffx", 16_000))}, // as long as can be said
		{"PROXY TCP4 192.0.2.1 10.", "0.0.1 12345 22\r\n"},            // trickles
		{v2(1, 0x11, v4Pair)[:20]},
		{"PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\nPROXY TCP4 198.51.100.1 10.0.0.1 12345 22\r\n"}, // the client's own, behind the proxy's
	}
	for i, parts := range parts {
		got := p.say(t, parts...)
		if strings.Contains(got, "SSH") || strings.Contains(got, "198.51") {
			t.Errorf("%.60q: answered %q", parts, got)
		}
		if n := len(p.refusals()); n != i+1 {
			t.Errorf("%.60q: %d refusals, want %d", parts, n, i+1)
		}
	}
}

// Those who say nothing end by themselves or in time, and only then are on record.
func TestSilence(t *testing.T) {
	p := listen(t, Config{Trusted: loopback, Timeout: 50 * time.Millisecond, MaxWaiting: 1})
	if got := p.say(t); got != "" || len(p.refusals()) != 0 {
		t.Errorf("a health check: %q, %q", got, p.refusals())
	}
	for range 2 {
		conn, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if answer, err := io.ReadAll(conn); len(answer) != 0 || err != nil {
			t.Errorf("%q, %v", answer, err)
		}
	}
	if r := p.refusals(); len(r) != 2 || !strings.Contains(r[0], "timeout") {
		t.Errorf("%q", r)
	}
}

// One that is slow does not keep others waiting, and there are only so many.
func TestSlowOnesAreApart(t *testing.T) {
	p := listen(t, Config{Trusted: loopback, Timeout: time.Minute, MaxWaiting: 2})
	for range 2 {
		conn, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		waiting := func() int {
			p.Listener.mu.Lock()
			defer p.Listener.mu.Unlock()
			return len(p.waiting)
		}
		before := waiting()
		for deadline := time.Now().Add(5 * time.Second); waiting() == before && before < 2 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if before == 0 {
			if got := p.say(t, "PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\n"); got != "192.0.2.1:12345|" {
				t.Errorf("beside a slow one: %q", got)
			}
		}
	}
	if got := p.say(t, "PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\n"); got != "" || len(p.refusals()) != 1 {
		t.Errorf("beyond the bound: %q, %q", got, p.refusals())
	}
}

func TestStranger(t *testing.T) {
	for name, trusted := range map[string][]netip.Prefix{"nobody is trusted": nil, "others are": {netip.MustParsePrefix("192.0.2.0/24")}} {
		p := listen(t, Config{Trusted: trusted})
		for _, text := range []string{"SSH-2.0-x\r\n", "PRO", "\r\n\r\n", "\x16\x03\x01", "PROXIMITY", ""} {
			if got := p.say(t, text); !strings.HasPrefix(got, "127.0.0.1:") || !strings.HasSuffix(got, "|"+text) {
				t.Errorf("%s: %q is answered %q", name, text, got)
			}
		}
		if len(p.refusals()) != 0 {
			t.Errorf("%s: %q", name, p.refusals())
		}
		for i, parts := range [][]string{
			{"PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\nSSH-2.0-x\r\n"}, {"P", "R", "OXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\nSSH"},
			{v2(1, 0x11, v4Pair) + "SSH"}, {"\r\n\r\n\x00", "\r\nQUIT\n" + "SSH"},
		} {
			got := p.say(t, parts...)
			if strings.Contains(got, "SSH") || strings.HasPrefix(got, "192.") {
				t.Errorf("%s: %q is answered %q", name, parts, got)
			}
			if r := p.refusals(); len(r) != i+1 || !strings.HasPrefix(r[i], "127.0.0.1 ") {
				t.Errorf("%s: %q: refusals %q", name, parts, r)
			}
		}
	}
}

// failing is a listener that runs out of descriptors once.
type failing struct {
	net.Listener
	failed bool
}

func (f *failing) Accept() (net.Conn, error) {
	if !f.failed {
		f.failed = true
		return nil, errors.New("too many open files")
	}
	return f.Listener.Accept()
}

func TestErrorsPassOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := Listen(&failing{Listener: l}, Config{})
	if _, err := p.Accept(); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("%v", err)
	}
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
		t.Error("the TCP connection cannot be reached")
	}
	conn.Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := p.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
	p.Close() // again
}

// FuzzHeader: whatever a proxy sends, a connection has an address, and the bytes
// after the header are those that come.
func FuzzHeader(f *testing.F) {
	for _, text := range []string{"PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\nSSH", v2(1, 0x11, v4Pair) + "SSH", v2(1, 0x21, v6Pair), v2(0, 0, ""), "PROXY UNKNOWN\r\n", "SSH-2.0-x\r\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		var writing sync.WaitGroup
		writing.Go(func() {
			_, _ = client.Write(data)
			client.Close()
		})
		defer writing.Wait()
		defer server.Close()
		p := &Listener{cfg: Config{Timeout: time.Second, Refused: func(netip.Addr, string) {}}}
		got, err := p.read(server)
		if err != nil {
			return
		}
		if got.RemoteAddr() == nil || got.RemoteAddr().String() == "" || got.LocalAddr() == nil {
			t.Error("no address")
		}
		rest, err := io.ReadAll(got)
		if err == nil && !bytes.HasSuffix(data, rest) {
			t.Errorf("%q after %q", rest, data)
		}
	})
}

func BenchmarkAccept(b *testing.B) {
	header := "PROXY TCP4 192.0.2.1 10.0.0.1 12345 22\r\n"
	for name, c := range map[string]struct {
		trusted []netip.Prefix
		text    string
	}{"trusted": {loopback, header}, "stranger": {nil, "SSH"}} {
		b.Run(name, func(b *testing.B) {
			p := listen(b, Config{Trusted: c.trusted})
			for b.Loop() {
				if got := p.say(b, c.text); got == "" {
					b.Fatal("no answer")
				}
			}
		})
	}
}
