package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
)

func newCheck() *cobra.Command {
	var cfgFlag configFlag
	var asJSON, strict bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration without starting anything",
		Long: `Read the configuration as serve would and report everything that is wrong with
it at once, with file, line and column. Nothing is started, made or changed.

The tests of the policy are run, too: one that fails is an error. Warnings are of
what is legal but hardly meant, such as a rule that can never match.

Exit codes: 0 it can be used, 1 there are warnings and --strict is set, 2 it
cannot be used.`,
		Example: "  sshgated check --config /etc/sshgate/sshgated.yaml",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := cfgFlag.load()
			if err == nil {
				err = checkKeys(cfg)
			}
			var warnings []config.Problem
			if err == nil {
				warnings = cfg.Warnings()
				if strict && len(warnings) > 0 {
					err = fmt.Errorf("%s has warnings (%d), and they count as errors", cfgFlag.path, len(warnings))
				}
			}
			if asJSON {
				return checkJSON(cmd, cfgFlag.path, warnings, err)
			}
			for _, w := range warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", w)
			}
			if err != nil {
				return err
			}
			rules := 0
			for _, app := range cfg.Policy().Applications {
				rules += len(app.Rules)
			}
			tests := ""
			if n := cfg.PolicyTests(); n > 0 {
				tests = fmt.Sprintf(", %d tests passed", n)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %d applications with %d rules%s, sign-in at %s\n",
				cfgFlag.path, len(cfg.Policy().Applications), rules, tests, cfg.SignIn.Issuer)
			return err
		},
	}
	cfgFlag.add(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "let warnings count as errors")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as one JSON object")
	return cmd
}

// checkKeys reads the keys that the configuration names, and checks what else serve
// would stumble over.
func checkKeys(cfg *config.Gateway) error {
	if _, err := originAuth(cfg); err != nil {
		return err
	}
	if _, err := newWorkloads(cfg, nil); err != nil {
		return err
	}
	_, err := tunnelCertificate(cfg)
	return err
}

// checkJSON prints what was found; the exit code is that of the text form.
func checkJSON(cmd *cobra.Command, path string, warnings []config.Problem, found error) error {
	result := map[string]any{"file": path, "ok": found == nil}
	var problems *config.Error
	if errors.As(found, &problems) {
		result["problems"] = problemsJSON(problems.Problems)
	} else if found != nil {
		result["error"] = found.Error()
	}
	if len(warnings) > 0 {
		result["warnings"] = problemsJSON(warnings)
	}
	if err := json.NewEncoder(cmd.OutOrStdout()).Encode(result); err != nil {
		return err
	}
	return found
}

func problemsJSON(problems []config.Problem) []map[string]any {
	var list []map[string]any
	for _, p := range problems {
		list = append(list, map[string]any{"file": p.File, "line": p.Line, "column": p.Column, "field": p.Field, "text": p.Text})
	}
	return list
}
