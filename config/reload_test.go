package config

import (
	"slices"
	"strings"
	"testing"
)

func TestTakeRestart(t *testing.T) {
	const text = `
hostname: gate.test
data_dir: data
ssh: {listen: ":2222"}
tunnel: {max_tunnels: 5}
sign_in: {issuer: "https://accounts.example.com", client_id: sshgate}
policy: {applications: []}
`
	read := func(text string) *Gateway {
		g, err := ParseGateway([]byte(text), "gateway.yaml", nil)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	for _, test := range []struct {
		old, new string
		want     []string
	}{
		{"", "", nil},
		{"policy: {applications: []}", "policy: {session_duration: 1h, applications: []}\norigins: [{name: web1, auth: agent}]", nil},
		{`":2222"`, `":2223"`, []string{"ssh.listen", "ssh.advertise"}},
		{"gate.test", "gate2.test", []string{"hostname", "ssh.advertise", "tunnel.advertise"}},
		{"max_tunnels: 5", "max_tunnels: 6", []string{"tunnel.max_tunnels"}},
		{"data_dir: data", "data_dir: other", []string{"data_dir"}},
		{"client_id: sshgate", "client_id: other", []string{"sign_in.client_id"}},
	} {
		if got := read(text).TakeRestart(read(strings.Replace(text, test.old, test.new, 1))); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.new, got, test.want)
		}
	}
	for field, want := range map[string]string{"SSH": "ssh", "SignIn": "sign_in", "CertificateTTL": "certificate_ttl", "ClientID": "client_id", "Listen": "listen", "TLSPort": "tls_port"} {
		if got := settingName(field); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
}
