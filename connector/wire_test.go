package connector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestFramesRoundTrip(t *testing.T) {
	for _, msg := range []any{
		&registerMessage{Type: typeRegister, Version: 1, Software: "s", Origins: []wireOrigin{{Name: "web1", HostKeys: []string{"k"}}}},
		&registeredMessage{Type: typeRegistered, Tunnel: "t-1", Accepted: []string{"a"}, Refused: []wireRefusal{{"b", CodeNotPermitted, "no"}}},
		&refusedMessage{Type: typeRefused, Code: CodeVersion, Reason: "old"},
		&drainMessage{Type: typeDrain, Reason: "bye"},
		&abortMessage{Type: typeAbort, Stream: 4},
	} {
		var wire bytes.Buffer
		if err := writeFrame(&wire, msg, maxControlFrame); err != nil {
			t.Fatal(err)
		}
		wire.WriteString("more")
		got, err := readControl(&wire)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(msg, got); diff != "" {
			t.Error(diff)
		}
		if wire.String() != "more" {
			t.Errorf("reading a frame took part of what follows; left is %q", wire.String())
		}
	}
}

// The bytes on the wire, as SPEC.md gives them.
func TestWireFormat(t *testing.T) {
	var wire bytes.Buffer
	if err := writeFrame(&wire, dialReply{OK: true}, maxHeaderFrame); err != nil {
		t.Fatal(err)
	}
	if got, want := wire.String(), "\x00\x00\x00\x0b{\"ok\":true}"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	wire.Reset()
	header := dialHeader{RequestID: "r-1", ConnectionID: "c-1", Origin: "web1", Identity: "alice@example.com", Login: "deploy", ClientAddress: "192.0.2.7"}
	if err := writeFrame(&wire, header, maxHeaderFrame); err != nil {
		t.Fatal(err)
	}
	want := `{"request_id":"r-1","connection_id":"c-1","origin":"web1","identity":"alice@example.com","login":"deploy","client_address":"192.0.2.7"}`
	if got := wire.String()[lengthSize:]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFrameErrors(t *testing.T) {
	size := func(n uint32, body string) io.Reader {
		return strings.NewReader(string(binary.BigEndian.AppendUint32(nil, n)) + body)
	}
	for _, test := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"nothing", strings.NewReader(""), io.EOF},
		{"half a length", strings.NewReader("\x00\x00"), io.ErrUnexpectedEOF},
		{"no body", size(10, ""), io.ErrUnexpectedEOF},
		{"half a body", size(10, "{}"), io.ErrUnexpectedEOF},
		{"too short", size(1, "{"), errFrameSize},
		{"too long", size(101, strings.Repeat("{", 101)), errFrameSize},
		{"far too long", size(1<<32-1, ""), errFrameSize},
	} {
		if _, err := readFrame(test.r, 100); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if err := writeFrame(io.Discard, strings.Repeat("x", 100), 100); !errors.Is(err, errFrameSize) {
		t.Errorf("writing beyond the limit: %v", err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"": "", "plain": "plain", "a\x1b[31mb\n": "a?[31mb?", "ü": "?", "0123456789": "01234567"} {
		if got := printable(in, 8); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzReadControl(f *testing.F) {
	for _, body := range []string{
		`{"type":"register","version":1,"origins":[{"name":"web1","host_keys":["ssh-ed25519 AAAA"]}]}`,
		`{"type":"registered","accepted":["a"],"refused":[{"name":"b","code":"version","reason":"x"}]}`,
		`{"type":"refused","code":"version","reason":"x"}`, `{"type":"drain"}`, `{"type":"abort","stream":4}`,
		`{"type":"alive"}`, `{"type":"future"}`, `{}`, `[]`, `{"type":1}`,
	} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		msg, err := readControl(r)
		if read := len(data) - r.Len(); read > lengthSize+maxControlFrame {
			t.Errorf("%d bytes were read", read)
		}
		if err != nil || msg == nil {
			return
		}
		// What was understood is understood again when it is sent on.
		var wire bytes.Buffer
		if err := writeFrame(&wire, msg, 1<<30); err != nil {
			t.Fatal(err)
		}
		if wire.Len() > lengthSize+maxControlFrame {
			return // escapes made it longer
		}
		again, err := readControl(&wire)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(msg, again); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzReadReply(f *testing.F) {
	for _, body := range []string{`{"ok":true}`, `{"ok":false,"code":"dial_refused","reason":"x"}`, `{}`, `{"ok":1}`} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		refusal, err := readReply(r)
		if read := len(data) - r.Len(); read > lengthSize+maxHeaderFrame {
			t.Errorf("%d bytes were read", read)
		}
		if err != nil || refusal == nil {
			return
		}
		if refusal.Code == "" || refusal.Reason == "" || len(refusal.Reason) > maxReason {
			t.Errorf("refusal %+v", refusal)
		}
		for _, c := range refusal.Reason {
			if c < ' ' || c > '~' || c == utf8.RuneError {
				t.Errorf("the reason %q is not printable", refusal.Reason)
			}
		}
	})
}
