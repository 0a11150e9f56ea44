package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// The actions of a Change.
const (
	Write   = "write"   // a file that is not there
	Replace = "replace" // a file that is
	Remove  = "remove"  // a file, or a directory if it is empty then
	Run     = "run"     // a command
	Check   = "check"   // that something is so; nothing changes
)

// maxShown is the longest file, in bytes, of which a plan has the text.
const maxShown = 64 << 10

// Change is a step of a plan.
type Change struct {
	Action string `json:"action"`
	Path   string `json:"path,omitempty"`
	// Mode, Size and SHA256 are those of the file that is written.
	Mode   string `json:"mode,omitempty"`
	Size   int    `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Content is the file's text, or Diff how it differs from what is there. Neither
	// is there for what is no text or longer than 64 KiB.
	Content string   `json:"content,omitempty"`
	Diff    string   `json:"diff,omitempty"`
	Command []string `json:"command,omitempty"`
	// Note is what is checked, or under which condition something is removed.
	Note string `json:"note,omitempty"`

	part   part
	hidden bool // only for what it undoes
	done   bool // and not undone
	begun  bool
	entry  *written // the manifest's line of a file
	apply  func(context.Context) error
	undo   func(context.Context) error
}

// part is a number of steps that can fail without the others. The rest has none.
type part string

const sshdPart part = "sshd"

// partError is why a part fails.
type partError struct {
	error
	undo bool // put back what the part has changed
}

func (e partError) Unwrap() error { return e.error }

// String is the change in a line.
func (c *Change) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%-8s", c.Action)
	for _, s := range append([]string{c.Path}, c.Command...) {
		if s != "" {
			text.WriteString(" " + s)
		}
	}
	if c.Mode != "" {
		fmt.Fprintf(&text, " (mode %s, %d bytes)", c.Mode, c.Size)
	}
	if c.Note != "" {
		fmt.Fprintf(&text, " (%s)", c.Note)
	}
	return text.String()
}

// Detail is the rest of it: the file's text, the difference, or the digest.
func (c *Change) Detail() string {
	switch {
	case c.Diff != "":
		return c.Diff
	case c.Content != "":
		return c.Content
	case c.SHA256 != "":
		return "sha256 " + c.SHA256 + "\n"
	}
	return ""
}

// Plan is what there is to do, in order.
type Plan struct {
	Changes []*Change
	// Notes are for the administrator to know.
	Notes []string
	// Problems are what keeps a part from being done, and what to do about it.
	// Apply does the rest and returns them.
	Problems []string

	machine *Machine
	force   bool
	old     *manifest // nil when nothing is installed
	next    *manifest // what will be
	undone  bool
	before  State
}

func (p *Plan) add(c *Change) { p.Changes = append(p.Changes, c) }

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// Steps are the changes to show: those that do something.
func (p *Plan) Steps() []*Change {
	steps := []*Change{}
	for _, c := range p.Changes {
		if !c.hidden {
			steps = append(steps, c)
		}
	}
	return steps
}

// Empty tells whether there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Changes) == 0 }

// Undone tells whether Apply has failed and put everything back.
func (p *Plan) Undone() bool { return p.undone }

// ran tells whether a command with the word was run, even if it failed.
func (p *Plan) ran(word string) bool {
	return slices.ContainsFunc(p.Changes, func(c *Change) bool { return c.begun && slices.Contains(c.Command, word) })
}

// run plans a command, and another that undoes it unless that is nil.
func (p *Plan) run(in part, line, undo []string) {
	c := &Change{Action: Run, Command: line, part: in}
	c.apply = func(ctx context.Context) error {
		_, err := p.machine.command(ctx, line)
		return err
	}
	if undo != nil {
		c.undo = func(ctx context.Context) error {
			_, err := p.machine.command(ctx, undo)
			return err
		}
	}
	p.add(c)
}

// write plans a file of the installation, unless it is there already.
func (p *Plan) write(path string, content []byte, mode fs.FileMode, in part) error {
	now, err := p.machine.look(path)
	if err != nil {
		return err
	}
	entry := p.old.find(path)
	if now != nil && bytes.Equal(now.Content, content) && now.Mode == mode {
		return nil
	}
	if entry != nil && now != nil && entry.SHA256 != digest(now.Content) && !entry.isPrevious(now) && !p.force {
		return ConfigError{fmt.Errorf("%s was changed since it was installed; --force replaces it", path)}
	}
	c := p.file(path, now, &snapshot{Content: content, Mode: mode, UID: -1, GID: -1}, in)
	c.entry = &written{Path: path, SHA256: digest(content), Previous: now}
	if entry != nil {
		c.entry.Previous = entry.Previous
	}
	p.next.put(*c.entry)
	p.next.addDirs(p.machine.missing(path))
	return nil
}

// file plans that the file becomes what is wanted, nil for not there.
func (p *Plan) file(path string, now, want *snapshot, in part) *Change {
	c := &Change{Path: path, part: in}
	switch {
	case want == nil:
		c.Action = Remove
	case now == nil:
		c.Action = Write
		c.Content = shown(want.Content)
	default:
		c.Action = Replace
		if before, after := shown(now.Content), shown(want.Content); before != "" && after != "" && before != after {
			c.Diff = diff(before, after)
		}
	}
	if want != nil {
		c.Mode, c.Size, c.SHA256 = fmt.Sprintf("%04o", want.Mode), len(want.Content), digest(want.Content)
	}
	var made []string
	c.apply = func(context.Context) error {
		var err error
		made, err = p.machine.put(path, want)
		return err
	}
	c.undo = func(context.Context) error {
		_, err := p.machine.put(path, now)
		p.machine.removeEmpty(made)
		return err
	}
	p.add(c)
	return c
}

// shown is the text of a file, or empty.
func shown(content []byte) string {
	if len(content) > maxShown || bytes.IndexByte(content, 0) >= 0 {
		return ""
	}
	return string(content)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Apply does what is planned, and says each step, as it begins, through say. When one
// fails, or ctx is done, what was changed is put back, the last first. A part that fails
// alone is put back alone, and its error returned at the end.
func (p *Plan) Apply(ctx context.Context, say func(string)) error {
	var failed []error
	for _, problem := range p.Problems {
		failed = append(failed, errors.New(problem))
	}
	given := make(map[part]bool) // up
	for _, c := range p.Changes {
		if given[c.part] {
			continue
		}
		err := context.Cause(ctx)
		if err == nil {
			err = p.step(ctx, c, say)
		}
		var partial partError
		switch {
		case err == nil:
		case errors.As(err, &partial):
			given[c.part] = true
			if partial.undo {
				err = p.rollBack(ctx, c.part, err, say)
			}
			failed = append(failed, err)
		default:
			p.undone = true
			return p.rollBack(ctx, "", err, say)
		}
	}
	return errors.Join(failed...)
}

func (p *Plan) step(ctx context.Context, c *Change, say func(string)) error {
	if !c.hidden {
		say(c.String())
	}
	c.begun = true
	c.done = c.Command == nil // to undo half of writing a file does no harm
	if c.apply != nil {
		if err := c.apply(ctx); err != nil {
			c.done = c.done || ctx.Err() != nil // nobody knows what a program that was killed has done
			return err
		}
	}
	c.done = true
	return nil
}

// rollBack undoes what was done of a part, or all of it, and returns the error that is
// why.
func (p *Plan) rollBack(ctx context.Context, of part, why error, say func(string)) error {
	ctx = context.WithoutCancel(ctx)
	var failed []error
	count := 0
	for _, c := range slices.Backward(p.Changes) {
		if !c.done || of != "" && c.part != of {
			continue
		}
		if c.undo != nil {
			if !c.hidden {
				say("undo     " + strings.TrimSpace(c.Action+" "+c.Path+strings.Join(c.Command, " ")))
				count++
			}
			if err := c.undo(ctx); err != nil {
				failed = append(failed, err)
			}
		}
		c.done = false
	}
	if of != "" {
		if err := p.forget(of); err != nil {
			failed = append(failed, err)
		}
	}
	switch {
	case len(failed) > 0:
		return fmt.Errorf("%w\nnot all of what was changed could be put back: %w", why, errors.Join(failed...))
	case count > 0 && of == "":
		return fmt.Errorf("%w\nwhat was changed before that was put back", why)
	}
	return why
}

// forget writes the manifest again without what was undone of a part.
func (p *Plan) forget(of part) error {
	for _, c := range p.Changes {
		if c.part != of || c.entry == nil {
			continue
		}
		p.next.drop(c.Path)
		if before := p.old.find(c.Path); before != nil {
			p.next.put(*before)
		}
	}
	_, err := p.machine.put(p.machine.manifestFile(), p.next.snapshot())
	return err
}
