//go:build unix

package devorigin

import (
	"testing"

	gossh "golang.org/x/crypto/ssh"
)

// FuzzRequests feeds the requests of a session, and the terminal that a pty-req
// asks for.
func FuzzRequests(f *testing.F) {
	f.Add("pty-req", gossh.Marshal(ptyRequest{
		Term: "xterm", Columns: 80, Rows: 24, Modes: "\x03\x00\x00\x00\x7f\x35\x00\x00\x00\x00\x00",
	}))
	f.Add("pty-req", gossh.Marshal(ptyRequest{Columns: 1 << 31, Rows: 1 << 31, Modes: "\xa0\x01\x02"}))
	f.Add("env", gossh.Marshal(struct{ Name, Value string }{"LC_ALL", "C"}))
	f.Add("exec", gossh.Marshal(struct{ Command string }{"true"}))
	f.Add("window-change", gossh.Marshal(windowChange{Columns: 1, Rows: 2}))
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		s := &session{mayHavePty: true, cfg: &Config{}}
		for range 2 { // a second one finds the first's effect
			s.prepare(&gossh.Request{Type: kind, Payload: payload})
		}
		if len(s.env) > 2 {
			t.Errorf("environment: %q", s.env)
		}
		if s.terminal == nil {
			return
		}
		tty, slave, err := openTerminal(s.terminal)
		if err != nil {
			t.Fatal(err)
		}
		slave.Close()
		tty.Close()
	})
}
