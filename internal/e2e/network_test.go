//go:build linux

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// network is an installation whose gateway and connectors are in networks of their
// own. The clients are with the gateway.
type network struct {
	*stack
	relay *relay
	gate  *site
	racks []*rack
}

// rack is where a connector and its origin are. All racks of a network publish
// web1, and their connectors have the same certificate.
type rack struct {
	*site
	t         testing.TB
	dir       string
	sshd      *sshd
	connector *proc
}

type networkOptions struct {
	racks int // default 1
	v6    bool
}

// building keeps the networks of several scenarios from coming up at once: to make
// keys takes a processor, and then they only wait.
var building sync.Mutex

func newNetwork(t testing.TB, o networkOptions) *network {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	n := &network{relay: newRelay(t, 1+cmp.Or(o.racks, 1), o.v6)}
	n.gate = n.relay.sites[0]
	n.stack = prepareStack(t, stackOptions{place: n.gate.netns, everywhere: true, ssh: "  drain_timeout: 1s"})
	n.sshgated("connector-cert", "--config", n.path("gateway.yaml"), "--name", "rack", "--hostname", "web1", "--out", n.path("connector"))
	n.startGateway()
	for i, s := range n.relay.sites[1:] {
		r := &rack{site: s, t: t, dir: n.path(fmt.Sprint("rack", i+1))}
		n.racks = append(n.racks, r)
		n.installRack(t, r)
		r.startConnector()
	}
	n.waitForTunnels(2 * len(n.racks))
	n.waitForOrigins(1)
	return n
}

// name is what the origin's sshd has in REPLICA.
func (r *rack) name() string { return filepath.Base(r.dir) }

// installRack writes a connector's files, and starts the origin. It has the host keys
// of the first, as copies of one machine do; REPLICA tells them apart.
func (n *network) installRack(t testing.TB, r *rack) {
	t.Helper()
	copyDir(t, n.path("connector"), r.dir)
	origin := filepath.Join(r.dir, "sshd")
	if first := n.racks[0]; first != r {
		copyDir(t, first.sshd.dir, origin)
	}
	r.sshd = startSSHDAt(t, r.netns, origin, n.path("user_ca.pub"), freePort(t), "SetEnv REPLICA="+r.name())
	n.writeHosts(t, r)
	write(t, filepath.Join(r.dir, "connector.yaml"), fmt.Sprintf(
		"gateway: gate.test:%d\ngateway_ca_file: gateway-ca.crt\norigins:\n  - name: web1\n    url: ssh://127.0.0.1:%d\n", n.tlsPort, r.sshd.port))
}

// writeHosts tells the rack where the gateway is.
func (n *network) writeHosts(t testing.TB, r *rack) {
	t.Helper()
	write(t, filepath.Join(r.dir, "hosts"), fmt.Sprintf("127.0.0.1 localhost\n%s gate.test\n", n.gate.address))
}

// copyDir copies a directory with the modes of its files.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

// startConnector runs the connector with the rack's hosts file in the place of the
// machine's, and does not wait until it is connected.
func (r *rack) startConnector() {
	r.t.Helper()
	args := r.command("unshare", "--mount", "sh", "-c", `mount --bind "$1" /etc/hosts && shift && exec "$@"`, "sh", filepath.Join(r.dir, "hosts"),
		sshgateBin, "connector", "run", "--config", filepath.Join(r.dir, "connector.yaml"), "--log-format", "json", "--grace", "1s")
	r.connector = start(r.t, args[0], args[1:]...)
}

