package sshgate

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// CommandPattern stands for command lines. It is compared with the whole line:
// `*` stands for any text, and everything else for itself.
//
// The origin's shell interprets the line, so a `*` never stands for a character
// that means something to a shell: not for ; & | < > $ ` ( ) { } ! ^, nor for
// quotes, backslashes, line breaks and other control characters. `git *` is not
// git log; rm -rf /. Where such a character is wanted, the pattern has it. The
// pattern `*` alone stands for every line, a shell's included.
//
// What the program does with its arguments is another matter: many, git and find
// among them, run others if told. The narrower the pattern, the better.
type CommandPattern string

const (
	maxPattern = 1024 // bytes
	anything   = "*"
)

// ParseCommandPattern checks a pattern.
func ParseCommandPattern(s string) (CommandPattern, error) {
	switch {
	case strings.TrimSpace(s) == "":
		return "", errors.New("the command is empty")
	case len(s) > maxPattern:
		return "", fmt.Errorf("the command is longer than %d bytes", maxPattern)
	}
	return CommandPattern(s), nil
}

// Match tells whether the pattern stands for the command line.
func (p CommandPattern) Match(line string) bool {
	if p == anything {
		return true
	}
	return glob(string(p), line, func(c byte, _ bool) bool { return plainByte(c) })
}

// plainByte tells whether a byte of a command line has no meaning to a shell
// other than to part words or to name files.
func plainByte(c byte) bool {
	return c >= ' ' && c != 0x7f && strings.IndexByte(";&|<>$`(){}!^\\\"'", c) < 0
}

// PathPattern stands for paths and for git repositories. A `*` stands for any
// text without a slash, `**` for any text. Absolute paths match patterns that
// begin with a slash, and others the rest: they are different places.
//
// A path that is not clean, with .. or an empty part in it, matches only the
// pattern `**`.
type PathPattern string

// ParsePathPattern checks a pattern.
func ParsePathPattern(s string) (PathPattern, error) {
	switch {
	case s == "":
		return "", errors.New("the path is empty")
	case len(s) > maxPattern:
		return "", fmt.Errorf("the path is longer than %d bytes", maxPattern)
	case s != path.Clean(s) || s == "." || strings.HasPrefix(s, ".."):
		return "", fmt.Errorf("the path %q is not in its shortest form, so that it can match nothing", s)
	}
	return PathPattern(s), nil
}

// Match tells whether the pattern stands for the path.
func (p PathPattern) Match(name string) bool {
	if p == "**" {
		return name != ""
	}
	if name == "" || name == "." || name != path.Clean(name) || strings.HasPrefix(name, "..") || strings.ContainsAny(name, "\x00\n") {
		return false
	}
	if strings.HasPrefix(string(p), "/") != strings.HasPrefix(name, "/") {
		return false
	}
	return glob(string(p), name, func(c byte, double bool) bool { return double || c != '/' })
}

// MatchRepository tells whether the pattern stands for the git repository. The
// suffix .git and a slash at the end do not count, as they do not to git.
func (p PathPattern) MatchRepository(name string) bool {
	if p == "**" {
		return name != ""
	}
	bare := strings.TrimSuffix(strings.TrimSuffix(name, "/"), ".git")
	return PathPattern(strings.TrimSuffix(string(p), ".git")).Match(bare)
}

// glob compares text with a pattern in which `*` stands for any run of bytes
// that fill accepts, given the byte and whether the `*` is one of two. It keeps
// the set of places in the pattern where the text so far may have led to, so that
// no pattern takes longer than its length times that of the text.
func glob(pattern, text string, fill func(c byte, double bool) bool) bool {
	at, next := make([]bool, len(pattern)+1), make([]bool, len(pattern)+1)
	at[0] = true
	for i := range len(text) + 1 {
		for p := range len(pattern) {
			if at[p] && pattern[p] == '*' {
				at[p+1] = true
			}
		}
		if i == len(text) {
			break
		}
		clear(next)
		for p := range len(pattern) {
			switch {
			case !at[p]:
			case pattern[p] != '*':
				next[p+1] = next[p+1] || pattern[p] == text[i]
			default:
				next[p] = next[p] || fill(text[i], strings.HasPrefix(pattern[p+1:], "*"))
			}
		}
		at, next = next, at
	}
	return at[len(pattern)]
}
