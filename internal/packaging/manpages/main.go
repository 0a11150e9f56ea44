// Command manpages writes the man pages of a program from what its --help prints,
// one for the program and one for each of its commands. It asks the program itself,
// so that nothing for it has to be linked into what people install.
//
//	manpages PROGRAM SECTION DIRECTORY
//
// The date in the pages is that of the environment variable SOURCE_DATE_EPOCH,
// seconds since 1970, or else today.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stderr)) }

// run does what the package says, and returns the exit code.
func run(args []string, epoch string, stderr io.Writer) int {
	if len(args) != 3 {
		fmt.Fprintln(stderr, "usage: manpages PROGRAM SECTION DIRECTORY")
		return 2
	}
	date := time.Now()
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			fmt.Fprintln(stderr, "manpages: SOURCE_DATE_EPOCH:", err)
			return 2
		}
		date = time.Unix(seconds, 0)
	}
	b := book{program: args[0], section: args[1], dir: args[2], date: date.UTC().Format(time.DateOnly)}
	if err := b.write(nil, "", ""); err != nil {
		fmt.Fprintln(stderr, "manpages:", err)
		return 1
	}
	return 0
}

// book is the man pages of one program.
type book struct {
	program string // its path
	section string
	dir     string
	date    string
}

// write writes the page of a command, which path leads to, and those of the commands
// below it. short is what its parent says of it.
func (b book) write(path []string, short, parent string) error {
	args := append(slices.Clone(path), "--help")
	out, err := exec.Command(b.program, args...).Output()
	if err != nil {
		return fmt.Errorf("run %s %s: %w", b.program, strings.Join(args, " "), err)
	}
	sections := split(string(out))
	if short == "" { // the program, of which nobody else says anything
		short = summary(filepath.Base(b.program), sections[0].text)
	}
	commands := subcommands(sections)
	name := strings.Join(append([]string{filepath.Base(b.program)}, path...), "-")
	var see []string
	if parent != "" {
		see = append(see, parent)
	}
	for _, command := range commands {
		see = append(see, name+"-"+command.name)
	}
	file := filepath.Join(b.dir, name+"."+b.section)
	if err := os.WriteFile(file, []byte(b.page(name, short, sections, see)), 0o644); err != nil {
		return err
	}
	for _, command := range commands {
		if err := b.write(append(slices.Clone(path), command.name), command.short, name); err != nil {
			return err
		}
	}
	return nil
}

// page returns the page in man(7). What --help prints is laid out by hand, tables
// included, so it stays as it is; only the headings change.
func (b book) page(name, short string, sections []section, see []string) string {
	var w strings.Builder
	fmt.Fprintf(&w, ".TH \"%s\" \"%s\" \"%s\"\n", strings.ToUpper(name), b.section, b.date)
	fmt.Fprintf(&w, ".nh\n.SH NAME\n%s \\- %s\n", escape(name), escape(short))
	if i := slices.IndexFunc(sections, func(s section) bool { return s.title == usage }); i >= 0 {
		sections = slices.Concat(sections[i:i+1], sections[:i], sections[i+1:]) // SYNOPSIS comes first, see man-pages(7)
	}
	for _, s := range sections {
		fmt.Fprintf(&w, ".SH %s\n.nf\n%s\n.fi\n", heading(s.title), preformatted(s.text))
	}
	if len(see) > 0 {
		for i, page := range see {
			see[i] = fmt.Sprintf("\\fB%s\\fR(%s)", escape(page), b.section)
		}
		fmt.Fprintf(&w, ".SH SEE ALSO\n%s\n", strings.Join(see, ",\n"))
	}
	return w.String()
}
