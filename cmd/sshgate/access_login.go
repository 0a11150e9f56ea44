package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/internal/helper"
)

func newAccessLogin() *cobra.Command {
	var flags accessFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in, and remember the gateway",
		Long: `Sign in at a gateway in a browser, and remember the gateway and its CA file as the
default of further commands. A sign-in that is still good is kept.`,
		Example: `  sshgate access login --gateway gate.example.com
  sshgate access login --gateway gate.example.com --no-browser --qr`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			_, me, err := taken(cmd, access)
			if err != nil {
				return err
			}
			if flags.CAFile != "" {
				pem, err := os.ReadFile(flags.CAFile)
				if err == nil {
					err = access.Place.KeepCA(pem)
				}
				if err != nil {
					return fmt.Errorf("remembering the CA file: %w", err)
				}
			}
			if err := access.Store.SetDefault(access.Gateway.Address); err != nil {
				return fmt.Errorf("remembering the gateway: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s at %s, until %s\n", me.Identity, access.Gateway.Address, me.ExpiresAt.Local().Format("2006-01-02 15:04"))
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}

// identity is what the gateway says of its caller.
type identity struct {
	Identity  string    `json:"identity"`
	Kind      string    `json:"kind"`
	ExpiresAt time.Time `json:"expires_at"`
}

// taken returns a credential that the gateway has just taken, and whose it is.
func taken(cmd *cobra.Command, access *helper.Access) (credential helper.Credential, me identity, err error) {
	err = access.Do(cmd.Context(), "", func(c helper.Credential) error {
		credential = c
		return access.Gateway.Ask(cmd.Context(), http.MethodGet, "/api/v1/whoami", c, nil, &me)
	})
	return credential, me, err
}

func newAccessLogout() *cobra.Command {
	var flags accessFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Revoke the token and forget it",
		Long: `Revoke the token at the gateway and forget it on this machine. SSH keys that a
sign-in was remembered for are not touched, nor are connections that are open.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			places := []*helper.Access{access}
			if all {
				if places, err = access.Others(); err != nil {
					return err
				}
			}
			for _, a := range places {
				found, err := a.Logout(cmd.Context())
				switch {
				case err != nil:
					return fmt.Errorf("the token of %s is forgotten here, but the gateway could not be told: %w", a.Gateway.Address, err)
				case found:
					fmt.Fprintf(cmd.OutOrStdout(), "signed out at %s\n", a.Gateway.Address)
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "not signed in at %s\n", a.Gateway.Address)
				}
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "sign out at every gateway")
	return cmd
}

func newAccessToken() *cobra.Command {
	var flags accessFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print an access token, for scripts",
		Long: `Print an access token for the gateway's HTTP interface, for use as a bearer token. It
asks to sign in when there is none; --no-login makes that an error. Whoever has the
token is you at this gateway until it expires, or until "sshgate access logout".`,
		Example: `  curl -H "Authorization: Bearer $(sshgate access token)" https://gate.example.com/api/v1/origins`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			access, err := flags.find()
			if err != nil {
				return err
			}
			credential, me, err := taken(cmd, access)
			token := credential.Token
			switch {
			case err != nil:
				return err
			case token == "":
				return usageError{fmt.Errorf("a service token needs no access token; show its ID and secret by Basic authentication")}
			case asJSON:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"access_token": token, "identity": me.Identity, "expires_at": me.ExpiresAt})
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the token, whose it is, and until when, as a JSON object")
	return cmd
}
