package limits

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record keeps events.
type record struct {
	mu     sync.Mutex
	events []sshgate.Event
}

func (r *record) add(e sshgate.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *record) take() []sshgate.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func newLimits(t testing.TB, cfg Config) (*Limits, *record) {
	t.Helper()
	r := &record{}
	if cfg.Record == nil {
		cfg.Record = r.add
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, r
}

func address(text string) netip.Addr { return netip.MustParseAddr(text) }

func person(name string) sshgate.Identity {
	return sshgate.Identity{Issuer: "https://idp", Subject: name}
}

// wantRefused checks the answer, the count and the event of a limit.
func wantRefused(t *testing.T, l *Limits, r *record, denied *sshgate.Denied, limit sshgate.Limit, says string) {
	t.Helper()
	if denied == nil || denied.Code != sshgate.DenialLimit || !strings.Contains(denied.UserMessage(), says) {
		t.Fatalf("%s: %+v", limit, denied)
	}
	if n := l.Refused(limit); n != 1 {
		t.Errorf("%s counted %d times", limit, n)
	}
	events := r.take()
	if len(events) != 1 || events[0].Kind != sshgate.EventLimit || events[0].Detail != string(limit) || events[0].Request != denied.RequestID || events[0].Reason != denied.Sentence {
		t.Errorf("%s: events %+v", limit, events)
	}
}

func TestNetworks(t *testing.T) {
	n := Networks{Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if err := n.setDefaults(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8::1:2:3:4": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
		"10.1.2.3": "", "::ffff:10.1.2.3": "",
	} {
		got, limited := n.of(address(text))
		if limited != (want != "") || limited && got.String() != want {
			t.Errorf("%s is of %v, %v", text, got, limited)
		}
	}
	if _, limited := n.of(netip.Addr{}); limited {
		t.Error("no address is limited")
	}
	if _, err := New(Config{Record: func(sshgate.Event) {}, Networks: Networks{Bits4: 33}}); err == nil {
		t.Error("a network of 33 bits")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("limits without a record")
	}
}

func TestStartups(t *testing.T) {
	l, r := newLimits(t, Config{Startups: sshgate.Startups{Start: 3, Rate: 50, Full: 5}, StartupsPerAddress: 2})
	dice := 0
	l.startups.dice = func() int { return dice }
	enter := func(text string) func() {
		t.Helper()
		leave, denied := l.Startup(address(text))
		if denied != nil {
			t.Fatalf("%s: %v", text, denied)
		}
		return leave
	}
	enter("2001:db8::1")
	leave := enter("2001:db8::2")
	_, denied := l.Startup(address("2001:db8::3"))
	wantRefused(t, l, r, denied, sshgate.LimitAddressStartups, "too many connections from this address")
	enter("2001:db8:0:1::")
	dice = 49
	_, denied = l.Startup(address("192.0.2.1"))
	wantRefused(t, l, r, denied, sshgate.LimitStartups, "try again in a moment")
	dice = 50
	enter("192.0.2.1")
	dice = 74 // of 75 percent at the fourth
	if _, denied := l.Startup(address("192.0.2.2")); denied == nil {
		t.Error("the probability does not grow")
	}
	dice = 99
	enter("192.0.2.2")
	if _, denied := l.Startup(address("192.0.2.3")); denied == nil {
		t.Error("it is never full")
	}
	if use := l.Use(); use.Startups != 5 || use.Networks != 4 {
		t.Errorf("%+v", use)
	}
	leave()
	leave() // again
	enter("2001:db8::3")
	if use := l.Use(); use.Startups != 5 {
		t.Errorf("%+v", use)
	}
}

func TestPending(t *testing.T) {
	l, r := newLimits(t, Config{PendingPerAddress: 2, SignIns: sshgate.Rate{Count: 4, Per: time.Hour}})
	home := address("192.0.2.1")
	first, denied := l.Pending(home, "key")
	if denied != nil {
		t.Fatal(denied)
	}
	var others []func()
	for range 50 { // which share one sign-in
		leave, denied := l.Pending(home, "key")
		if denied != nil {
			t.Fatal(denied)
		}
		others = append(others, leave)
	}
	alone, denied := l.Pending(home, "")
	if denied != nil {
		t.Fatal(denied)
	}
	_, denied = l.Pending(home, "other")
	wantRefused(t, l, r, denied, sshgate.LimitAddressPending, "too many sign-ins from this address wait for their browser (2 at most)")
	if _, denied := l.Pending(address("192.0.2.2"), "other"); denied != nil {
		t.Errorf("another address: %v", denied)
	}
	first()
	if _, denied := l.Pending(home, "key"); denied != nil {
		t.Errorf("a sign-in that others wait for: %v", denied)
	}
	alone()
	alone() // again
	last, denied := l.Pending(home, "other")
	if denied != nil {
		t.Fatalf("the place is not free again: %v", denied)
	}
	last()
	_, denied = l.Pending(home, "another")
	wantRefused(t, l, r, denied, sshgate.LimitSignIns, "too many sign-ins were started from this address; wait 15 minutes")
	for _, leave := range others {
		leave()
	}
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newLimits(t, Config{Failures: sshgate.Rate{Count: 10, Per: 10 * time.Minute}})
		bad, good := address("192.0.2.1"), address("192.0.2.2")
		for range 10 {
			if denied := l.Failed(bad); denied != nil {
				t.Fatal(denied)
			}
			l.Failure(bad, 1)
		}
		wantRefused(t, l, r, l.Failed(bad), sshgate.LimitFailures, "too many failed attempts from this address; wait a minute")
		if l.Failed(good) != nil || l.SignIn(good) != nil {
			t.Error("another address is refused")
		}
		if l.SignIn(bad) == nil {
			t.Error("it may start a sign-in")
		}
		if leave, denied := l.Startup(bad); denied != nil {
			t.Errorf("it may not connect: %v", denied)
		} else {
			leave()
		}
		time.Sleep(time.Minute)
		if denied := l.Failed(bad); denied != nil {
			t.Errorf("after the time of one: %v", denied)
		}
		l.Failure(bad, 1000)
		if _, denied := l.Startup(bad); denied == nil || !strings.Contains(denied.Sentence, "wait") {
			t.Error("it may connect after any number of failures")
		}
		if use := l.Use(); use.Throttled != 1 {
			t.Errorf("%+v", use)
		}
		time.Sleep(10*time.Minute + time.Second) // what it owes is bounded
		if _, denied := l.Startup(bad); denied != nil {
			t.Errorf("it may not connect for long: %v", denied)
		}
		time.Sleep(time.Hour)
		if l.Failed(bad) != nil || l.Use().Throttled != 0 {
			t.Error("a penalty that stays")
		}
	})
}

