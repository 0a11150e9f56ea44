// Package config reads the YAML files of the two programs: Gateway is that of
// sshgated, Connector that of `sshgate connector`. Call LoadGateway or
// LoadConnector; the files that ship are ExampleGateway and ExampleConnector.
//
// Reading is strict. A key that is unknown or set twice is an error, and so is
// a value that is out of range or names a file that can't be used. Everything
// that is wrong is reported at once, with line and column. Secrets stand in
// files or the environment, never in the YAML.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ExampleGateway is the commented configuration of sshgated that ships.
//
//go:embed example.gateway.yaml
var ExampleGateway string

// ExampleConnector is the commented configuration of the connector that ships.
//
//go:embed example.connector.yaml
var ExampleConnector string

// What prints an example of a configuration.
const (
	exampleGateway   = "sshgated example"
	exampleConnector = "sshgate connector example"
)

// maxFile is the largest configuration that is read, in bytes.
const maxFile = 1 << 20

// LoadGateway reads the configuration of sshgated. Relative paths in it start
// at its own directory. The environment is read through env, which is os.Getenv
// in a program; nil is an empty environment. A Reader can do more.
//
// What is wrong with the content is reported as an *Error.
func LoadGateway(path string, env func(string) string) (*Gateway, error) {
	return Reader{Env: env}.LoadGateway(path)
}

// LoadConnector reads the configuration of the connector, as LoadGateway does
// that of sshgated.
func LoadConnector(path string, env func(string) string) (*Connector, error) {
	data, err := read(path, exampleConnector)
	if err != nil {
		return nil, err
	}
	return ParseConnector(data, path, env)
}

// read returns the file, or a little more than maxFile bytes of it, which
// parsing then refuses.
func read(path, example string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no configuration %s; name the file, or make one (\"%s\" prints one to start from): %w", path, example, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return data, nil
}

// Secret is a value that is neither printed nor logged: every formatting of it
// yields the same placeholder. Reveal returns the value.
type Secret struct {
	value string
}

const redacted = "(secret)"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.value }

// String returns a placeholder.
func (s Secret) String() string { return redacted }

// Format writes the placeholder for every verb, those included that would
// otherwise look into the struct.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns the placeholder to encoders, slog's among them.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// parse hands the root of the document to decode and returns what either found
// wrong. It is the part that the two kinds of configuration share.
func parse(data []byte, file, example string, env func(string) string, decode func(cursor)) error {
	_, err := Reader{Env: env}.parse(data, file, example, decode)
	return err
}

func (r Reader) parse(data []byte, file, example string, decode func(cursor)) (warnings []Problem, err error) {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("finding the configuration's directory: %w", err)
	}
	if r.Env == nil {
		r.Env = func(string) string { return "" }
	}
	doc := newDocument(file, dir, example, r.Env)
	doc.condition = r.Condition
	if root, ok := doc.root(data); ok {
		decode(root)
	}
	sortProblems(doc.warnings)
	return doc.warnings, doc.err()
}
