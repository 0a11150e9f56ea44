package sshgate_test

import (
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

func mustPattern(s string) sshgate.HostPattern {
	p, err := sshgate.ParseHostPattern(s)
	if err != nil {
		panic(err)
	}
	return p
}

func TestHostPatternMatch(t *testing.T) {
	tests := []struct {
		pattern, origin string
		want            bool
	}{
		{"web1", "web1", true},
		{"WEB1.", "web1", true},
		{"web1", "web10", false},
		{"web1", "web1.example.com", false},
		{"web1", "", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.Example.Com", "a.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", ".example.com", false},
		{"*.example.com", "badexample.com", false},
		{"*.example.com", "a.example.com.evil.org", false},
		{"*.com", "a.example.com", true},
		{"*", "web1", true},
		{"*", "a.b.c", true},
		{"*", "", false},
	}
	for _, tt := range tests {
		if got := mustPattern(tt.pattern).Match(sshgate.OriginName(tt.origin)); got != tt.want {
			t.Errorf("pattern %q, origin %q: %v, want %v", tt.pattern, tt.origin, got, tt.want)
		}
	}
	var zero sshgate.HostPattern
	if zero.Match("") || zero.Match("web1") {
		t.Error("the zero pattern matches")
	}
}

func TestHostPatternCovers(t *testing.T) {
	for _, tt := range []struct {
		pattern, other string
		want           bool
	}{
		{"web1", "web1", true},
		{"web1", "web2", false},
		{"web1", "*.web1", false},
		{"web1", "*", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "*.example.com", true},
		{"*.example.com", "*.lab.example.com", true},
		{"*.lab.example.com", "*.example.com", false},
		{"*.example.com", "*.badexample.com", false},
		{"*.example.com", "*", false},
		{"*", "*.example.com", true},
		{"*", "*", true},
		{"*", "web1", true},
	} {
		if got := mustPattern(tt.pattern).Covers(mustPattern(tt.other)); got != tt.want {
			t.Errorf("%s covers %s: %v, want %v", tt.pattern, tt.other, got, tt.want)
		}
	}
	var zero sshgate.HostPattern
	if zero.Covers(zero) || zero.Covers(mustPattern("a")) || mustPattern("*").Covers(zero) {
		t.Error("the zero pattern covers, or is covered")
	}
}

func TestHostPatternSpecificity(t *testing.T) {
	ascending := []string{"*", "*.com", "*.example.com", "*.lab.example.com", "a.lab.example.com"}
	for i := range ascending[1:] {
		low, high := mustPattern(ascending[i]), mustPattern(ascending[i+1])
		if low.Specificity() >= high.Specificity() {
			t.Errorf("%s is not below %s", low, high)
		}
	}
}

func TestParseHostPatternRefuses(t *testing.T) {
	tests := []struct{ pattern, want string }{
		{"", "host pattern: the origin's name is empty"},
		{"*.", "host pattern: the origin's name is empty"},
		{"**", `host pattern "**" has a * that is not its whole first label`},
		{"web*", `host pattern "web*" has a * that is not its whole first label`},
		{"*web", `host pattern "*web" has a * that is not its whole first label`},
		{"a.*.b", `host pattern "a.*.b" has a * that is not its whole first label`},
		{"*.*.b", `host pattern "*.*.b" has a * that is not its whole first label`},
		{"a b", `host pattern: origin "a b" has a character that DNS names do not have`},
	}
	for _, tt := range tests {
		if got, err := sshgate.ParseHostPattern(tt.pattern); err == nil || err.Error() != tt.want {
			t.Errorf("ParseHostPattern(%q) = %v, %v, want error %q", tt.pattern, got, err, tt.want)
		}
	}
}