func TestIdentities(t *testing.T) {
	l, r := newLimits(t, Config{ConnectionsPerIdentity: 1, ChannelsPerIdentity: 3, SessionsPerIdentity: 2, IdentitySignIns: sshgate.Rate{Count: 1, Per: time.Hour}})
	alice, bob, addr := person("alice"), person("bob"), address("192.0.2.1")
	leave, denied := l.Connection(alice, addr)
	if denied != nil {
		t.Fatal(denied)
	}
	_, denied = l.Connection(alice, addr)
	wantRefused(t, l, r, denied, sshgate.LimitIdentityConns, "too many connections are open in your name (1 at most)")
	if _, denied := l.Connection(bob, addr); denied != nil {
		t.Error(denied)
	}
	leave()
	leave() // again
	if _, denied := l.Connection(alice, addr); denied != nil {
		t.Errorf("the place is not free again: %v", denied)
	}
	var leaves []func()
	for _, session := range []bool{true, true, false} {
		leave, denied := l.Channel(alice, addr, session)
		if denied != nil {
			t.Fatal(denied)
		}
		leaves = append(leaves, leave)
	}
	_, denied = l.Channel(alice, addr, false)
	wantRefused(t, l, r, denied, sshgate.LimitIdentityChannels, "too many channels are open in your name (3 at most)")
	leaves[2]()
	_, denied = l.Channel(alice, addr, true)
	wantRefused(t, l, r, denied, sshgate.LimitIdentitySessions, "too many sessions are open in your name (2 at most)")
	if _, denied = l.Channel(alice, addr, false); denied != nil {
		t.Errorf("a refused session keeps its channel: %v", denied)
	}
	if denied := l.SignedIn(alice); denied != nil {
		t.Error(denied)
	}
	denied = l.SignedIn(alice)
	if e := r.events; denied == nil || len(e) != 1 || e[0].Subject != "alice" {
		t.Errorf("%v, %+v", denied, e)
	}
	wantRefused(t, l, r, denied, sshgate.LimitIdentitySignIns, "you have signed in too often; wait 60 minutes")
	if use := l.Use(); use.Identities != 2 || use.BusiestIdentity != 1 {
		t.Errorf("%+v", use)
	}
}

