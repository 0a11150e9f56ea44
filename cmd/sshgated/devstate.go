package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/devidp"
	"github.com/sshgate/sshgate/sshgate/gateway"
	gossh "golang.org/x/crypto/ssh"
)

// The fixed names of `sshgated dev`.
const (
	devOrigin     = "demo"
	devHostname   = "gate.localhost"
	devClientID   = "sshgate"
	devStateFile  = "state.json"
	devConfigFile = "sshgated.yaml"
)

// dev is everything on one machine.
type dev struct {
	opts  devOptions
	log   *slog.Logger
	dir   string
	state devState
	info  devInfo

	ssh, tunnel, metrics, idp net.Listener
}

// devState is what stays the same from one start to the next, in a file that
// its owner alone can read.
type devState struct {
	// Ports are those of the last time, by name, taken again where they are
	// free: the issuer's address is part of every identity.
	Ports      map[string]int    `json:"ports"`
	Passwords  map[string]string `json:"passwords"`
	SigningKey string            `json:"signing_key"` // PEM
}

// devInfo is what --json prints and DIR/env holds.
type devInfo struct {
	SSHCommand string    `json:"ssh_command"`
	SSHAddress string    `json:"ssh_address"`
	Tunnel     string    `json:"tunnel_address"`
	Metrics    string    `json:"metrics_url"`
	Issuer     string    `json:"issuer"`
	Users      []devUser `json:"users"`
	Origin     string    `json:"origin"`
	Login      string    `json:"login"`
	Dir        string    `json:"dir"`
	SSHConfig  string    `json:"ssh_config"`
	KnownHosts string    `json:"known_hosts"`
	UserCA     string    `json:"user_ca"`
	GatewayCA  string    `json:"gateway_ca"`
	Config     string    `json:"config"`
	Env        string    `json:"env"`
	PID        int       `json:"pid"`
}

type devUser struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Allowed  bool   `json:"allowed"` // by the policy
}

// devPeople can sign in. The policy lets the first one reach the origin.
var devPeople = []struct{ name, email string }{
	{"Alice", "alice@example.com"},
	{"Bob", "bob@example.com"},
}

func (d *dev) path(name string) string { return filepath.Join(d.dir, name) }

// openDir opens the state's directory and the ports. remove removes what is not
// to be kept.
func (d *dev) openDir() (remove func(), err error) {
	remove = func() {}
	if d.opts.dir != "" {
		if d.dir, err = filepath.Abs(d.opts.dir); err != nil {
			return remove, err
		}
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return remove, fmt.Errorf("--dir: %w", err)
		}
	} else {
		if d.dir, err = os.MkdirTemp("", "sshgate-dev-"); err != nil {
			return remove, err
		}
		remove = func() { os.RemoveAll(d.dir) }
	}
	if err = d.loadState(); err == nil {
		if err = d.openPorts(); err == nil {
			err = d.saveState()
		}
	}
	if err != nil {
		remove()
	}
	return remove, err
}

