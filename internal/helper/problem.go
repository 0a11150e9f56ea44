// Package helper is what `sshgate access` is made of: reaching a gateway, signing
// in at it, keeping the token, and carrying a connection to a service of an origin.
//
// Start with Find, which says which gateway is meant, and Access, which has a
// credential for it. The interface of the gateway is sshgate/web/API.md. The
// package links no part of the gateway, and starts nothing that it does not wait
// for.
package helper

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what went wrong, as exit code.
type Kind int

// The kinds of problems.
const (
	Broken      Kind = 1 // the connection broke, or anything else
	Usage       Kind = 2 // a wrong flag, variable or file
	Denied      Kind = 3 // the policy says no
	SignIn      Kind = 4 // the token or the sign-in is not good
	Origin      Kind = 5 // the origin is offline or does not answer
	Unreachable Kind = 6 // the gateway cannot be reached, or is not who it should be
)

// Problem is an error for people: what happened, and what to do.
type Problem struct {
	Kind    Kind
	Code    string // of the gateway's answer, "" where it gave none
	Text    string
	Request string // of the gateway's log, "" where there is none
	Next    string // what to do, "" where nothing helps
	Err     error  // what lies behind, may be nil
}

// Error returns all of it in one line.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Text)
	if p.Err != nil {
		fmt.Fprintf(&b, ": %v", p.Err)
	}
	if p.Request != "" {
		fmt.Fprintf(&b, " (request %s)", p.Request)
	}
	if p.Next != "" {
		fmt.Fprintf(&b, "; %s", p.Next)
	}
	return b.String()
}

func (p *Problem) Unwrap() error { return p.Err }

// KindOf returns the kind of an error, Broken where it has none.
func KindOf(err error) Kind {
	var p *Problem
	if errors.As(err, &p) {
		return p.Kind
	}
	return Broken
}

// usage returns a problem of a flag, a variable or a file.
func usage(format string, args ...any) *Problem {
	return &Problem{Kind: Usage, Text: fmt.Sprintf(format, args...)}
}

// isTokenProblem tells that another token may help.
func isTokenProblem(err error) bool {
	var p *Problem
	if !errors.As(err, &p) {
		return false
	}
	switch p.Code {
	case "token_unknown", "token_expired", "token_revoked", "token_required", "sign_in_expired":
		return true
	}
	return false
}

// answerProblem turns the gateway's answer of no into a problem.
func answerProblem(code, text, request string) *Problem {
	p := &Problem{Code: code, Text: printable(text), Request: printable(request)}
	if p.Text == "" {
		p.Text = "the gateway answered " + printable(code)
	}
	switch code {
	case "denied":
		p.Kind = Denied
	case "token_required", "token_unknown", "token_expired", "token_revoked", "sign_in_expired", "invalid_grant", "access_denied", "expired_token", "too_many":
		p.Kind = SignIn
	case "origin_offline", "origin_unreachable", "origin_timeout", "host_key_changed":
		p.Kind = Origin
	case "shutting_down", "unavailable":
		p.Kind = Unreachable
	default:
		p.Kind = Broken
	}
	return p
}

// printable keeps what another program sent from moving the terminal's cursor.
func printable(s string) string {
	const longest = 1000
	if len(s) > longest {
		s = s[:longest]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