// A flood yields the first refusal, and then one line a minute.
func TestFloodOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newLimits(t, Config{TLSPerAddress: 1})
		flooder := address("192.0.2.1")
		if _, denied := l.TLS(flooder); denied != nil {
			t.Fatal(denied)
		}
		for range 1000 {
			if _, denied := l.TLS(flooder); denied == nil {
				t.Fatal("not refused")
			}
		}
		if events := r.take(); len(events) != 1 || events[0].Count != 0 || events[0].ClientAddr != flooder {
			t.Fatalf("events %+v", events)
		}
		for i := range 100 { // of whom few are told apart
			l.Refuse(sshgate.LimitAddressTLS, sshgate.Identity{}, address(fmt.Sprintf("198.51.100.%d", i)), "no")
		}
		if events := r.take(); len(events) != maxSubjects-1 {
			t.Fatalf("%d events", len(events))
		}
		time.Sleep(summaryEvery + time.Second)
		events := r.take()
		if len(events) != 2 || events[0].Count+events[1].Count != 999+100-(maxSubjects-1) || !strings.Contains(events[0].Reason, "more in the last minute") {
			t.Fatalf("events %+v", events)
		}
		time.Sleep(2 * summaryEvery)
		if events := r.take(); len(events) != 0 {
			t.Errorf("summaries of nothing: %+v", events)
		}
		if n := l.Refused(sshgate.LimitAddressTLS); n != 1100 {
			t.Errorf("counted %d", n)
		}
		l.Refuse(sshgate.LimitAddressTLS, sshgate.Identity{}, flooder, "no")
		l.Refuse(sshgate.LimitAddressTLS, sshgate.Identity{}, flooder, "no")
		l.Close()
		l.Close()
		if events := r.take(); len(events) != 2 || events[1].Count != 1 {
			t.Errorf("at the end: %+v", events)
		}
	})
}

func TestTablesAreBounded(t *testing.T) {
	b := newBuckets[int](sshgate.Rate{Count: 10, Per: time.Minute})
	now := time.Unix(1_800_000_000, 0)
	for range 10 {
		b.take(-1, now)
	}
	for i := range 3 * maxKeys {
		b.take(i, now)
	}
	if len(b.full) > maxKeys {
		t.Errorf("%d keys", len(b.full))
	}
	if b.take(-1, now) {
		t.Error("who owes most was forgotten first")
	}
}

func TestConcurrentUse(t *testing.T) {
	l, _ := newLimits(t, Config{StartupsPerAddress: 3, PendingPerAddress: 3, ConnectionsPerIdentity: 3})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				addr := address(fmt.Sprintf("192.0.2.%d", i%2))
				if leave, denied := l.Startup(addr); denied == nil {
					leave()
				}
				if leave, denied := l.Pending(addr, fmt.Sprint(i%3)); denied == nil {
					leave()
				}
				if leave, denied := l.Connection(person("alice"), addr); denied == nil {
					leave()
				}
				l.Failure(addr, 1)
			}
		})
	}
	all.Wait()
	if use := l.Use(); use.Startups != 0 || use.Networks != 0 || use.Identities != 0 || len(l.pending.byNetwork) != 0 {
		t.Errorf("%+v", use)
	}
}

func BenchmarkStartup(b *testing.B) {
	l, _ := newLimits(b, Config{Startups: sshgate.Startups{Start: 1e6, Rate: 100, Full: 1e6}})
	addresses := make([]netip.Addr, 1000)
	for i := range addresses {
		addresses[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if leave, denied := l.Startup(addresses[i%len(addresses)]); denied == nil {
			leave()
		}
	}
}

func BenchmarkRefused(b *testing.B) {
	l, _ := newLimits(b, Config{StartupsPerAddress: 1})
	addr := address("192.0.2.1")
	if _, denied := l.Startup(addr); denied != nil {
		b.Fatal(denied)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, denied := l.Startup(addr); denied == nil {
			b.Fatal("not refused")
		}
	}
}

func BenchmarkFullTable(b *testing.B) {
	l, _ := newLimits(b, Config{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Failure(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
}
