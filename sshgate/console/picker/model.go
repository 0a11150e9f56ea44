package picker

import (
	"slices"
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"
	uv "github.com/charmbracelet/ultraviolet"
	"github.com/sshgate/sshgate/sshgate"
)

// stage is what is being asked.
type stage int

const (
	askOrigin stage = iota
	askLogin        // one of several
	askText         // a login that is typed
)

// otherLogin is the line that leads to askText.
const otherLogin = "another login ..."

// maxTyped bounds what is typed, in characters.
const maxTyped = 64

// model is the state of the picker.
type model struct {
	title  string
	items  []Item
	color  bool
	width  int
	height int

	stage  stage
	filter string
	// filtering says that letters are the filter's, also those that otherwise move.
	filtering bool
	found     []int // items that the filter lets through
	cursor    int   // in found
	logins    []string
	choice    int // in logins
	text      string
	problem   string // with what was typed last

	picked sshgate.Target
}

func newModel(title string, items []Item, size Size, color bool) model {
	m := model{title: title, items: items, color: color, width: size.Width, height: size.Height}
	m.match()
	return m
}

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case keyPress:
		m, done := m.press(msg.key)
		msg.last <- done
		if done {
			return m, tea.Quit
		}
		return m, nil
	}
	return m, nil
}

// match finds the items that have every word of the filter in their name.
func (m *model) match() {
	m.found, m.cursor = nil, 0
	words := strings.Fields(strings.ToLower(m.filter))
	for i, item := range m.items {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(item.Name), word) }) {
			m.found = append(m.found, i)
		}
	}
}

// press takes a key; done says that it was the last.
func (m model) press(key uv.KeyPressEvent) (_ model, done bool) {
	m.problem = ""
	// An Escape key that comes with the next key is read as Alt.
	name := strings.Replace(key.String(), "alt+", "", 1)
	if name == "ctrl+c" || name == "ctrl+d" {
		return m, true
	}
	switch m.stage {
	case askLogin:
		return m.pressLogin(name)
	case askText:
		return m.pressText(key, name)
	}
	return m.pressOrigin(key, name)
}

func (m model) pressOrigin(key uv.KeyPressEvent, name string) (_ model, done bool) {
	if !m.filtering {
		switch name {
		case "j":
			name = "down"
		case "k":
			name = "up"
		case "q":
			return m, true
		case "/":
			m.filtering = true
			return m, false
		}
	}
	switch name {
	case "esc":
		if m.filtering {
			m.filtering, m.filter = false, ""
			m.match()
			return m, false
		}
		return m, true
	case "enter", "ctrl+j":
		if len(m.found) == 0 {
			m.problem = "no origin has that in its name"
			return m, false
		}
		return m.pickOrigin()
	case "backspace", "ctrl+h":
		m.filter = dropLast(m.filter)
		m.filtering = m.filter != ""
		m.match()
	case "ctrl+u", "ctrl+w":
		m.filter, m.filtering = "", false
		m.match()
	default:
		if at, ok := move(name, m.cursor, len(m.found), m.rows()); ok {
			m.cursor = at
		} else if typed := printable(key.Text); typed != "" && len(m.filter) < maxTyped {
			m.filter += typed
			m.filtering = true
			m.match()
		}
	}
	return m, false
}

// move returns where a key leads in a list of n lines of which some are shown.
func move(name string, at, n, shown int) (int, bool) {
	switch name {
	case "up", "ctrl+p":
		at--
	case "down", "ctrl+n":
		at++
	case "pgup":
		at -= shown
	case "pgdown":
		at += shown
	case "home":
		at = 0
	case "end":
		at = n - 1
	default:
		return at, false
	}
	return max(min(at, n-1), 0), true
}

// pickOrigin goes on to the login, which may be clear already.
func (m model) pickOrigin() (_ model, done bool) {
	item := m.item()
	m.logins, m.choice, m.text = nil, 0, ""
	for _, login := range item.Logins {
		m.logins = append(m.logins, string(login))
	}
	if last := string(item.LastLogin); last != "" && (item.AnyLogin || slices.Contains(m.logins, last)) {
		m.logins = append([]string{last}, slices.DeleteFunc(m.logins, func(login string) bool { return login == last })...)
	}
	switch {
	case item.AnyLogin && len(m.logins) == 0:
		m.stage = askText
	case item.AnyLogin:
		m.stage, m.logins = askLogin, append(m.logins, otherLogin)
	case len(m.logins) == 1:
		return m.pick(m.logins[0]), true
	default:
		m.stage = askLogin
	}
	return m, false
}

func (m model) item() Item { return m.items[m.found[m.cursor]] }

func (m model) pick(login string) model {
	m.picked = sshgate.Target{Login: sshgate.Login(login), Origin: m.item().Name}
	return m
}

func (m model) pressLogin(name string) (_ model, done bool) {
	switch name {
	case "j":
		name = "down"
	case "k":
		name = "up"
	case "q":
		return m, true
	case "esc", "left", "backspace":
		m.stage = askOrigin
		return m, false
	case "enter", "ctrl+j":
		if m.item().AnyLogin && m.choice == len(m.logins)-1 {
			m.stage = askText
			return m, false
		}
		return m.pick(m.logins[m.choice]), true
	}
	m.choice, _ = move(name, m.choice, len(m.logins), m.rows())
	return m, false
}

func (m model) pressText(key uv.KeyPressEvent, name string) (_ model, done bool) {
	switch name {
	case "esc":
		m.stage, m.text = askOrigin, ""
	case "enter", "ctrl+j":
		login, err := sshgate.ParseLogin(m.text)
		if err != nil {
			m.problem = err.Error()
			return m, false
		}
		return m.pick(string(login)), true
	case "backspace", "ctrl+h":
		m.text = dropLast(m.text)
	case "ctrl+u", "ctrl+w":
		m.text = ""
	default:
		if typed := printable(key.Text); len(m.text) < maxTyped {
			m.text += typed
		}
	}
	return m, false
}

// printable leaves out what a terminal would not show as one character a place:
// neither names nor logins have any of it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

func dropLast(s string) string { return s[:max(len(s)-1, 0)] }
