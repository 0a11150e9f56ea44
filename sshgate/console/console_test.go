package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	alice = sshgate.Identity{Issuer: "https://idp.test", Subject: "1", Email: "alice@example.com", EmailVerified: true, SignedInAt: noon}
	bob   = sshgate.Identity{Issuer: "https://idp.test", Subject: "2", Email: "bob@example.com", EmailVerified: true, SignedInAt: noon}
	root  = sshgate.Identity{Issuer: "https://idp.test", Subject: "3", Email: "root@example.com", EmailVerified: true, SignedInAt: noon}
)

// memory is all of what a console reads.
type memory struct {
	mu       sync.Mutex
	logins   []sshgate.KeyLogin
	tokens   []sshgate.AccessTokenRecord
	uses     []sshgate.LastUse
	sessions []Session
	ended    []string // reasons
}

func (m *memory) KeyLogin(_ context.Context, fingerprint string) (sshgate.KeyLogin, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, login := range m.logins {
		if login.Fingerprint == fingerprint {
			return login, nil
		}
	}
	return sshgate.KeyLogin{}, sshgate.ErrNotFound
}

func (m *memory) KeyLogins(context.Context) ([]sshgate.KeyLogin, error) {
	return slices.Clone(m.logins), nil
}

func (m *memory) AccessTokens(context.Context) ([]sshgate.AccessTokenRecord, error) {
	return m.tokens, nil
}

func (m *memory) ForgetKey(_ context.Context, fingerprint string) error {
	n := len(m.logins)
	m.logins = slices.DeleteFunc(m.logins, func(login sshgate.KeyLogin) bool { return login.Fingerprint == fingerprint })
	if len(m.logins) == n {
		return sshgate.ErrNotFound
	}
	return nil
}

func (m *memory) ForgetIdentity(_ context.Context, id sshgate.IdentityKey) (int, error) {
	n := len(m.logins) + len(m.tokens)
	m.logins = slices.DeleteFunc(m.logins, func(login sshgate.KeyLogin) bool { return login.Identity.Key() == id })
	m.tokens = slices.DeleteFunc(m.tokens, func(token sshgate.AccessTokenRecord) bool { return token.Identity.Key() == id })
	return n - len(m.logins) - len(m.tokens), nil
}

func (m *memory) AllHostKeys(context.Context) ([]sshgate.HostKeyPin, error) {
	return []sshgate.HostKeyPin{{Origin: "web1"}, {Origin: "old1"}}, nil
}

func (m *memory) ServiceTokens(context.Context) ([]sshgate.ServiceTokenRecord, error) {
	return []sshgate.ServiceTokenRecord{
		{ID: "st-1", Name: "backup", SecretHash: []byte("hash"), ExpiresAt: noon.Add(time.Hour)},
		{ID: "st-2", Name: "gone", SecretHash: []byte("hash"), ExpiresAt: noon.Add(time.Hour), RevokedAt: noon},
	}, nil
}

func (m *memory) Connectors(context.Context) ([]sshgate.ConnectorRecord, error) {
	return []sshgate.ConnectorRecord{
		{Connector: "rack1", Serial: "a1", Hostnames: []string{"*"}, ExpiresAt: noon.Add(time.Hour)},
		{Connector: "rack2", Serial: "a2", Hostnames: []string{"x"}, ExpiresAt: noon},
	}, nil
}

func (m *memory) LastUses(_ context.Context, id sshgate.IdentityKey) ([]sshgate.LastUse, error) {
	if id == alice.Key() {
		return m.uses, nil
	}
	return nil, nil
}

func (m *memory) Sessions() []Session { return slices.Clone(m.sessions) }

func (m *memory) End(match func(Session) bool, reason string) int {
	n := len(m.sessions)
	m.sessions = slices.DeleteFunc(m.sessions, match)
	for range n - len(m.sessions) {
		m.ended = append(m.ended, reason)
	}
	return n - len(m.sessions)
}