// waitLogged waits until the program has logged a message n times since then, and
// returns how long after that it did so for the last of them.
func (p *proc) waitLogged(t testing.TB, since time.Time, msg string, n int, limit time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var at []time.Time
	_, err := p.out.wait(ctx, func(text string) string {
		at = nil
		for line := range strings.Lines(text) {
			var l struct {
				Time time.Time
				Msg  string
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Msg == msg && l.Time.After(since) {
				at = append(at, l.Time)
			}
		}
		if len(at) < n {
			return ""
		}
		return msg
	})
	if err != nil {
		t.Fatalf("%q was logged %d times within %s, want %d: %v", msg, len(at), limit, n, err)
	}
	return at[n-1].Sub(since)
}

const (
	logGone = "a connector is gone" // the gateway's word for a tunnel that has ended
	logDown = "the tunnel is down"  // the connector's
	// deadPath is the time in which a dead path is found, see section 5 of the
	// tunnel's specification.
	deadPath = 15 * time.Second
)

// measured prints what somebody may want to compare.
func measured(t testing.TB, took time.Duration, what string) {
	t.Helper()
	t.Logf("measured: %s: %s", what, took.Round(time.Millisecond))
}

// untilItWorks runs ssh until it reaches the origin, which must be within the limit
// after since, and returns how long that took.
func (c *client) untilItWorks(since time.Time, limit time.Duration) time.Duration {
	c.t.Helper()
	eventually(c.t, "ssh works", limit-time.Since(since), func() error {
		if r := run1(c.t, c.ssh("-o", "BatchMode=yes", "gate", "echo back")); r.stdout != "back\n" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	return time.Since(since)
}

// TestNetwork has real TCP connections over paths that fail. The scenarios wait most
// of the time, so they run together, in one place of those that go test gives out.
func TestNetwork(t *testing.T) {
	t.Parallel()
	needNetns(t)
	need(t, "/usr/sbin/sshd", "ssh", "ssh-keygen", "unshare")
	var scenarios sync.WaitGroup
	defer scenarios.Wait()
	for _, scenario := range []struct {
		name string
		test func(*testing.T)
	}{
		{"dark path", func(t *testing.T) { testDarkPath(t, true, true, 0) }},
		{"dark path for long", func(t *testing.T) { testDarkPath(t, true, true, 40*time.Second) }},
		{"dark path to the gateway", func(t *testing.T) { testDarkPath(t, true, false, 0) }},
		{"dark path to the connector", func(t *testing.T) { testDarkPath(t, false, true, 0) }},
		{"one of two connections", testOneOfTwo},
		{"loss of 1 percent", func(t *testing.T) { testLoss(t, 0.01, 8<<20) }},
		{"loss of 5 percent", func(t *testing.T) { testLoss(t, 0.05, 4<<20) }},
		{"connector moves", testConnectorMoves},
		{"gateway moves", testGatewayMoves},
		{"suspended connector", testSuspended},
		{"IPv6", testIPv6},
		{"gateway restart", testGatewayRestart},
		{"connector restart", testConnectorRestart},
		{"replica killed", testReplicaKilled},
		{"replica in the dark", testReplicaInTheDark},
	} {
		scenarios.Go(func() { t.Run(scenario.name, scenario.test) })
	}
}

// testDarkPath: a path on which packets vanish in one direction or both, for as long
// as told and at least until both ends have noticed.
func testDarkPath(t *testing.T, toGateway, toConnector bool, away time.Duration) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	session, stderr := c.longSession()
	rack, cut := n.racks[0], time.Now()
	n.relay.set(rack.site, n.gate, path{dark: toGateway})
	n.relay.set(n.gate, rack.site, path{dark: toConnector})
	endsWith255(t, session, stderr, "the connection to web1 was lost", deadPath)
	measured(t, time.Since(cut), "the session's end after the path went dark")
	for end, took := range map[string]time.Duration{
		"gateway":   n.gateway.waitLogged(t, cut, logGone, 2, deadPath),
		"connector": rack.connector.waitLogged(t, cut, logDown, 2, deadPath),
	} {
		measured(t, took, "the "+end+" knew both tunnels as lost after")
		if took > deadPath {
			t.Errorf("the %s took %s", end, took)
		}
	}
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "true")); r.code != 255 || !strings.Contains(r.stderr, "web1 is offline") {
		t.Errorf("while the path is dark: %+v", r)
	}
	time.Sleep(away - time.Since(cut)) // the connector tries in vain meanwhile
	back := time.Now()
	n.relay.between(rack.site, n.gate, path{})
	measured(t, c.untilItWorks(back, 45*time.Second), "ssh worked after the path was back, which was away for "+back.Sub(cut).Round(time.Second).String())
}

// testOneOfTwo: one of a connector's two connections is dead, and the other carries
// on.
func testOneOfTwo(t *testing.T) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	dark := n.tunnelAddresses(t)[0]
	trying.Lock()
	defer trying.Unlock()
	rack, cut := n.racks[0], time.Now()
	n.relay.between(rack.site, n.gate, path{port: dark.Port()})
	tries := c.tryFor(deadPath)
	tries.report(t, "one of two connections dark")
	took := n.gateway.waitLogged(t, cut, logGone, 1, deadPath)
	measured(t, took, "the gateway knew the dark one as lost after")
	n.relay.between(rack.site, n.gate, path{})
	n.waitForTunnels(2)
}

