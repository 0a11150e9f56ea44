package config

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sshgate/sshgate/sshgate"
)

// Reader reads configurations of the gateway. The zero value has an empty
// environment, and knows no conditions.
type Reader struct {
	// Env looks a variable of the environment up; os.Getenv in a program.
	Env func(string) string
	// Condition compiles what stands in a rule's when. Its error may say where the
	// mistake is, with a method Place that returns the line and the column in the
	// source, from 1. Where it is nil, rules can have no when.
	Condition func(source string) (sshgate.Condition, error)
}

// LoadGateway reads a file, see the function of that name.
func (r Reader) LoadGateway(path string) (*Gateway, error) {
	data, err := read(path, exampleGateway)
	if err != nil {
		return nil, err
	}
	return r.ParseGateway(data, path)
}

// placed is an error that knows where in a condition it is.
type placed interface {
	error
	Place() (line, column int)
}

// condition decodes a rule's when.
func condition(dst *sshgate.Condition) func(cursor) {
	return func(c cursor) {
		source, ok := c.scalar()
		if !ok {
			return
		}
		if c.doc.condition == nil {
			c.problem("is a condition, which this program does not read")
			return
		}
		compiled, err := c.doc.condition(source)
		if err == nil {
			*dst = compiled
			return
		}
		text := fmt.Sprintf("is no condition: %v", err)
		var at placed
		if !errors.As(err, &at) {
			c.problem("%s", text)
			return
		}
		line, column := at.Place()
		if l, col, ok := c.inside(line, column); ok {
			c.doc.report(l, col, c.path, text)
			return
		}
		c.problem("%s (line %d, character %d of it)", text, line, column)
	}
}

// inside returns the place in the file of a place in the text of a single value.
// ok is false where the file does not have the text as it is.
func (c cursor) inside(line, column int) (fileLine, fileColumn int, ok bool) {
	lines := strings.Split(c.node.Value, "\n")
	if line < 1 || line > len(lines) || line > 1 && c.node.Style&yaml.LiteralStyle == 0 {
		return 0, 0, false
	}
	fileLine, text := c.node.Line, lines[line-1]
	if c.node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		fileLine += line
	}
	if fileLine > len(c.doc.lines) {
		return 0, 0, false
	}
	raw := c.doc.lines[fileLine-1]
	from := strings.Index(raw, text)
	if text == "" || from < 0 || strings.Count(raw, text) > 1 {
		return 0, 0, false
	}
	return fileLine, len([]rune(raw[:from])) + column, true
}
