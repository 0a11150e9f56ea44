//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

const (
	fleetSize    = 1000 // connectors
	fleetTunnels = 2    // of each, the default
	fleetPort    = 7    // of the one service that each publishes
)

const fleetPolicy = `
policy:
  applications:
    - name: fleet
      hosts: ["*.fleet"]
      rules:
        - name: monitoring
          action: service
          include: [{service_token: monitoring}]
          ports: [7]
`

func fleetName(i int) sshgate.OriginName { return sshgate.OriginName(fmt.Sprintf("host%d.fleet", i)) }

// TestThousandConnectors has a real gateway serve connectors that are in this process.
// It is not parallel to others, whose time it would take.
func TestThousandConnectors(t *testing.T) {
	need(t, "prlimit")
	s := prepareStack(t, stackOptions{policy: fleetPolicy, logLevel: "warn"})
	configs := s.enrolFleet(t)
	// The usual soft limit on open files is too low, and the gateway has to see to that.
	s.startGateway("prlimit", "--nofile=1024:")
	monitoring := s.createToken(t, "monitoring")
	empty := s.gatewayMemory(t)

	begin := time.Now()
	s.startFleet(t, configs)
	s.waitForFleet(t, begin, "all connectors were published after")
	memory := s.gatewayMemory(t)
	t.Logf("measured: the gateway has %d MiB, of which each of %d connectors takes %d KiB", memory>>10, fleetSize, (memory-empty)/fleetSize)
	s.reachFleet(t, monitoring)

	begin = time.Now()
	s.gateway.stop(syscall.SIGKILL)
	s.startGateway("prlimit", "--nofile=1024:")
	s.waitForFleet(t, begin, "all connectors were back after the gateway's kill, after")
	t.Logf("measured: the gateway has %d MiB after all came back at once", s.gatewayMemory(t)>>10)
	s.reachFleet(t, monitoring)

	begin = time.Now()
	s.gateway.stop(syscall.SIGTERM) // with all of them connected
	measured(t, time.Since(begin), "the gateway ended after SIGTERM, with all connectors connected, after")
	if took := time.Since(begin); took > time.Minute { // it hung, once, and here is seldom more than 2 s
		t.Errorf("the gateway took %s to end", took)
	}
}

// enrolFleet issues the connectors' certificates as "sshgated connector-cert" does.
func (s *stack) enrolFleet(t *testing.T) []*tls.Config {
	t.Helper()
	ca, err := connector.OpenCA(s.path("data/tunnel-ca"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.path("gateway-ca.crt"), string(ca.CertPEM()))
	db, err := store.OpenSQLite(t.Context(), s.path("data/sshgated.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	configs := make([]*tls.Config, fleetSize)
	for i := range configs {
		name := string(fleetName(i))
		certPEM, keyPEM, err := ca.IssueConnector(name, []string{name}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		err = db.AddConnector(t.Context(), sshgate.ConnectorRecord{
			Serial: pair.Leaf.SerialNumber.Text(16), Connector: name, Hostnames: []string{name},
			IssuedAt: time.Now(), ExpiresAt: pair.Leaf.NotAfter,
		})
		if err != nil {
			t.Fatal(err)
		}
		configs[i] = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: ca.Pool(), ServerName: "gate.test"}
	}
	return configs
}

// startFleet runs a connector for each configuration until the test ends. All have
// the same origin, which repeats what it is told.
func (s *stack) startFleet(t *testing.T, configs []*tls.Config) {
	t.Helper()
	echo := serveTCP(t, func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) })
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for i, config := range configs {
		agent, err := connector.NewAgent(connector.AgentConfig{
			Gateway: fmt.Sprintf("127.0.0.1:%d", s.tlsPort), TLS: config, Connections: fleetTunnels,
			Origins: []connector.Origin{{Name: fleetName(i), Port: fleetPort, Address: fmt.Sprintf("127.0.0.1:%d", echo)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := agent.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// waitForFleet waits until each connector is published, and then until each has all of
// its tunnels.
func (s *stack) waitForFleet(t *testing.T, since time.Time, what string) {
	t.Helper()
	const limit = 2 * time.Minute
	for _, count := range []struct {
		metric string
		want   float64
	}{
		{"sshgate_origins", fleetSize}, {"sshgate_tunnels", fleetSize * fleetTunnels},
	} {
		eventually(t, "the connectors are there", limit-time.Since(since), func() error {
			got, err := s.metric(count.metric)
			if err == nil && got != count.want {
				err = fmt.Errorf("%s is %v, want %v", count.metric, got, count.want)
			}
			return err
		})
		measured(t, time.Since(since), fmt.Sprintf("%s (%s %v)", what, count.metric, count.want))
	}
}

// reachFleet asks services of some connectors.
func (s *stack) reachFleet(t *testing.T, k token) {
	t.Helper()
	c := s.newClient(t)
	for _, i := range []int{0, fleetSize / 2, fleetSize - 1} {
		cmd := k.as(c.command(sshgateBin, "access", "ssh", "--gateway", fmt.Sprintf("127.0.0.1:%d", s.tlsPort),
			"--ca-file", s.path("gateway-ca.crt"), "--hostname", fmt.Sprintf("%s:%d", fleetName(i), fleetPort)))
		cmd.Stdin = strings.NewReader("hello")
		if r := run1(t, cmd); r.stdout != "hello" || r.code != 0 {
			t.Errorf("%s: %+v", fleetName(i), r)
		}
	}
}

// gatewayMemory returns the gateway's resident memory in KiB, see proc(5).
func (s *stack) gatewayMemory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.gateway.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatalf("there is no resident memory in\n%s", status)
	return 0
}
