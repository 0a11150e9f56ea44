package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/internal/helper"
)

func newAccess() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "access",
		Short: "Reach what is behind a gateway, over HTTPS",
		Long: `Reach the SSH servers and other services behind a gateway over its TLS port, from
any network that lets HTTPS out: through HTTPS_PROXY, and by WebSocket where a load
balancer keeps CONNECT back. The SSH of "access ssh" is end to end: the gateway sees
ciphertext alone.

Begin with "sshgate access login --gateway HOST" and "sshgate access ssh-config". The
first command that needs it asks to sign in, in a browser; all talk goes to standard
error. Machines show a service token or their platform's ID token, and are never asked.

Environment:
  SSHGATE_GATEWAY                   the gateway, as --gateway
  SSHGATE_CA_FILE                   the CA of the gateway's certificate, as --ca-file
  SSHGATE_SERVICE_TOKEN_ID          a service token
  SSHGATE_SERVICE_TOKEN_SECRET      its secret, or
  SSHGATE_SERVICE_TOKEN_SECRET_FILE the file that has it
  SSHGATE_ID_TOKEN                  a job's own ID token, or
  SSHGATE_ID_TOKEN_FILE             the file that has it
  SSHGATE_CONFIG_DIR                where tokens and keys are kept; default: sshgate in
                                    the user's configuration directory
  SSHGATE_KEYRING=off               keep tokens in files, not in the system's keyring
  HTTPS_PROXY, NO_PROXY             a proxy on the way to the gateway

Exit codes: 0 all is well; 1 the connection broke, or anything else; 2 a wrong flag,
variable or file; 3 the policy does not allow it; 4 the token or the sign-in is not
good; 5 the origin is offline or does not answer; 6 the gateway cannot be reached, or
its certificate cannot be trusted.`,
		Args: subcommand,
		RunE: help,
	}
	cmd.AddCommand(newAccessLogin(), newAccessLogout(), newAccessToken(), newAccessList(), newAccessSSH(), newAccessTCP(),
		newAccessCurl(), newAccessSSHConfig(), newAccessSSHGen())
	return cmd
}

// accessFlags are what the access commands share.
type accessFlags struct {
	helper.Options
	cmd *cobra.Command
}

func (f *accessFlags) add(cmd *cobra.Command) {
	f.cmd = cmd
	flags := cmd.Flags()
	flags.StringVar(&f.Gateway, "gateway", "", "the gateway, `HOST[:PORT]` (443); default SSHGATE_GATEWAY, then that of the last login")
	flags.StringVar(&f.CAFile, "ca-file", "", "PEM `FILE` with the CA of the gateway's certificate; default SSHGATE_CA_FILE, then the system's CAs")
	flags.StringVar(&f.ServiceID, "service-token-id", "", "`ID` of a service token; better SSHGATE_SERVICE_TOKEN_ID")
	flags.StringVar(&f.ServiceSecret, "service-token-secret", "", "its `SECRET`, which everybody on the machine can see here; better SSHGATE_SERVICE_TOKEN_SECRET")
	flags.StringVar(&f.ServiceID, "id", "", "the same as --service-token-id")
	flags.StringVar(&f.ServiceSecret, "secret", "", "the same as --service-token-secret")
	flags.StringVar(&f.IDTokenFile, "id-token-file", "", "`FILE` with a job's own ID token; default SSHGATE_ID_TOKEN_FILE")
	flags.BoolVar(&f.GitHubActions, "github-actions", false, "ask the runner of GitHub Actions for the job's ID token")
	flags.BoolVar(&f.NoLogin, "no-login", false, "fail rather than ask to sign in")
	flags.BoolVar(&f.NoBrowser, "no-browser", false, "open no browser, print the address alone")
	flags.BoolVar(&f.QR, "qr", false, "print the address as a QR code, too")
	_ = cmd.MarkFlagFilename("ca-file") // these fail only for an unknown flag
	_ = cmd.MarkFlagFilename("id-token-file")
}

// find returns the access that flags and environment describe.
func (f *accessFlags) find() (*helper.Access, error) {
	f.Getenv, f.Stderr = os.Getenv, f.cmd.ErrOrStderr()
	for _, v := range []struct {
		field *string
		name  string
	}{
		{&f.Gateway, "SSHGATE_GATEWAY"}, {&f.CAFile, "SSHGATE_CA_FILE"}, {&f.IDTokenFile, "SSHGATE_ID_TOKEN_FILE"},
	} {
		if *v.field == "" {
			*v.field = os.Getenv(v.name)
		}
	}
	f.IDToken = os.Getenv("SSHGATE_ID_TOKEN")
	if f.ServiceID == "" && f.ServiceSecret == "" {
		f.ServiceID, f.ServiceSecret = os.Getenv("SSHGATE_SERVICE_TOKEN_ID"), os.Getenv("SSHGATE_SERVICE_TOKEN_SECRET")
		if file := os.Getenv("SSHGATE_SERVICE_TOKEN_SECRET_FILE"); file != "" && f.ServiceSecret == "" {
			secret, err := helper.ReadSecret(file)
			if err != nil {
				return nil, err
			}
			f.ServiceSecret = secret
		}
	}
	return helper.Find(f.Options)
}

// closeOutput ends what the command prints, so that whoever reads it sees the end.
func closeOutput(w io.Writer) {
	if c, ok := w.(io.Closer); ok {
		c.Close()
	}
}