func published() []connector.OriginStatus {
	return []connector.OriginStatus{
		{Origin: "web1", Port: 22, Connectors: []string{"rack1"}},
		{Origin: "web2", Port: 22, Connectors: []string{"rack1"}},
		{Origin: "web2", Port: 5432, Connectors: []string{"rack1"}},
		{Origin: "secret1", Port: 22, Connectors: []string{"rack1"}},
		{Origin: "refused1", Port: 22},
	}
}

func testPolicy(t testing.TB) *sshgate.Policy {
	t.Helper()
	parse := func(logins ...string) (out []sshgate.LoginTemplate) {
		for _, text := range logins {
			template, err := sshgate.ParseLoginTemplate(text)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, template)
		}
		return out
	}
	host := func(text string) []sshgate.HostPattern {
		pattern, err := sshgate.ParseHostPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		return []sshgate.HostPattern{pattern}
	}
	mine := []sshgate.Selector{sshgate.Email{alice.Email}}
	return &sshgate.Policy{Applications: []sshgate.Application{
		{Name: "web", Hosts: host("web1"), Rules: []sshgate.Rule{{Name: "devs", Action: sshgate.Allow, Include: mine, Logins: parse("deploy", "admin")}}},
		{Name: "web2", Hosts: host("web2"), Rules: []sshgate.Rule{{Name: "any", Action: sshgate.Allow, Include: mine, Logins: parse("*"), EndToEnd: true, Ports: []uint16{5432}}}},
		{Name: "old", Hosts: host("old1"), Rules: []sshgate.Rule{{Name: "old", Action: sshgate.Allow, Include: mine, Logins: parse("deploy")}}},
		{Name: "secret", Hosts: host("secret1"), Rules: []sshgate.Rule{{Name: "bob", Action: sshgate.Allow, Include: []sshgate.Selector{sshgate.Email{bob.Email}}, Logins: parse("root")}}},
	}}
}

// bench is a console with what is behind it.
type bench struct {
	*Console
	memory *memory
	events *audit.Recorder
	latest *Latest
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{events: audit.NewRecorder(100), latest: NewLatest(4), memory: &memory{
		logins: []sshgate.KeyLogin{
			{Fingerprint: "SHA256:aaa1", Identity: alice, ExpiresAt: noon.Add(time.Hour)},
			{Fingerprint: "SHA256:aaa2", Identity: alice, ExpiresAt: noon.Add(time.Hour)},
			{Fingerprint: "SHA256:bbb1", Identity: bob, ExpiresAt: noon.Add(time.Hour)},
			{Fingerprint: "SHA256:ccc1", Identity: root, ExpiresAt: noon.Add(time.Hour)},
		},
		tokens: []sshgate.AccessTokenRecord{{Identity: alice, ExpiresAt: noon.Add(time.Hour)}},
		uses:   []sshgate.LastUse{{Target: sshgate.Target{Origin: "web2", Login: "me"}, At: noon.Add(-time.Hour)}, {Target: sshgate.Target{Origin: "gone", Login: "me"}, At: noon}},
		sessions: []Session{
			{ID: "r-1", Connection: "c-1", Identity: alice, Origin: "web1", Login: "deploy", Channel: sshgate.ChannelSession, Since: noon, Detail: "exec \x1b[31mevil"},
			{ID: "r-2", Connection: "c-2", Identity: bob, Origin: "secret1", Login: "root", Channel: sshgate.ChannelSession, Since: noon},
		},
	}}
	policy := testPolicy(t)
	var err error
	b.Console, err = New(Config{
		Policy:        func() *sshgate.Policy { return policy },
		Administrator: func(id sshgate.Identity, _ netip.Addr, _ time.Time) bool { return id.Key() == root.Key() },
		Origins:       published, Logins: b.memory, State: b.memory, Sessions: b.memory, Latest: b.latest, Events: b.events,
		Advertise: "gate.example.com:2222", Now: func() time.Time { return noon },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	asAlice = Caller{Identity: alice, Key: "SHA256:aaa1", SignIn: "SHA256:aaa1", Addr: netip.MustParseAddr("192.0.2.1"), Connection: "c-1"}
	asBob   = Caller{Identity: bob, Key: "SHA256:bbb1"}
	asRoot  = Caller{Identity: root, Key: "SHA256:ccc1", SignIn: "SHA256:ccc1"}
	asLocal = Caller{Identity: sshgate.Identity{Issuer: LocalIssuer, Subject: "uid 0"}, Local: true}
)

func (b *bench) run(who Caller, line string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	code = b.RunLine(context.Background(), who, line, Output{&out, &errOut})
	return code, out.String(), errOut.String()
}

// objects are the lines of JSON that a command printed.
func objects(t *testing.T, out string) (list []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, object)
	}
	return list
}

