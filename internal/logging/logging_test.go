package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestJSON(t *testing.T) {
	for _, format := range []string{JSON, Auto, ""} { // a buffer is no terminal
		var out bytes.Buffer
		log, err := New(&out, "", format)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("not written")
		log.With("origin", "web1").Info("a message", "err", errors.New("with \"quotes\"\n"), "n", 3)
		var line struct {
			Time, Level, Msg, Origin, Err string
			N                             int
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatalf("%q: %v", out.String(), err)
		}
		if _, err := time.Parse(time.RFC3339Nano, line.Time); err != nil {
			t.Error(err)
		}
		if line.Level != "info" || line.Msg != "a message" || line.Origin != "web1" || line.N != 3 || line.Err != "with \"quotes\"\n" {
			t.Errorf("%+v", line)
		}
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("not one line: %q", out.String())
		}
	}
}

func TestText(t *testing.T) {
	var out bytes.Buffer
	log, err := New(&out, "WARN", Text)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not written")
	log.Warn("a message", "evil", "a\x1b[31m\nfake line")
	got := out.String()
	if !strings.Contains(got, "WARN") || !strings.Contains(got, "a message") || strings.Contains(got, "not written") {
		t.Errorf("%q", got)
	}
	if strings.ContainsRune(got, 0x1b) {
		t.Errorf("an escape sequence got through: %q", got)
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[string]slog.Level{"debug": slog.LevelDebug, "": slog.LevelInfo, "Info": slog.LevelInfo, "warn": slog.LevelWarn, "ERROR": slog.LevelError} {
		log, err := New(&bytes.Buffer{}, level, JSON)
		if err != nil {
			t.Fatal(err)
		}
		if !log.Enabled(t.Context(), want) || log.Enabled(t.Context(), want-1) {
			t.Errorf("%q does not begin at %s", level, want)
		}
	}
	for _, bad := range [][2]string{{"loud", JSON}, {"info", "xml"}} {
		if _, err := New(&bytes.Buffer{}, bad[0], bad[1]); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
