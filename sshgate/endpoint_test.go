package sshgate

import (
	"strings"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	for s, want := range map[string]string{
		"web1":                "web1:22",
		"WEB1.":               "web1:22",
		"Web1.Example.com:22": "web1.example.com:22",
		"web1.:5432":          "web1:5432",
		"192.0.2.1:22":        "192.0.2.1:22", // a name like any other: nothing is resolved
		"db_1:1":              "db_1:1",
		"web1:65535":          "web1:65535",
		"web1:0022":           "web1:22",
	} {
		e, err := ParseEndpoint(s)
		if err != nil || e.String() != want {
			t.Errorf("%q: %v, %v, want %s", s, e, err, want)
		}
		if again, err := ParseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%q: read back as %v, %v", s, again, err)
		}
	}
	for s, want := range map[string]string{
		"":               "empty",
		":22":            "empty",
		"web1:":          "from 1 to 65535",
		"web1:0":         "from 1 to 65535",
		"web1:65536":     "from 1 to 65535",
		"web1:+22":       "from 1 to 65535",
		"web1:ssh":       "from 1 to 65535",
		"web1:22:22":     "IPv6",
		"::1":            "IPv6",
		"[::1]":          "IPv6",
		"[::1]:22":       "IPv6",
		"::ffff:1.2.3.4": "from 1 to 65535",
		"a..b":           "empty label",
		"a b":            "character",
		"web1\x00:22":    "character",
	} {
		if e, err := ParseEndpoint(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want an error with %q", s, e, err, want)
		}
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"web1:22", "[::1]:22", "WEB.", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEndpoint(s)
		if err != nil {
			return
		}
		if name, err := ParseOriginName(string(e.Origin)); err != nil || name != e.Origin || e.Port == 0 {
			t.Errorf("%q became %v", s, e)
		}
	})
}
