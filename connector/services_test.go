package connector

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
)

func (g *gateway) dialPort(name sshgate.OriginName, port uint16) (Conn, error) {
	g.t.Helper()
	return g.hub.Dial(testContext(g.t), DialRequest{RequestID: "r-1", Origin: name, Port: port})
}

// question sends a text, half-closes, and returns the whole answer.
func question(t *testing.T, conn Conn, text string) string {
	t.Helper()
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(conn); err != nil {
		t.Fatal(err)
	}
	return answer.String()
}

// answering returns a handler that answers, once the client has half-closed,
// with its name and what it got.
func answering(name string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		got, _ := io.ReadAll(conn)
		_, _ = conn.Write(append([]byte(name+" got "), got...))
	}
}

// One name carries several services, told apart by port.
func TestServicesOfOneName(t *testing.T) {
	events := make(chan sshgate.Event, 100)
	g := startGateway(t, func(cfg *HubConfig, _ *timing) {
		cfg.Events = func(e sshgate.Event) { events <- e }
	})
	socket := filepath.Join(t.TempDir(), "socket")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close() })
	go func() {
		for {
			conn, err := unix.Accept()
			if err != nil {
				return
			}
			got, _ := io.ReadAll(conn)
			_, _ = conn.Write(append([]byte("unix got "), got...))
			conn.Close()
		}
	}()
	ssh, database := startOrigin(t, answering("ssh")), startOrigin(t, answering("database"))
	a := g.startAgent([]Origin{
		{Name: "web1", Address: ssh.addr},
		{Name: "web1", Port: 5432, Address: database.addr},
		{Name: "web1", Port: 9100, Network: "unix", Address: socket},
	}, noScan)
	a.waitReady(t)
	up := map[string]bool{}
	for range 3 {
		e := <-events
		if e.Kind != sshgate.EventOriginUp || e.Origin != "web1" {
			t.Fatalf("%+v", e)
		}
		up[e.Detail] = true
	}
	if !up[""] || !up["web1:5432"] || !up["web1:9100"] {
		t.Errorf("up: %v", up)
	}
	for port, want := range map[uint16]string{0: "ssh got q", 22: "ssh got q", 5432: "database got q", 9100: "unix got q"} {
		conn, err := g.dialPort("web1", port)
		if err != nil {
			t.Fatalf("port %d: %v", port, err)
		}
		if got := question(t, conn, "q"); got != want {
			t.Errorf("port %d: %q, want %q", port, got, want)
		}
	}
	if _, err := g.dialPort("web1", 5433); !errors.Is(err, ErrNoService) {
		t.Errorf("a port that is not published: %v", err)
	}
	if _, err := g.dialPort("web2", 5432); !errors.Is(err, ErrOffline) {
		t.Errorf("a name that is not published: %v", err)
	}
	var ports []uint16
	for _, o := range g.hub.Origins() {
		ports = append(ports, o.Port)
	}
	if len(ports) != 3 || ports[0] != 22 || ports[1] != 5432 || ports[2] != 9100 {
		t.Errorf("Origins lists ports %v", ports)
	}
	a.stop()
	if _, err := g.dialPort("web1", 5432); !errors.Is(err, ErrOffline) {
		t.Errorf("without the connector: %v", err)
	}
}

func TestRegistrationOfServices(t *testing.T) {
	g := startGateway(t)
	key := hostKeyLine(newSigner(t, "ed25519").PublicKey())
	c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
	got := codes(c.register(
		wireOrigin{Name: "web1", HostKeys: []string{key}},
		wireOrigin{Name: "WEB1", Port: 5432},
		wireOrigin{Name: "web1", Port: 5432},
		wireOrigin{Name: "web1", Port: 3306, HostKeys: []string{key}},
		wireOrigin{Name: "web2", Port: 5432},
	))
	want := map[string]Code{
		"web1": "", "WEB1:5432": "", "web1:5432": CodeBadRequest, "web1:3306": CodeBadRequest, "web2:5432": CodeNotPermitted,
	}
	for name, code := range want {
		if have, ok := got[name]; !ok || have != code {
			t.Errorf("%s: %q (%v), want %q", name, have, ok, code)
		}
	}
	if len(got) != len(want) {
		t.Errorf("answered %v", got)
	}
}

// A connector of before services had ports knows only SSH, and would dial that
// for any header. It is never asked for anything else.
func TestOldConnectorIsNotAskedForPorts(t *testing.T) {
	g := startGateway(t)
	c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
	c.register(wireOrigin{Name: "web1"})
	if _, err := g.dialPort("web1", 5432); !errors.Is(err, ErrNoService) {
		t.Errorf("got %v", err)
	}
	if n := c.session.NumStreams(); n != 1 {
		t.Errorf("%d streams are open, want the control stream alone", n)
	}
}

