package main

import "strings"

// The titles that cobra gives to parts of its help.
const (
	usage     = "Usage"
	available = "Available Commands"
)

// exitCodes is the title of the paragraph that begins so.
const exitCodes = "Exit codes"

// section is a part of what --help prints: what stands between one heading, a line
// that begins at the margin and ends in a colon, and the next.
type section struct {
	title string // "" for what comes before the first
	text  string
}

// split cuts help into its sections. The first is the description.
func split(help string) []section {
	var sections []section
	var title string
	var lines []string
	end := func() {
		if text := strings.Trim(strings.Join(lines, "\n"), "\n"); text != "" {
			sections = append(sections, section{title, text})
		}
		lines = nil
	}
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, " \n")
		if isHeading(line) {
			end()
			title = strings.TrimSuffix(line, ":")
			continue
		}
		if codes, ok := strings.CutPrefix(line, exitCodes+": "); ok {
			end()
			title, line = exitCodes, codes
		}
		if strings.HasPrefix(line, "Use \"") && strings.HasSuffix(line, "for more information about a command.") {
			continue // SEE ALSO says it
		}
		lines = append(lines, line)
	}
	end()
	return sections
}

// isHeading tells a line such as "Global Flags:" from prose that ends in a colon.
func isHeading(line string) bool {
	title, ok := strings.CutSuffix(line, ":")
	return ok && len(strings.Fields(title)) <= 2 && !strings.ContainsAny(title, ",.:\"'") &&
		title != "" && title[0] >= 'A' && title[0] <= 'Z'
}

// command is a line of the section of available commands.
type command struct{ name, short string }

// subcommands returns the commands that have pages of their own. What cobra brings
// along, and says itself, has none.
func subcommands(sections []section) []command {
	var commands []command
	for _, s := range sections {
		if s.title != available {
			continue
		}
		for line := range strings.Lines(s.text) {
			name, short, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name != "completion" && name != "help" {
				commands = append(commands, command{name, strings.TrimSpace(short)})
			}
		}
	}
	return commands
}

// summary returns what the first sentence of a description says of a program, for
// NAME, where its name stands before it.
func summary(program, description string) string {
	sentence, _, _ := strings.Cut(strings.Join(strings.Fields(description), " ")+" ", ". ")
	sentence = strings.TrimPrefix(sentence, program+" ")
	return strings.TrimSpace(strings.TrimPrefix(sentence, "is "))
}

// heading returns the name that man-pages(7) has for a section.
func heading(title string) string {
	switch title {
	case "":
		return "DESCRIPTION"
	case usage:
		return "SYNOPSIS"
	case available:
		return "COMMANDS"
	case "Flags":
		return "OPTIONS"
	case exitCodes:
		return "EXIT STATUS"
	}
	return strings.ToUpper(escape(title))
}

// escape returns text as roff prints it: every hyphen is one that can be copied into
// a command line.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`).Replace(text)
}

// preformatted escapes lines that keep their breaks. A dot or an apostrophe at the
// margin would be a request.
func preformatted(text string) string {
	lines := strings.Split(escape(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
