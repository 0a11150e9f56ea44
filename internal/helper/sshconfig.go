package helper

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sshgate/sshgate/sshgate"
)

// OriginService is what the gateway says of one service of an origin.
type OriginService struct {
	Name     string   `json:"name"`
	Port     int      `json:"port"`
	Online   bool     `json:"online"`
	Session  bool     `json:"session"`
	EndToEnd bool     `json:"end_to_end"`
	Logins   []string `json:"logins"`
	AnyLogin bool     `json:"any_login"`
	HostKeys []string `json:"host_keys"`
}

// Origin asks about a service.
func (a *Access) Origin(ctx context.Context, service sshgate.Endpoint) (OriginService, error) {
	var o OriginService
	err := a.Do(ctx, service.String(), func(c Credential) error {
		return a.Gateway.Ask(ctx, http.MethodGet, "/api/v1/origins/"+url.PathEscape(string(service.Origin))+"?port="+strconv.Itoa(int(service.Port)), c, nil, &o)
	})
	return o, err
}

// SSHConfig says what to print for ~/.ssh/config.
type SSHConfig struct {
	Program   string // absolute path of sshgate
	Pattern   string // a host, or *.suffix
	User      string // "" leaves it to ssh
	ShortCert bool
}

// knownHostsFile is where ssh-config puts the keys of origins.
const knownHostsFile = "known_hosts"

// Block returns the block for ~/.ssh/config. It has --gateway, and a CA file where
// one was given, so that it works without the environment.
func (a *Access) Block(c SSHConfig) string {
	args := " access"
	hosts := []string{c.Pattern}
	if pattern, err := sshgate.ParseHostPattern(c.Pattern); err == nil && pattern.Match(sshgate.OriginName(a.Gateway.host())) {
		hosts = append(hosts, "!"+a.Gateway.host()) // which is no origin, and the way of modes A and B
	}
	flags := " --gateway " + a.Gateway.Address
	if a.opts.CAFile != "" {
		flags += " --ca-file " + configWord(a.opts.CAFile)
	}
	program := configWord(c.Program)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s through the sshgate gateway %s\n", c.Pattern, a.Gateway.Address)
	if c.ShortCert {
		key := a.Place.KeyFile("%h", "%r")
		// exec is a shell's command line inside of quotes of ssh_config.
		exec := program + args + " ssh-gen" + flags + " --hostname %h --login %r"
		fmt.Fprintf(&b, "Match host %s exec \"%s\"\n", strings.Join(hosts, ","), strings.ReplaceAll(exec, `"`, `\"`))
		fmt.Fprintf(&b, "  IdentityFile \"%s\"\n  CertificateFile \"%s\"\n  IdentitiesOnly yes\n", key, CertificateFile(key))
		b.WriteString("Match host " + strings.Join(hosts, ",") + "\n")
	} else {
		fmt.Fprintf(&b, "Host %s\n", strings.Join(hosts, " "))
	}
	fmt.Fprintf(&b, "  ProxyCommand %s%s ssh%s --hostname %%h\n", program, args, flags)
	if c.User != "" {
		fmt.Fprintf(&b, "  User %s\n", c.User)
	}
	fmt.Fprintf(&b, "  UserKnownHostsFile ~/.ssh/known_hosts \"%s\"\n", filepath.Join(a.Place.dir, knownHostsFile))
	return b.String()
}

// configWord quotes a word for a command line of ssh_config, which a shell reads
// after ssh has expanded its tokens. Percent signs stand for themselves.
func configWord(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@:,%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// KnownHosts notes the host keys of an origin, as the gateway has pinned them, in a
// file of the store's. Keys that are there already stay: a changed one is for a
// person to look into.
func (a *Access) KnownHosts(o OriginService) error {
	file := filepath.Join(a.Place.dir, knownHostsFile)
	data, _ := readFile(file) // none is an answer
	known := map[string]bool{}
	for scan := bufio.NewScanner(bytes.NewReader(data)); scan.Scan(); {
		if name, _, ok := strings.Cut(scan.Text(), " "); ok {
			known[name] = true
		}
	}
	if known[o.Name] || len(o.HostKeys) == 0 {
		return nil
	}
	keys := slices.Clone(o.HostKeys)
	slices.Sort(keys)
	for _, key := range keys {
		data = append(data, (o.Name + " " + printable(key) + "\n")...)
	}
	return writeFile(file, data)
}

// NoteHostKeys notes the host keys of the origins that the pattern stands for. A
// single one that may not be reached is an error; of a domain there may be none yet.
func (a *Access) NoteHostKeys(ctx context.Context, pattern sshgate.HostPattern) error {
	if name, err := sshgate.ParseEndpoint(pattern.String()); err == nil {
		o, err := a.Origin(ctx, name)
		if err != nil {
			return err
		}
		return a.KnownHosts(o)
	}
	var list struct {
		Origins []struct {
			Name string `json:"name"`
		} `json:"origins"`
	}
	if err := a.Call(ctx, http.MethodGet, "/api/v1/origins", nil, &list); err != nil {
		return err
	}
	for _, listed := range list.Origins {
		name, err := sshgate.ParseEndpoint(listed.Name)
		if err != nil || !pattern.Match(name.Origin) {
			continue
		}
		o, err := a.Origin(ctx, name)
		if err != nil {
			continue // other services alone
		}
		if err := a.KnownHosts(o); err != nil {
			return err
		}
	}
	return nil
}
