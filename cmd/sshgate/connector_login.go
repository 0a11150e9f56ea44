package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/enrol"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/sshgate"
)

const maxTokenFile = 4 << 10 // bytes

// connectorLogin is `sshgate connector login`.
type connectorLogin struct {
	gateway   string
	hostnames []string
	name      string
	dir       string
	url       string
	caFile    string
	caPin     string
	tokenFile string
	force     bool
	noBrowser bool
	qr        bool
	asJSON    bool
}

func newConnectorLogin() *cobra.Command {
	var l connectorLogin
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Have this machine let in at a gateway, by signing in",
		Long: `Have this machine let in at a gateway as a connector. It prints an address and a code;
a person opens the address in any browser, signs in, and says which hostnames the
connector may publish, as far as the gateway's policy lets that person. Then the
connector has a certificate that names them, which renews itself while it runs.

Without --hostname the person chooses from the names and domains that are theirs to
hand out.
For machines that nobody sits at there are join tokens: --token-file names a file with
one, or - for standard input.

The key is made here and never leaves. Written to --cert-dir are connector.key (for its
owner alone), connector.crt, user-ca.pub (what the machine's sshd has to trust),
gateway-ca.crt where the gateway signs its own certificate, and connector.yaml unless
there is one.

The gateway's certificate is checked against the authorities that the system trusts,
those in --ca-file, or the one with --ca-pin, which "sshgated connector pin" prints.
SSHGATE_GATEWAY and SSHGATE_CA_FILE stand in for flags that are not given.

Exit codes: 0 let in, 1 it failed, 2 a wrong flag, 4 nobody said yes, or the token is
not good, 6 the gateway cannot be reached or is not who it should be.`,
		Example: `  sudo sshgate connector login --gateway gate.example.com --hostname web1.example.com
  sudo sshgate connector login --gateway gate.example.com --hostname '*.lab.example.com'
  sudo sshgate connector login --gateway gate.example.com --token-file - < join-token`,
		Args: noArguments,
		RunE: l.run,
	}
	flags := cmd.Flags()
	flags.StringVar(&l.gateway, "gateway", "", "the gateway's `HOST[:PORT]` (443; required)")
	flags.StringArrayVar(&l.hostnames, "hostname", nil, "what to publish: a name, or a wildcard such as '*.lab.example.com'; repeatable")
	flags.StringVar(&l.name, "name", "", "what the connector is called at the gateway (this machine's name); replicas share one")
	flags.StringVar(&l.dir, "cert-dir", "", "`DIRECTORY` for the files (/etc/sshgate, or for users other than root sshgate in their configuration directory)")
	flags.StringVar(&l.url, "url", "ssh://localhost:22", "what a new connector.yaml has the hostnames stand for")
	flags.StringVar(&l.caFile, "ca-file", "", "`FILE` with the authority that signs the gateway's certificate, PEM")
	flags.StringVar(&l.caPin, "ca-pin", "", "sha256:… of the key of the gateway's own authority")
	flags.StringVar(&l.tokenFile, "token-file", "", "`FILE` with a join token, - for standard input: nobody has to sign in")
	flags.BoolVar(&l.force, "force", false, "replace a certificate that is there")
	flags.BoolVar(&l.noBrowser, "no-browser", false, "open no browser, only print the address")
	flags.BoolVar(&l.qr, "qr", false, "draw the address as a QR code, too")
	flags.BoolVar(&l.asJSON, "json", false, "print the outcome as one JSON object")
	_ = cmd.MarkFlagDirname("cert-dir") // these fail only for an unknown flag
	_ = cmd.MarkFlagFilename("ca-file")
	_ = cmd.MarkFlagFilename("token-file")
	return cmd
}

func (l *connectorLogin) run(cmd *cobra.Command, _ []string) error {
	wish, err := l.wish()
	if err != nil {
		return err
	}
	token, err := l.token(cmd.InOrStdin())
	if err != nil {
		return err
	}
	if l.dir == "" {
		if l.dir, err = ownConnectorDir(); err != nil {
			return err
		}
	}
	place := enrol.Place{Dir: l.dir, Force: l.force}
	if err := place.Prepare(); err != nil {
		return err
	}
	gateway, caPEM, err := l.trusted(cmd.Context())
	if err != nil {
		return err
	}
	defer gateway.CloseIdle()
	var issued *enrol.Issued
	if token != "" {
		issued, err = enrol.Join(cmd.Context(), gateway, wish, token)
	} else {
		issued, err = enrol.SignIn(cmd.Context(), gateway, wish, func(p enrol.Prompt) { l.show(cmd, p) })
	}
	if err != nil {
		return l.advisePin(err)
	}
	written, err := place.Keep(issued, caPEM, enrol.Config(gateway.Address, len(caPEM) > 0, issued.Hostnames, wish.Machine, l.url))
	if err != nil {
		return err
	}
	return l.report(cmd, gateway.Address, issued, written)
}

