package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
	gossh "golang.org/x/crypto/ssh"
)

// tokenOptions are the flags of token create.
type tokenOptions struct {
	config   configFlag
	expires  string
	keyFile  string
	noSecret bool
	asJSON   bool
}

func newTokenCreate() *cobra.Command {
	var opts tokenOptions
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a service token and print its secret, once",
		Long: `Create a service token for a machine. Its ID and secret are printed in the form
that "sshgate access" reads from the environment; the secret is shown this once and
kept nowhere. Programs that speak plain ssh prove an SSH key instead, whose public
half --key registers: then no secret need be made (--no-secret).

A token reaches nothing until a rule of the policy with "action: service" names it.`,
		Example: `  sshgated token create backup --expires 90d
  sshgated token create deploy --key deploy.pub --no-secret`,
		Args:              oneArgument("name for the token"),
		RunE:              func(cmd *cobra.Command, args []string) error { return opts.create(cmd, args[0]) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	opts.config.add(cmd)
	cmd.Flags().StringVar(&opts.expires, "expires", defaultTokenLife, "how long the token is good for, as in 12h or 30d")
	cmd.Flags().StringVar(&opts.keyFile, "key", "", "register the SSH public key in `FILE`, or on standard input with -")
	cmd.Flags().BoolVar(&opts.noSecret, "no-secret", false, "make no secret; the key alone proves the token")
	cmd.Flags().BoolVar(&opts.asJSON, "json", false, "print one JSON object")
	return cmd
}

func (o *tokenOptions) create(cmd *cobra.Command, name string) error {
	if err := checkTokenName(name); err != nil {
		return err
	}
	life, err := durationFlag("expires", o.expires, minTokenLife, maxTokenLife)
	if err != nil {
		return err
	}
	if o.noSecret && o.keyFile == "" {
		return usageError{errors.New("--no-secret leaves nothing to prove the token with; add --key FILE")}
	}
	now := time.Now().UTC()
	rec := sshgate.ServiceTokenRecord{ID: sshgate.NewServiceTokenID(), Name: name, CreatedAt: now, ExpiresAt: now.Add(life)}
	if o.keyFile != "" {
		key, err := readTokenKey(o.keyFile, cmd.InOrStdin())
		if err != nil {
			return usageError{fmt.Errorf("--key: %w", err)}
		}
		line := gossh.MarshalAuthorizedKey(key)
		rec.Key, rec.Fingerprint = string(line[:len(line)-1]), gossh.FingerprintSHA256(key)
	}
	var secret string
	if !o.noSecret {
		secret, rec.SecretHash = authflow.NewSecret()
	}
	db, err := o.config.openStore(cmd)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.CreateServiceToken(cmd.Context(), rec); err != nil {
		if errors.Is(err, store.ErrExists) {
			return fmt.Errorf("%w; choose another, or revoke that one: sshgated token revoke", err)
		}
		return err
	}
	if err := printToken(cmd, rec, secret, o.asJSON); err != nil {
		return err
	}
	if o.asJSON {
		return nil
	}
	printCreated(cmd, rec, secret)
	return nil
}

// printToken prints a token and its secret, where there is a new one, to standard
// output and nowhere else.
func printToken(cmd *cobra.Command, rec sshgate.ServiceTokenRecord, secret string, asJSON bool) error {
	if asJSON {
		out := tokenJSON(rec, time.Now())
		if secret != "" {
			out["secret"] = secret
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(out)
	}
	text := fmt.Sprintf("SSHGATE_SERVICE_TOKEN_ID=%s\n", rec.ID)
	if secret != "" {
		text += fmt.Sprintf("SSHGATE_SERVICE_TOKEN_SECRET=%s\n", secret)
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

// printCreated tells a person what was made and what to do next.
func printCreated(cmd *cobra.Command, rec sshgate.ServiceTokenRecord, secret string) {
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "created service token %s, good until %s\n", rec.Name, tokenTime(rec.ExpiresAt))
	if secret != "" {
		fmt.Fprintln(w, "the secret is shown this once: store it where the machine keeps its secrets")
	}
	if rec.Key != "" {
		fmt.Fprintf(w, "its SSH key is %s\n", rec.Fingerprint)
	}
	fmt.Fprintf(w, "it reaches nothing until a rule of the policy names it, such as:\n  - {name: %[1]s, action: service, include: [{service_token: %[1]s}], logins: [deploy]}\n", yamlName(rec.Name))
}

// yamlName quotes a name, which YAML might take for a number, a time or a truth
// value.
func yamlName(name string) string {
	if name[0] >= 'a' && name[0] <= 'z' && !yamlWords[name] {
		return name
	}
	return `"` + name + `"`
}

var yamlWords = map[string]bool{"true": true, "false": true, "null": true, "yes": true, "no": true, "on": true, "off": true, "y": true, "n": true}
