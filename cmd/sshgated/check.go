package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
)

func newCheck() *cobra.Command {
	var cfgFlag configFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration without starting anything",
		Long: `Read the configuration as serve would and report everything that is wrong with
it at once, with file, line and column. Nothing is started, made or changed.

Exit codes: 0 it can be used, 2 it cannot.`,
		Example: "  sshgated check --config /etc/sshgate/sshgated.yaml",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := cfgFlag.load()
			if err == nil {
				err = checkKeys(cfg)
			}
			if asJSON {
				return checkJSON(cmd, cfgFlag.path, err)
			}
			if err != nil {
				return err
			}
			rules := 0
			for _, app := range cfg.Policy().Applications {
				rules += len(app.Rules)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %d applications with %d rules, sign-in at %s\n",
				cfgFlag.path, len(cfg.Policy().Applications), rules, cfg.SignIn.Issuer)
			return err
		},
	}
	cfgFlag.add(cmd)
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
	if _, err := acmeRoots(cfg); err != nil {
		return err
	}
	if cfg.Tunnel.CertificateFile == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(cfg.Tunnel.CertificateFile, cfg.Tunnel.KeyFile); err != nil {
		return usageError{fmt.Errorf("tunnel: the gateway's certificate: %w", err)}
	}
	return nil
}

// checkJSON prints what was found; the exit code is that of the text form.
func checkJSON(cmd *cobra.Command, path string, found error) error {
	result := map[string]any{"file": path, "ok": found == nil}
	var problems *config.Error
	if errors.As(found, &problems) {
		var list []map[string]any
		for _, p := range problems.Problems {
			list = append(list, map[string]any{"file": p.File, "line": p.Line, "column": p.Column, "field": p.Field, "text": p.Text})
		}
		result["problems"] = list
	} else if found != nil {
		result["error"] = found.Error()
	}
	if err := json.NewEncoder(cmd.OutOrStdout()).Encode(result); err != nil {
		return err
	}
	return found
}