func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		who  Caller
		line string
		code int
		says string // on standard error
	}{
		{asAlice, "whoami", 0, ""},
		{asAlice, "whoami --json", 0, ""},
		{asAlice, "", 0, "Go there with: ssh -p 2222 LOGIN+ORIGIN@gate.example.com"},
		{asAlice, "whoami extra", 2, "whoami"},
		{asAlice, "whoami --nonsense", 2, "unknown flag"},
		{asAlice, "rm -rf /", 2, `there is no command "rm" here; see: ssh -p 2222 gate.example.com help`},
		{asAlice, "whoami 'open", 2, "cannot be read"},
		{asAlice, "\x1b]0;evil\x07", 2, `\x1b]0;evil`},
		{asAlice, strings.Repeat("x", 5000), 2, "longer than 4096 bytes"},
		{asAlice, "scp -t /tmp", 2, "no command"},
		{asAlice, "explain", 2, "explain"},
		{asAlice, "explain a/b", 2, "separator"},
		{asAlice, "explain secret1", 1, `there is no origin "secret1" that you may reach`},
		{asAlice, "explain nowhere", 1, `there is no origin "nowhere" that you may reach`},
		{asAlice, "explain nobody+web1", 1, "no origin"},
		{asAlice, "explain web1 --user bob@example.com", 3, "only administrators"},
		{asAlice, "sessions --all", 3, "only administrators"},
		{asAlice, "kill r-2", 3, "only administrators"},
		{asAlice, "users", 3, "only administrators"},
		{asAlice, "revoke bob@example.com", 3, "only administrators"},
		{asAlice, "connectors", 3, "only administrators"},
		{asAlice, "tokens", 3, "only administrators"},
		{asAlice, "events --follow", 3, "only administrators"},
		{asAlice, "help kill", 2, "no command"},
		{asAlice, "help ls", 0, ""},
		{asAlice, "ls --help", 0, ""},
		{asAlice, "--help", 0, ""},
		{asAlice, "keys revoke", 2, "keys revoke FINGERPRINT"},
		{asAlice, "keys revoke SHA256:bbb1", 1, "no key of yours"},
		{asAlice, "keys revoke SHA256:aaa", 1, "2 of your keys"},
		{asBob, "ls", 0, "Go there"},
		{asRoot, "ls", 0, "there is no origin that you may reach"},
		{asRoot, "kill nothing", 1, "no session or connection"},
		{asRoot, "revoke nobody", 1, "nobody who is signed in"},
		{asRoot, "events -n 3", 0, ""},
		{asRoot, "help kill", 0, ""},
		{asLocal, "ls", 0, ""},
		{asLocal, "keys", 1, "on the gateway itself"},
		{asLocal, "logout", 1, "on the gateway itself"},
		{asLocal, "explain web1", 2, "--user"},
		{Caller{Identity: alice}, "whoami", 0, ""},
		{Caller{Identity: alice}, "logout", 1, "ends with it"},
	} {
		b := newBench(t)
		code, stdout, stderr := b.run(test.who, test.line)
		if code != test.code || !strings.Contains(stderr, test.says) || test.says == "" && stderr != "" {
			t.Errorf("%s: %q: exit %d, want %d, stderr %q", test.who.Identity, test.line, code, test.code, stderr)
		}
		if (code == 0) != (stdout != "") && !strings.HasPrefix(test.line, "events") && test.line != "ls" {
			t.Errorf("%q: exit %d with the output %q", test.line, code, stdout)
		}
		if strings.ContainsAny(stdout+stderr, "\x1b\x07") {
			t.Errorf("%q: a control character got through: %q %q", test.line, stdout, stderr)
		}
	}
}

