// Package logging makes the logger that the programs share.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/log"
	"golang.org/x/term"
)

// The formats of New.
const (
	Auto = "auto" // Text on a terminal, otherwise JSON
	Text = "text" // for people
	JSON = "json" // one object a line, times in RFC 3339
)

// textTime is short: whoever watches a terminal knows the day.
const textTime = "15:04:05"

// New returns a logger that writes to w. The level is the least that is
// written: debug, info, warn or error, in any case. The format is Auto, Text or
// JSON. An empty level is info, an empty format Auto.
func New(w io.Writer, level, format string) (*slog.Logger, error) {
	var least slog.Level
	switch strings.ToLower(level) {
	case "debug":
		least = slog.LevelDebug
	case "info", "":
		least = slog.LevelInfo
	case "warn":
		least = slog.LevelWarn
	case "error":
		least = slog.LevelError
	default:
		return nil, fmt.Errorf("%q is not a log level; use debug, info, warn or error", level)
	}
	options := log.Options{Level: log.Level(least), ReportTimestamp: true}
	switch format {
	case Text:
	case JSON:
		options.Formatter = log.JSONFormatter
	case Auto, "":
		if !isTerminal(w) {
			options.Formatter = log.JSONFormatter
		}
	default:
		return nil, fmt.Errorf("%q is not a log format; use auto, text or json", format)
	}
	options.TimeFormat = textTime
	if options.Formatter == log.JSONFormatter {
		options.TimeFormat = time.RFC3339Nano
	}
	return slog.New(log.NewWithOptions(w, options)), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
