package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/anmitsu/go-shlex"
	"github.com/spf13/pflag"
)

// Command is an entry of the table of commands.
type Command struct {
	Name  string
	Args  string // what follows the name in a command line, for people
	Short string // one line
	Long  string
	// Administrators says that all uses of it are theirs alone.
	Administrators bool
	// Flags adds its flags besides --json, which all have. Nil: there are none.
	Flags func(*pflag.FlagSet)

	// takes is the least and the most arguments.
	takes [2]int
	// asks tells whether this use needs the administrator's role; nil: as
	// Administrators says.
	asks func(*call) bool
	// changes tells whether this use changes anything; nil: it does not.
	changes func(*call) bool
	run     func(context.Context, *call) error
}

// call is one command line on its way.
type call struct {
	*Console
	who   Caller
	args  []string
	flags *pflag.FlagSet
	out   Output
}

func (c *call) flag(name string) bool {
	set, err := c.flags.GetBool(name)
	return err == nil && set
}

func (c *call) text(name string) string {
	value, _ := c.flags.GetString(name) // "" where there is no such flag
	return value
}

// Commands returns the table, in the order of help.
func Commands() []Command {
	return slices.Concat(ownCommands(), administratorCommands(), []Command{{
		Name: "help", Args: "[COMMAND]", Short: "Say what there is, or more about one command", takes: [2]int{0, 1},
		run: func(_ context.Context, c *call) error { return c.help() },
	}})
}

func find(name string) *Command {
	all := Commands()
	if i := slices.IndexFunc(all, func(cmd Command) bool { return cmd.Name == name }); i >= 0 {
		return &all[i]
	}
	return nil
}

// maxLine bounds a command line, in bytes.
const maxLine = 4096

// RunLine is Run for a command line as SSH carries it: words are split as a shell
// does, with quotes and backslashes and nothing more.
func (c *Console) RunLine(ctx context.Context, who Caller, line string, out Output) int {
	if len(line) > maxLine {
		return c.finish(who, out, usageError{fmt.Errorf("the command line is longer than %d bytes", maxLine)})
	}
	words, err := shlex.Split(line, true)
	if err != nil {
		return c.finish(who, out, usageError{fmt.Errorf("the command line cannot be read: %w", err)})
	}
	return c.Run(ctx, who, words, out)
}

// Run runs a command and returns its exit status. Without any word it is ls.
func (c *Console) Run(ctx context.Context, who Caller, words []string, out Output) int {
	if len(words) == 0 {
		words = []string{"ls"}
	}
	return c.finish(who, out, c.dispatch(ctx, who, words, out))
}

// Refuse puts a command on record that the caller may not even try, and says so.
func (c *Console) Refuse(who Caller, words []string, out Output) int {
	c.record(who, clipLine(quoted(words)), errAdministrators)
	return c.finish(who, out, errAdministrators)
}

func clipLine(line string) string { return line[:min(len(line), maxLine)] }

func (c *Console) finish(who Caller, out Output, err error) int {
	var usage usageError
	var refused notAllowed
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		fmt.Fprintf(out.Stderr, "sshgate: %s; see: %s help\n", clean(err.Error()), c.prefix(who))
		return ExitUsage
	}
	fmt.Fprintf(out.Stderr, "sshgate: %s\n", clean(err.Error()))
	if errors.As(err, &refused) {
		return ExitNotAllowed
	}
	return ExitFailed
}

func (c *Console) dispatch(ctx context.Context, who Caller, words []string, out Output) error {
	if words[0] == "--help" || words[0] == "-h" {
		words = []string{"help"}
	}
	cmd := find(words[0])
	if cmd == nil {
		return usageError{fmt.Errorf("there is no command %q here", clip(words[0]))}
	}
	call := &call{Console: c, who: who, flags: cmd.flagSet(), out: out}
	if err := call.flags.Parse(words[1:]); errors.Is(err, pflag.ErrHelp) {
		return call.helpOn(cmd)
	} else if err != nil {
		return usageError{fmt.Errorf("%s: %w", cmd.Name, err)}
	}
	call.args = call.flags.Args()
	if n := len(call.args); n < cmd.takes[0] || n > cmd.takes[1] {
		return usageError{fmt.Errorf("%s: it is %s", cmd.Name, strings.TrimSpace(cmd.Name+" "+cmd.Args))}
	}
	asks := cmd.Administrators || cmd.asks != nil && cmd.asks(call)
	var refusal error
	if asks && !c.administrator(who) {
		refusal = errAdministrators
	}
	if asks || who.Local || cmd.changes != nil && cmd.changes(call) {
		c.record(who, quoted(words), refusal) // before it is done
	}
	if refusal != nil {
		return refusal
	}
	return cmd.run(ctx, call)
}

func (cmd *Command) flagSet() *pflag.FlagSet {
	flags := pflag.NewFlagSet(cmd.Name, pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	cmd.AddFlags(flags)
	return flags
}

// AddFlags adds the command's flags.
func (cmd *Command) AddFlags(flags *pflag.FlagSet) {
	flags.Bool("json", false, "print JSON: one object, or one a line for what is a list")
	if cmd.Flags != nil {
		cmd.Flags(flags)
	}
}

// prefix is what is typed before a command.
func (c *Console) prefix(who Caller) string {
	if who.Local {
		return "sshgated ctl"
	}
	return "ssh " + sshArguments(c.cfg.Advertise)
}

// quoted puts words into one line again, for people and the record.
func quoted(words []string) string {
	out := make([]string, len(words))
	for i, word := range words {
		if word == "" || strings.ContainsAny(word, " \t\n'\"\\") {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		out[i] = word
	}
	return strings.Join(out, " ")
}

func (c *call) help() error {
	if len(c.args) == 1 {
		cmd := find(c.args[0])
		if cmd == nil || cmd.Administrators && !c.administrator(c.who) {
			return usageError{fmt.Errorf("there is no command %q here", clip(c.args[0]))}
		}
		return c.helpOn(cmd)
	}
	var known []Command
	for _, cmd := range Commands() {
		if !cmd.Administrators || c.administrator(c.who) {
			known = append(known, cmd)
		}
	}
	if c.flag("json") {
		for _, cmd := range known {
			if err := c.json(map[string]any{"name": cmd.Name, "arguments": cmd.Args, "does": cmd.Short, "administrators": cmd.Administrators}); err != nil {
				return err
			}
		}
		return nil
	}
	if !c.who.Local {
		fmt.Fprintf(c.out.Stdout, "%s -t                    pick an origin\n%s COMMAND               run a command of the gateway:\n\n",
			c.prefix(c.who), c.prefix(c.who))
	}
	w := tabwriter.NewWriter(c.out.Stdout, 0, 0, 2, ' ', 0)
	for _, cmd := range known {
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(cmd.Name+" "+cmd.Args), cmd.Short)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(c.out.Stdout, "\nEach takes --json and --help. Exit status: 0 done, 1 failed, 2 not understood, 3 not allowed.\n")
	return err
}

func (c *call) helpOn(cmd *Command) error {
	text := strings.TrimSpace(c.prefix(c.who)+" "+cmd.Name+" "+cmd.Args) + "\n\n" + cmd.Short + ".\n"
	if cmd.Long != "" {
		text += cmd.Long + "\n"
	}
	_, err := fmt.Fprintf(c.out.Stdout, "%s\n%s", text, cmd.flagSet().FlagUsages())
	return err
}
