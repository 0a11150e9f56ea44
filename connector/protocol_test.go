package connector

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/yamux"
	"github.com/sshgate/sshgate/sshgate"
)

// rawConnector is a connector that says what a test wants.
type rawConnector struct {
	t       *testing.T
	session *yamux.Session
	control *yamux.Stream
}

func rawTLS(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{ALPN}
	return cfg
}

func newRawConnector(t *testing.T, g *gateway, cfg *tls.Config) *rawConnector {
	t.Helper()
	conn, err := tls.Dial("tcp", g.addr, rawTLS(cfg))
	if err != nil {
		t.Fatal(err)
	}
	session, err := yamux.Client(conn, muxConfig(orDiscard(nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	control, err := session.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_ = control.SetReadDeadline(time.Now().Add(testTimeout))
	return &rawConnector{t: t, session: session, control: control}
}

func (c *rawConnector) send(msg any) {
	c.t.Helper()
	if err := writeFrame(c.control, msg, 1<<30); err != nil {
		c.t.Fatal(err)
	}
}

// leave sends a registration without origins. The gateway may have ended the tunnel
// before this end knows that it has sent.
func (c *rawConnector) leave(msg any) { _ = writeFrame(c.control, msg, 1<<30) }

// register sends a registration and returns the answer.
func (c *rawConnector) register(origins ...wireOrigin) *registeredMessage {
	c.t.Helper()
	c.send(registerMessage{Type: typeRegister, Version: protocolVersion, Origins: origins})
	for {
		msg, err := readControl(c.control)
		if err != nil {
			c.t.Fatal(err)
		}
		if answer, ok := msg.(*registeredMessage); ok {
			return answer
		}
	}
}

func codes(answer *registeredMessage) map[string]Code {
	refused := map[string]Code{}
	for _, name := range answer.Accepted {
		refused[name] = ""
	}
	for _, r := range answer.Refused {
		refused[r.Name] = r.Code
	}
	return refused
}

func TestRegistration(t *testing.T) {
	admitted := make(chan Registration, 10)
	g := startGateway(t, func(cfg *HubConfig, _ *timing) {
		cfg.Admit = func(_ context.Context, reg Registration) error {
			admitted <- reg
			switch reg.Origin {
			case "changed":
				return &Refusal{CodeHostKeyChanged, "the host key has changed"}
			case "unsure":
				return errors.New("the store is away")
			}
			return nil
		}
	})
	key := hostKeyLine(newSigner(t, "ed25519").PublicKey())
	c := newRawConnector(t, g, g.clientTLS("c1", "web1", "changed", "unsure", "*.lab", "badkey", "longkey"))
	answer := c.register(
		wireOrigin{Name: "WEB1.", HostKeys: []string{key + " comment"}},
		wireOrigin{Name: "web1"},
		wireOrigin{Name: "changed", HostKeys: []string{key}},
		wireOrigin{Name: "unsure"},
		wireOrigin{Name: "a.b.lab"},
		wireOrigin{Name: "lab"},
		wireOrigin{Name: "web2"},
		wireOrigin{Name: "no name"},
		wireOrigin{Name: "badkey", HostKeys: []string{"ssh-ed25519 AAAA"}},
		wireOrigin{Name: "longkey", HostKeys: []string{key + strings.Repeat(" ", maxHostKey)}},
	)
	want := map[string]Code{
		"WEB1.": "", "web1": CodeBadRequest, "changed": CodeHostKeyChanged, "unsure": CodeUnavailable, "a.b.lab": "",
		"lab": CodeNotPermitted, "web2": CodeNotPermitted, "no name": CodeBadRequest, "badkey": CodeBadRequest, "longkey": CodeBadRequest,
	}
	if diff := cmp.Diff(want, codes(answer)); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(answer.Tunnel, "t-") {
		t.Errorf("tunnel %q", answer.Tunnel)
	}
	first := <-admitted
	if first.Connector != "c1" || first.Origin != "web1" || !cmp.Equal(first.HostKeys, []string{key}) || !first.RemoteAddr.IsValid() {
		t.Errorf("Admit was asked about %+v", first)
	}
	if _, err := g.dial("changed"); refusalCode(err) != CodeHostKeyChanged {
		t.Errorf("dialling an origin whose key has changed: %v", err)
	}
	for _, name := range []sshgate.OriginName{"unsure", "web2", "nowhere"} {
		if _, err := g.dial(name); !errors.Is(err, ErrOffline) {
			t.Errorf("dialling %s: %v", name, err)
		}
	}
	origins := g.hub.Origins()
	if len(origins) < 2 || origins[0].Origin != "a.b.lab" || !cmp.Equal(origins[0].Connectors, []string{"c1"}) {
		t.Errorf("Origins: %+v", origins)
	}
}

// A registration replaces the one before; what stays up is not announced again.
func TestRegisteringAgain(t *testing.T) {
	fail := make(chan error, 10)
	g := startGateway(t, func(cfg *HubConfig, _ *timing) {
		cfg.Admit = func(context.Context, Registration) error {
			select {
			case err := <-fail:
				return err
			default:
				return nil
			}
		}
	})
	c := newRawConnector(t, g, g.clientTLS("c1", "a", "b"))
	c.register(wireOrigin{Name: "a"})
	c.register(wireOrigin{Name: "a"}, wireOrigin{Name: "b"})
	c.register(wireOrigin{Name: "b"})
	fail <- errors.New("the store is away")
	if got := codes(c.register(wireOrigin{Name: "b"})); got["b"] != "" {
		t.Errorf("an origin whose keys are the same was refused: %v", got)
	}
	fail <- errors.New("the store is away")
	key := hostKeyLine(newSigner(t, "ed25519").PublicKey())
	if got := codes(c.register(wireOrigin{Name: "b", HostKeys: []string{key}})); got["b"] != CodeUnavailable {
		t.Errorf("new keys could not be checked: %v", got)
	}
	var got []string
	for range 4 {
		e := <-g.events
		got = append(got, fmt.Sprint(e.Kind, " ", e.Origin, " ", e.Identity))
	}
	want := []string{"origin.up a connector c1", "origin.up b connector c1", "origin.down a connector c1", "origin.down b connector c1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Nothing registered and nothing open: the gateway ends the tunnel.
	c.leave(registerMessage{Type: typeRegister, Version: protocolVersion})
	if err := <-g.served; !errors.Is(err, errDrained) {
		t.Errorf("Serve: %v", err)
	}
}

func TestTunnelsThatAreRefused(t *testing.T) {
	g := startGateway(t, func(_ *HubConfig, quick *timing) { quick.register = 300 * time.Millisecond })
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	tests := []struct {
		name  string
		bytes []byte
		code  Code   // of a refused message
		cause string // in what Serve returns
	}{
		{"silence", nil, "", "did not register in time"},
		{"half a frame", []byte{0, 0, 1, 0, '{'}, "", "did not register in time"},
		{"an oversized frame", []byte{0xff, 0xff, 0xff, 0xff}, "", "out of range"},
		{"an empty frame", []byte{0, 0, 0, 0}, "", "out of range"},
		{"garbage", []byte("SSH-2.0-OpenSSH_9.2\r\n" + strings.Repeat("x", 100)), "", "out of range"},
		{"no JSON", frame("xyz"), "", "not a JSON object"},
		{"broken JSON", frame(`{"type":`), "", "control message"},
		{"no type", frame(`{}`), "", "has no type"},
		{"a wrong type", frame(`{"type":"register","version":"one"}`), "", "register message"},
		{"another message", frame(`{"type":"alive"}`), CodeBadRequest, "first message"},
		{"another version", frame(`{"type":"register","version":2,"origins":[]}`), CodeVersion, "speaks version 1"},
		{"too many origins", frame(`{"type":"register","version":1,"origins":[` + strings.Repeat(`{},`, MaxOrigins) + `{}]}`), "", "more than"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
			_, _ = c.control.Write(test.bytes) // fails when the gateway is quick
			if test.code != "" {
				msg, err := readControl(c.control)
				if refused, ok := msg.(*refusedMessage); !ok || refused.Code != test.code {
					t.Errorf("got %+v, %v", msg, err)
				}
				c.session.Close()
			}
			if err := <-g.served; !strings.Contains(err.Error(), test.cause) {
				t.Errorf("Serve: %v", err)
			}
			<-c.session.CloseChan()
		})
	}
	if n := g.hub.Stats().Tunnels; n != 0 {
		t.Errorf("%d tunnels are left", n)
	}
}

// Once registered, a connector that breaks the rules loses its tunnel.
func TestRulesForRegisteredTunnels(t *testing.T) {
	tests := []struct {
		name  string
		do    func(c *rawConnector)
		cause error
	}{
		{"a second stream", func(c *rawConnector) { _, _ = c.session.OpenStream() }, errSecondStream},
		{"an oversized frame", func(c *rawConnector) { _, _ = c.control.Write([]byte{1, 0, 0, 0}) }, errFrameSize},
		{"the end", func(c *rawConnector) { c.session.Close() }, errGone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := startGateway(t)
			c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
			c.register(wireOrigin{Name: "web1"})
			test.do(c)
			if err := <-g.served; !errors.Is(err, test.cause) {
				t.Errorf("Serve: %v, want %v", err, test.cause)
			}
			g.waitFor(sshgate.EventOriginDown, "web1")
		})
	}
	t.Run("unknown messages and fields are ignored", func(t *testing.T) {
		g := startGateway(t)
		c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
		c.register(wireOrigin{Name: "web1"})
		c.send(map[string]any{"type": "from_the_future", "x": []int{1}})
		c.leave(map[string]any{"type": "register", "version": 1, "origins": []any{}, "future": map[string]any{"a": 1}})
		if err := <-g.served; !errors.Is(err, errDrained) {
			t.Errorf("Serve: %v", err)
		}
	})
}

// Replies that break the protocol fail the dial and leave no stream behind.
func TestBadReplies(t *testing.T) {
	g := startGateway(t)
	c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
	c.register(wireOrigin{Name: "web1"})
	replies := make(chan []byte)
	go func() {
		for {
			stream, err := c.session.AcceptStream()
			if err != nil {
				return
			}
			_, _ = readHeader(stream)
			_, _ = stream.Write(<-replies)
			stream.Close()
		}
	}()
	frame := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	for _, test := range []struct {
		reply []byte
		code  Code // none: the tunnel is of no use
	}{
		{nil, ""},
		{[]byte{0, 1, 0, 0}, ""},
		{frame(`[]`), ""},
		{frame(`{"ok":"yes"}`), ""},
		{frame(`{}`), CodeBadRequest},
		{frame(`{"ok":false,"code":"DROP TABLE","reason":"\u001b[31mred"}`), CodeBadRequest},
		{frame(`{"ok":false,"code":"from_the_future","reason":"x"}`), "from_the_future"},
	} {
		sent := make(chan struct{})
		go func() {
			replies <- test.reply
			close(sent)
		}()
		_, err := g.dial("web1")
		<-sent
		if got := refusalCode(err); err == nil || got != test.code || (got == "" && !errors.Is(err, ErrOffline)) {
			t.Errorf("%q: %v", test.reply, err)
		}
		if strings.ContainsRune(err.Error(), 0x1b) {
			t.Error("an escape sequence got through")
		}
	}
	eventually(t, "no stream is left", func() bool { return g.hub.Stats().Streams == 0 })
}

func TestWhoMayConnect(t *testing.T) {
	g := startGateway(t)
	stranger := newCAForTest(t)
	server, err := g.ca.IssueServer([]string{"gate.test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		cfg   func() *tls.Config
		cause string
	}{
		{"no certificate", func() *tls.Config { return &tls.Config{RootCAs: g.ca.Pool(), ServerName: "gate.test"} }, "showed no certificate"},
		{"another CA's certificate", func() *tls.Config { return clientConfig(t, stranger, g.ca, "c1", "web1") }, "certificate signed by unknown authority"},
		{"a server's certificate", func() *tls.Config {
			return &tls.Config{RootCAs: g.ca.Pool(), ServerName: "gate.test", Certificates: []tls.Certificate{server}}
		}, "incompatible key usage"},
		{"another protocol", func() *tls.Config {
			cfg := g.clientTLS("c1", "web1")
			cfg.NextProtos = []string{"h2"}
			return cfg
		}, "did not negotiate"},
		{"no protocol", func() *tls.Config { return g.clientTLS("c1", "web1") }, "did not negotiate"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := test.cfg()
			if cfg.NextProtos == nil && test.name != "no protocol" {
				cfg.NextProtos = []string{ALPN}
			}
			conn, err := tls.Dial("tcp", g.addr, cfg)
			if err == nil {
				defer conn.Close()
			}
			if err := <-g.served; err == nil || !strings.Contains(err.Error(), test.cause) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Run("TLS 1.2", func(t *testing.T) {
		cfg := rawTLS(g.clientTLS("c1", "web1"))
		cfg.MaxVersion = tls.VersionTLS12
		if _, err := tls.Dial("tcp", g.addr, cfg); err == nil {
			t.Error("the gateway speaks TLS 1.2")
		}
		<-g.served
	})
}

// The agent does not send anything to a gateway that it cannot verify, and says
// what is wrong when the gateway does not take its certificate.
func TestAgentAndGatewayMistrust(t *testing.T) {
	g := startGateway(t)
	stranger := newCAForTest(t)
	connect := func(cfg *tls.Config) error {
		agent, err := NewAgent(AgentConfig{Gateway: g.addr, TLS: cfg, Origins: []Origin{{Name: "web1", Address: "127.0.0.1:1"}}, Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		agent.keys.update(t.Context(), "web1", scan{}, nil)
		u, err := agent.open(testContext(t), agent.log)
		if err != nil {
			return agent.explain(err)
		}
		return agent.explain(u.run(testContext(t)))
	}
	if err := connect(clientConfig(t, g.ca, stranger, "c1", "web1")); err == nil || !strings.Contains(err.Error(), "gateway_ca_file") {
		t.Errorf("a gateway of another CA: %v", err)
	}
	cfg := g.clientTLS("c1", "web1")
	cfg.ServerName = "other.test"
	if err := connect(cfg); err == nil || !strings.Contains(err.Error(), "server_name") {
		t.Errorf("a gateway of another name: %v", err)
	}
	for range 20 { // whether the alert wins over a broken pipe must not depend on luck
		err := connect(clientConfig(t, stranger, g.ca, "c1", "web1"))
		if err == nil || !strings.Contains(err.Error(), "does the gateway know this connector's certificate") {
			t.Fatalf("a gateway that does not know the certificate: %v", err)
		}
	}
}

func TestTooManyTunnels(t *testing.T) {
	g := startGateway(t, func(cfg *HubConfig, _ *timing) { cfg.MaxTunnels = 1 })
	c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
	c.register(wireOrigin{Name: "web1"})
	second := newRawConnector(t, g, g.clientTLS("c2", "web1"))
	second.send(registerMessage{Type: typeRegister, Version: protocolVersion})
	msg, err := readControl(second.control)
	if refused, ok := msg.(*refusedMessage); !ok || refused.Code != CodeOverloaded {
		t.Errorf("got %+v, %v", msg, err)
	}
	second.session.Close()
	if err := <-g.served; refusalCode(err) != CodeOverloaded {
		t.Errorf("Serve: %v", err)
	}
}

// fakeGateway accepts one tunnel and hands its control stream to the test.
type fakeGateway struct {
	session *yamux.Session
	control *yamux.Stream
}

// serveFake makes an agent whose gateway is the test.
func serveFake(t *testing.T, origin string, change ...func(*AgentConfig, *timing)) (*fakeGateway, *runningAgent) {
	t.Helper()
	ca := newCAForTest(t)
	server := ServerTLS(ca, ca.ServerCertificate([]string{"gate.test"}, nil))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	g := &gateway{t: t, ca: ca, addr: listener.Addr().String()}
	a := g.startAgent([]Origin{{Name: "web1", Address: origin}}, change...)
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	session, err := yamux.Server(conn, muxConfig(orDiscard(nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	control, err := session.AcceptStream()
	if err != nil {
		t.Fatal(err)
	}
	_ = control.SetReadDeadline(time.Now().Add(testTimeout))
	return &fakeGateway{session, control}, a
}

func TestAgentAgainstABadGateway(t *testing.T) {
	o := startOrigin(t, echo)
	t.Run("frames", func(t *testing.T) {
		g, a := serveFake(t, o.addr)
		if _, err := readControl(g.control); err != nil {
			t.Fatal(err)
		}
		_, _ = g.control.Write([]byte{0xff, 0xff, 0xff, 0xff})
		<-g.session.CloseChan()
		if a.Stats().Tunnels != 0 {
			t.Error("the tunnel is counted")
		}
	})
	t.Run("headers", func(t *testing.T) {
		g, a := serveFake(t, o.addr, func(_ *AgentConfig, quick *timing) { quick.header = 100 * time.Millisecond })
		for _, bytes := range [][]byte{nil, {0, 0}, {0, 0, 0x40, 1}, []byte("\x00\x00\x00\x02[]"), []byte("\x00\x00\x00\x02{]")} {
			stream, err := g.session.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = stream.Write(bytes)
			refusal, err := readReply(stream)
			if err != nil || refusal == nil || refusal.Code != CodeBadRequest {
				t.Errorf("%q: %v, %v", bytes, refusal, err)
			}
			stream.Close()
		}
		eventually(t, "no stream is left", func() bool { return a.Stats().Streams == 0 })
	})
	t.Run("a flood of streams", func(t *testing.T) {
		g, _ := serveFake(t, o.addr, func(cfg *AgentConfig, _ *timing) { cfg.MaxStreams = 2 })
		for {
			stream, err := g.session.OpenStream() // never closed
			if err != nil {
				return // as it should
			}
			if stream.StreamID() > 2*(2+3*streamBacklog) {
				t.Fatal("the agent takes any number of streams")
			}
		}
	})
	t.Run("silence", func(t *testing.T) {
		g, _ := serveFake(t, o.addr, func(_ *AgentConfig, quick *timing) { quick.register = 100 * time.Millisecond })
		<-g.session.CloseChan()
	})
	t.Run("refusal", func(t *testing.T) {
		g, a := serveFake(t, o.addr)
		_ = writeFrame(g.control, refusedMessage{Type: typeRefused, Code: CodeVersion, Reason: "too old"}, maxControlFrame)
		<-g.session.CloseChan()
		select {
		case <-a.Ready():
			t.Error("the agent is ready")
		default:
		}
	})
}

func TestNewAgentChecksItsConfiguration(t *testing.T) {
	ca := newCAForTest(t)
	good := func() AgentConfig {
		return AgentConfig{Gateway: "127.0.0.1:443", TLS: clientConfig(t, ca, ca, "c1", "web1"), Origins: []Origin{{Name: "web1", Address: "127.0.0.1:22"}}}
	}
	if _, err := NewAgent(good()); err != nil {
		t.Fatal(err)
	}
	many := make([]Origin, MaxOrigins+1)
	for i := range many {
		many[i] = Origin{Name: sshgate.OriginName(fmt.Sprint("o", i)), Address: "127.0.0.1:22"}
	}
	for want, change := range map[string]func(*AgentConfig){
		"gateway's address":     func(c *AgentConfig) { c.Gateway = "gate.example.com" },
		"no client certificate": func(c *AgentConfig) { c.TLS = &tls.Config{} },
		"does not verify":       func(c *AgentConfig) { c.TLS.InsecureSkipVerify = true },
		"0 origins":             func(c *AgentConfig) { c.Origins = nil },
		"101 origins":           func(c *AgentConfig) { c.Origins = many },
		"configured twice":      func(c *AgentConfig) { c.Origins = append(c.Origins, c.Origins[0]) },
		"normal form":           func(c *AgentConfig) { c.Origins[0].Name = "WEB1" },
		"address of web1":       func(c *AgentConfig) { c.Origins[0].Address = "127.0.0.1" },
		"negative":              func(c *AgentConfig) { c.Connections = -1 },
	} {
		cfg := good()
		change(&cfg)
		if _, err := NewAgent(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := NewHub(HubConfig{}); err == nil {
		t.Error("a hub without Admit would let everything in")
	}
}

// The largest registration that the limits allow fits into a frame.
func TestLargestRegistrationFits(t *testing.T) {
	msg := registerMessage{Type: typeRegister, Version: protocolVersion, Software: strings.Repeat("s", 64)}
	for range MaxOrigins {
		msg.Origins = append(msg.Origins, wireOrigin{
			Name: strings.Repeat("n", 253),
			// RSA of 8192 bits, ECDSA on P-521, ed25519.
			HostKeys: []string{strings.Repeat("k", maxHostKey), strings.Repeat("k", 252), strings.Repeat("k", 80)},
		})
	}
	if err := writeFrame(discardWriter{}, msg, maxControlFrame); err != nil {
		t.Error(err)
	}
}

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// A plain TCP client, or one that breaks off its TLS handshake, reaches nothing.
func TestGarbageBelowTLS(t *testing.T) {
	g := startGateway(t)
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	garbage := make([]byte, 4096)
	_, _ = rand.Read(garbage)
	_, _ = conn.Write(garbage)
	if err := <-g.served; err == nil {
		t.Error("garbage was served")
	}
	// And garbage where yamux is expected.
	tc, err := tls.Dial("tcp", g.addr, rawTLS(g.clientTLS("c1", "web1")))
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	_, _ = tc.Write(append([]byte{0xff}, garbage...))
	if err := <-g.served; err == nil {
		t.Error("garbage was served")
	}
}
