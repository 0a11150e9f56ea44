package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

// explanationJSON is what explain prints with --json.
type explanationJSON struct {
	Who    string          `json:"who"`
	Target string          `json:"target"`
	Asks   string          `json:"asks"`
	Result string          `json:"result"` // allow, deny, expired or purpose
	Login  sshgate.Login   `json:"login,omitempty"`
	Reason string          `json:"reason"`
	StepUp *stepUpJSON     `json:"step_up,omitempty"`
	Files  map[string]bool `json:"files,omitempty"`

	Application string `json:"application,omitempty"`
	Rule        string `json:"rule,omitempty"`
	// SessionDuration is in seconds.
	SessionDuration int64      `json:"session_duration,omitempty"`
	Rules           []ruleJSON `json:"rules"`
	Then            *thenJSON  `json:"then,omitempty"`
	Note            string     `json:"note,omitempty"`
}

type stepUpJSON struct {
	ACRValues []string `json:"acr_values,omitempty"`
	MaxAge    int64    `json:"max_age,omitempty"` // seconds
	Prompt    string   `json:"prompt,omitempty"`
}

type ruleJSON struct {
	Name      string              `json:"name"`
	Action    sshgate.Action      `json:"action"`
	Outcome   sshgate.RuleOutcome `json:"outcome"`
	Because   string              `json:"because"`
	Selectors []selectorJSON      `json:"selectors,omitempty"`
}

type selectorJSON struct {
	List   string `json:"list"`
	Want   string `json:"want"`
	Have   string `json:"have,omitempty"`
	Result string `json:"result"`
}

// thenJSON is what was decided when the event was logged.
type thenJSON struct {
	Time        time.Time `json:"time"`
	Allowed     bool      `json:"allowed"`
	Application string    `json:"application,omitempty"`
	Rule        string    `json:"rule,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Differs     bool      `json:"differs"`
}

func explanationOf(r sshgate.Request, e sshgate.Explanation) explanationJSON {
	d := e.Decision
	out := explanationJSON{
		Who: r.Identity.String(), Target: r.Target.String(), Asks: fmt.Sprintf("%v in channel %s", r.Activity, r.Channel),
		Result: result(d), Login: d.Login, Reason: d.Reason,
		Application: d.Application, Rule: d.Rule, SessionDuration: int64(d.SessionDuration / time.Second),
		Rules: []ruleJSON{},
	}
	if d.StepUp != nil {
		out.StepUp = &stepUpJSON{ACRValues: d.StepUp.ACRValues, MaxAge: int64(d.StepUp.MaxAge / time.Second), Prompt: d.StepUp.Prompt}
	}
	if d.Files != (sshgate.Transfer{}) {
		out.Files = map[string]bool{"read": d.Files.Read, "write": d.Files.Write}
	}
	for _, rule := range e.Rules {
		one := ruleJSON{Name: rule.Name, Action: rule.Action, Outcome: rule.Outcome, Because: rule.Because}
		for _, s := range rule.Selectors {
			one.Selectors = append(one.Selectors, selectorJSON(s))
		}
		out.Rules = append(out.Rules, one)
	}
	return out
}

func result(d sshgate.Decision) string {
	switch {
	case d.Allowed:
		return "allow"
	case d.Expired:
		return "expired"
	case d.Purpose:
		return "purpose"
	}
	return "deny"
}

func printExplanation(cmd *cobra.Command, e explanationJSON, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(e)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s to %s: %s\n", shown(e.Who), shown(e.Target), shown(e.Asks))
	if e.Application != "" {
		fmt.Fprintf(&text, "application %q\n", e.Application)
	}
	for i, rule := range e.Rules {
		fmt.Fprintf(&text, "\n%d. %s %q: %s\n   %s\n", i+1, rule.Action, rule.Name, rule.Outcome, shown(rule.Because))
		if err := printSelectors(&text, rule.Selectors); err != nil {
			return err
		}
	}
	fmt.Fprintf(&text, "\n%s: %s\n", e.Result, shown(e.Reason))
	if e.Login != "" {
		fmt.Fprintf(&text, "login %s, session of %v\n", e.Login, time.Duration(e.SessionDuration)*time.Second)
	}
	if e.StepUp != nil {
		fmt.Fprintf(&text, "the provider is asked for acr_values=%q max_age=%d prompt=%q\n", strings.Join(e.StepUp.ACRValues, " "), e.StepUp.MaxAge, e.StepUp.Prompt)
	}
	if e.Files != nil {
		fmt.Fprintf(&text, "files: read %v, write %v\n", e.Files["read"], e.Files["write"])
	}
	if e.Then != nil {
		printThen(&text, *e.Then)
	}
	if e.Note != "" {
		fmt.Fprintf(&text, "note: %s\n", shown(e.Note))
	}
	_, err := io.WriteString(cmd.OutOrStdout(), text.String())
	return err
}

func printSelectors(w io.Writer, selectors []selectorJSON) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range selectors {
		line := fmt.Sprintf("     %s\t%s\t%s", s.List, s.Result, shown(s.Want))
		if s.Have != "" {
			line += "\t(" + shown(s.Have) + ")"
		}
		fmt.Fprintln(table, line)
	}
	return table.Flush()
}

func printThen(w io.Writer, then thenJSON) {
	word := map[bool]string{true: "allowed", false: "refused"}[then.Allowed]
	fmt.Fprintf(w, "\nat %s it was %s by %q, rule %q: %s\n", then.Time.Format(time.RFC3339), word, then.Application, then.Rule, shown(then.Reason))
	if then.Differs {
		fmt.Fprintln(w, "the outcome differs now")
	} else {
		fmt.Fprintln(w, "the outcome is the same now")
	}
}

// shown returns the text so that it can be printed on a terminal: claims and
// commands come from strangers.
func shown(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// existingStore opens the gateway's database, and does not make one.
func existingStore(ctx context.Context, cfg *config.Gateway) (*store.SQLite, error) {
	file := databaseFile(cfg)
	if _, err := os.Stat(file); err != nil {
		return nil, errors.New("the gateway's database cannot be read")
	}
	return store.OpenSQLite(ctx, file, time.Now)
}