// tunnelAddresses returns the connectors' ends of all tunnels that there have been, in
// their order.
func (n *network) tunnelAddresses(t testing.TB) []netip.AddrPort {
	t.Helper()
	var all []netip.AddrPort
	for _, line := range n.logLines(t) {
		if line["msg"] != "a connector is connected" {
			continue
		}
		remote, err := netip.ParseAddrPort(fmt.Sprint(line["remote"]))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, remote)
	}
	return all
}

// testLoss: a line that loses packets is slow, and no more than that.
func testLoss(t *testing.T, loss float64, size int) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	n.relay.between(n.racks[0].site, n.gate, path{loss: loss, delay: 20 * time.Millisecond})
	data := make([]byte, size)
	_, _ = rand.Read(data)
	remote := filepath.Join(t.TempDir(), "copy")
	begin := time.Now()
	up := c.ssh("-o", "BatchMode=yes", "gate", "cat >"+remote)
	up.Stdin = bytes.NewReader(data)
	must(t, up)
	measured(t, time.Since(begin), fmt.Sprintf("%d MiB to the origin, %g %% of the packets lost, 20ms each way", size>>20, 100*loss))
	begin = time.Now()
	if got := must(t, c.ssh("-o", "BatchMode=yes", "gate", "cat "+remote)); got != string(data) {
		t.Errorf("%d bytes came back, and not the %d that went", len(got), size)
	}
	measured(t, time.Since(begin), fmt.Sprintf("%d MiB from the origin, %g %% of the packets lost, 20ms each way", size>>20, 100*loss))
	carried, lost := n.relay.counts()
	t.Logf("measured: of %d packets %d were lost", carried+lost, lost)
	if lost == 0 {
		t.Error("the line lost nothing")
	}
	if all := n.tunnelAddresses(t); len(all) != 2 || strings.Contains(n.gateway.out.String(), logGone) {
		t.Errorf("tunnels were lost; there have been %v", all)
	}
}

// testConnectorMoves: the connector's machine has another address all at once.
func testConnectorMoves(t *testing.T) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	session, stderr := c.longSession()
	begin := time.Now()
	n.racks[0].move(t)
	endsWith255(t, session, stderr, "the connection to web1 was lost", deadPath)
	measured(t, n.racks[0].connector.waitLogged(t, begin, logDown, 2, deadPath), "the connector knew its tunnels as lost after its address changed")
	measured(t, c.untilItWorks(begin, 45*time.Second), "ssh worked after the connector's address changed")
	if all := n.tunnelAddresses(t); all[len(all)-1].Addr() != n.racks[0].address {
		t.Errorf("the tunnels are from %v", all)
	}
}

// testGatewayMoves: the gateway's name has another address, and the old one is gone.
func testGatewayMoves(t *testing.T) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	begin := time.Now()
	n.gate.move(t)
	n.writeHosts(t, n.racks[0])
	measured(t, n.racks[0].connector.waitLogged(t, begin, logDown, 2, deadPath), "the connector knew its tunnels as lost after the gateway's address changed")
	measured(t, c.untilItWorks(begin, 45*time.Second), "ssh worked after the gateway's address changed")
}

// testSuspended: the connector's machine sleeps for a while.
func testSuspended(t *testing.T) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	session, stderr := c.longSession()
	process := n.racks[0].connector.cmd.Process
	wakes := time.After(20 * time.Second)
	_ = process.Signal(syscall.SIGSTOP)
	defer process.Signal(syscall.SIGCONT)
	endsWith255(t, session, stderr, "the connection to web1 was lost", deadPath)
	<-wakes
	begin := time.Now()
	_ = process.Signal(syscall.SIGCONT)
	measured(t, c.untilItWorks(begin, 20*time.Second), "ssh worked after the connector had been stopped for 20s")
}

// testIPv6: the path has no IPv4 at all.
func testIPv6(t *testing.T) {
	n := newNetwork(t, networkOptions{v6: true})
	c := n.signedIn(t)
	must(t, c.ssh("-o", "BatchMode=yes", "gate", "true"))
	for _, remote := range n.tunnelAddresses(t) {
		if remote.Addr() != n.racks[0].address {
			t.Errorf("a tunnel is from %v", remote)
		}
	}
}
