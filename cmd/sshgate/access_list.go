package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// origin is what the gateway's list has.
type originListed struct {
	Name     string   `json:"name"`
	Online   bool     `json:"online"`
	Logins   []string `json:"logins"`
	AnyLogin bool     `json:"any_login"`
	Services []struct {
		Port     int    `json:"port"`
		Kind     string `json:"kind"`
		Session  bool   `json:"session"`
		EndToEnd bool   `json:"end_to_end"`
	} `json:"services"`
}

func newAccessList() *cobra.Command {
	var flags accessFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List what you may reach",
		Long: `List the origins that you may reach: whether they are online, as whom (for sessions
through the gateway, ssh LOGIN+ORIGIN@GATEWAY), and which services there are. "ssh" is
SSH end to end (ssh -J and "access ssh"), "session" is SSH through the gateway, a number
is the port of another service.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			var list struct {
				Origins []originListed `json:"origins"`
			}
			if err := access.Call(cmd.Context(), http.MethodGet, "/api/v1/origins", nil, &list); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
			}
			if len(list.Origins) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "there is nothing that you may reach right now")
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tSERVICES\tLOGINS")
			for _, o := range list.Origins {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Name, o.state(), o.services(), o.logins())
			}
			return w.Flush()
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as a JSON object")
	return cmd
}

func (o originListed) state() string {
	if o.Online {
		return "online"
	}
	return "offline"
}

func (o originListed) services() string {
	var names []string
	for _, s := range o.Services {
		if s.Session {
			names = append(names, "session")
		}
		switch {
		case !s.EndToEnd:
		case s.Kind == "ssh":
			names = append(names, "ssh")
		default:
			names = append(names, strconv.Itoa(s.Port))
		}
	}
	return strings.Join(names, " ")
}

func (o originListed) logins() string {
	names := o.Logins
	if o.AnyLogin {
		names = append(names, "(any)")
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, " ")
}
