//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// try is one ssh of many.
type try struct {
	begin, end time.Time
	result
}

type tries []try

// trying is held by the one scenario that tries: together they would measure each
// other.
var trying sync.Mutex

// tryFor starts an ssh every 400 milliseconds for that long, whether or not those
// before have ended, and waits for all.
func (c *client) tryFor(d time.Duration) tries {
	c.t.Helper()
	var all tries
	var mu sync.Mutex
	var running sync.WaitGroup
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		cmd := c.ssh("-o", "BatchMode=yes", "gate", "echo back")
		running.Go(func() {
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			one := try{begin: time.Now()}
			_ = cmd.Run() // the exit code tells
			one.end, one.result = time.Now(), result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, one)
		})
	}
	running.Wait()
	slices.SortFunc(all, func(a, b try) int { return a.end.Compare(b.end) })
	return all
}

// report prints how the tries went, and fails the test when one of them did or none
// came through for the time in which a dead path is found.
func (all tries) report(t testing.TB, when string) {
	t.Helper()
	last := all[0].begin
	var outage, slowest time.Duration
	slow := 0
	for _, one := range all {
		if one.stdout != "back\n" {
			t.Errorf("%s: after %s: %+v", when, one.end.Sub(one.begin), one.result)
			continue
		}
		outage, last = max(outage, one.end.Sub(last)), one.end
		took := one.end.Sub(one.begin)
		slowest = max(slowest, took)
		if took > 2*time.Second {
			slow++
		}
	}
	measured(t, outage, when+": the longest time in which no ssh came through")
	measured(t, slowest, fmt.Sprintf("%s: the slowest ssh of %d, of which %d took more than 2s", when, len(all), slow))
	if outage > deadPath || slowest > deadPath+5*time.Second {
		t.Errorf("%s: %s without ssh, the slowest took %s", when, outage, slowest)
	}
}

// testGatewayRestart: the gateway ends, and starts again at the same address.
func testGatewayRestart(t *testing.T) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		begin := time.Now()
		n.gateway.stop(sig)
		n.startGateway()
		measured(t, time.Since(begin), fmt.Sprintf("the gateway was ready again after %v", sig))
		measured(t, c.untilItWorks(begin, 45*time.Second), fmt.Sprintf("ssh worked again after the gateway's %v", sig))
		n.waitForTunnels(2)
	}
}

// testConnectorRestart: the connector is killed, and started again.
func testConnectorRestart(t *testing.T) {
	n := newNetwork(t, networkOptions{})
	c := n.signedIn(t)
	begin := time.Now()
	n.racks[0].connector.stop(syscall.SIGKILL)
	n.racks[0].startConnector()
	measured(t, c.untilItWorks(begin, 20*time.Second), "ssh worked again after the connector's kill")
}

// talk is a session that repeats what it is told.
type talk struct {
	cmd            *exec.Cmd
	stdin          io.WriteCloser
	stdout, stderr *output
	replica        string // that it is at
	said           int
}

func (c *client) talk() *talk {
	c.t.Helper()
	k := &talk{cmd: c.ssh("-o", "BatchMode=yes", "gate", "echo $REPLICA; exec cat"), stdout: newOutput(), stderr: newOutput()}
	k.cmd.Stdout, k.cmd.Stderr = k.stdout, k.stderr
	var err error
	if k.stdin, err = k.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	k.replica = strings.TrimSpace(k.hear(c.t, "\n"))
	return k
}

// hear waits until the session has said the text, and returns all that it said.
func (k *talk) hear(t testing.TB, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	all, err := k.stdout.wait(ctx, func(s string) string {
		if strings.Contains(s, text) {
			return s
		}
		return ""
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, k.stderr)
	}
	return all
}

// goesOn fails the test unless the session still answers.
func (k *talk) goesOn(t testing.TB) {
	t.Helper()
	k.said++
	word := fmt.Sprintf("word %d\n", k.said)
	if _, err := io.WriteString(k.stdin, word); err != nil {
		t.Fatal(err)
	}
	k.hear(t, word)
}

// talks returns sessions at the replicas, two at each.
func (n *network) talks(t testing.TB, c *client) map[string][]*talk {
	t.Helper()
	at := map[string][]*talk{}
	for range 4 * len(n.racks) { // new ones go where there are few
		k := c.talk()
		at[k.replica] = append(at[k.replica], k)
	}
	for _, r := range n.racks {
		if len(at[r.name()]) < 2 {
			t.Fatalf("the sessions are badly spread: %v", at)
		}
	}
	return at
}

// testReplicaKilled: of two connectors that publish the same host one is killed.
func testReplicaKilled(t *testing.T) {
	n := newNetwork(t, networkOptions{racks: 2})
	c := n.signedIn(t)
	at := n.talks(t, c)
	dies, lives := n.racks[0], n.racks[1]
	begin := time.Now()
	dies.connector.stop(syscall.SIGKILL)
	measured(t, c.untilItWorks(begin, 10*time.Second), "the next ssh after a replica's kill worked")
	for _, k := range at[dies.name()] {
		endsWith255(t, k.cmd, k.stderr, "the connection to web1 was lost", deadPath)
	}
	for _, k := range at[lives.name()] {
		k.goesOn(t)
	}
	n.waitForOrigins(1)
}

// testReplicaInTheDark: the path of one replica dies silently.
func testReplicaInTheDark(t *testing.T) {
	n := newNetwork(t, networkOptions{racks: 2})
	c := n.signedIn(t)
	at := n.talks(t, c)
	trying.Lock()
	defer trying.Unlock()
	dark, lit := n.racks[0], n.racks[1]
	cut := time.Now()
	n.relay.between(dark.site, n.gate, path{dark: true})
	all := c.tryFor(deadPath)
	all.report(t, "one of two replicas dark")
	measured(t, n.gateway.waitLogged(t, cut, logGone, 2, deadPath), "the gateway knew the dark replica as lost after")
	for _, k := range at[dark.name()] {
		endsWith255(t, k.cmd, k.stderr, "the connection to web1 was lost", deadPath)
	}
	for _, k := range at[lit.name()] {
		k.goesOn(t)
	}
	back := time.Now()
	n.relay.between(dark.site, n.gate, path{})
	n.waitForTunnels(4)
	measured(t, time.Since(back), "the dark replica was there again after its path was back")
}