func (d *dev) loadState() error {
	data, err := os.ReadFile(d.path(devStateFile))
	if err == nil {
		if err := json.Unmarshal(data, &d.state); err != nil {
			return fmt.Errorf("%s: %w; remove the file to start anew", d.path(devStateFile), err)
		}
		if d.state.Ports == nil || d.state.Passwords == nil || d.state.SigningKey == "" {
			return fmt.Errorf("%s: ports, passwords or signing_key is missing; remove the file to start anew", d.path(devStateFile))
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, key, err := devidp.GenerateSigningKey()
	if err != nil {
		return err
	}
	d.state = devState{Ports: map[string]int{}, Passwords: map[string]string{}, SigningKey: string(key)}
	for _, person := range devPeople {
		d.state.Passwords[person.email] = strings.ToLower(rand.Text()[:12])
	}
	return nil
}

func (d *dev) saveState() error {
	data, err := json.MarshalIndent(d.state, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(d.path(devStateFile), append(data, '\n'), 0o600)
}

// openPorts listens, on the ports of the last time where they are free.
func (d *dev) openPorts() (err error) {
	if d.opts.listen != "" {
		if d.ssh, err = net.Listen("tcp", d.opts.listen); err != nil {
			return usageError{fmt.Errorf("--ssh-listen: %w", err)}
		}
	}
	for _, port := range []struct {
		name     string
		listener *net.Listener
	}{{"ssh", &d.ssh}, {"tunnel", &d.tunnel}, {"metrics", &d.metrics}, {"idp", &d.idp}} {
		if *port.listener != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", d.state.Ports[port.name]))
		if err != nil {
			if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return err
			}
		}
		*port.listener = l
		d.state.Ports[port.name] = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func (d *dev) issuer() string { return "http://" + d.idp.Addr().String() }

func (s *devState) users() []devidp.User {
	var users []devidp.User
	for _, person := range devPeople {
		users = append(users, devidp.User{
			Subject: person.email, Email: person.email, EmailVerified: true, Name: person.name,
			Groups: []string{"demo"}, Password: s.Passwords[person.email],
		})
	}
	return users
}

const devConfig = `# Written by "sshgated dev" at every start.
hostname: %[1]s
data_dir: data
ssh:
  listen: %[2]q
  advertise: %[3]q
  drain_timeout: 2s
tunnel:
  listen: %[4]q
metrics:
  listen: %[5]q
sign_in:
  issuer: %[6]s
  client_id: %[7]s
policy:
  session_duration: 12h
  publish:
    - name: alice
      include: [{email: %[9]s}]
      hostnames: ["*.%[8]s"]
  applications:
    - name: demo
      hosts: [%[8]s, "*.%[8]s"]
      rules:
        - name: alice
          action: allow
          include: [{email: %[9]s}]
          logins: [%[10]q]
          end_to_end: true
`

// writeConfig writes the gateway's configuration and reads it as serve would.
func (d *dev) writeConfig() (*config.Gateway, error) {
	text := fmt.Sprintf(devConfig, devHostname, d.ssh.Addr(), d.ssh.Addr(), d.tunnel.Addr(), d.metrics.Addr(),
		d.issuer(), devClientID, devOrigin, devPeople[0].email, d.opts.login)
	if err := writeFile(d.path(devConfigFile), []byte(text), 0o644); err != nil {
		return nil, err
	}
	return d.loadConfig()
}

func (d *dev) loadConfig() (*config.Gateway, error) {
	return reader.LoadGateway(d.path(devConfigFile))
}

// originKey is the built-in origin's host key.
func (d *dev) originKey() (gossh.Signer, error) {
	keys, err := gateway.OpenHostKeys(d.path("origin"))
	if err != nil {
		return nil, err
	}
	return keys[0], nil
}

const devSSHConfig = `# Written by "sshgated dev": use it with ssh -F.
Host gate
  HostName %s
  Port %s
  UserKnownHostsFile %q
  StrictHostKeyChecking yes
  IdentityFile %q
  IdentitiesOnly yes
`

// writeClientFiles writes what an ssh client needs and fills in d.info.
func (d *dev) writeClientFiles(g *gatewayd) error {
	host, port, err := net.SplitHostPort(d.ssh.Addr().String())
	if err != nil {
		return err
	}
	// A key of its own, so that the second ssh asks nothing on a machine whose
	// user has none.
	key := d.path("id_ed25519")
	if err := gateway.MakeKey(key); err != nil {
		return err
	}
	d.info = devInfo{
		SSHCommand: fmt.Sprintf("ssh -F %s %s+%s@gate", shellWord(d.path("ssh_config")), d.opts.login, devOrigin),
		SSHAddress: d.ssh.Addr().String(),
		Tunnel:     d.tunnel.Addr().String(),
		Metrics:    "http://" + d.metrics.Addr().String() + "/metrics",
		Issuer:     d.issuer(),
		Origin:     devOrigin,
		Login:      d.opts.login,
		Dir:        d.dir,
		SSHConfig:  d.path("ssh_config"),
		KnownHosts: d.path("known_hosts"),
		UserCA:     d.path("user_ca.pub"),
		GatewayCA:  d.path("connector/" + connector.GatewayCAFile),
		Config:     d.path(devConfigFile),
		Env:        d.path("env"),
		PID:        os.Getpid(),
	}
	for i, person := range devPeople {
		d.info.Users = append(d.info.Users, devUser{Email: person.email, Password: d.state.Passwords[person.email], Allowed: i == 0})
	}
	for _, f := range []struct {
		path, text string
		mode       fs.FileMode
	}{
		{d.info.SSHConfig, fmt.Sprintf(devSSHConfig, host, port, d.info.KnownHosts, key), 0o644},
		{d.info.KnownHosts, knownHosts(d.ssh.Addr().String(), g.hostKeys), 0o644},
		{d.info.UserCA, caLine(g.userCA, devHostname), 0o644},
		{d.info.Env, d.info.env(), 0o600},
	} {
		if err := writeFile(f.path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// env returns the information as assignments for a POSIX shell. With the last two
// exported "sshgate access" finds the gateway.
func (i devInfo) env() string {
	var b strings.Builder
	for _, v := range []struct{ name, value string }{
		{"SSH_COMMAND", i.SSHCommand}, {"SSH_ADDRESS", i.SSHAddress}, {"TUNNEL_ADDRESS", i.Tunnel},
		{"METRICS_URL", i.Metrics}, {"ISSUER", i.Issuer}, {"ORIGIN", i.Origin}, {"LOGIN", i.Login},
		{"EMAIL", i.Users[0].Email}, {"PASSWORD", i.Users[0].Password}, {"DIR", i.Dir},
		{"SSH_CONFIG", i.SSHConfig}, {"KNOWN_HOSTS", i.KnownHosts}, {"USER_CA", i.UserCA}, {"CONFIG", i.Config},
	} {
		fmt.Fprintf(&b, "SSHGATE_DEV_%s=%s\n", v.name, shellQuote(v.value))
	}
	fmt.Fprintf(&b, "SSHGATE_GATEWAY=%s\nSSHGATE_CA_FILE=%s\n", shellQuote(i.Tunnel), shellQuote(i.GatewayCA))
	return b.String()
}

// shellQuote returns s as one word of a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// shellWord is shellQuote without the quotes where s needs none.
func shellWord(s string) string {
	for _, c := range s {
		if !strings.ContainsRune("/._-+@:", c) && !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			return shellQuote(s)
		}
	}
	return s
}
