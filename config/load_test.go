package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
)

// write puts a file into dir, with a mode that the umask does not change.
func write(t testing.TB, dir, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

const smallestGateway = `
hostname: gate.example.com
data_dir: state
sign_in: {issuer: "https://idp.example.com/", client_id: sshgate}
policy: {applications: []}
`

func TestGatewayDefaults(t *testing.T) {
	dir := t.TempDir()
	got, err := config.LoadGateway(write(t, dir, "gateway.yaml", smallestGateway, 0o644), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Gateway{
		Hostname: "gate.example.com",
		DataDir:  filepath.Join(dir, "state"),
		SSH: config.SSH{
			Listen: ":22", Advertise: "gate.example.com:22",
			LoginTimeout: 10 * time.Minute, HandshakeTimeout: 20 * time.Second,
			MaxConnections: 4096, MaxUnauthenticated: 256, MaxAuthTries: 20, MaxChannels: 256,
			DrainTimeout: 30 * time.Second,
		},
		Tunnel:  config.Tunnel{Listen: ":443", Advertise: "gate.example.com:443", MaxTunnels: 16384},
		Metrics: config.Metrics{Listen: "127.0.0.1:9090"},
		SignIn: config.SignIn{
			Issuer: "https://idp.example.com/", ClientID: "sshgate",
			Scopes: []string{"openid", "email", "profile"}, GroupsClaim: "groups", MaxPending: 1000,
		},
		Connectors: config.Connectors{CertificateTTL: 90 * 24 * time.Hour},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.Gateway{}, config.Secret{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.SignIn.ClientSecret.Reveal() != "" {
		t.Error("a secret from nowhere")
	}
	if diff := cmp.Diff(&sshgate.Policy{Applications: []sshgate.Application{}}, got.Policy()); diff != "" {
		t.Errorf("policy (-want +got)\n%s", diff)
	}
	wantOrigin := config.Origin{Auth: config.AuthCA, CertificateTTL: 5 * time.Minute}
	if o := got.Origin("web1"); o != wantOrigin {
		t.Errorf("an origin without an entry: %+v", o)
	}
}

func TestGatewayValues(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "tls.crt", "x", 0o644)
	write(t, dir, "tls.key", "x", 0o600)
	write(t, dir, "switch.key", "x", 0o400)
	got, err := config.LoadGateway(write(t, dir, "gateway.yaml", `
hostname: Gate.Example.com
data_dir: /var/lib/gate
ssh:
  listen: "[::1]:2222"
  advertise: ssh.example.com
  login_timeout: 1h
  handshake_timeout: 1m30s
  max_connections: 10
  max_unauthenticated: 5
  max_auth_tries: 6
  max_channels: 7
  drain_timeout: 0s
tunnel: {listen: "127.0.0.1:0", certificate_file: tls.crt, key_file: ./tls.key, max_tunnels: 8}
metrics: {listen: off}
sign_in:
  issuer: http://127.0.0.1:5556/dex
  client_id: 12345
  client_secret_env: THE_SECRET
  scopes: [groups, email, groups]
  groups_claim: https://example.com/groups
  max_pending: 5
origins:
  - {name: "*", auth: agent}
  - {name: "*.lab.example.com", certificate_ttl: 2m}
  - {name: switch1.lab.example.com, auth: key, key_file: switch.key}
policy:
  session_duration: 30d
  applications: []
`, 0o644), func(name string) string { return map[string]string{"THE_SECRET": "hunter2"}[name] })
	if err != nil {
		t.Fatal(err)
	}
	if got.Hostname != "gate.example.com" || got.DataDir != "/var/lib/gate" || got.Metrics.Listen != "" {
		t.Errorf("%+v", got)
	}
	wantSSH := config.SSH{
		Listen: "[::1]:2222", Advertise: "ssh.example.com:22", LoginTimeout: time.Hour, HandshakeTimeout: 90 * time.Second,
		MaxConnections: 10, MaxUnauthenticated: 5, MaxAuthTries: 6, MaxChannels: 7,
	}
	if got.SSH != wantSSH {
		t.Errorf("ssh: %+v", got.SSH)
	}
	wantTunnel := config.Tunnel{Listen: "127.0.0.1:0", Advertise: "gate.example.com:0", CertificateFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), MaxTunnels: 8}
	if got.Tunnel != wantTunnel {
		t.Errorf("tunnel: %+v", got.Tunnel)
	}
	s := got.SignIn
	if s.Issuer != "http://127.0.0.1:5556/dex" || s.ClientID != "12345" || s.ClientSecret.Reveal() != "hunter2" ||
		fmt.Sprint(s.Scopes) != "[openid groups email]" || s.GroupsClaim != "https://example.com/groups" || s.MaxPending != 5 {
		t.Errorf("sign_in: %+v", s)
	}
	if d := got.Policy().SessionDuration; d != 30*24*time.Hour {
		t.Errorf("session duration %v", d)
	}
	for name, want := range map[sshgate.OriginName]string{
		"web1":                    "agent  0s",
		"lab.example.com":         "agent  0s",
		"a.lab.example.com":       "ca  2m0s",
		"switch1.lab.example.com": "key " + filepath.Join(dir, "switch.key") + " 0s",
	} {
		o := got.Origin(name)
		if s := fmt.Sprintf("%s %s %v", o.Auth, o.KeyFile, o.CertificateTTL); s != want {
			t.Errorf("origin %s: %s, want %s", name, s, want)
		}
	}
}

func TestAdvertiseFollowsListen(t *testing.T) {
	got, err := config.ParseGateway([]byte(smallestGateway+"ssh: {listen: \"127.0.0.1:2222\"}\n"), "gateway.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := "gate.example.com:2222"; got.SSH.Advertise != want {
		t.Errorf("%q, want %q", got.SSH.Advertise, want)
	}
}

func TestPolicy(t *testing.T) {
	got, err := config.ParseGateway([]byte(`
hostname: gate.example.com
data_dir: state
sign_in: {issuer: https://idp.example.com, client_id: sshgate}
policy:
  session_duration: 1d12h
  applications:
    - name: web
      hosts: [web1, "*.LAB.example.com"]
      session_duration: 8h
      rules:
        - &engineers
          name: engineers
          action: allow
          include:
            - email_domain: example.com
            - email: [alice@example.com, bob@example.com]
            - group: ops
            - claim: {name: realm.roles, values: [eng, 7, true]}
            - address: [10.0.0.0/8, "2001:db8::1", 192.0.2.1]
            - everyone: true
          require: {group: staff}
          exclude: {claim: {name: contract, values: external}}
          logins: [deploy, "${claims.unix_name}"]
          session_duration: 1h
        - name: locked out
          action: deny
          include: {email: mallory@example.com}
    - name: everything
      hosts: "*"
      rules:
        - <<: *engineers
          name: all logins
          logins: "*"
`), "gateway.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	pattern := func(s string) sshgate.HostPattern {
		p, err := sshgate.ParseHostPattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	template := func(s string) sshgate.LoginTemplate {
		l, err := sshgate.ParseLoginTemplate(s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	engineers := sshgate.Rule{
		Name: "engineers", Action: sshgate.Allow,
		Include: []sshgate.Selector{
			sshgate.EmailDomain{"example.com"},
			sshgate.Email{"alice@example.com", "bob@example.com"},
			sshgate.Group{"ops"},
			sshgate.Claim{Path: "realm.roles", Values: []string{"eng", "7", "true"}},
			sshgate.Address{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("192.0.2.1/32")},
			sshgate.Everyone{},
		},
		Require:         []sshgate.Selector{sshgate.Group{"staff"}},
		Exclude:         []sshgate.Selector{sshgate.Claim{Path: "contract", Values: []string{"external"}}},
		Logins:          []sshgate.LoginTemplate{template("deploy"), template("${claims.unix_name}")},
		SessionDuration: time.Hour,
	}
	everything := engineers
	everything.Name, everything.Logins = "all logins", []sshgate.LoginTemplate{template("*")}
	want := &sshgate.Policy{
		SessionDuration: 36 * time.Hour,
		Applications: []sshgate.Application{
			{
				Name: "web", Hosts: []sshgate.HostPattern{pattern("web1"), pattern("*.lab.example.com")}, SessionDuration: 8 * time.Hour,
				Rules: []sshgate.Rule{engineers, {
					Name: "locked out", Action: sshgate.Deny,
					Include: []sshgate.Selector{sshgate.Email{"mallory@example.com"}},
				}},
			},
			{Name: "everything", Hosts: []sshgate.HostPattern{pattern("*")}, Rules: []sshgate.Rule{everything}},
		},
	}
	compare := []cmp.Option{
		cmp.Comparer(func(a, b sshgate.HostPattern) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b sshgate.LoginTemplate) bool { return a.String() == b.String() && a.Any() == b.Any() }),
	}
	if diff := cmp.Diff(want, got.Policy(), compare...); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestConnector(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "connector.crt", "x", 0o644)
	write(t, dir, "connector.key", "x", 0o600)
	write(t, dir, "ca.crt", "x", 0o644)
	path := write(t, dir, "connector.yaml", `
gateway: Gate.example.com
origins: {name: Web1, url: ssh://localhost}
`, 0o644)
	got, err := config.LoadConnector(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Gateway != "Gate.example.com:443" || got.ServerName != "Gate.example.com" || got.Connections != 2 || got.GatewayCAFile != "" ||
		got.CertificateFile != filepath.Join(dir, "connector.crt") || got.KeyFile != filepath.Join(dir, "connector.key") {
		t.Errorf("defaults: %+v", got)
	}
	if o := got.Origins; len(o) != 1 || o[0].Name != "web1" || o[0].URL.String() != "ssh://localhost:22" || o[0].Port != 22 {
		t.Errorf("origins: %+v", o)
	}

	got, err = config.ParseConnector([]byte(`
gateway: "[2001:db8::1]:8443"
server_name: gate.example.com
gateway_ca_file: ca.crt
connections: 8
origins:
  - {name: web1, url: "ssh://[::1]:2222/"}
  - {name: web2, url: ssh://10.0.0.2:22}
  - {name: web2, url: "tcp://10.0.0.2:5432"}
  - {name: web2, url: rdp://10.0.0.2}
  - {name: web2, url: "unix:///run/x.sock", port: 9100}
`), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Gateway != "[2001:db8::1]:8443" || got.ServerName != "gate.example.com" || got.Connections != 8 || got.GatewayCAFile != filepath.Join(dir, "ca.crt") {
		t.Errorf("values: %+v", got)
	}
	var services []string
	for _, o := range got.Origins {
		services = append(services, o.Endpoint().String()+" "+o.URL.String())
	}
	want := []string{
		"web1:22 ssh://[::1]:2222", "web2:22 ssh://10.0.0.2:22", "web2:5432 tcp://10.0.0.2:5432", "web2:3389 rdp://10.0.0.2:3389",
		"web2:9100 unix:///run/x.sock",
	}
	if diff := cmp.Diff(want, services); diff != "" {
		t.Errorf("origins (-want +got):\n%s", diff)
	}
}

// What ships must load, and mean what its comments say.
func TestExamples(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"oidc-client-secret", "switch1.key", "connector.key"} {
		write(t, dir, name, "s3cret\n", 0o600)
	}
	for _, name := range []string{"connector.crt", "gateway-ca.crt"} {
		write(t, dir, name, "x", 0o644)
	}
	gateway, err := config.LoadGateway(write(t, dir, "gateway.yaml", config.ExampleGateway, 0o644), nil)
	if err != nil {
		t.Fatal(err)
	}
	if warnings := gateway.Warnings(); len(warnings) > 0 || gateway.PolicyTests() == 0 {
		t.Errorf("warnings %v, %d tests", warnings, gateway.PolicyTests())
	}
	if got := gateway.SignIn.ClientSecret.Reveal(); got != "s3cret" {
		t.Errorf("the client secret is %q", got)
	}
	connector, err := config.LoadConnector(write(t, dir, "connector.yaml", config.ExampleConnector, 0o644), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := connector.Origins[1].URL.Host; got != "10.0.7.12:22" {
		t.Errorf("the second origin is dialled at %s", got)
	}
	id := sshgate.Identity{
		Issuer: gateway.SignIn.Issuer, Subject: "1", Email: "carol@example.com", EmailVerified: true,
		Groups: []string{"engineering"}, SignedInAt: time.Unix(1_700_000_000, 0),
	}
	request := sshgate.Request{
		Identity: id, Target: sshgate.Target{Origin: "web1"}, ClientAddr: netip.MustParseAddr("203.0.113.1"), Time: id.SignedInAt,
	}
	if d := gateway.Policy().Decide(request); !d.Allowed || d.Login != "deploy" || d.SessionDuration != 8*time.Hour {
		t.Errorf("an engineer on web1: %+v", d)
	}
	request.ClientAddr = netip.MustParseAddr("192.0.2.1")
	if d := gateway.Policy().Decide(request); d.Allowed || d.Rule != "nobody from the guest network" {
		t.Errorf("an engineer from the guest network: %+v", d)
	}
	job := gateway.Workloads[0]
	request.ClientAddr = netip.MustParseAddr("203.0.113.1")
	request.Identity = sshgate.Identity{
		Kind: sshgate.Workload, Issuer: job.Issuer, Subject: "repo:acme/app", Name: job.Name, SignedInAt: id.SignedInAt,
	}
	if d := gateway.Policy().Decide(request); !d.Allowed || d.Login != "deploy" || d.Rule != "deployment" {
		t.Errorf("the job on web1: %+v", d)
	}
	request.Target.Origin, request.Channel, request.Port = "main.db.example.com", sshgate.ChannelTCP, 5432
	if d := gateway.Policy().Decide(request); d.Allowed {
		t.Errorf("the job at the database: %+v", d)
	}
	request.Identity.Kind, request.Identity.Name, request.ClientAddr = sshgate.ServiceToken, "backup", netip.MustParseAddr("10.1.2.3")
	if d := gateway.Policy().Decide(request); !d.Allowed || d.Rule != "nightly backup" {
		t.Errorf("the backup at the database: %+v", d)
	}
}

// The settings that the examples only mention, commented out, show the defaults.
func TestExamplesShowDefaults(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"oidc-client-secret", "switch1.key", "connector.crt", "connector.key", "gateway-ca.crt"} {
		write(t, dir, name, "x", 0o600)
	}
	path := filepath.Join(dir, "example.yaml")
	// Those that stand for a choice rather than a default.
	choices := []string{"certificate_file:", "key_file:", "client_secret_env:"}
	uncomment := func(example string) []byte {
		var lines []string
		for line := range strings.Lines(example) {
			indent, setting, found := strings.Cut(line, "# ")
			key, _, isSetting := strings.Cut(setting, ": ")
			isChoice := false
			for _, choice := range choices {
				isChoice = isChoice || strings.HasPrefix(setting, choice)
			}
			if found && strings.TrimSpace(indent) == "" && isSetting && !strings.ContainsAny(key, " `") && key == strings.ToLower(key) && !isChoice {
				line = indent + setting
			}
			lines = append(lines, line)
		}
		return []byte(strings.Join(lines, ""))
	}
	if strings.Count(string(uncomment(config.ExampleGateway)), "\n  max_") != 6 {
		t.Fatal("the settings were not found")
	}
	opts := cmp.Options{
		cmp.Comparer(func(a, b config.Secret) bool { return a == b }),
		cmp.Comparer(func(a, b sshgate.HostPattern) bool { return a == b }),
		cmpopts.IgnoreUnexported(config.Gateway{}),
	}
	with, err := config.ParseGateway(uncomment(config.ExampleGateway), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	without, err := config.ParseGateway([]byte(config.ExampleGateway), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(without, with, opts); diff != "" {
		t.Errorf("gateway (-default +shown)\n%s", diff)
	}
	k, err := config.ParseConnector(uncomment(config.ExampleConnector), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	kWithout, err := config.ParseConnector([]byte(config.ExampleConnector), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kWithout, k); diff != "" {
		t.Errorf("connector (-default +shown)\n%s", diff)
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	gateway, err := config.ParseGateway([]byte(strings.Replace(smallestGateway, "client_id", "client_secret_env: S, client_id", 1)),
		"gateway.yaml", func(string) string { return "hunter2" })
	if err != nil {
		t.Fatal(err)
	}
	if gateway.SignIn.ClientSecret.Reveal() != "hunter2" {
		t.Fatal("the secret was not read")
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%v %+v %#v %x %s %q\n", gateway.SignIn, gateway.SignIn, gateway.SignIn, gateway.SignIn.ClientSecret, gateway.SignIn.ClientSecret, gateway.SignIn.ClientSecret)
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "secret", gateway.SignIn.ClientSecret, "all", gateway.SignIn)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "secret", gateway.SignIn.ClientSecret, "all", gateway.SignIn)
	if err := json.NewEncoder(&out).Encode(gateway); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("the secret is printed:\n%s", out.String())
	}
}

func TestLoadMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := config.LoadGateway(path, nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "there is no configuration "+path) {
		t.Errorf("%v", err)
	}
	if _, err := config.LoadConnector(path, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := config.LoadConnector(t.TempDir(), nil); err == nil {
		t.Error("a directory was read as a configuration")
	}
}

func TestLoadTooLarge(t *testing.T) {
	path := write(t, t.TempDir(), "large.yaml", strings.Repeat("#23456789abcdef\n", 1<<16)+"#", 0o644)
	_, err := config.LoadGateway(path, nil)
	if want := path + ":1:1: the file is larger than 1024 KiB; a configuration is small"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
