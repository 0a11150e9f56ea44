package sshgate

import (
	"crypto/rand"
	"strings"
)

// userAlphabet has no vowels, so that no words come out, and nothing that is easily
// misread (RFC 8628 section 6.1).
const userAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// NewUserCode returns eight letters as XXXX-XXXX, 34 bits, for people to compare and
// to type. Who may try codes must be limited.
func NewUserCode() string {
	var b strings.Builder
	var random [1]byte
	for b.Len() < 9 {
		if b.Len() == 4 {
			b.WriteByte('-')
		}
		rand.Read(random[:]) // never fails, see crypto/rand
		if n := int(random[0]); n < 256/len(userAlphabet)*len(userAlphabet) {
			b.WriteByte(userAlphabet[n%len(userAlphabet)])
		}
	}
	return b.String()
}

// NormalUserCode reads a user code as people type it: "" where it is none.
func NormalUserCode(s string) string {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune(userAlphabet, r) {
			return r
		}
		return -1
	}, strings.ToUpper(s))
	if len(s) != 8 {
		return ""
	}
	return s[:4] + "-" + s[4:]
}
