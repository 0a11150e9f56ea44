package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File string // as it was named to Load or Parse
	Line int    // from 1
	// Column is in characters, from 1. It is 1 where only the line is known.
	Column int
	// Field leads to the setting, as in ssh.listen or origins[0].name. It is
	// empty where the file as a whole is wrong.
	Field string
	// Text says what is wrong and what is expected.
	Text string
}

// String returns the problem as FILE:LINE:COLUMN: field: text, the form that
// editors take for a place to jump to.
func (p Problem) String() string {
	if p.Field == "" {
		return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s", p.File, p.Line, p.Column, p.Field, p.Text)
}

// Error is everything that is wrong with a configuration, in the order of its
// lines. It is never empty.
type Error struct {
	Problems []Problem
}

// Error returns a line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func sortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Field, b.Field))
	})
}

// quote quotes text from the file for a message, shortened where it is long.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}

// nearest returns the candidate that s is probably a slip of, or "".
func nearest(s string, candidates []string) string {
	const longest = 64
	if len(s) > longest {
		return ""
	}
	best, bestDistance := "", len(s)/3+2
	for _, candidate := range candidates {
		if d := distance(s, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitution := diagonal
			if a[i] != b[j] {
				substitution++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitution, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
