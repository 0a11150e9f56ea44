package picker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
	"github.com/sshgate/sshgate/sshgate"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// typed is an Input that hands out one chunk a read and then waits.
type typed struct {
	chunks chan string
	kept   []byte
}

func typing(chunks ...string) *typed {
	in := &typed{chunks: make(chan string, 100)}
	for _, chunk := range chunks {
		in.chunks <- chunk
	}
	return in
}

func (in *typed) Read(ctx context.Context, p []byte) (int, error) {
	if len(in.kept) == 0 {
		select {
		case chunk, ok := <-in.chunks:
			if ok && chunk == "" { // a pause, longer than within a key
				select {
				case <-time.After(2 * escapeTime):
					return in.Read(ctx, p)
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			if !ok {
				return 0, io.EOF
			}
			in.kept = []byte(chunk)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	n := copy(p, in.kept)
	in.kept = in.kept[n:]
	return n, nil
}

// screen collects what is drawn.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func someItems() []Item {
	return []Item{
		{Name: "web1", Online: true, Logins: []sshgate.Login{"deploy"}, Note: "last 2026-03-01"},
		{Name: "web2", Online: true, Logins: []sshgate.Login{"deploy", "root"}, LastLogin: "root"},
		{Name: "jump1", Online: true, AnyLogin: true},
		{Name: "quiet1", Online: true, Logins: []sshgate.Login{"deploy"}, AnyLogin: true, LastLogin: "me"},
		{Name: "old1", Logins: []sshgate.Login{"deploy"}},
	}
}

func pick(t *testing.T, in Input, out io.Writer, term string, env ...string) (sshgate.Target, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	target, rest, err := Run(ctx, Terminal{In: in, Out: out, Type: term, Env: env, Size: Size{80, 24}}, "title", someItems())
	return target, string(rest), err
}

func TestKeys(t *testing.T) {
	for _, test := range []struct {
		keys string // a space apart arrive apart
		want string // target, or what is wrong
		rest string
	}{
		{"\r", "deploy+web1", ""},
		{"\n", "deploy+web1", ""},
		{"j \r \r", "root+web2", ""}, // used last
		{"\x1b[B \r \x1b[B \r", "deploy+web2", ""},
		{"\x1b[ B \r j k \r", "root+web2", ""}, // a key in two pieces
		{"\x1bOB\r\r", "root+web2", ""},        // all at once, application mode
		{"old\r", "deploy+old1", ""},
		{"OLD\r", "deploy+old1", ""},
		{"/j\rme\r", "me+jump1", ""},
		{"/q \r \r", "me+quiet1", ""},
		{"um\rbad/login\r\x15good\r", "good+jump1", ""},
		{"um\rmee\x7f\r", "me+jump1", ""},
		{"/quiet \r \x1b[F \r other\r", "other+quiet1", ""},
		{"/quiet\rj\r", "deploy+quiet1", ""},
		{"\x1b[F\r", "deploy+old1", ""},
		{"\x1b[6~\r", "deploy+old1", ""},
		{"\x1b[6~\x1b[5~\r", "deploy+web1", ""},
		{"\x1b[F\x1b[H\r", "deploy+web1", ""},
		{"kkkk\r", "deploy+web1", ""},
		{"zzz\r\x7f\x7f\x7fweb1\r", "deploy+web1", ""},
		{"zzz\x15\r", "deploy+web1", ""},
		{"web2\r\x1b  \x15\r", "deploy+web1", ""}, // back, filter away
		{"\x1b[<0;1;1M\x1b[?1u\r", "deploy+web1", ""},
		{"é\xff\x00漢\r", "deploy+web1", ""},
		{"\rls\rexit\r", "deploy+web1", "ls\rexit\r"},
		{"web2\r\rwhoami\n\x1b[A", "root+web2", "whoami\n\x1b[A"},
		{"q", "left", ""},
		{"\x1b", "left", ""},
		{"x\x1b  \x1b", "left", ""},
		{"x\x1b\x1b \x1b", "left", ""}, // the first clears the filter
		{"\x03", "left", ""},
		{"web2\r\x03", "left", ""},
		{"um\rtext\x03", "left", ""},
		{"web2\rq", "left", ""},
	} {
		t.Run(fmt.Sprintf("%q", test.keys), func(t *testing.T) {
			t.Parallel()
			target, rest, err := pick(t, typing(strings.Split(test.keys, " ")...), io.Discard, "xterm-256color")
			got := target.String()
			if errors.Is(err, ErrLeft) {
				got = "left"
			} else if err != nil {
				t.Fatal(err)
			}
			if got != test.want || rest != test.rest {
				t.Errorf("got %s with the rest %q, want %s with %q", got, rest, test.want, test.rest)
			}
		})
	}
}

func TestEndOfInputAndOfContext(t *testing.T) {
	in := typing("we")
	close(in.chunks)
	if _, _, err := pick(t, in, io.Discard, "xterm"); !errors.Is(err, io.EOF) {
		t.Errorf("at the end of input: %v", err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(gone) })
	_, _, err := Run(ctx, Terminal{In: typing(), Out: io.Discard, Type: "xterm"}, "", someItems())
	if !errors.Is(err, gone) {
		t.Errorf("when it is cancelled: %v", err)
	}
}

// TestAsksTheTerminalNothing: an answer could come when somebody else reads.
func TestAsksTheTerminalNothing(t *testing.T) {
	for _, term := range []string{"xterm-256color", "xterm-kitty", "xterm-ghostty", "alacritty", "screen", "vt100"} {
		var out screen
		if _, _, err := pick(t, typing("j", "k", "\r"), &out, term, "TERM_PROGRAM=x", "WT_SESSION=1"); err != nil {
			t.Fatal(err)
		}
		for what, sequence := range map[string]string{
			"a mode": "$p", "its keyboard": "\x1b[?u", "its attributes": "\x1b[c", "its version": "\x1b[>0q", "the cursor": "\x1b[6n",
			"for a keyboard protocol": "\x1b[>1u", "for bracketed paste": "\x1b[?2004h", "for other keys": "\x1b[>4;2m",
		} {
			if strings.Contains(out.String(), sequence) {
				t.Errorf("%s is asked %s: %q", term, what, out.String())
			}
		}
		if !strings.Contains(out.String(), "\x1b[?1049h") || !strings.Contains(out.String(), "\x1b[?1049l") {
			t.Errorf("%s: the screen is not put back: %q", term, out.String())
		}
	}
}

func TestColour(t *testing.T) {
	for _, test := range []struct {
		term, env string
		colour    bool
	}{
		{"xterm-256color", "", true}, {"screen", "", true}, {"xterm-256color", "NO_COLOR=1", false}, {"vt100", "NO_COLOR=1", false},
	} {
		var out screen
		if _, _, err := pick(t, typing("\r"), &out, test.term, test.env); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "\x1b[7m"); got != test.colour {
			t.Errorf("%s %s: coloured %v: %q", test.term, test.env, got, out.String())
		}
	}
	for term, usable := range map[string]bool{"": false, "dumb": false, "xterm": true} {
		if got := (Terminal{Type: term}).Usable(); got != usable {
			t.Errorf("%q is usable: %v", term, got)
		}
	}
}

// TestResize draws again, at the new size, while running.
func TestResize(t *testing.T) {
	in, sizes, out := typing(), make(chan Size), &screen{}
	done := make(chan error)
	go func() {
		_, _, err := Run(context.Background(), Terminal{In: in, Out: out, Type: "xterm", Size: Size{80, 24}, Resize: sizes}, "title", someItems())
		done <- err
	}()
	if got := (Size{100000, 100000}).sane(); got != (Size{maxWidth, maxHeight}) {
		t.Errorf("a huge terminal is drawn as %v", got)
	}
	for _, size := range []Size{{200, 60}, {20, 5}, {1, 1}, {0, 0}, {100000, 100000}, {80, 24}} {
		sizes <- size
		in.chunks <- "j"
	}
	in.chunks <- "\x03"
	if err := <-done; !errors.Is(err, ErrLeft) {
		t.Error(err)
	}
}

// TestViewFits draws every state at every size: never more lines than there are,
// nor wider ones, and always the line that Enter takes.
func TestViewFits(t *testing.T) {
	items := someItems()
	for i := range 100 {
		items = append(items, Item{Name: sshgate.OriginName(fmt.Sprintf("host-%03d.with.a.long.name.example.com", i)), Online: i%2 == 0, Logins: []sshgate.Login{"a", "b", "c"}})
	}
	press := func(m model, keys string) model {
		var decoder uv.EventDecoder
		for b := []byte(keys); len(b) > 0; {
			n, event := decoder.Decode(b)
			b = b[n:]
			m, _ = m.press(event.(uv.KeyPressEvent))
		}
		return m
	}
	for width := 1; width <= 200; width += 13 {
		for height := 1; height <= 60; height += 1 + height/8 {
			m := newModel("signed in as somebody with a name é 漢字", items, Size{width, height}, true)
			for _, keys := range []string{"", "jjj", "\x1b[F", "host-05", "zzz", "web2\r", "um\rabc", "um\rab/c\r"} {
				pressed := press(m, keys)
				view := pressed.View()
				lines := strings.Split(view.Content, "\n")
				if len(lines) > height {
					t.Fatalf("%dx%d, %q: %d lines", width, height, keys, len(lines))
				}
				marked := false
				for _, line := range lines {
					if w := ansi.StringWidth(line); w > width {
						t.Fatalf("%dx%d, %q: the line %q is %d wide", width, height, keys, line, w)
					}
					marked = marked || strings.Contains(ansi.Strip(line), ">")
				}
				if wants := pressed.stage != askText && len(pressed.found) > 0 && height > 1 && width > 2; wants && !marked {
					t.Fatalf("%dx%d, %q: nothing is marked:\n%s", width, height, keys, view.Content)
				}
				if c := view.Cursor; c != nil && (c.X >= width || c.Y >= height) {
					t.Fatalf("%dx%d, %q: the cursor is at %d, %d", width, height, keys, c.X, c.Y)
				}
			}
		}
	}
}

func TestOfflineIsMarked(t *testing.T) {
	m := newModel("", someItems(), Size{80, 24}, false)
	text := m.View().Content
	if !strings.Contains(text, "old1    (offline)") || strings.Contains(text, "\x1b") {
		t.Errorf("it shows\n%q", text)
	}
	if strings.Index(text, "old1") < strings.Index(text, "quiet1") {
		t.Errorf("the order is not that of the items:\n%s", text)
	}
}

func FuzzKeys(f *testing.F) {
	for _, seed := range []string{"\r", "web\r\r", "\x1b[", "\x1b]0;", "\x1bP", "\xff\x1b", "\x9b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := typing("x"+string(data), "", "\x03", "", "\x03") // one may end a broken sequence
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		target, _, err := Run(ctx, Terminal{In: in, Out: io.Discard, Type: "xterm", Size: Size{80, 24}}, "", someItems())
		if err != nil && !errors.Is(err, ErrLeft) {
			t.Fatal(err)
		}
		if err == nil {
			if _, err := sshgate.ParseTarget(target.String()); err != nil {
				t.Error(err)
			}
		}
	})
}
