package sshgate

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ClaimPath names a claim of the ID token. Make one with ParseClaimPath.
//
// The claim of exactly that name is taken where there is one, so that the
// namespaced names that some providers use (https://example.com/team) can be
// written as they are. Otherwise dots lead into nested objects: realm.roles is
// the member roles of the claim realm.
type ClaimPath string

const maxClaimPath = 256 // bytes

// ParseClaimPath checks the name of a claim.
//
// It refuses the claim email, at any depth and in any namespace: an address
// means nothing unless the provider vouches for it, which the selectors Email
// and EmailDomain see to.
func ParseClaimPath(s string) (ClaimPath, error) {
	if s == "" {
		return "", errors.New("the claim's name is empty")
	}
	if len(s) > maxClaimPath {
		return "", fmt.Errorf("the claim's name is longer than %d bytes", maxClaimPath)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte("${}\"\\", c) >= 0 {
			return "", fmt.Errorf("the claim's name %q has a character that is not allowed in it", s)
		}
	}
	for segment := range strings.SplitSeq(s, ".") {
		if segment == "" {
			return "", fmt.Errorf("the claim's name %q has an empty part", s)
		}
	}
	if last := s[strings.LastIndexAny(s, "./:")+1:]; equalFoldASCII(last, "email") {
		return "", fmt.Errorf("the claim %q may be an address that nobody verified", s)
	}
	return ClaimPath(s), nil
}

// Texts returns the claim's values among claims as text, as the selector Claim
// compares them: its own, or those of its elements. There is none for what is
// neither text, truth value nor number.
func (p ClaimPath) Texts(claims map[string]any) []string {
	v := p.lookup(claims)
	if v == nil {
		return nil
	}
	return claimStrings(v)
}

// lookup returns the claim's value as decoded JSON, or nil where there is none.
func (p ClaimPath) lookup(claims map[string]any) any {
	if v, ok := claims[string(p)]; ok {
		return v
	}
	var v any = claims
	for segment := range strings.SplitSeq(string(p), ".") {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[segment]
	}
	return v
}

// claimStrings returns the values of a claim as text: its own, or those of its
// elements. What is neither text, truth value nor number has none.
func claimStrings(v any) []string {
	elements, ok := v.([]any)
	if !ok {
		elements = []any{v}
	}
	texts := make([]string, 0, len(elements))
	for _, e := range elements {
		if s, ok := claimScalar(e); ok {
			texts = append(texts, s)
		}
	}
	return texts
}

// maxExactFloat is where float64 begins to skip integers. A decoded number from
// there on may be another than the provider sent, so it equals nothing.
const maxExactFloat = 1 << 53

func claimScalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	case float64:
		if math.Abs(v) >= maxExactFloat || math.IsNaN(v) {
			return "", false
		}
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}

// equalFoldASCII compares two strings without regard to the case of ASCII
// letters. Unicode's folding, which strings.EqualFold uses, would take the
// Kelvin sign for a k, and so one person's address for another's.
func equalFoldASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lowerASCII(a[i]) != lowerASCII(b[i]) {
			return false
		}
	}
	return true
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
