package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sshgate/sshgate/sshgate"
)

// document is one configuration while it is decoded.
type document struct {
	file    string
	dir     string // absolute; where relative paths start
	example string // the command that prints one
	env     func(string) string
	// condition compiles the conditions of rules; nil where there can be none.
	condition func(string) (sshgate.Condition, error)
	lines     []string // of the text
	problems  []Problem
	warnings  []Problem
	dropped   int                   // problems past maxProblems
	nodes     map[string]*yaml.Node // the values that were seen, by their path
	visits    int                   // values that were seen, aliases counted each time
}

const (
	// maxProblems is how many problems are reported, maxVisits how many values
	// a document may have once its aliases are followed, maxMerges how deep
	// merge keys may nest. They bound what a hostile or broken file costs.
	maxProblems = 100
	maxVisits   = 100_000
	maxMerges   = 8
)

func newDocument(file, dir, example string, env func(string) string) *document {
	return &document{file: file, dir: dir, example: example, env: env, nodes: map[string]*yaml.Node{}}
}

// report notes a problem. Those past maxProblems are only counted.
func (d *document) report(line, column int, field, text string) {
	if len(d.problems) >= maxProblems {
		d.dropped++
		return
	}
	d.problems = append(d.problems, Problem{
		File: d.file, Line: max(line, 1), Column: max(column, 1), Field: field, Text: text,
	})
}

// err returns everything that was reported.
func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	sortProblems(d.problems)
	problems := slices.Compact(d.problems) // what is merged twice is wrong twice
	if d.dropped > 0 {
		last := problems[len(problems)-1]
		last.Field, last.Text = "", fmt.Sprintf("%d more problems are not shown", d.dropped)
		problems = append(problems, last)
	}
	return &Error{Problems: problems}
}

// root parses the text. It reports what keeps it from being one YAML mapping.
func (d *document) root(data []byte) (cursor, bool) {
	if len(data) > maxFile {
		d.report(1, 1, "", fmt.Sprintf("the file is larger than %d KiB; a configuration is small", maxFile>>10))
		return cursor{}, false
	}
	if !d.checkText(data) {
		return cursor{}, false
	}
	d.lines = strings.Split(string(data), "\n")
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var node yaml.Node
	err := decoder.Decode(&node)
	if err != nil && !errors.Is(err, io.EOF) {
		d.reportSyntax(err, data)
		return cursor{}, false
	}
	if err != nil || len(node.Content) == 0 || isNull(node.Content[0]) {
		d.report(1, 1, "", fmt.Sprintf("the file is empty; %q prints one to start from", d.example))
		return cursor{}, false
	}
	var second yaml.Node
	if err := decoder.Decode(&second); err == nil {
		d.report(second.Line, second.Column, "", "a second YAML document begins; the file must hold one")
		return cursor{}, false
	} else if !errors.Is(err, io.EOF) {
		d.reportSyntax(err, data)
		return cursor{}, false
	}
	return cursor{doc: d, node: node.Content[0]}, true
}

// checkText reports the first byte that is not UTF-8 or is a control character,
// for which the YAML parser has no line.
func (d *document) checkText(data []byte) bool {
	line, column := 1, 1
	for rest := data; len(rest) > 0; column++ {
		r, size := utf8.DecodeRune(rest)
		rest = rest[size:]
		switch {
		case r == '\n':
			line, column = line+1, 0
		case r == utf8.RuneError && size == 1:
			d.report(line, column, "", "the text is not UTF-8")
			return false
		case r < ' ' && r != '\t' && r != '\r' || r == 0x7f:
			d.report(line, column, "", fmt.Sprintf("the text has the control character %#U", r))
			return false
		}
	}
	return true
}

var (
	yamlLine      = regexp.MustCompile(`^line (\d+): `)
	yamlAnchor    = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
	yamlLateLines = regexp.MustCompile(`^did not find expected (node content|key|'-' indicator|',' or '[\]}]'|<.*>)$`)
)

// reportSyntax reports an error of the YAML parser, which has the line in its
// text, if at all.
func (d *document) reportSyntax(err error, data []byte) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	found := yamlLine.FindStringSubmatch(text)
	if found != nil {
		line, _ = strconv.Atoi(found[1]) // digits, or it would not have matched
		text = strings.TrimPrefix(text, found[0])
	}
	// The parser proper counts lines from 0, its scanner from 1.
	if found != nil && yamlLateLines.MatchString(text) {
		line++
	}
	if anchor := yamlAnchor.FindStringSubmatch(text); anchor != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+anchor[1]))
		line = bytes.Count(before, []byte("\n")) + 1
		text = "unknown anchor " + quote(anchor[1])
	}
	d.report(line, 1, "", "is not valid YAML: "+text+`; put values in "" that begin with * & ! % @ [ or {`)
}

// problemAt reports a problem of the value at the path or, where there is none,
// of the one around it.
func (d *document) problemAt(path, text string) {
	line, column := d.place(path)
	d.report(line, column, path, text)
}

// warnAt notes what is legal but hardly meant.
func (d *document) warnAt(path, text string) {
	line, column := d.place(path)
	d.warnings = append(d.warnings, Problem{File: d.file, Line: line, Column: column, Field: path, Text: text})
}

// place returns where the value at the path is or, where there is none, the one
// around it.
func (d *document) place(path string) (line, column int) {
	for at := path; ; {
		if node, ok := d.nodes[at]; ok {
			return node.Line, node.Column
		}
		cut := strings.LastIndexAny(at, ".[")
		if cut < 0 {
			return 1, 1
		}
		at = at[:cut]
	}
}

// reported tells whether the value at the path, or one inside it, has a problem
// already.
func (d *document) reported(path string) bool {
	for _, p := range d.problems {
		rest, ok := strings.CutPrefix(p.Field, path)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}
