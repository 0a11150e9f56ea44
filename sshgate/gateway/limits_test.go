package gateway

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/limits"
	gossh "golang.org/x/crypto/ssh"
)

// newLimitedBench is a gateway with limits.
func newLimitedBench(t *testing.T, cfg limits.Config, change func(*Config)) (*bench, *limits.Limits) {
	t.Helper()
	var l *limits.Limits
	b := newBench(t, func(c *Config) {
		cfg.Record = c.Events.Record
		var err error
		if l, err = limits.New(cfg); err != nil {
			t.Fatal(err)
		}
		c.Limits = l
		if change != nil {
			change(c)
		}
	})
	t.Cleanup(l.Close)
	return b, l
}

// wantRefusals waits for so many refusals under the limit, and for its event.
func (b *bench) wantRefusals(l *limits.Limits, limit sshgate.Limit, n uint64) {
	b.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for l.Refused(limit) != n && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if got := l.Refused(limit); got != n {
		b.t.Errorf("%s refused %d times, want %d", limit, got, n)
	}
	for _, e := range b.events.Events() {
		if e.Kind == sshgate.EventLimit && e.Detail == string(limit) && e.Reason != "" {
			return
		}
	}
	b.t.Errorf("%s is not on record", limit)
}

func TestStartupsPerAddress(t *testing.T) {
	b, l := newLimitedBench(t, limits.Config{StartupsPerAddress: 2}, nil)
	first := dialTCP(t, b.address)
	defer dialTCP(t, b.address).Close()
	waitForStats(t, b, func(s Stats) bool { return s.Unauthenticated == 2 })
	c := dialTCP(t, b.address)
	defer c.Close()
	if said, _ := io.ReadAll(c); strings.Contains(string(said), "SSH-2.0") || !strings.HasPrefix(string(said), "sshgate: too many connections from this address") {
		t.Errorf("past the limit a client is told %q", said)
	}
	b.wantRefusals(l, sshgate.LimitAddressStartups, 1)
	first.Close()
	waitForStats(t, b, func(s Stats) bool { return s.Unauthenticated == 1 })
	again := dialTCP(t, b.address)
	defer again.Close()
	if n, err := again.Read(make([]byte, 1)); n != 1 {
		t.Errorf("the place is not free again: %v", err)
	}
}

