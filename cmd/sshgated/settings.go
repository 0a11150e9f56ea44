package main

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/gateway"
	"github.com/sshgate/sshgate/sshgate/web"
	gossh "golang.org/x/crypto/ssh"
)

// settings are what of the configuration can change while the gateway runs. They
// change together or not at all.
type settings struct {
	cfg       *config.Gateway
	origins   func(sshgate.OriginName) gateway.OriginAuth
	workloads *authflow.Workloads // nil: there are none
}

// newSettings reads what the configuration names. before, which may be nil, gives
// what has not changed: workloads know the keys of their platforms by now.
func newSettings(cfg *config.Gateway, before *settings, log *slog.Logger) (s *settings, err error) {
	s = &settings{cfg: cfg}
	if s.origins, err = originAuth(cfg); err != nil {
		return nil, err
	}
	if before != nil && reflect.DeepEqual(before.cfg.Workloads, cfg.Workloads) {
		s.workloads = before.workloads
		return s, nil
	}
	s.workloads, err = newWorkloads(cfg, log)
	return s, err
}

// policy returns the rules in force now.
func (g *gatewayd) policy() *sshgate.Policy { return g.settings.Load().cfg.Policy() }

// originAuth says how to sign in at an origin.
func (g *gatewayd) originAuth(name sshgate.OriginName) gateway.OriginAuth {
	return g.settings.Load().origins(name)
}

// workloads returns what takes the ID tokens of jobs, nil where none are configured.
func (g *gatewayd) workloads() web.Workloads {
	if w := g.settings.Load().workloads; w != nil {
		return w
	}
	return nil
}

// newWorkloads returns what takes the ID tokens of jobs, nil where none are
// configured.
func newWorkloads(cfg *config.Gateway, log *slog.Logger) (*authflow.Workloads, error) {
	if len(cfg.Workloads) == 0 {
		return nil, nil
	}
	list := make([]authflow.WorkloadConfig, len(cfg.Workloads))
	for i, w := range cfg.Workloads {
		list[i] = authflow.WorkloadConfig(w)
	}
	workloads, err := authflow.NewWorkloads(authflow.WorkloadsConfig{Workloads: list, Log: log})
	if err != nil {
		return nil, usageError{fmt.Errorf("workloads: %w", err)}
	}
	return workloads, nil
}

// originAuth reads the key files that the configuration names and returns how
// to sign in at each origin.
func originAuth(cfg *config.Gateway) (func(sshgate.OriginName) gateway.OriginAuth, error) {
	keys := make(map[string]gossh.Signer)
	for _, origin := range cfg.Origins {
		if origin.KeyFile == "" {
			continue
		}
		data, err := os.ReadFile(origin.KeyFile)
		if err != nil {
			return nil, usageError{fmt.Errorf("origins: %s: %w", origin.Name, err)}
		}
		if keys[origin.KeyFile], err = gossh.ParsePrivateKey(data); err != nil {
			return nil, usageError{fmt.Errorf("origins: %s: reading the private key %s: %w", origin.Name, origin.KeyFile, err)}
		}
	}
	return func(name sshgate.OriginName) gateway.OriginAuth {
		origin := cfg.Origin(name)
		switch origin.Auth {
		case config.AuthAgent:
			return gateway.OriginAuth{Method: gateway.AgentAuth}
		case config.AuthKey:
			return gateway.OriginAuth{Method: gateway.KeyAuth, Key: keys[origin.KeyFile]}
		}
		return gateway.OriginAuth{Method: gateway.CertificateAuth, CertificateTTL: origin.CertificateTTL}
	}, nil
}
