package station

import (
	"slices"
	"strings"
	"sync"
)

// maxLine bounds what is kept of one line, in bytes.
const maxLine = 4 << 10

// Lines keeps the last lines that were written to it, one by each Write, as package
// slog does.
type Lines struct {
	mu    sync.Mutex // guards what follows
	lines []string
	next  int // the oldest, once all places are taken
}

// NewLines keeps so many.
func NewLines(most int) *Lines { return &Lines{lines: make([]string, 0, most)} }

// Write keeps the line in place of the oldest. It does not fail.
func (l *Lines) Write(p []byte) (int, error) {
	line := string(p)
	if len(line) > maxLine {
		line = line[:maxLine] + "...\n"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) < cap(l.lines) {
		l.lines = append(l.lines, line)
		return len(p), nil
	}
	l.lines[l.next] = line
	l.next = (l.next + 1) % len(l.lines)
	return len(p), nil
}

// String returns the lines, oldest first.
func (l *Lines) String() string {
	l.mu.Lock()
	lines := slices.Concat(l.lines[l.next:], l.lines[:l.next])
	l.mu.Unlock()
	return strings.Join(lines, "")
}
