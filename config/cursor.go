package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// cursor is a value of the document and the path that leads to it.
type cursor struct {
	doc  *document
	node *yaml.Node
	path string
}

// schema says how to decode the keys of a mapping.
type schema map[string]func(cursor)

// required are the keys that a mapping must have, with what each is for.
type required map[string]string

// entry is a key of a mapping with its value, aliases followed.
type entry struct {
	key, value *yaml.Node
}

// advice answers keys that no mapping has but that people try.
var advice = map[string]string{
	"client_secret": "secrets do not belong in this file; name a file in client_secret_file or a variable in client_secret_env",
	"bypass":        "nothing bypasses the sign-in; write an allow rule",
}

func (c cursor) problem(format string, args ...any) {
	c.doc.report(c.node.Line, c.node.Column, c.path, fmt.Sprintf(format, args...))
}

// child returns the cursor of a value inside this one.
func (c cursor) child(suffix string, node *yaml.Node) cursor {
	child := cursor{doc: c.doc, node: node, path: c.path + suffix}
	c.doc.nodes[child.path] = node
	return child
}

// key returns the cursor of the value of a key.
func (c cursor) key(name string, node *yaml.Node) cursor {
	if c.path == "" {
		return c.child(name, node)
	}
	return c.child("."+name, node)
}

// visit counts a value and follows its alias. It fails, and says so once, when
// the document has grown past maxVisits. Tags are refused: nothing here has use
// for a value that is not what it looks like.
func (c cursor) visit(node *yaml.Node) (*yaml.Node, bool) {
	c.doc.visits++
	if c.doc.visits == maxVisits {
		c.problem("the file has more than %d values once its aliases are followed", maxVisits)
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Style&yaml.TaggedStyle != 0 {
		at := cursor{doc: c.doc, node: node, path: c.path}
		at.problem("the tag %s has no meaning here; remove it", quote(node.Tag))
	}
	return node, c.doc.visits < maxVisits
}

// object decodes a mapping. A section without a value is an empty one, since
// that is what is left of it when all of its lines are comments.
func (c cursor) object(fields schema, needs required) {
	if !isNull(c.node) && c.node.Kind != yaml.MappingNode {
		c.problem("is %s; expected settings such as %s", kindName(c.node), strings.Join(firstKeys(fields), ", "))
		return
	}
	seen := map[string]bool{}
	for _, e := range c.entries(0) {
		name := e.key.Value
		seen[name] = true
		if decode, known := fields[name]; known {
			decode(c.key(name, e.value))
		} else {
			c.unknownKey(e.key, fields)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		if !seen[name] {
			at := cursor{doc: c.doc, node: c.node, path: strings.TrimPrefix(c.path+"."+name, ".")}
			at.problem("is missing; %s", needs[name])
		}
	}
}

// entries returns the keys of a mapping in order. Those that it merges (`<<`)
// come last, and only where the mapping has none of their name.
func (c cursor) entries(depth int) []entry {
	var entries, merged []entry
	lines := map[string]int{}
	for i := 0; i+1 < len(c.node.Content); i += 2 {
		key := c.node.Content[i]
		value, ok := c.visit(c.node.Content[i+1])
		if !ok {
			return nil
		}
		if key.Kind != yaml.ScalarNode || isNull(key) || key.Style&yaml.TaggedStyle != 0 {
			c.doc.report(key.Line, key.Column, c.path, "has a key that is not plain text")
			continue
		}
		if key.ShortTag() == "!!merge" {
			merged = append(merged, c.merged(value, depth)...)
			continue
		}
		if line, twice := lines[key.Value]; twice {
			at := cursor{doc: c.doc, node: key, path: c.path}
			at.problem("%s is set a second time; it is in line %d already", quote(key.Value), line)
			continue
		}
		lines[key.Value] = key.Line
		entries = append(entries, entry{key: key, value: value})
	}
	for _, e := range merged {
		if _, own := lines[e.key.Value]; !own {
			lines[e.key.Value] = e.key.Line
			entries = append(entries, e)
		}
	}
	return entries
}

// merged returns the keys that a merge key brings: those of a mapping, or of a
// list of mappings of which the first to have a key wins.
func (c cursor) merged(value *yaml.Node, depth int) []entry {
	at := cursor{doc: c.doc, node: value, path: c.path}
	switch {
	case depth >= maxMerges:
		at.problem("merge keys nest deeper than %d", maxMerges)
	case value.Kind == yaml.MappingNode:
		return at.entries(depth + 1)
	case value.Kind == yaml.SequenceNode:
		var entries []entry
		for _, item := range value.Content {
			mapping, ok := at.visit(item)
			if !ok {
				return nil
			}
			if mapping.Kind != yaml.MappingNode {
				at.problem("the merge key << takes a mapping or a list of mappings")
				return nil
			}
			entries = append(entries, cursor{doc: c.doc, node: mapping, path: c.path}.entries(depth+1)...)
		}
		return entries
	default:
		at.problem("the merge key << takes a mapping or a list of mappings")
	}
	return nil
}

func (c cursor) unknownKey(key *yaml.Node, fields schema) {
	at := cursor{doc: c.doc, node: key, path: c.path}
	name := key.Value
	known := slices.Sorted(maps.Keys(fields))
	text := "expected one of " + strings.Join(known, ", ")
	if hint := nearest(name, known); hint != "" {
		text = "did you mean " + hint + "?"
	}
	if special, ok := advice[name]; ok {
		text = special
	}
	at.problem("unknown key %s; %s", quote(name), text)
}

// items returns the values of a list. A value that is not a list is a list of
// that one.
func (c cursor) items() []cursor {
	if isNull(c.node) {
		c.noValue()
		return nil
	}
	if c.node.Kind != yaml.SequenceNode {
		return []cursor{c.child("[0]", c.node)}
	}
	items := make([]cursor, 0, len(c.node.Content))
	for i, node := range c.node.Content {
		value, ok := c.visit(node)
		if !ok {
			return nil
		}
		items = append(items, c.child(fmt.Sprintf("[%d]", i), value))
	}
	return items
}

// scalar returns the text of a single value, as it is written.
func (c cursor) scalar() (string, bool) {
	switch {
	case isNull(c.node):
		c.noValue()
	case c.node.Kind != yaml.ScalarNode:
		c.problem("is %s; expected a single value", kindName(c.node))
	default:
		return c.node.Value, true
	}
	return "", false
}

func (c cursor) noValue() {
	c.problem("has no value; give it one or remove the key")
}

func kindName(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// firstKeys returns some of the keys, for a message.
func firstKeys(fields schema) []string {
	keys := slices.Sorted(maps.Keys(fields))
	return keys[:min(len(keys), 3)]
}

// standIn returns the cursor of a key that is not there, with a default in its
// place, so that the default is checked like a value and reported where the key
// would be.
func (c cursor) standIn(name, value string) cursor {
	node := *c.node
	node.Kind, node.Style, node.Tag, node.Value = yaml.ScalarNode, 0, "!!str", value
	return cursor{doc: c.doc, node: &node, path: name}
}
