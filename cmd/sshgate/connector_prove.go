package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/enrol"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
)

const (
	// askTimeout bounds the question to the gateway.
	askTimeout = 10 * time.Second
	// probeLogin is an account that every machine has. That it may not sign in does
	// not matter: nobody does.
	probeLogin = "root"
)

// gatewayReport is what the gateway says of the connector, as --json prints it.
type gatewayReport struct {
	Version string `json:"version,omitempty"`
	UserCA  string `json:"user_ca,omitempty"`
	// Problem is set when it does not take the certificate, Warning when it could not
	// be asked.
	Problem string `json:"problem,omitempty"`
	Warning string `json:"warning,omitempty"`

	probe *ssh.Certificate
	login string // that it is for
}

// askGateway asks for what the origins can be asked with. login may be "".
func askGateway(ctx context.Context, site *enrol.Site, login string) gatewayReport {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	report := gatewayReport{login: probeLogin}
	if login != "" {
		report.login = login
	}
	about, err := site.About(ctx, sshgate.Login(login))
	var problem *helper.Problem
	switch {
	case errors.As(err, &problem) && problem.Kind != helper.Unreachable:
		report.Problem = "the gateway does not take the certificate: " + problem.Error()
		return report
	case err != nil:
		report.Warning = err.Error()
		return report
	}
	report.Version, report.UserCA = about.Version, about.UserCA
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(about.ProbeCertificate))
	cert, ok := key.(*ssh.Certificate)
	if err != nil || !ok {
		report.Warning = "the gateway sent no certificate to ask the origins with"
		return report
	}
	report.probe = cert
	return report
}

// The answers to the question whether an SSH server trusts the gateway's user CA.
const (
	trustYes     = "yes"
	trustNo      = "no"
	trustUnknown = "unknown"
)

// trust asks an SSH server whether it takes the gateway's certificates, and says what
// is missing where it does not.
func (r *gatewayReport) trust(ctx context.Context, address string) (answer, missing string) {
	if r.probe == nil {
		return trustUnknown, ""
	}
	taken, err := connector.ProbeCertificate(ctx, address, r.probe, r.login, nil)
	switch {
	case err != nil:
		return trustUnknown, err.Error()
	case taken:
		return trustYes, ""
	}
	return trustNo, fmt.Sprintf("its sshd does not take the gateway's certificates (asked for %s): it needs a line TrustedUserCAKeys FILE in sshd_config, and %q in that file; "+
		"\"sshgate connector install\" does that on its own machine. It is not needed where the gateway's configuration has auth: agent or key for the origin", r.login, r.UserCA)
}

// prove logs what is known of the gateway and the origins before anything is
// published, and what is missing. The agent looks at the host keys itself.
func prove(ctx context.Context, cfg *config.Connector, site *enrol.Site, log *slog.Logger) {
	report := askGateway(ctx, site, "")
	switch {
	case report.Problem != "":
		log.Error("the gateway says no", "problem", report.Problem)
	case report.Warning != "":
		log.Warn("the gateway could not be asked whether all is well", "warning", report.Warning)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var asking sync.WaitGroup
	slots := make(chan struct{}, checksAtATime)
	for _, o := range origins(cfg) {
		if o.Port != sshgate.SSHPort {
			continue
		}
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			switch answer, missing := report.trust(ctx, o.Address); answer {
			case trustYes:
				log.Info("the origin trusts the gateway's user CA", "origin", o.Name, "address", o.Address)
			case trustNo:
				log.Warn("the origin does not trust the gateway's user CA", "origin", o.Name, "address", o.Address, "what_to_do", missing)
			}
		})
	}
	asking.Wait()
}

// startRenewing renews the certificate in time until stop is called.
func startRenewing(site *enrol.Site, agent *connector.Agent, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	renewer := connector.Renewer{Certificate: site.Credentials.Leaf, Renew: site.Renew, Renewed: agent.Renewed, Log: log}
	var running sync.WaitGroup
	running.Go(func() { renewer.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}
