// Package picker lets somebody at a terminal pick one of many origins, and the
// login to use there. Call Run. It knows no policy and reaches nothing: what can
// be picked is handed to it, and what was picked is handed back.
package picker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	uv "github.com/charmbracelet/ultraviolet"
	"github.com/sshgate/sshgate/sshgate"
)

// Item is an origin that can be picked.
type Item struct {
	Name   sshgate.OriginName
	Online bool
	// Logins are the accounts to choose from. AnyLogin says that others do as well,
	// which are typed.
	Logins   []sshgate.Login
	AnyLogin bool
	// LastLogin is the one used last, and Note what is shown beside the name.
	LastLogin sshgate.Login
	Note      string
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height int }

// Input is what is typed. Read waits until there is something, or ctx is done.
type Input interface {
	Read(ctx context.Context, p []byte) (int, error)
}

// RawWriter ends lines as a terminal needs it that does nothing of itself: the far
// end of an SSH session.
type RawWriter struct{ W io.Writer }

// Write implements io.Writer.
func (w RawWriter) Write(p []byte) (int, error) {
	if _, err := w.W.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Terminal is where somebody sits. Nothing is ever asked of it that it would
// answer, since the answer could come when it is no longer read here.
type Terminal struct {
	In Input
	// Out must begin a new line at "\n", see RawWriter.
	Out io.Writer
	// Type is the value of TERM, Env what else is known of the environment, as
	// "NAME=value": NO_COLOR and COLORTERM count.
	Type   string
	Env    []string
	Size   Size
	Resize <-chan Size // closed by whoever sends on it, or nil
}

// Usable tells whether a screen can be drawn there: a dumb terminal can't.
func (t Terminal) Usable() bool { return t.Type != "" && t.Type != "dumb" }

// ErrLeft says that nothing was picked.
var ErrLeft = errors.New("nothing was picked")

// escapeTime is how long the rest of a key's sequence may take after its first
// byte, which alone is the Escape key.
const escapeTime = 50 * time.Millisecond

// The size of a terminal that does not say its own.
const (
	defaultWidth  = 80
	defaultHeight = 24
)

// What is drawn of a terminal that is larger. A screen of that size takes about 4 MiB
// of memory, and clients say what theirs is.
const (
	maxWidth  = 240
	maxHeight = 70
)

// Run shows the items, in their order, under a title, until one is picked. It
// returns what was picked, and what was typed after that, which is for whoever
// reads the terminal next.
func Run(ctx context.Context, term Terminal, title string, items []Item) (picked sshgate.Target, rest []byte, err error) {
	env := append([]string{"TERM=" + term.Type}, term.Env...)
	profile := colorprofile.Env(env)
	m := newModel(title, items, term.Size.sane(), profile >= colorprofile.ANSI)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Without an input of its own the program sends the terminal no queries, turns
	// no keyboard protocol on, and takes no key that it was not given.
	program := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(nil), tea.WithOutput(term.Out), tea.WithEnvironment(env),
		tea.WithColorProfile(profile), tea.WithWindowSize(m.width, m.height), tea.WithoutSignalHandler(), tea.WithFPS(30))
	type result struct {
		model tea.Model
		err   error
	}
	finished := make(chan result, 1)
	go func() {
		model, err := program.Run()
		cancel() // whatever still waits for it
		finished <- result{model, err}
	}()
	resized := make(chan struct{})
	go func() {
		defer close(resized)
		passSizes(ctx, program, term.Resize)
	}()
	rest, readErr := keys(ctx, term.In, program)
	if readErr != nil {
		cancel()
	}
	end := <-finished
	<-resized
	switch m, ok := end.model.(model); {
	case readErr != nil && end.err != nil:
		return picked, nil, readErr
	case end.err != nil:
		return picked, nil, end.err
	case !ok || m.picked.Origin == "":
		return picked, nil, ErrLeft
	default:
		return m.picked, rest, nil
	}
}

func (s Size) sane() Size {
	if s.Width <= 0 || s.Height <= 0 {
		return Size{defaultWidth, defaultHeight}
	}
	return Size{min(s.Width, maxWidth), min(s.Height, maxHeight)}
}

func passSizes(ctx context.Context, program *tea.Program, sizes <-chan Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			size = size.sane()
			program.Send(tea.WindowSizeMsg{Width: size.Width, Height: size.Height})
		case <-ctx.Done():
			return
		}
	}
}

// keyPress is one key. The program says on last whether it was the last that it
// needs: what is typed behind it belongs to another.
type keyPress struct {
	key  uv.KeyPressEvent
	last chan<- bool
}

// keys hands the program one key after the other until it has what it needs, and
// returns what was read behind that key.
func keys(ctx context.Context, in Input, program *tea.Program) (rest []byte, err error) {
	var decoder uv.EventDecoder
	chunk := make([]byte, 256)
	for {
		n, err := in.Read(ctx, chunk)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		rest = append(rest, chunk[:n]...)
		for len(rest) > 0 {
			if unfinished(rest) {
				var more bool
				if rest, more, err = readMore(ctx, in, rest); err != nil {
					return nil, err
				} else if more {
					continue
				}
			}
			size, event := decoder.Decode(rest)
			rest = rest[max(size, 1):]
			key, ok := event.(uv.KeyPressEvent)
			if !ok {
				continue // an answer to somebody else's question, a mouse
			}
			last := make(chan bool, 1)
			program.Send(keyPress{key, last})
			select {
			case done := <-last:
				if done {
					return rest, nil
				}
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

// unfinished tells whether what was read may be the beginning of a key.
func unfinished(b []byte) bool {
	if b[0] != 0x1b {
		return !utf8.FullRune(b)
	}
	if len(b) == 1 {
		return true
	}
	switch b[1] {
	case 'O':
		return len(b) == 2
	case '[':
		for _, c := range b[2:] {
			if c >= '@' && c <= '~' {
				return false
			}
		}
		return len(b) < 32
	}
	return false
}

// readMore waits a moment for the rest of a key.
func readMore(ctx context.Context, in Input, have []byte) (all []byte, more bool, err error) {
	soon, cancel := context.WithTimeout(ctx, escapeTime)
	defer cancel()
	chunk := make([]byte, 256)
	n, err := in.Read(soon, chunk)
	switch {
	case ctx.Err() != nil:
		return nil, false, context.Cause(ctx)
	case err != nil && soon.Err() != nil:
		return have, false, nil
	case err != nil:
		return nil, false, err
	}
	return append(have, chunk[:n]...), n > 0, nil
}