// wish checks the flags.
func (l *connectorLogin) wish() (enrol.Wish, error) {
	machine, err := os.Hostname()
	if err != nil {
		machine = ""
	}
	w := enrol.Wish{Name: l.name, Machine: machine, Software: "sshgate/" + programVersion()}
	l.gateway = cmp.Or(l.gateway, os.Getenv("SSHGATE_GATEWAY"))
	if l.caPin == "" {
		l.caFile = cmp.Or(l.caFile, os.Getenv("SSHGATE_CA_FILE"))
	}
	switch {
	case l.gateway == "":
		return w, usageError{errors.New("--gateway is missing; name the gateway, as in gate.example.com")}
	case l.caFile != "" && l.caPin != "":
		return w, usageError{errors.New("--ca-file and --ca-pin are two ways of the same; give one")}
	}
	if l.caPin != "" {
		if err := connector.CheckPin(l.caPin); err != nil {
			return w, usageError{fmt.Errorf("--ca-pin: %w; \"sshgated connector pin\" prints it", err)}
		}
	}
	if _, err := config.ParseOriginURL(l.url); err != nil {
		return w, usageError{fmt.Errorf("--url: %w", err)}
	}
	for _, hostname := range l.hostnames {
		pattern, err := sshgate.ParseHostPattern(hostname)
		if err != nil {
			return w, usageError{fmt.Errorf("--hostname: %w", err)}
		}
		w.Hostnames = append(w.Hostnames, pattern.String())
	}
	return w, nil
}

// token reads the join token, "" where none is named.
func (l *connectorLogin) token(stdin io.Reader) (string, error) {
	if l.tokenFile == "" {
		return "", nil
	}
	source := stdin
	if l.tokenFile != "-" {
		f, err := os.Open(l.tokenFile)
		if err != nil {
			return "", usageError{fmt.Errorf("--token-file: %w", err)}
		}
		defer f.Close()
		source = f
	}
	data, err := io.ReadAll(io.LimitReader(source, maxTokenFile))
	if err != nil {
		return "", usageError{fmt.Errorf("--token-file: %w", err)}
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", usageError{errors.New("--token-file: it is empty; expected what \"sshgated connector token create\" printed")}
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", usageError{errors.New("--token-file: it holds more than a join token; expected what \"sshgated connector token create\" printed")}
	}
	return token, nil
}

// trusted returns the gateway, and what signs its certificate where that is not an
// authority of the system's.
func (l *connectorLogin) trusted(ctx context.Context) (*helper.Gateway, []byte, error) {
	address, err := helper.ParseGateway(l.gateway)
	if err != nil {
		return nil, nil, err
	}
	var caPEM []byte
	switch {
	case l.caPin != "":
		if caPEM, err = enrol.PinnedCA(ctx, address, l.caPin); err != nil {
			return nil, nil, err
		}
	case l.caFile != "":
		if caPEM, err = os.ReadFile(l.caFile); err != nil {
			return nil, nil, usageError{fmt.Errorf("--ca-file: %w", err)}
		}
		if caPEM = certificatesIn(caPEM); len(caPEM) == 0 {
			return nil, nil, usageError{fmt.Errorf("--ca-file: %s has no certificate in PEM form", l.caFile)}
		}
	}
	gateway, err := helper.NewGateway(address, caPEM)
	return gateway, caPEM, err
}

// advisePin adds what helps where the gateway signs its own certificate.
func (l *connectorLogin) advisePin(err error) error {
	var unknown x509.UnknownAuthorityError
	var problem *helper.Problem
	if l.caFile == "" && l.caPin == "" && errors.As(err, &unknown) && errors.As(err, &problem) {
		advised := *problem
		advised.Next = "if it signs its own certificate, give --ca-pin with what \"sshgated connector pin\" prints on the gateway, or its CA with --ca-file"
		return &advised
	}
	return err
}

// certificatesIn leaves out what else is in a PEM file: a copy of it is for everybody,
// and it may hold a key.
func certificatesIn(data []byte) (certificates []byte) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return certificates
}

func (l *connectorLogin) show(cmd *cobra.Command, p enrol.Prompt) {
	helper.Show(cmd.ErrOrStderr(), os.Getenv, helper.Prompt{
		Intro: "To let this machine in at " + l.gateway + ", open this address in a browser, here or elsewhere:",
		URL:   p.URL, CodeText: "sign in, and check that the page shows this code", Code: p.UserCode,
		QR: l.qr, NoBrowser: l.noBrowser,
	})
}

// report says what was done, and what comes next.
func (l *connectorLogin) report(cmd *cobra.Command, gateway string, issued *enrol.Issued, written []string) error {
	if l.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
			"gateway": gateway, "connector": issued.Connector, "hostnames": issued.Hostnames, "expires_at": issued.ExpiresAt,
			"user_ca": issued.UserCA, "written": written,
		})
	}
	configFile := filepath.Join(l.dir, enrol.ConfigFile)
	var text strings.Builder
	fmt.Fprintf(&text, "This machine is the connector %s of %s.\n", issued.Connector, gateway)
	fmt.Fprintf(&text, "It may publish %s.\n", strings.Join(issued.Hostnames, ", "))
	fmt.Fprintf(&text, "Its certificate is good until %s and renews itself.\n", issued.ExpiresAt.Local().Format(time.DateOnly))
	for _, path := range written {
		fmt.Fprintf(&text, "wrote %s\n", path)
	}
	if len(written) == 0 || written[len(written)-1] != configFile {
		fmt.Fprintf(&text, "left %s as it is; check it with: sshgate connector check --config %s\n", configFile, configFile)
	}
	next := "sudo sshgate connector install"
	switch {
	case l.dir == systemConnectorDir && l.force:
		next = "sudo systemctl restart sshgate-connector, or where it is no service yet, " + next
	case l.dir != systemConnectorDir:
		next = "sshgate connector run --config " + configFile
	}
	fmt.Fprintf(&text, "Next: %s\n", next)
	_, err := io.WriteString(cmd.OutOrStdout(), text.String())
	return err
}