func TestStartupsInAll(t *testing.T) {
	b, l := newLimitedBench(t, limits.Config{Startups: sshgate.Startups{Start: 1, Rate: 100, Full: 1}}, func(c *Config) { c.MaxConnections = 2 })
	client, err := b.dial("deploy+web1", gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	defer dialTCP(t, b.address).Close() // the signed in one does not count
	waitForStats(t, b, func(s Stats) bool { return s.Unauthenticated == 1 })
	c := dialTCP(t, b.address)
	defer c.Close()
	if said, _ := io.ReadAll(c); !strings.Contains(string(said), "wait for a sign-in; try again") {
		t.Errorf("past the limit a client is told %q", said)
	}
	b.wantRefusals(l, sshgate.LimitStartups, 1)
}

// A client that sends a byte now and then is cut off in time, and it weighs.
func TestTrickle(t *testing.T) {
	b, l := newLimitedBench(t, limits.Config{Failures: sshgate.Rate{Count: 2, Per: time.Hour}}, func(c *Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	for _, text := range []string{"SSH-2.0-" + strings.Repeat("x", 200), "SSH-2.0-trickle\r\n" + strings.Repeat("\x00", 200)} {
		c := dialTCP(t, b.address)
		start := time.Now()
		go trickle(c, text)
		if _, err := io.Copy(io.Discard, c); err == nil && time.Since(start) > 3*time.Second {
			t.Errorf("it was served for %v", time.Since(start))
		}
		c.Close()
	}
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	b.wantRefusals(l, sshgate.LimitSlowHandshake, 2)
	if l.Use().Throttled != 1 {
		t.Errorf("%+v", l.Use())
	}
	_, err := b.dial("deploy+web1", gossh.KeyboardInteractive(noAnswers))
	if err == nil {
		t.Error("a sign-in was started after the failures")
	}
	b.wantRefusals(l, sshgate.LimitFailures, 1)
}

func trickle(c net.Conn, text string) {
	for i := range len(text) {
		if _, err := c.Write([]byte{text[i]}); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Connections that end without a word, as a balancer's, are no failures.
func TestHealthChecksAreNoFailures(t *testing.T) {
	b, l := newLimitedBench(t, limits.Config{Failures: sshgate.Rate{Count: 1, Per: time.Hour}}, nil)
	for range 10 {
		dialTCP(t, b.address).Close()
	}
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	if l.Use().Throttled != 0 {
		t.Errorf("%+v", l.Use())
	}
	c := dialTCP(t, b.address)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	c.Close()
	deadline := time.Now().Add(5 * time.Second)
	for l.Use().Throttled != 1 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if l.Use().Throttled != 1 {
		t.Error("a scanner weighs nothing")
	}
}

func TestConnectionsPerIdentity(t *testing.T) {
	b, l := newLimitedBench(t, limits.Config{ConnectionsPerIdentity: 1}, nil)
	key := newSigner(t)
	auth := []gossh.AuthMethod{gossh.PublicKeys(key), gossh.KeyboardInteractive(noAnswers)}
	client, err := b.dial("deploy+web1", auth...)
	if err != nil {
		t.Fatal(err)
	}
	var said string
	_, err = gossh.Dial("tcp", b.address, &gossh.ClientConfig{
		User: "deploy+web1", Auth: auth, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
		BannerCallback: func(text string) error { said += text; return nil },
	})
	if err == nil || !strings.Contains(said, "too many connections are open in your name (1 at most)") {
		t.Errorf("%v, told %q", err, said)
	}
	b.wantRefusals(l, sshgate.LimitIdentityConns, 1)
	client.Close()
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	if client, err = b.dial("deploy+web1", auth...); err != nil {
		t.Fatalf("the place is not free again: %v", err)
	}
	client.Close()
}

func TestChannelsPerIdentity(t *testing.T) {
	b, l := newLimitedBench(t, limits.Config{ChannelsPerIdentity: 2, SessionsPerIdentity: 1}, nil)
	wait := b.serveOrigin(func(nc gossh.NewChannel) {
		ch, requests, err := nc.Accept()
		if err != nil {
			return
		}
		go gossh.DiscardRequests(requests)
		_, _ = io.Copy(ch, ch)
		ch.Close()
	})
	client, err := b.dial("deploy+web1", gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	open := func(kind string) (gossh.Channel, error) {
		ch, requests, err := client.OpenChannel(kind, gossh.Marshal(directTCP{Host: "localhost", Port: 80}))
		if err == nil {
			go gossh.DiscardRequests(requests)
		}
		return ch, err
	}
	session, err := open(typeSession)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(typeSession); err == nil || !strings.Contains(err.Error(), "too many sessions are open in your name") {
		t.Errorf("a second session: %v", err)
	}
	if _, err := open(typeDirectTCP); err != nil {
		t.Error(err)
	}
	if _, err := open(typeDirectTCP); err == nil || !strings.Contains(err.Error(), "too many channels are open in your name") {
		t.Errorf("a third channel: %v", err)
	}
	b.wantRefusals(l, sshgate.LimitIdentitySessions, 1)
	b.wantRefusals(l, sshgate.LimitIdentityChannels, 1)
	session.Close()
	waitForStats(t, b, func(s Stats) bool { return s.Channels == 1 })
	if _, err := open(typeSession); err != nil {
		t.Errorf("the place is not free again: %v", err)
	}
	client.Close()
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 })
	wait()
	if use := l.Use(); use.Identities != 0 || use.Startups != 0 {
		t.Errorf("%+v", use)
	}
}

// Last words do not keep the listener from its next connection for long.
func TestTurnAwayIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe() // nobody reads
		defer client.Close()
		start := time.Now()
		turnAway(server, unlimited{}.Refuse("", sshgate.Identity{}, clientAddr(server), "no"))
		if took := time.Since(start); took > farewellTime {
			t.Errorf("it took %v", took)
		}
	})
}
