package connector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// After a renewal the agent's tunnels have the new certificate. The origin is
// published all the time, and a connection in an old tunnel goes on.
func TestRenewedMovesTheTunnels(t *testing.T) {
	g := startGateway(t)
	o := startOrigin(t, echo)
	one, two := g.clientTLS("c1", "web1").Certificates[0], g.clientTLS("c1", "web1").Certificates[0]
	var current atomic.Pointer[tls.Certificate]
	current.Store(&one)
	a := g.publish("web1", o.addr, func(cfg *AgentConfig, _ *timing) {
		cfg.Connections = 2
		cfg.TLS.Certificates = nil
		cfg.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return current.Load(), nil }
	})
	eventually(t, "two tunnels", func() bool { return a.Stats().Tunnels == 2 })
	old := g.mustDial("web1")
	current.Store(&two)
	a.Renewed()
	serials := func() []string {
		g.hub.mu.Lock()
		defer g.hub.mu.Unlock()
		var list []string
		for tun := range g.hub.tunnels {
			if !tun.draining {
				list = append(list, tun.serial)
			}
		}
		return list
	}
	want := two.Leaf.SerialNumber.Text(16)
	eventually(t, "two tunnels with the new certificate", func() bool {
		g.mustDial("web1").Close()
		return slices.Equal(serials(), []string{want, want})
	})
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	old.Close()
	eventually(t, "the old tunnels are gone", func() bool { return g.hub.Stats().Tunnels == 2 })
	for len(g.events) > 0 {
		if e := <-g.events; e.Kind == sshgate.EventOriginDown {
			t.Errorf("the origin was down: %s", e.Reason)
		}
	}
}

// Names that a certificate does not have are refused, and that is on record once.
func TestForgedHostnameIsRecorded(t *testing.T) {
	g := startGateway(t)
	c := newRawConnector(t, g, g.clientTLS("c1", "web1"))
	for range 3 {
		got := codes(c.register(wireOrigin{Name: "web1"}, wireOrigin{Name: "bank"}))
		if got["web1"] != "" || got["bank"] != CodeNotPermitted {
			t.Fatal(got)
		}
	}
	recorded := 0
	for len(g.events) > 0 {
		if e := <-g.events; e.Kind == sshgate.EventRefused {
			recorded++
			if e.Origin != "bank" || e.Identity != "connector c1" || !strings.Contains(e.Reason, "does not name it") || !e.ClientAddr.IsLoopback() {
				t.Errorf("%+v", e)
			}
		}
	}
	if recorded != 1 {
		t.Errorf("%d events", recorded)
	}
}

// When a gateway drains, its connectors are with another one while sessions in the
// old tunnels finish.
func TestDrainToAnotherGateway(t *testing.T) {
	first := startGateway(t)
	second := &gateway{t: t, ca: first.ca, events: make(chan sshgate.Event, 1000), served: make(chan error, 1000)}
	second.start(HubConfig{Admit: allowAll, Events: func(e sshgate.Event) { second.events <- e }, Log: testLog(t)}, quickTiming(), "127.0.0.1:0")
	t.Cleanup(second.stop)
	var target atomic.Pointer[string] // where the balancer sends new connections
	target.Store(&first.addr)
	o := startOrigin(t, echo)
	first.publish("web1", o.addr, func(cfg *AgentConfig, _ *timing) {
		cfg.DialGateway = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, *target.Load())
		}
	})
	session := first.mustDial("web1")
	target.Store(&second.addr)
	drained := make(chan error, 1)
	go func() { drained <- first.hub.Drain(testContext(t)) }()
	second.waitFor(sshgate.EventOriginUp, "web1")
	second.mustDial("web1")
	if _, err := session.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if len(drained) > 0 {
		t.Error("the drain is over before the session is")
	}
	session.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// A day of certificates that live for an hour, by a clock that runs when all wait:
// the connector's are renewed at two thirds of their life, a session lasts the
// whole day, and the origin never goes.
func TestRenewalsOfADay(t *testing.T) {
	const alone = "SSHGATE_TEST_ALONE"
	if os.Getenv(alone) == "" {
		// In a process of its own: yamux shares timers between sessions, and those of
		// the test's clock must not get to other tests.
		cmd := exec.Command(os.Args[0], "-test.run=^TestRenewalsOfADay$", "-test.v", "-test.timeout=2m")
		cmd.Env = append(os.Environ(), alone+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		const day, life = 24 * time.Hour, time.Hour
		ca := newCAForTest(t)
		downs := 0
		hub, err := NewHub(HubConfig{Admit: allowAll, Events: func(e sshgate.Event) {
			if e.Kind == sshgate.EventOriginDown {
				downs++
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		server := ServerTLS(ca, ca.ServerCertificate([]string{"gate.test"}, nil))
		dialGateway := func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			serving.Go(func() {
				conn := tls.Server(far, server)
				if err := conn.Handshake(); err != nil {
					t.Error(err)
					far.Close()
					return
				}
				_ = hub.Serve(context.Background(), conn)
			})
			return near, nil
		}
		dialOrigin := func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			serving.Go(func() {
				defer far.Close()
				_, _ = io.Copy(far, far)
			})
			return near, nil
		}
		var mu sync.Mutex
		current, renewals := issuePair(t, ca, life), 0
		renewer := &Renewer{
			Certificate: func() (*x509.Certificate, error) { mu.Lock(); defer mu.Unlock(); return current.Leaf, nil },
			Renew: func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				if age := time.Since(current.Leaf.NotBefore); age < life*2/3 || age > life*3/4+clockSkew {
					t.Errorf("renewed at the age of %s", age)
				}
				current = issuePair(t, ca, life)
				renewals++
				return nil
			},
		}
		agent, err := NewAgent(AgentConfig{
			Gateway: "gate.test:443", Connections: 2, Origins: []Origin{{Name: "web1", Port: 7, Address: "origin.test:7"}},
			TLS: &tls.Config{RootCAs: ca.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				mu.Lock()
				defer mu.Unlock()
				return &current, nil
			}},
			DialGateway: dialGateway, DialOrigin: dialOrigin,
		})
		if err != nil {
			t.Fatal(err)
		}
		renewer.Renewed = agent.Renewed
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { renewer.Run(ctx) })
		running.Go(func() { _ = agent.Run(ctx) })
		<-agent.Ready()
		time.Sleep(time.Second)

		request := DialRequest{RequestID: "r-1", Origin: "web1", Port: 7}
		session, err := hub.Dial(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		echoes := func(conn Conn) {
			t.Helper()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		for time.Since(start) < day {
			time.Sleep(5 * time.Minute)
			echoes(session)
			another, err := hub.Dial(ctx, request)
			if err != nil {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
			echoes(another)
			another.Close()
		}
		session.Close()
		mu.Lock()
		t.Logf("measured: %d renewals in %s", renewals, time.Since(start))
		if most, least := int(day/(life*2/3-clockSkew))+1, int(day/(life*3/4)); renewals < least || renewals > most {
			t.Errorf("%d renewals, want from %d to %d", renewals, least, most)
		}
		mu.Unlock()
		if downs > 0 {
			t.Errorf("the origin was down %d times", downs)
		}
		cancel()
		running.Wait()
		hub.Close()
		serving.Wait()
	})
}

func issuePair(t *testing.T, ca *CA, life time.Duration) tls.Certificate {
	t.Helper()
	certPEM, keyPEM, err := ca.IssueConnector("c1", []string{"web1"}, life)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