// The connector dials a service for exactly the port that it registered.
func TestHeaderChoosesTheService(t *testing.T) {
	agent, err := NewAgent(AgentConfig{
		Gateway: "127.0.0.1:1", TLS: clientConfig(t, newCAForTest(t), newCAForTest(t), "c1", "web1"),
		Origins: []Origin{{Name: "web1", Port: 5432, Address: "127.0.0.1:1"}}, Log: testLog(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range []dialHeader{{Origin: "web1"}, {Origin: "web1", Port: 22}, {Origin: "web1", Port: 5433}, {Origin: "web2", Port: 5432}} {
		var refusal *Refusal
		if _, err := agent.dialOrigin(testContext(t), header); !errors.As(err, &refusal) || refusal.Code != CodeUnknownOrigin {
			t.Errorf("%+v: %v", header, err)
		}
	}
}

func TestServicesThatCannotBe(t *testing.T) {
	ca := newCAForTest(t)
	for name, origins := range map[string][]Origin{
		"a pair twice":       {{Name: "a", Address: "h:1"}, {Name: "a", Port: 22, Address: "h:2"}},
		"ssh on a socket":    {{Name: "a", Network: "unix", Address: "/s"}},
		"a relative socket":  {{Name: "a", Port: 1, Network: "unix", Address: "s"}},
		"an unknown network": {{Name: "a", Port: 1, Network: "udp", Address: "h:1"}},
		"no port to dial":    {{Name: "a", Port: 1, Address: "h"}},
	} {
		if _, err := NewAgent(AgentConfig{Gateway: "h:1", TLS: clientConfig(t, ca, ca, "c1", "a"), Origins: origins}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// A service that is cut off by the loss of the tunnel must not take what it got
// until then for all that there is.
func TestLostTunnelResetsTheService(t *testing.T) {
	g := startGateway(t)
	ends := make(chan error, 1)
	o := startOrigin(t, func(conn *net.TCPConn) {
		_, err := io.Copy(io.Discard, conn)
		ends <- err
	})
	a := g.startAgent([]Origin{{Name: "db1", Port: 5432, Address: o.addr}})
	a.waitReady(t)
	g.waitFor(sshgate.EventOriginUp, "db1")
	conn, err := g.dialPort("db1", 5432)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("half of it")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service has it", func() bool { return o.accepted.Load() == 1 })
	g.stop()
	if err := <-ends; err == nil {
		t.Error("the service read a clean end")
	}
}

// What an agent publishes can be replaced while it runs; what is open goes on.
func TestSetOrigins(t *testing.T) {
	g := startGateway(t)
	first, second := startOrigin(t, answering("first")), startOrigin(t, answering("second"))
	a := g.startAgent([]Origin{{Name: "web1", Port: 5432, Address: first.addr}, {Name: "web2", Port: 1, Address: first.addr}})
	a.waitReady(t)
	g.waitFor(sshgate.EventOriginUp, "web2")
	open, err := g.dialPort("web1", 5432)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]Origin{nil, {{Name: "web1", Address: "nonsense"}}, {{Name: "a", Port: 1, Address: "h:1"}, {Name: "a", Port: 1, Address: "h:2"}}} {
		if err := a.SetOrigins(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if err := a.SetOrigins([]Origin{{Name: "web1", Port: 5432, Address: second.addr}}); err != nil {
		t.Fatal(err)
	}
	g.waitFor(sshgate.EventOriginDown, "web2")
	moved, err := g.dialPort("web1", 5432)
	if err != nil {
		t.Fatal(err)
	}
	if got := question(t, moved, "q"); got != "second got q" {
		t.Errorf("after the change: %q", got)
	}
	if got := question(t, open, "q"); got != "first got q" {
		t.Errorf("what was open: %q", got)
	}
}

// The keys of an SSH server that was replaced are not reported for the next.
func TestSetOriginsLooksAtKeysAnew(t *testing.T) {
	reports := make(chan Registration, 100)
	g := startGateway(t, func(cfg *HubConfig, _ *timing) {
		cfg.Admit = func(_ context.Context, reg Registration) error {
			reports <- reg
			return nil
		}
	})
	old, fresh := newSigner(t, "ed25519"), newSigner(t, "ed25519")
	was, is := startSSHD(t, "127.0.0.1:0", old), startSSHD(t, "127.0.0.1:0", fresh)
	waitForKey := func(signer ssh.Signer) {
		t.Helper()
		for reg := range reports {
			if slices.Equal(reg.HostKeys, []string{hostKeyLine(signer.PublicKey())}) {
				return
			}
		}
	}
	a := g.startAgent([]Origin{{Name: "web1", Address: was.addr}})
	waitForKey(old)
	if err := a.SetOrigins([]Origin{{Name: "web1", Address: is.addr}}); err != nil {
		t.Fatal(err)
	}
	waitForKey(fresh)
	for len(reports) > 0 {
		if reg := <-reports; slices.Contains(reg.HostKeys, hostKeyLine(old.PublicKey())) {
			t.Error("the old key was reported again")
		}
	}
}
