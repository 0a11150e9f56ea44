// Package condition compiles the conditions of rules, which are written in CEL
// (https://cel.dev), so that the policy can ask them. Start with Compile.
package condition

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/sshgate/sshgate/sshgate"
)

const (
	maxSource = 4096 // characters
	// maxCost bounds one evaluation, in CEL's units: about one for each value that
	// is looked at. Conditions that people write cost some dozens.
	maxCost = 100_000
)

// identity, request and activity are what conditions see.
type identity struct {
	Kind          string         `cel:"kind"`
	Issuer        string         `cel:"issuer"`
	Subject       string         `cel:"subject"`
	Name          string         `cel:"name"`
	Email         string         `cel:"email"` // empty unless verified
	EmailVerified bool           `cel:"email_verified"`
	Groups        []string       `cel:"groups"`
	Claims        map[string]any `cel:"claims"`
	SignedIn      time.Time      `cel:"signed_in"`
}

type request struct {
	Origin      string    `cel:"origin"`
	Login       string    `cel:"login"`
	Channel     string    `cel:"channel"`
	Activity    activity  `cel:"activity"`
	Port        int64     `cel:"port"`
	Address     string    `cel:"address"`
	Country     string    `cel:"country"`
	Time        time.Time `cel:"time"`
	KeyType     string    `cel:"key_type"`
	KeyTouched  bool      `cel:"key_touched"`
	KeyVerified bool      `cel:"key_verified"`
	Purpose     string    `cel:"purpose"`
}

type activity struct {
	Kind        string `cel:"kind"`
	Command     string `cel:"command"`
	Path        string `cel:"path"`
	Repository  string `cel:"repository"`
	Write       bool   `cel:"write"`
	Destination string `cel:"destination"`
}

// Error is what is wrong with a condition, and where.
type Error struct {
	Line, Column int // from 1, in the condition
	Text         string
}

// Error returns the text alone.
func (e *Error) Error() string { return e.Text }

// Place returns the line and the column, in characters, from 1.
func (e *Error) Place() (line, column int) { return e.Line, e.Column }

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		ext.NativeTypes(reflect.TypeFor[identity](), reflect.TypeFor[request](), reflect.TypeFor[activity](), ext.ParseStructTags(true)),
		ext.Network(),
		ext.Strings(),
		cel.Variable("identity", cel.ObjectType("condition.identity")),
		cel.Variable("request", cel.ObjectType("condition.request")),
		cel.ParserExpressionSizeLimit(maxSource),
		cel.ParserRecursionLimit(64),
	)
})

// Compile reads a condition. What is wrong with it is an *Error.
func Compile(source string) (sshgate.Condition, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("preparing conditions: %w", err)
	}
	ast, issues := env.Compile(source)
	if list := issues.Errors(); len(list) > 0 {
		at := list[0].Location
		text, _, _ := strings.Cut(list[0].Message, "\n")
		return nil, &Error{Line: max(at.Line(), 1), Column: max(at.Column()+1, 1), Text: text}
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, &Error{Line: 1, Column: 1, Text: fmt.Sprintf("yields a value of type %s, not yes or no", t)}
	}
	program, err := env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, &Error{Line: 1, Column: 1, Text: err.Error()}
	}
	return &condition{source: source, program: program}, nil
}

type condition struct {
	source  string
	program cel.Program
}

// String returns the source.
func (c *condition) String() string { return c.source }

// Holds evaluates the condition.
func (c *condition) Holds(r sshgate.Request) (holds bool, err error) {
	value, _, err := c.program.Eval(map[string]any{"identity": identityOf(r.Identity), "request": requestOf(r)})
	if err != nil {
		return false, err
	}
	answer, ok := value.(types.Bool)
	if !ok {
		return false, errors.New("the condition yields neither yes nor no")
	}
	return bool(answer), nil
}

func identityOf(id sshgate.Identity) *identity {
	claims, _ := plain(id.Claims).(map[string]any)
	return &identity{
		Kind: string(id.Kind), Issuer: id.Issuer, Subject: id.Subject, Name: id.Name,
		Email: id.VerifiedEmail(), EmailVerified: id.EmailVerified,
		Groups: id.Groups, Claims: claims, SignedIn: id.SignedInAt,
	}
}

func requestOf(r sshgate.Request) *request {
	address := ""
	if r.ClientAddr.IsValid() {
		address = r.ClientAddr.Unmap().WithZone("").String()
	}
	return &request{
		Origin: string(r.Target.Origin), Login: string(r.Target.Login),
		Channel: string(r.Channel),
		Activity: activity{
			Kind: string(r.Activity.Kind), Command: r.Activity.Command, Path: r.Activity.Path,
			Repository: r.Activity.Repository, Write: r.Activity.Write, Destination: r.Activity.Destination,
		},
		Port: int64(r.Port), Address: address, Country: r.Country, Time: r.Time,
		KeyType: r.Key.Type, KeyTouched: r.Key.Touched, KeyVerified: r.Key.Verified, Purpose: r.Purpose,
	}
}

// plain returns a decoded JSON value in which every number is a float64, the one
// kind that conditions compare with their own.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plain(v[i])
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for name := range v {
			object[name] = plain(v[name])
		}
		return object
	}
	return v
}