func TestEverybodysOwnListAlone(t *testing.T) {
	b := newBench(t)
	_, stdout, _ := b.run(asAlice, "ls --json")
	var names []string
	for _, o := range objects(t, stdout) {
		names = append(names, fmt.Sprint(o["name"], o["online"], o["logins"], o["any_login"]))
	}
	want := []string{"web2true [] true", "web1true [deploy admin] false", "old1false [deploy] false"} // used last, by name, offline
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	_, stdout, _ = b.run(asAlice, "ls")
	for _, want := range []string{"session, end-to-end, port 5432", "deploy admin", "offline", "2026-03-01T11:00:00Z"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("ls does not say %q:\n%s", want, stdout)
		}
	}
	if _, stdout, _ = b.run(asLocal, "ls --json"); len(objects(t, stdout)) != 4 {
		t.Errorf("on the gateway itself ls lists:\n%s", stdout)
	}
}

func TestJSONOfEach(t *testing.T) {
	for line, want := range map[string]struct {
		rows  int
		field string
	}{
		"whoami --json": {1, "administrator"}, "keys --json": {1, "fingerprint"}, "sessions --json": {0, ""}, "sessions --all --json": {2, "session"},
		"explain --json --user alice@example.com web1": {1, "uses"}, "users --json": {3, "subject"}, "connectors --json": {1, "publishes"},
		"connectors --json --all": {2, "serial"}, "tokens --json": {1, "id"}, "tokens --all --json": {2, "state"}, "kill c-1 --json": {1, "ended"},
		"revoke alice@example.com --json": {1, "forgotten"}, "help --json": {13, "does"}, "events --json": {0, ""}, "logout --json": {1, "forgotten"},
		"logout --all --json": {1, "count"}, "keys revoke SHA256:ccc1 --json": {1, "forgotten"},
	} {
		b := newBench(t)
		code, stdout, stderr := b.run(asRoot, line)
		rows := objects(t, stdout)
		if code != 0 || len(rows) != want.rows || stderr != "" {
			t.Errorf("%q: exit %d, %d rows, stderr %q:\n%s", line, code, len(rows), stderr, stdout)
			continue
		}
		for _, row := range rows {
			if _, ok := row[want.field]; !ok {
				t.Errorf("%q: no %q in %v", line, want.field, row)
			}
		}
		if strings.Contains(stdout, "hash") {
			t.Errorf("%q shows what is secret: %s", line, stdout)
		}
	}
}

