package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

func newTokenRotate() *cobra.Command {
	var cfgFlag configFlag
	var overlap, expires string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rotate ID|NAME",
		Short: "Give a service token a new secret and print it, once",
		Long: `Replace a service token's secret. The one before stays good for --overlap, so that
the machine can be given the new one meanwhile; --overlap 0s ends it at once. The
end of the token itself stays as it is unless --expires is given, which counts from
now. Of a token that has expired the old secret is not good again.`,
		Example: `  sshgated token rotate backup
  sshgated token rotate backup --overlap 0s --expires 365d`,
		Args: oneArgument("ID or name of a token"),
		RunE: func(cmd *cobra.Command, args []string) error {
			grace, err := durationFlag("overlap", overlap, 0, maxOverlap)
			if err != nil {
				return err
			}
			var life time.Duration
			if expires != "" {
				if life, err = durationFlag("expires", expires, minTokenLife, maxTokenLife); err != nil {
					return err
				}
			}
			db, err := cfgFlag.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			rec, err := findToken(cmd.Context(), db, args[0])
			if err != nil {
				return err
			}
			return rotateToken(cmd, db, rec, grace, life, asJSON)
		},
	}
	cfgFlag.add(cmd)
	cmd.ValidArgsFunction = completeTokens(&cfgFlag)
	cmd.Flags().StringVar(&overlap, "overlap", "24h", "how long the secret before stays good")
	cmd.Flags().StringVar(&expires, "expires", "", "how long the token is good for from now, as in 12h or 30d (default: as it was)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func rotateToken(cmd *cobra.Command, db *store.SQLite, rec sshgate.ServiceTokenRecord, overlap, life time.Duration, asJSON bool) error {
	now := time.Now().UTC()
	state := tokenState(rec, now)
	switch {
	case state == tokenRevoked:
		return fmt.Errorf("%s was revoked on %s, for good; make another: sshgated token create", rec.Name, tokenTime(rec.RevokedAt))
	case rec.SecretHash == nil:
		return fmt.Errorf("%s has a key and no secret to rotate; revoke it and make another: sshgated token create", rec.Name)
	case state == tokenExpired && life == 0:
		return fmt.Errorf("%s expired on %s; say how long it shall be good for with --expires", rec.Name, tokenTime(rec.ExpiresAt))
	}
	secret, hash := authflow.NewSecret()
	rotation := store.Rotation{NewHash: hash, PreviousUntil: now.Add(overlap)}
	if rec.ExpiresAt.Before(rotation.PreviousUntil) {
		rotation.PreviousUntil = rec.ExpiresAt // the old secret gains no time
	}
	if life != 0 {
		rotation.ExpiresAt = now.Add(life)
	}
	if err := db.RotateServiceToken(cmd.Context(), rec.ID, rotation); err != nil {
		return err
	}
	rec.PreviousUntil = rotation.PreviousUntil
	if life != 0 {
		rec.ExpiresAt = rotation.ExpiresAt
	}
	if err := printToken(cmd, rec, secret, asJSON); err != nil || asJSON {
		return err
	}
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "rotated service token %s, good until %s; the secret is shown this once\n", rec.Name, tokenTime(rec.ExpiresAt))
	if now.Before(rec.PreviousUntil) {
		fmt.Fprintf(w, "the secret before it stays good until %s\n", tokenTime(rec.PreviousUntil))
	} else {
		fmt.Fprintln(w, "the secret before it is no longer good")
	}
	return nil
}

func newTokenRevoke() *cobra.Command {
	var cfgFlag configFlag
	cmd := &cobra.Command{
		Use:   "revoke ID|NAME",
		Short: "End a service token, for good",
		Long: `End a service token: its secrets and its key are refused from now on, and whoever
uses them is told that they were revoked. The name and the key are free again. Its
record stays, see: sshgated token list --all.`,
		Example: "  sshgated token revoke backup",
		Args:    oneArgument("ID or name of a token"),
		RunE: cfgFlag.withStore(func(cmd *cobra.Command, args []string, db *store.SQLite) error {
			rec, err := findToken(cmd.Context(), db, args[0])
			if err != nil {
				return err
			}
			if !rec.RevokedAt.IsZero() {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "service token %s (%s) was revoked already, on %s\n", rec.Name, rec.ID, tokenTime(rec.RevokedAt))
				return err
			}
			if err := db.RevokeServiceToken(cmd.Context(), rec.ID, time.Now()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked service token %s (%s)\n", rec.Name, rec.ID)
			return err
		}),
	}
	cfgFlag.add(cmd)
	cmd.ValidArgsFunction = completeTokens(&cfgFlag)
	return cmd
}
