package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
)

// line writes the event as JSON and returns what it reads back.
func line(t *testing.T, e sshgate.Event) map[string]any {
	t.Helper()
	var out bytes.Buffer
	if err := audit.SlogSink(slog.New(slog.NewJSONHandler(&out, nil))).Write(e); err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Fatalf("not one line: %q", out.String())
	}
	got := make(map[string]any)
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// full returns an event without a zero field.
func full() sshgate.Event {
	return sshgate.Event{
		Time: noon, Kind: sshgate.EventSessionEnd, Connection: "c-1", Request: "r-1",
		Issuer: "https://idp.example.com", Subject: "0031", Identity: "alice@example.com", IdentityKind: sshgate.Workload,
		ClientAddr: netip.MustParseAddr("192.0.2.1"), Key: "SHA256:abc",
		Origin: "web1", Login: "deploy", Channel: sshgate.ChannelSession, Activity: sshgate.ActivityGit, Detail: "git-upload-pack 'x'",
		Allowed: true, Application: "web", Rule: "devs", Reason: "a rule allows it",
		BytesIn: 12, BytesOut: 3456, Duration: 90*time.Second + 1234567*time.Nanosecond, Exit: "signal TERM",
	}
}

func TestSlogLine(t *testing.T) {
	want := map[string]any{
		"time": "2026-03-01T12:00:00Z", "level": "INFO", "msg": "session ended",
		"kind": "session.end", "connection": "c-1", "request": "r-1",
		"issuer": "https://idp.example.com", "subject": "0031", "identity": "alice@example.com", "identity_kind": "workload",
		"client": "192.0.2.1", "key": "SHA256:abc",
		"origin": "web1", "login": "deploy", "channel": "session", "activity": "git", "detail": "git-upload-pack 'x'",
		"allowed": true, "application": "web", "rule": "devs", "reason": "a rule allows it",
		"bytes_in": 12.0, "bytes_out": 3456.0, "duration": 90.001, "exit": "signal TERM",
	}
	if diff := cmp.Diff(want, line(t, full())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSlogLineHasEveryField fails when a field is added to the event and
// forgotten here.
func TestSlogLineHasEveryField(t *testing.T) {
	got := line(t, full())
	event := reflect.ValueOf(full())
	for i := range event.NumField() {
		field := event.Type().Field(i)
		if event.Field(i).IsZero() {
			t.Errorf("the test does not set %s", field.Name)
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not written", name)
		}
	}
}

func TestSlogLineWithoutZeroFields(t *testing.T) {
	want := map[string]any{
		"time": "2026-03-01T12:00:00Z", "level": "INFO", "msg": "sign-in offered", "kind": "login.start",
	}
	if diff := cmp.Diff(want, line(t, sshgate.Event{Time: noon, Kind: sshgate.EventLoginStart})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSlogLevelAndMessage(t *testing.T) {
	for _, test := range []struct {
		event      sshgate.Event
		level, msg string
	}{
		{sshgate.Event{Kind: sshgate.EventLoginSuccess}, "INFO", "signed in"},
		{sshgate.Event{Kind: sshgate.EventLoginFailure}, "WARN", "sign-in failed"},
		{sshgate.Event{Kind: sshgate.EventDecision, Allowed: true}, "INFO", "access decided"},
		{sshgate.Event{Kind: sshgate.EventDecision}, "WARN", "access decided"},
		{sshgate.Event{Kind: sshgate.EventHostKey}, "WARN", "origin host key"},
		{sshgate.Event{Kind: sshgate.EventSessionStart}, "INFO", "session started"},
		{sshgate.Event{Kind: "new\nkind"}, "INFO", `"new\nkind"`},
	} {
		got := line(t, test.event)
		if got["level"] != test.level || got["msg"] != test.msg {
			t.Errorf("%v: got %v %v, want %s %s", test.event.Kind, got["level"], got["msg"], test.level, test.msg)
		}
		_, has := got["allowed"]
		if want := test.event.Kind == sshgate.EventDecision; has != want {
			t.Errorf("%v: allowed is written: %v, want %v", test.event.Kind, has, want)
		}
	}
}

func TestSlogEscapesAndBounds(t *testing.T) {
	long := strings.Repeat("ä", 600) // 1200 bytes
	for _, test := range []struct{ name, detail, want string }{
		{"plain", `echo 'a "b"' \n é 漢`, `echo 'a "b"' \n é 漢`},
		{"line break", "a\nfake=1", `"a\nfake=1"`},
		{"escape sequence", "\x1b[2J\a", `"\x1b[2J\a"`},
		{"right-to-left override", "a\u202eb", `"a\u202eb"`},
		{"line separator", "a\u2028b", `"a\u2028b"`},
		{"not UTF-8", "a\xffb", `"a\xffb"`},
		{"looks escaped", `"a\nb"`, `"\"a\\nb\""`},
		{"long", long, strings.Repeat("ä", 512) + " [176 bytes more]"},
		{"long, cut inside a character", "x" + long, "x" + strings.Repeat("ä", 511) + " [178 bytes more]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := line(t, sshgate.Event{Kind: sshgate.EventSessionStart, Detail: test.detail})["detail"]
			if got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestSlogFailure(t *testing.T) {
	r, w := io.Pipe()
	r.CloseWithError(errors.New("the disk is full"))
	err := audit.SlogSink(slog.New(slog.NewTextHandler(w, nil))).Write(sshgate.Event{Kind: sshgate.EventDecision})
	if err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("got %v", err)
	}
}

func TestSlogBelowLevel(t *testing.T) {
	var out bytes.Buffer
	sink := audit.SlogSink(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err := sink.Write(sshgate.Event{Kind: sshgate.EventLoginStart}); err != nil || out.Len() != 0 {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// FuzzSlog: whatever a client sends, it is one line of printable text, and
// bounded.
func FuzzSlog(f *testing.F) {
	f.Add("uname -a")
	f.Add("\x1b]0;title\a\r\n\u202e\xff")
	f.Add(strings.Repeat("\x00", 2000))
	f.Fuzz(func(t *testing.T, detail string) {
		got, ok := line(t, sshgate.Event{Kind: sshgate.EventSessionStart, Detail: detail})["detail"].(string)
		if detail == "" {
			return
		}
		if !ok || got == "" {
			t.Fatal("nothing was written")
		}
		if len(got) > 16<<10 || !utf8.ValidString(got) {
			t.Errorf("%d bytes: %q", len(got), got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("unprintable: %q", got)
		}
	})
}
