package picker

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// rows is how many lines of a list are shown. The others are the question, and
// where there is room the title, what is wrong, and which keys do what.
func (m model) rows() int {
	rows := m.height - 1
	if m.titled() {
		rows -= 2
	}
	if m.helped() {
		rows -= 2
	}
	return max(rows, 1)
}

func (m model) titled() bool { return m.height >= 8 }
func (m model) helped() bool { return m.height >= 6 }

// View implements tea.Model.
func (m model) View() tea.View {
	var lines []string
	if m.titled() {
		lines = append(lines, m.bold(m.fit(m.title)), "")
	}
	question, typing := m.question()
	lines = append(lines, m.fit(question))
	at := len(lines) - 1
	lines = append(lines, m.list()...)
	if m.helped() {
		for len(lines) < m.height-2 {
			lines = append(lines, "")
		}
		lines = append(lines, m.fit(m.state()), m.faint(m.fit(m.help())))
	}
	view := tea.NewView(strings.Join(lines[:min(len(lines), max(m.height, 1))], "\n"))
	view.AltScreen = true
	view.DisableBracketedPasteMode = true // a paste is typed, here and after
	if typing {
		view.Cursor = tea.NewCursor(min(len(question), max(m.width-1, 0)), at)
		view.Cursor.Blink = false
	}
	return view
}

// question is what is asked, with what was typed so far.
func (m model) question() (text string, typing bool) {
	switch m.stage {
	case askLogin:
		return "As whom on " + string(m.item().Name) + "?", false
	case askText:
		return "Login on " + string(m.item().Name) + ": " + m.text, true
	}
	if m.filtering {
		return "Where to? /" + m.filter, true
	}
	return "Where to? (type to filter)", false
}

// list is the part of the list around the cursor.
func (m model) list() []string {
	all, at := m.logins, m.choice
	switch m.stage {
	case askText:
		return nil
	case askOrigin:
		all, at = m.originLines(), m.cursor
	}
	rows := m.rows()
	first := max(min(at-rows/2, len(all)-rows), 0)
	var lines []string
	for i := first; i < min(first+rows, len(all)); i++ {
		switch line := all[i]; {
		case i == at:
			lines = append(lines, m.reverse(m.fit("> "+line)))
		case m.stage == askOrigin && !m.items[m.found[i]].Online:
			lines = append(lines, m.faint(m.fit("  "+line)))
		default:
			lines = append(lines, m.fit("  "+line))
		}
	}
	return lines
}

// originLines are the origins that the filter lets through, in columns.
func (m model) originLines() []string {
	widest := 0
	for _, i := range m.found {
		widest = max(widest, len(m.items[i].Name))
	}
	widest = min(widest, m.width*2/3)
	lines := make([]string, len(m.found))
	for n, i := range m.found {
		item := m.items[i]
		logins := make([]string, 0, len(item.Logins)+1)
		for _, login := range item.Logins {
			logins = append(logins, string(login))
		}
		if item.AnyLogin {
			logins = append(logins, "*")
		}
		words := []string{fmt.Sprintf("%-*s", widest, item.Name)}
		if !item.Online {
			words = append(words, "(offline)")
		}
		words = append(words, strings.Join(logins, " "))
		if item.Note != "" {
			words = append(words, item.Note)
		}
		lines[n] = strings.Join(words, "  ")
	}
	return lines
}

// state is the line above the help.
func (m model) state() string {
	switch {
	case m.problem != "":
		return m.problem
	case m.stage == askOrigin && len(m.found) == 0:
		return "no origin has that in its name"
	case m.stage == askOrigin:
		return fmt.Sprintf("%d of %d", min(m.cursor+1, len(m.found)), len(m.found))
	}
	return ""
}

func (m model) help() string {
	switch {
	case m.stage == askLogin:
		return "enter go  up/down move  esc back  q leave"
	case m.stage == askText:
		return "enter go  esc back  ctrl-c leave"
	case m.filtering:
		return "enter go  up/down move  esc clear  ctrl-c leave"
	}
	return "enter go  up/down j k move  / filter  q leave"
}

// fit cuts a line to the terminal's width.
func (m model) fit(line string) string {
	return ansi.Truncate(line, max(m.width, 1), "~")
}

func (m model) bold(s string) string    { return m.styled("1", s) }
func (m model) faint(s string) string   { return m.styled("2", s) }
func (m model) reverse(s string) string { return m.styled("7", s) }

// styled sets a rendition of ECMA-48 section 8.3.117, nothing without colour.
func (m model) styled(rendition, s string) string {
	if !m.color || s == "" {
		return s
	}
	return "\x1b[" + rendition + "m" + s + "\x1b[m"
}
