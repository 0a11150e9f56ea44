package audit

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sshgate/sshgate/sshgate"
)

// maxField bounds the text of one attribute, in bytes, before it is escaped. A
// client chooses what its command or user name is, and how long.
const maxField = 1024

// SlogSink returns a sink that writes each event as one line of the logger. The
// message says the kind in words; the attributes are flat and have the names of
// the event's JSON fields, without those that are zero, except that a decision
// always has "allowed". "duration" is in seconds, to the millisecond. Failures
// and refusals have level WARN, all else INFO.
//
// A value is cut at 1024 bytes. One that holds control or other unprintable
// characters, or that is no UTF-8, is written as a Go string literal, so that no
// client can break a line or move a terminal's cursor.
func SlogSink(logger *slog.Logger) Sink { return slogSink{logger.Handler()} }

type slogSink struct{ handler slog.Handler }

// Write passes the event to the handler itself, not through a Logger, which
// would swallow the error of a full disk.
func (s slogSink) Write(e sshgate.Event) error {
	ctx := context.Background()
	level := levelOf(e)
	if !s.handler.Enabled(ctx, level) {
		return nil
	}
	record := slog.NewRecord(e.Time, level, kindInWords(e.Kind), 0)
	record.AddAttrs(attrs(e)...)
	if err := s.handler.Handle(ctx, record); err != nil {
		return fmt.Errorf("write an audit line: %w", err)
	}
	return nil
}

func levelOf(e sshgate.Event) slog.Level {
	switch e.Kind {
	case sshgate.EventLoginFailure, sshgate.EventLoginReport, sshgate.EventRefused, sshgate.EventLimit:
		return slog.LevelWarn
	case sshgate.EventDecision, sshgate.EventHostKey, sshgate.EventCredential, sshgate.EventEnrolment, sshgate.EventLoginPage, sshgate.EventCommand:
		if !e.Allowed {
			return slog.LevelWarn
		}
	}
	return slog.LevelInfo
}

func kindInWords(kind sshgate.EventKind) string {
	switch kind {
	case sshgate.EventLoginStart:
		return "sign-in offered"
	case sshgate.EventLoginSuccess:
		return "signed in"
	case sshgate.EventLoginKey:
		return "signed in before"
	case sshgate.EventLoginFailure:
		return "sign-in failed"
	case sshgate.EventLoginPage:
		return "sign-in page"
	case sshgate.EventLoginReport:
		return "sign-in reported"
	case sshgate.EventDecision:
		return "access decided"
	case sshgate.EventSessionStart:
		return "session started"
	case sshgate.EventSessionEnd:
		return "session ended"
	case sshgate.EventOriginUp:
		return "origin up"
	case sshgate.EventOriginDown:
		return "origin down"
	case sshgate.EventHostKey:
		return "origin host key"
	case sshgate.EventRefused:
		return "origin refused"
	case sshgate.EventEnrolment:
		return "connector enrolment"
	case sshgate.EventCredential:
		return "credential"
	case sshgate.EventLimit:
		return "limit reached"
	case sshgate.EventCommand:
		return "command"
	}
	return plain(string(kind))
}

// attrs returns the event's fields in the order of its declaration, without the
// time, which is the record's.
func attrs(e sshgate.Event) []slog.Attr {
	list := make([]slog.Attr, 0, 20)
	text := func(name, value string) {
		if value != "" {
			list = append(list, slog.String(name, plain(value)))
		}
	}
	number := func(name string, value int64) {
		if value != 0 {
			list = append(list, slog.Int64(name, value))
		}
	}
	text("kind", string(e.Kind))
	text("connection", string(e.Connection))
	text("request", string(e.Request))
	text("issuer", e.Issuer)
	text("subject", e.Subject)
	text("identity", e.Identity)
	text("identity_kind", string(e.IdentityKind))
	if e.ClientAddr != (netip.Addr{}) {
		text("client", e.ClientAddr.String())
	}
	text("key", e.Key)
	text("origin", string(e.Origin))
	text("login", string(e.Login))
	text("channel", string(e.Channel))
	text("activity", string(e.Activity))
	text("purpose", e.Purpose)
	text("detail", e.Detail)
	if e.Allowed || e.Kind == sshgate.EventDecision {
		list = append(list, slog.Bool("allowed", e.Allowed))
	}
	text("application", e.Application)
	text("rule", e.Rule)
	text("reason", e.Reason)
	number("count", int64(e.Count))
	number("bytes_in", e.BytesIn)
	number("bytes_out", e.BytesOut)
	if e.Duration != 0 {
		list = append(list, slog.Float64("duration", seconds(e.Duration)))
	}
	text("exit", e.Exit)
	return list
}

// seconds returns d in seconds, rounded to milliseconds.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// plain returns s so that it can be printed anywhere, see SlogSink. A text that
// begins with a quotation mark becomes a literal too, so that none can pass for
// one.
func plain(s string) string {
	s, cut := cutAt(s, maxField)
	if strings.HasPrefix(s, `"`) || !utf8.ValidString(s) || strings.ContainsFunc(s, isUnprintable) {
		s = strconv.Quote(s)
	}
	if cut > 0 {
		s += fmt.Sprintf(" [%d bytes more]", cut)
	}
	return s
}

func isUnprintable(r rune) bool { return !unicode.IsPrint(r) }

// cutAt returns the first n bytes of s, or a few less where that would split a
// character, and how many were cut off.
func cutAt(s string, n int) (head string, cut int) {
	if len(s) <= n {
		return s, 0
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i], len(s) - i
		}
	}
	return s[:n], len(s) - n
}
