package console

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// clean makes text fit for a terminal: what does not print is written as an
// escape, so that no name moves a cursor or turns the reading direction.
func clean(s string) string {
	if !strings.ContainsFunc(s, hidden) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case hidden(r) && r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		case hidden(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

// clip shortens what somebody typed, for a message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// json prints one object on a line, in ASCII: a terminal that shows it is as safe
// as with clean, and a program reads the same text as before.
func (c *call) json(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.out.Stdout.Write(append(asciiJSON(data), '\n'))
	return err
}

// asciiJSON escapes what is not ASCII, all of which stands inside strings, and
// DEL.
func asciiJSON(data []byte) []byte {
	out := make([]byte, 0, len(data))
	for _, r := range string(data) { // Marshal has made it valid UTF-8
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// table prints rows under a head, in columns.
func (c *call) table(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(c.out.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, clean(cell))
		}
		fmt.Fprint(w, "\n")
	}
	return w.Flush()
}

// pairs prints names and values, one pair a line, without those that are empty.
func (c *call) pairs(pairs [][2]string) error {
	w := tabwriter.NewWriter(c.out.Stdout, 0, 0, 2, ' ', 0)
	for _, pair := range pairs {
		if pair[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", pair[0], clean(pair[1]))
		}
	}
	return w.Flush()
}

// stamp writes a time; never where there is none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// whole is a time for JSON.
func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// yes is a truth for people.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// joined writes a list of names.
func joined[S ~string](names []S, more ...string) string {
	out := make([]string, 0, len(names)+len(more))
	for _, name := range names {
		out = append(out, string(name))
	}
	return strings.Join(append(out, more...), " ")
}

// sshArguments are those of ssh that lead to an address as people type it.
func sshArguments(advertise string) string {
	host, port, err := net.SplitHostPort(advertise)
	switch {
	case err != nil:
		return advertise
	case port == "22":
		return host
	}
	return "-p " + port + " " + host
}
