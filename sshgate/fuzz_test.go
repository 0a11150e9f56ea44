package sshgate_test

import (
	"strings"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

func isDNS(r rune) bool {
	return strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", r)
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"", "alice", "deploy+web1", "+web1.example.com.", "a@corp+web1", "a b", "a#b", "deploy~WEB1", "\xff+a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, user string) {
		target, err := sshgate.ParseTarget(user)
		if err != nil {
			if target != (sshgate.Target{}) {
				t.Fatalf("%q: %+v with an error", user, target)
			}
			return
		}
		again, err := sshgate.ParseTarget(target.String())
		if err != nil || again != target {
			t.Fatalf("%q: %+v prints as %q, which reads as %+v, %v", user, target, target, again, err)
		}
		if target.Origin == "" {
			if strings.TrimFunc(user, isDNS) != "" || string(target.Login) != user {
				t.Fatalf("%q asks for the gateway as %q", user, target.Login)
			}
			return
		}
		origin := string(target.Origin)
		if strings.TrimFunc(origin, isDNS) != "" || origin != strings.ToLower(origin) || strings.HasSuffix(origin, ".") {
			t.Fatalf("%q: the origin %q is not normal", user, origin)
		}
		// The longest suffix: what precedes it is the separator, and the rest the login.
		head := strings.TrimRightFunc(user, isDNS)
		if head == "" || !strings.ContainsRune("+@:%~ ", rune(head[len(head)-1])) || head[:len(head)-1] != string(target.Login) {
			t.Fatalf("%q: login %q, origin %q", user, target.Login, origin)
		}
		if !strings.EqualFold(strings.TrimSuffix(user[len(head):], "."), origin) {
			t.Fatalf("%q: origin %q is not its longest suffix", user, origin)
		}
	})
}

func FuzzParseHostPattern(f *testing.F) {
	for _, seed := range []string{"*", "web1", "*.lab.example.com", "*.", "a*b", "WEB1.", "\u212a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := sshgate.ParseHostPattern(s)
		if err != nil {
			return
		}
		again, err := sshgate.ParseHostPattern(p.String())
		if err != nil || again != p {
			t.Fatalf("%q prints as %q, which reads as %v, %v", s, p, again, err)
		}
		example := sshgate.OriginName(strings.Replace(p.String(), "*", "x", 1))
		if _, err := sshgate.ParseOriginName(string(example)); err == nil && !p.Match(example) {
			t.Fatalf("%q does not match %q", p, example)
		}
		if p.Match("") {
			t.Fatalf("%q matches the gateway itself", p)
		}
	})
}

func FuzzParseLoginTemplate(f *testing.F) {
	for _, seed := range []string{"*", "deploy", "${claims.unix_name}", "adm-${claims.a.b}-x", "${claims.email}", "${", "root", "${claims.n}"} {
		f.Add(seed, "root")
		f.Add(seed, "12")
		f.Add(seed, "a@b.c")
	}
	f.Fuzz(func(t *testing.T, s, value string) {
		template, err := sshgate.ParseLoginTemplate(s)
		if err != nil {
			return
		}
		if template.String() != s {
			t.Fatalf("%q prints as %q", s, template)
		}
		claims := map[string]any{"n": value}
		for reference := range strings.SplitSeq(s, "${claims.") {
			name, _, _ := strings.Cut(reference, "}")
			claims[name] = value
		}
		login, err := template.Expand(sshgate.Identity{Subject: "1", Claims: claims})
		if err != nil {
			return
		}
		if _, err := sshgate.ParseLogin(string(login)); err != nil {
			t.Fatalf("%q yields %q: %v", s, login, err)
		}
		if !strings.Contains(s, "${") {
			if string(login) != s {
				t.Fatalf("%q yields %q", s, login)
			}
			return
		}
		if strings.EqualFold(string(login), "root") || strings.Trim(string(login), "0123456789") == "" || strings.Contains(value, "@") {
			t.Fatalf("%q with the value %q yields %q", s, value, login)
		}
	})
}
