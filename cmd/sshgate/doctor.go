package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/internal/helper"
)

func newDoctor() *cobra.Command {
	var flags accessFlags
	var service serviceFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what does not work on the way to a gateway and an origin",
		Long: `Look at all that a connection needs, in order: proxy, name, port, TLS and its
certificate, the clocks, the gateway's SSH server, the token, and with --hostname the
policy's answer, the origin, and both ways to it, CONNECT and WebSocket. Each line says
ok, or what to do. Nobody is asked to sign in.

Exit codes: 0 nothing failed, 1 something did, 2 a wrong flag.`,
		Example: `  sshgate doctor --gateway gate.example.com --hostname web1.example.com
  sshgate doctor --json | jq '.checks[] | select(.status == "fail")'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			checks := []helper.Check{}
			well := access.Doctor(cmd.Context(), service.hostname, func(c helper.Check) {
				checks = append(checks, c)
				if !asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "%-4s  %-9s  %s\n", c.Status, c.Name, c.Detail)
					if c.Advice != "" {
						fmt.Fprintf(cmd.OutOrStdout(), "%s%s\n", strings.Repeat(" ", 17), "-> "+c.Advice)
					}
				}
			})
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"ok": well, "gateway": access.Gateway.Address, "checks": checks}); err != nil {
					return err
				}
			}
			if !well {
				return errors.New("something does not work; see above")
			}
			return nil
		},
	}
	flags.add(cmd)
	service.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as one JSON object")
	return cmd
}
