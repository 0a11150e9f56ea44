package sshgate

import (
	"errors"
	"fmt"
	"strings"
)

// LoginTemplate says which account a rule lets somebody use. Make one with
// ParseLoginTemplate; the zero value yields nothing.
//
//	deploy                     the account deploy
//	${claims.unix_name}        the account that the claim names
//	adm-${claims.unix.name}    the same with a prefix, from a nested claim
//	*                          any account that the client names, root included
type LoginTemplate struct {
	text  string
	parts []loginPart
	any   bool
}

// loginPart is a literal or, when claim is not empty, a reference.
type loginPart struct {
	literal string
	claim   ClaimPath
}

const (
	maxLoginTemplate = 512 // bytes
	claimsNamespace  = "claims."
)

// ParseLoginTemplate reads a template.
//
// There is no way to make an account name from an e-mail address: the
// reference ${claims.email} is refused here, and Expand refuses any value that
// has an @. Whatever of alice@a.com and alice@b.com is short enough to be an
// account name is the same for both, and they must not share an account.
func ParseLoginTemplate(s string) (LoginTemplate, error) {
	if s == "*" {
		return LoginTemplate{text: s, any: true}, nil
	}
	if len(s) > maxLoginTemplate {
		return LoginTemplate{}, fmt.Errorf("the login is longer than %d bytes", maxLoginTemplate)
	}
	t := LoginTemplate{text: s}
	sample := ""
	for rest := s; rest != ""; {
		literal, after, found := strings.Cut(rest, "${")
		if literal != "" {
			t.parts = append(t.parts, loginPart{literal: literal})
			sample += literal
		}
		if !found {
			break
		}
		reference, after, found := strings.Cut(after, "}")
		if !found {
			return LoginTemplate{}, fmt.Errorf("the login %q has ${ without its }", s)
		}
		claim, err := parseReference(reference)
		if err != nil {
			return LoginTemplate{}, err
		}
		t.parts = append(t.parts, loginPart{claim: claim})
		sample += "x"
		rest = after
	}
	if _, err := ParseLogin(sample); err != nil {
		return LoginTemplate{}, err
	}
	return t, nil
}

func parseReference(s string) (ClaimPath, error) {
	name, ok := strings.CutPrefix(s, claimsNamespace)
	if !ok {
		return "", fmt.Errorf("the reference ${%s} is unknown; use ${claims.NAME}", s)
	}
	claim, err := ParseClaimPath(name)
	if err != nil {
		return "", fmt.Errorf("the reference ${%s}: %w", s, err)
	}
	return claim, nil
}

// String returns the template as ParseLoginTemplate reads it.
func (t LoginTemplate) String() string { return t.text }

// Any tells whether the template is `*`, which permits every login that the
// client names and has no login of its own.
func (t LoginTemplate) Any() bool { return t.any }

// Expand returns the login that the template yields for somebody. It fails
// where there is none: the template is `*`; a claim is missing, empty, not text,
// or has an @; ParseLogin refuses the result; or the result of a reference is
// root or all digits, which tools take for a user id.
func (t LoginTemplate) Expand(id Identity) (Login, error) {
	if t.any {
		return "", errors.New("the login * has no value of its own")
	}
	var text strings.Builder
	referenced := false
	for _, part := range t.parts {
		if part.claim == "" {
			text.WriteString(part.literal)
			continue
		}
		referenced = true
		value, ok := part.claim.lookup(id.Claims).(string)
		if !ok || value == "" {
			return "", fmt.Errorf("the claim %q is missing or not text", part.claim)
		}
		if strings.Contains(value, "@") {
			return "", fmt.Errorf("the claim %q looks like an e-mail address, which names no account", part.claim)
		}
		text.WriteString(value)
	}
	login, err := ParseLogin(text.String())
	if err != nil {
		return "", err
	}
	if referenced && isPrivilegedName(login) {
		return "", fmt.Errorf("claims must not yield the login %q", login)
	}
	return login, nil
}

// isPrivilegedName tells whether the login is root, in any case since some
// systems ignore it, or reads as a user id.
func isPrivilegedName(login Login) bool {
	return equalFoldASCII(string(login), "root") || strings.Trim(string(login), "0123456789") == ""
}