func TestKeysAndLogout(t *testing.T) {
	b := newBench(t)
	if code, stdout, _ := b.run(asAlice, "keys revoke aaa2"); code != 0 || !strings.Contains(stdout, "SHA256:aaa2") {
		t.Errorf("exit %d: %s", code, stdout)
	}
	if code, _, _ := b.run(asAlice, "logout"); code != 0 {
		t.Errorf("logout: exit %d", code)
	}
	if len(b.memory.logins) != 2 || len(b.memory.tokens) != 1 {
		t.Errorf("left: %v", b.memory.logins)
	}
	b = newBench(t)
	if code, stdout, _ := b.run(asAlice, "logout --all"); code != 0 || !strings.Contains(stdout, "forgot 3 ") || len(b.memory.logins) != 2 {
		t.Errorf("exit %d: %s", code, stdout)
	}
	machine := Caller{Identity: sshgate.Identity{Kind: sshgate.ServiceToken, Issuer: sshgate.ServiceIssuer, Subject: "st-1", Name: "backup"}, Key: "SHA256:m"}
	if code, _, stderr := b.run(machine, "logout"); code != 1 || !strings.Contains(stderr, "machine") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if code, stdout, _ := b.run(machine, "whoami"); code != 0 || !strings.Contains(stdout, "service-token:backup") {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

// TestExplainGivesNothingAway: people read neither rules nor reasons.
func TestExplainGivesNothingAway(t *testing.T) {
	b := newBench(t)
	_, stdout, _ := b.run(asAlice, "explain web1")
	if strings.Contains(stdout, "devs") || !strings.Contains(stdout, "deploy admin") || !strings.Contains(stdout, "session     yes      deploy") {
		t.Errorf("explain says:\n%s", stdout)
	}
	_, stdout, _ = b.run(asAlice, "explain web1 --json")
	if strings.Contains(stdout, "rule") || strings.Contains(stdout, "reason") {
		t.Errorf("explain says:\n%s", stdout)
	}
	code, stdout, _ := b.run(asLocal, "explain secret1 --user alice@example.com")
	if code != 0 || !strings.Contains(stdout, "no rule of application") {
		t.Errorf("exit %d:\n%s", code, stdout)
	}
	_, unknown, _ := b.run(asRoot, "explain nowhere")
	if !strings.Contains(unknown, "no application has origin nowhere") {
		t.Errorf("an administrator reads:\n%s", unknown)
	}
}

// TestOnRecord: what changes something, or is about others, is on record before it
// is done, refused or not; for those on the gateway all is.
func TestOnRecord(t *testing.T) {
	for _, test := range []struct {
		who     Caller
		line    string
		events  int
		allowed bool
	}{
		{asAlice, "whoami", 0, false},
		{asAlice, "ls", 0, false},
		{asAlice, "sessions", 0, false},
		{asAlice, "keys", 0, false},
		{asAlice, "keys revoke aaa2", 1, true},
		{asAlice, "logout --all", 1, true},
		{asAlice, "sessions --all", 1, false},
		{asAlice, "revoke bob@example.com", 1, false},
		{asRoot, "sessions --all", 1, true},
		{asRoot, "users", 1, true},
		{asRoot, "explain web1 --user alice@example.com", 1, true},
		{asLocal, "whoami", 1, true},
		{asLocal, "revoke 'bob@example.com'", 1, true},
	} {
		b := newBench(t)
		b.run(test.who, test.line)
		got := b.events.Events()
		if len(got) != test.events {
			t.Errorf("%s: %q: %d events, want %d", test.who.Identity, test.line, len(got), test.events)
			continue
		}
		for _, e := range got {
			if e.Kind != sshgate.EventCommand || e.Allowed != test.allowed || e.Detail != strings.ReplaceAll(test.line, "'", "") ||
				e.Subject != test.who.Identity.Subject || e.Request == "" || e.Allowed == (e.Reason != "") || e.Connection != test.who.Connection {
				t.Errorf("%q is recorded as %+v", test.line, e)
			}
		}
	}
}

func TestRevokeAndKill(t *testing.T) {
	b := newBench(t)
	code, stdout, _ := b.run(asRoot, "revoke Alice@Example.com")
	if code != 0 || !strings.Contains(stdout, "forgot 3 keys and tokens, ended 1 sessions") {
		t.Errorf("exit %d: %s", code, stdout)
	}
	if code, _, _ := b.run(asRoot, "kill c-2"); code != 0 || len(b.memory.sessions) != 0 || len(b.memory.ended) != 2 {
		t.Errorf("exit %d, left %v, ended %v", code, b.memory.sessions, b.memory.ended)
	}
}

func TestAmbiguousUser(t *testing.T) {
	b := newBench(t)
	other := alice
	other.Issuer = "https://elsewhere.test"
	b.memory.logins = append(b.memory.logins, sshgate.KeyLogin{Fingerprint: "SHA256:o", Identity: other, ExpiresAt: noon.Add(time.Hour)})
	code, _, stderr := b.run(asRoot, "revoke alice@example.com")
	if code != 1 || !strings.Contains(stderr, "names 2 identities") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestNamesCannotMoveTheCursor(t *testing.T) {
	b := newBench(t)
	b.memory.sessions[0].Identity.Email = "a\u202e\x9b31m\u0085@x"
	for _, line := range []string{"sessions --all", "sessions --all --json", "users"} {
		_, stdout, _ := b.run(asRoot, line)
		if i := strings.IndexFunc(stdout, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }); i >= 0 {
			t.Errorf("%s prints %q", line, stdout[i:])
		}
	}
}

// writer passes on what is written to it.
type writer chan string

func (w writer) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestEventsFollow(t *testing.T) {
	b := newBench(t)
	for i := range 6 { // two more than are kept
		_ = b.latest.Write(sshgate.Event{Time: noon, Kind: sshgate.EventDecision, Detail: fmt.Sprint("e", i)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	out := make(writer)
	done := make(chan int)
	var stderr bytes.Buffer
	go func() { done <- b.RunLine(ctx, asRoot, "events -f -n 2", Output{out, &stderr}) }()
	for _, want := range []string{"e4", "e5"} {
		if got := <-out; !strings.Contains(got, `detail="`+want+`"`) {
			t.Errorf("got %q, want %s", got, want)
		}
	}
	_ = b.latest.Write(sshgate.Event{Time: noon, Kind: sshgate.EventLoginKey, Identity: "al\x1bice"})
	if got := <-out; got != "2026-03-01T12:00:00Z login.key who=\"al\\x1bice\"\n" {
		t.Errorf("got %q", got)
	}
	for i := range 20 { // while nobody reads
		_ = b.latest.Write(sshgate.Event{Time: noon, Kind: sshgate.EventDecision, Detail: fmt.Sprint("f", i)})
	}
	go func() {
		for range out {
			continue // until the command has ended
		}
	}()
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit %d", code)
	}
	close(out)
}

func TestLatestLosesTheOldest(t *testing.T) {
	l := NewLatest(3)
	for i := range 5 {
		_ = l.Write(sshgate.Event{Detail: fmt.Sprint(i)})
	}
	list, next, _ := l.since(0)
	if len(list) != 3 || list[0].Detail != "2" || list[2].Detail != "4" || next != 5 {
		t.Errorf("got %v, next %d", list, next)
	}
	if l.last(2) != 3 || l.last(100) != 2 || l.last(-1) != 5 {
		t.Errorf("the last begin at %d, %d, %d", l.last(2), l.last(100), l.last(-1))
	}
}

// notes is what a Uses writes to.
type notes struct {
	noted []string
	err   error
}

func (n *notes) NoteUse(_ context.Context, id sshgate.IdentityKey, target sshgate.Target, _ time.Time) error {
	n.noted = append(n.noted, id.Subject+" "+target.String())
	return n.err
}

func TestUses(t *testing.T) {
	n := &notes{err: errors.New("the disk is full")}
	u := Uses{Store: n, Log: newBench(t).cfg.Log}
	start := sshgate.Event{Kind: sshgate.EventSessionStart, Channel: sshgate.ChannelSession, Origin: "web1", Login: "deploy"}.By(alice)
	forward, end, machine := start, start, start
	forward.Channel, end.Kind, machine.IdentityKind = sshgate.ChannelForward, sshgate.EventSessionEnd, sshgate.Workload
	for _, e := range []sshgate.Event{start, forward, end, machine} {
		if err := u.Write(e); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(n.noted, []string{"1 deploy+web1"}) {
		t.Errorf("noted %q", n.noted)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain text": "plain text", "Zoë 漢字": "Zoë 漢字", "a\x1b[0m": `a\u001b[0m`, "a\nb": `a\u000ab`, "\x80": `\x80`,
		"\u202e": `\u202e`, "\U000e0001": `\U000e0001`, "�": "�", "\x7f": `\u007f`,
	} {
		if got := clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, seed := range []string{"whoami", "ls --json", "keys revoke x", "explain 'a b'", "help help", "a \\", "events -n -5", "\x00\xff"} {
		f.Add(seed)
	}
	b := newBench(f)
	f.Fuzz(func(t *testing.T, line string) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // events --follow ends at once
		for _, who := range []Caller{asBob, asRoot, asLocal} {
			var out bytes.Buffer
			code := b.RunLine(ctx, who, line, Output{&out, &out})
			if code < 0 || code > 3 {
				t.Errorf("exit %d", code)
			}
			if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && hidden(r) }); i >= 0 {
				t.Errorf("it prints %q", out.String()[i:])
			}
		}
	})
}
