package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sshgate/sshgate/config"
)

// badDir holds the files that the bad configurations name.
func badDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "open.key", "x", 0o644)
	write(t, dir, "group.key", "x", 0o640)
	write(t, dir, "good.key", "x", 0o600)
	write(t, dir, "good.crt", "x", 0o644)
	write(t, dir, "empty", " \n", 0o600)
	write(t, dir, "large", strings.Repeat("x", 20<<10), 0o600)
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkProblems checks what is wrong with the file F in dir. In want, DIR stands
// for dir, and a line break at the beginning does not count.
func checkProblems(t *testing.T, dir string, none bool, err error, want string) {
	t.Helper()
	var list *config.Error
	if !none || !errors.As(err, &list) {
		t.Fatalf("parsed: %v, error %v, want a *config.Error alone", !none, err)
	}
	got := strings.ReplaceAll(strings.ReplaceAll(list.Error(), dir, "DIR"), "DIR/F:", "F:")
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

const goodSignIn = `sign_in: {issuer: https://idp.example.com, client_id: x}`

func TestBadGateway(t *testing.T) {
	// head is three lines that are right, so that tests of one section report
	// that section alone. What follows begins in line 4.
	const head = "hostname: gate.example.com\ndata_dir: state\n" + goodSignIn + "\n"
	const policy = head + "policy:\n  applications:\n" // what follows begins in line 6
	tests := []struct {
		name, in, want string
	}{
		{"empty", "", `F:1:1: the file is empty; "sshgated example" prints one to start from`},
		{"only comments", "# nothing\n", `F:1:1: the file is empty; "sshgated example" prints one to start from`},
		{"null", "~", `F:1:1: the file is empty; "sshgated example" prints one to start from`},
		{"a list", "- a\n", `F:1:1: is a list; expected settings such as connectors, data_dir, hostname`},
		{"text", "hello", `F:1:1: is a single value; expected settings such as connectors, data_dir, hostname`},
		{"two documents", head + "policy: {applications: []}\n---\na: b\n", `F:5:1: a second YAML document begins; the file must hold one`},
		{"broken second document", head + "policy: {applications: []}\n---\na: [\n", `F:7:1: is not valid YAML: did not find expected node content; put values in "" that begin with * & ! % @ [ or {`},
		{"no YAML", "hostname: a: b\n", `F:1:1: is not valid YAML: mapping values are not allowed in this context; put values in "" that begin with * & ! % @ [ or {`},
		{"a tab", "ssh:\n\tlisten: x\n", `F:2:1: is not valid YAML: found character that cannot start any token; put values in "" that begin with * & ! % @ [ or {`},
		{"unquoted address", head + "ssh:\n  listen: [::1]:22\n", `F:5:1: is not valid YAML: did not find expected node content; put values in "" that begin with * & ! % @ [ or {`},
		{"unquoted pattern", policy + "  - name: x\n    hosts: [*.lab]\n", `F:7:1: is not valid YAML: did not find expected alphabetic or numeric character; put values in "" that begin with * & ! % @ [ or {`},
		{"unquoted pattern, read as an alias", policy + "  - name: x\n    hosts: *lab\n", `F:7:1: is not valid YAML: unknown anchor "lab"; put values in "" that begin with * & ! % @ [ or {`},
		{"not UTF-8", "hostname: x\na: \xff\n", `F:2:4: the text is not UTF-8`},
		{"control character", "hostname: x\na: é\x01\n", `F:2:5: the text has the control character U+0001`},

		{"everything missing", "ssh: {}\n", `
F:1:1: data_dir: is missing; expected a directory for keys and state, as in /var/lib/sshgated
F:1:1: hostname: is missing; expected the name that people and connectors use, as in gate.example.com
F:1:1: policy: is missing; without one nobody reaches anything
F:1:1: sign_in: is missing; expected the issuer and client_id of the OpenID Connect provider`},
		{"many at once", "hostnam: x\nhostname: a b\nssh:\n  listen: 22\n  login_timeout: 10\n  max_channels: many\n", `
F:1:1: unknown key "hostnam"; did you mean hostname?
F:1:1: data_dir: is missing; expected a directory for keys and state, as in /var/lib/sshgated
F:1:1: policy: is missing; without one nobody reaches anything
F:1:1: sign_in: is missing; expected the issuer and client_id of the OpenID Connect provider
F:2:11: hostname: "a b" is not a host name; expected the gateway's name, as in gate.example.com
F:4:11: ssh.listen: "22" is not an address to listen on; expected HOST:PORT or :PORT, as in ":22", 127.0.0.1:9090 or "[::1]:22"
F:5:18: ssh.login_timeout: "10" is not a duration; expected a number with its unit, as in 90s, 10m, 12h, 30d
F:6:17: ssh.max_channels: "many" is not a whole number; expected 1 to 10000`},

		{"unknown key, nothing like it", head + "policy: {applications: []}\nzzz: 1\n", `F:5:1: unknown key "zzz"; expected one of connectors, data_dir, hostname, metrics, origins, policy, sign_in, ssh, tunnel, workloads`},
		{"unknown key in a section", head + "policy: {applications: []}\nssh: {Listen: x, logintimeout: 1m}\n", `
F:5:7: ssh: unknown key "Listen"; did you mean listen?
F:5:18: ssh: unknown key "logintimeout"; did you mean login_timeout?`},
		{"key set twice", head + "policy: {applications: []}\nhostname: other.example.com\n", `F:5:1: "hostname" is set a second time; it is in line 1 already`},
		{"key set twice in a section", head + "policy: {applications: []}\nssh:\n  listen: :1\n  listen: :2\n", `F:7:3: ssh: "listen" is set a second time; it is in line 6 already`},
		{"a list as a key", head + "policy: {applications: []}\n? [a]\n: b\n", `F:5:3: has a key that is not plain text`},
		{"a tag", head + "policy: {applications: []}\nssh: {max_channels: !!int \"7\"}\n", `F:5:21: ssh: the tag "!!int" has no meaning here; remove it`},
		{"no value", head + "policy: {applications: []}\nssh:\n  listen:\n", `F:6:10: ssh.listen: has no value; give it one or remove the key`},
		{"a mapping for a value", head + "policy: {applications: []}\nssh: {listen: {port: 22}}\n", `F:5:15: ssh.listen: is a mapping; expected a single value`},
		{"a list for a value", head + "policy: {applications: []}\nssh: {listen: [\":22\"]}\n", `F:5:15: ssh.listen: is a list; expected a single value`},
		{"a value for a section", head + "policy: {applications: []}\nssh: 22\n", `F:5:6: ssh: is a single value; expected settings such as advertise, drain_timeout, handshake_timeout`},

		{"durations", head + "policy: {applications: []}\nssh:\n  login_timeout: 59s\n  handshake_timeout: 6m\n  drain_timeout: -1s\n", `
F:6:18: ssh.login_timeout: 59s is too short; expected 1m or more
F:7:22: ssh.handshake_timeout: 6m is too long; expected 5m or less
F:8:18: ssh.drain_timeout: "-1s" is not a duration; expected a number with its unit, as in 90s, 10m, 12h, 30d`},
		{"more durations", head + "policy: {applications: []}\nssh:\n  login_timeout: 2h\n  handshake_timeout: 1d1d\n  drain_timeout: 99999999999999999999d\n", `
F:6:18: ssh.login_timeout: 2h is too long; expected 1h or less
F:7:22: ssh.handshake_timeout: "1d1d" is not a duration; expected a number with its unit, as in 90s, 10m, 12h, 30d
F:8:18: ssh.drain_timeout: "99999999999999999999d" is not a duration; expected a number with its unit, as in 90s, 10m, 12h, 30d`},
		{"numbers", head + "policy: {applications: []}\nssh: {max_connections: 0, max_auth_tries: 101, max_channels: 1.5, max_unauthenticated: 99999999999999999999}\ntunnel: {max_tunnels: 1000001}\n", `
F:5:24: ssh.max_connections: 0 is out of range; expected 1 to 1000000
F:5:43: ssh.max_auth_tries: 101 is out of range; expected 1 to 100
F:5:62: ssh.max_channels: "1.5" is not a whole number; expected 1 to 10000
F:5:88: ssh.max_unauthenticated: "99999999999999999999" is not a whole number; expected 1 to 1000000
F:6:23: tunnel.max_tunnels: 1000001 is out of range; expected 1 to 1000000`},
		{"addresses", head + "policy: {applications: []}\nssh: {listen: \":ssh\", advertise: \"a b:22\"}\ntunnel: {listen: \":65536\"}\nmetrics: {listen: \"no\"}\n", `
F:5:15: ssh.listen: "ssh" is not a port number; expected HOST:PORT or :PORT, as in ":22", 127.0.0.1:9090 or "[::1]:22"
F:5:34: ssh.advertise: "a b" is not a host name or IP address; expected HOST:PORT, as in gate.example.com:22
F:6:18: tunnel.listen: "65536" is not a port number; expected HOST:PORT or :PORT, as in ":22", 127.0.0.1:9090 or "[::1]:22"
F:7:19: metrics.listen: "no" is not an address to listen on; expected HOST:PORT or :PORT, as in ":22", 127.0.0.1:9090 or "[::1]:22", or off`},
		{"same port", head + "policy: {applications: []}\nssh: {listen: \"127.0.0.1:443\"}\nmetrics: {listen: \":443\"}\n", `
F:5:15: ssh.listen: takes the same port as tunnel.listen (:443); give it another
F:6:19: metrics.listen: takes the same port as ssh.listen (127.0.0.1:443); give it another
F:6:19: metrics.listen: takes the same port as tunnel.listen (:443); give it another`},

		{"half a certificate", head + "policy: {applications: []}\ntunnel:\n  certificate_file: good.crt\n", `F:6:3: tunnel: has only one of certificate_file and key_file; set both, or none to have the gateway's own CA sign a certificate`},
		{"files", head + "policy: {applications: []}\ntunnel: {certificate_file: none.crt, key_file: open.key}\norigins:\n  - {name: a, auth: key, key_file: group.key}\n  - {name: b, auth: key, key_file: dir}\n", `
F:5:28: tunnel.certificate_file: there is no file DIR/none.crt
F:5:48: tunnel.key_file: DIR/open.key is open to other users (mode 0644); run chmod 600 DIR/open.key
F:7:36: origins[0].key_file: DIR/group.key is open to other users (mode 0640); run chmod 600 DIR/group.key
F:8:36: origins[1].key_file: DIR/dir is not a regular file`},
		{"data_dir is a file", "hostname: gate.example.com\ndata_dir: good.crt\n" + goodSignIn + "\npolicy: {applications: []}\n", `F:2:11: data_dir: DIR/good.crt is not a directory`},

		{"origins", head + "policy: {applications: []}\norigins:\n  - {name: a, auth: password}\n  - {name: b, auth: key}\n  - {name: c, key_file: good.key}\n  - {name: d, auth: agent, certificate_ttl: 5m}\n  - {name: A.}\n  - {auth: ca}\n  - {name: \"a*\", certificate_ttl: 10s}\n", `
F:6:21: origins[0].auth: "password" is not a way to sign in; expected ca, agent or key
F:7:5: origins[1]: key_file and auth: key go together; set both or neither
F:8:5: origins[2]: key_file and auth: key go together; set both or neither
F:9:5: origins[3]: certificate_ttl has no meaning with auth: agent
F:10:12: origins[4].name: "a" is the name of origins[0] too; names must differ
F:11:5: origins[5].name: is missing; expected an origin's name, "*.suffix" or "*"
F:12:12: origins[6].name: host pattern "a*" has a * that is not its whole first label; expected a name, "*.suffix" or "*"
F:12:35: origins[6].certificate_ttl: 10s is too short; expected 1m or more`},

		{"merge keys", head + "policy: {applications: []}\nssh: {<<: 7}\ntunnel: {<<: [7]}\nmetrics: &m {<<: *m}\n", `
F:5:11: ssh: the merge key << takes a mapping or a list of mappings
F:6:14: tunnel: the merge key << takes a mapping or a list of mappings
F:7:10: metrics: merge keys nest deeper than 8`},

		{"application", policy + "    - {}\n    - {name: a, hosts: [], rules: []}\n    - {name: a, hosts: web1, rules: []}\n    - {name: b, hosts: [db1, WEB1, -x], rules: []}\n", `
F:6:7: policy.applications[0].hosts: is empty; name the origins that the application is for
F:6:7: policy.applications[0].name: is missing; the log names what decided
F:6:7: policy.applications[0].rules: is missing; to deny everybody write []
F:7:24: policy.applications[1].hosts: is empty; name the origins that the application is for
F:8:14: policy.applications[2].name: "a" is taken by applications[1].name; names must differ
F:9:30: policy.applications[3].hosts[1]: "web1" stands in applications[2].hosts[0] too; a pattern belongs to one application
F:9:36: policy.applications[3].hosts[2]: host pattern: origin "-x" has a label that begins or ends with a hyphen; expected a name, "*.suffix" or "*"`},
		{"rules", policy + `    - name: a
      hosts: web1
      rules:
        - {name: r1, action: warning, include: {everyone: true}}
        - {name: r2, include: {everyone: true}}
        - {name: r2, action: allow, include: [], logins: []}
        - {name: r3, action: deny, include: {everyone: true}, logins: root, session_duration: 1h}
        - {name: r4, action: allow, include: {everyone: true}, logins: [a b, "${claims.email}", "${user}"], session_duration: 30s}
        - {action: allow, exclude: , bypass: true}
`, `
F:9:30: policy.applications[0].rules[0].action: "warning" is not an action; expected allow, service or deny
F:10:11: policy.applications[0].rules[1].action: is missing; use allow, service or deny
F:11:18: policy.applications[0].rules[2].name: "r2" is taken by applications[0].rules[1].name; names must differ
F:11:46: policy.applications[0].rules[2].include: is empty, which matches nobody; everybody who signs in is everyone
F:11:58: policy.applications[0].rules[2].logins: is empty; a rule that allows names the logins, or ports
F:12:71: policy.applications[0].rules[3].logins: has no meaning in a deny rule, which denies every login
F:12:95: policy.applications[0].rules[3].session_duration: has no meaning in a deny rule
F:13:73: policy.applications[0].rules[4].logins[0]: the login "a b" has a character that is not allowed in account names; expected an account name, "${claims.NAME}" or "*"
F:13:78: policy.applications[0].rules[4].logins[1]: the reference ${claims.email}: the claim "email" may be an address that nobody verified; expected an account name, "${claims.NAME}" or "*"
F:13:97: policy.applications[0].rules[4].logins[2]: the reference ${user} is unknown; use ${claims.NAME}; expected an account name, "${claims.NAME}" or "*"
F:13:127: policy.applications[0].rules[4].session_duration: 30s is too short; expected 1m or more
F:14:11: policy.applications[0].rules[5].include: is empty, which matches nobody; everybody who signs in is everyone
F:14:11: policy.applications[0].rules[5].logins: is empty; a rule that allows names the logins, or ports
F:14:11: policy.applications[0].rules[5].name: is missing; the log names what decided
F:14:36: policy.applications[0].rules[5].exclude: has no value; give it one or remove the key
F:14:38: policy.applications[0].rules[5]: unknown key "bypass"; nothing bypasses the sign-in; write an allow rule`},
		{"single values for lists", policy + `    - name: a
      hosts: -x
      rules:
        name: r
        action: allow
        include: {groups: ops}
        require: {address: 10.0.0}
        exclude: {email: example.com}
        logins: a b
`, `
F:7:14: policy.applications[0].hosts[0]: host pattern: origin "-x" has a label that begins or ends with a hyphen; expected a name, "*.suffix" or "*"
F:11:19: policy.applications[0].rules[0].include[0]: unknown key "groups"; did you mean group?
F:12:28: policy.applications[0].rules[0].require[0].address[0]: "10.0.0" is not an address range; expected one as in 10.0.0.0/8 or 2001:db8::/32
F:13:18: policy.applications[0].rules[0].exclude[0]: the address "example.com" must be a whole e-mail address, as in alice@example.com
F:14:17: policy.applications[0].rules[0].logins[0]: the login "a b" has a character that is not allowed in account names; expected an account name, "${claims.NAME}" or "*"`},
		{"selectors", policy + `    - name: a
      hosts: web1
      rules:
        - name: r
          action: allow
          logins: x
          include:
            - everyone: false
            - emial: a@example.com
            - {email: a@example.com, group: ops}
            - {}
            - a@example.com
            - email: example.com
            - email_domain: "@example.com"
            - group: []
            - claim: department
            - claim: {name: email, values: a@example.com}
            - claim: {nam: x}
            - group: ["a\nb", " a", ` + strings.Repeat("x", 1025) + `]
            - address: [10.0.0.1/8, 10.0.0, "::ffff:10.0.0.0/104", "fe80::1%eth0"]
`, `
F:13:25: policy.applications[0].rules[0].include[0].everyone: "false" has no meaning here; write true, or leave the selector out
F:14:15: policy.applications[0].rules[0].include[1]: unknown key "emial"; did you mean email?
F:15:15: policy.applications[0].rules[0].include[2]: has 2 selectors; expected one in each item of the list
F:16:15: policy.applications[0].rules[0].include[3]: has 0 selectors; expected one in each item of the list
F:17:15: policy.applications[0].rules[0].include[4]: is a single value; expected settings such as acr, address, amr
F:18:15: policy.applications[0].rules[0].include[5]: the address "example.com" must be a whole e-mail address, as in alice@example.com
F:19:15: policy.applications[0].rules[0].include[6]: the domain "@example.com" must be what follows the @ of an address, as in example.com
F:20:15: policy.applications[0].rules[0].include[7]: names no group
F:21:22: policy.applications[0].rules[0].include[8].claim: is a single value; expected settings such as name, values
F:22:29: policy.applications[0].rules[0].include[9].claim.name: the claim "email" may be an address that nobody verified; expected the name of a claim; for addresses use email or email_domain
F:23:22: policy.applications[0].rules[0].include[10].claim.name: is missing; expected the name of a claim, as in department or realm.roles
F:23:22: policy.applications[0].rules[0].include[10].claim.values: is missing; expected the values that match
F:23:23: policy.applications[0].rules[0].include[10].claim: unknown key "nam"; did you mean name?
F:24:23: policy.applications[0].rules[0].include[11].group[0]: "a\nb" has a control character in it
F:24:31: policy.applications[0].rules[0].include[11].group[1]: " a" is empty or has space around it
F:24:37: policy.applications[0].rules[0].include[11].group[2]: "` + strings.Repeat("x", 64) + `"... is longer than 1024 bytes
F:25:25: policy.applications[0].rules[0].include[12].address[0]: "10.0.0.1/8" has bits outside its mask; did you mean 10.0.0.0/8?
F:25:37: policy.applications[0].rules[0].include[12].address[1]: "10.0.0" is not an address range; expected one as in 10.0.0.0/8 or 2001:db8::/32
F:25:45: policy.applications[0].rules[0].include[12].address[2]: "::ffff:10.0.0.0/104" is IPv4 inside IPv6; write it as an IPv4 range
F:25:68: policy.applications[0].rules[0].include[12].address[3]: "fe80::1%eth0" is not an address range; expected one as in 10.0.0.0/8 or 2001:db8::/32`},
	}
	dir := badDir(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.ParseGateway([]byte(tt.in), filepath.Join(dir, "F"), nil)
			checkProblems(t, dir, got == nil, err, tt.want)
		})
	}
}

func TestBadSignIn(t *testing.T) {
	const head = "hostname: gate.example.com\ndata_dir: state\npolicy: {applications: []}\nsign_in: " // in line 4
	tests := []struct {
		in, want string
	}{
		{"", `
F:4:9: sign_in.client_id: is missing; expected what the provider calls this gateway
F:4:9: sign_in.issuer: is missing; expected the provider's URL, as in https://accounts.example.com`},
		{"{issuer: http://idp.example.com, client_id: x}", `F:4:19: sign_in.issuer: the issuer "http://idp.example.com" is not reached through https; expected an https URL, as in https://accounts.example.com`},
		{"{issuer: http://localhost.evil.org, client_id: x}", `F:4:19: sign_in.issuer: the issuer "http://localhost.evil.org" is not reached through https; expected an https URL, as in https://accounts.example.com`},
		{"{issuer: idp.example.com, client_id: x}", `F:4:19: sign_in.issuer: is not a URL; expected an https URL, as in https://accounts.example.com`},
		{"{issuer: \"https://me:hunter2@idp.example.com\", client_id: x}", `F:4:19: sign_in.issuer: the issuer's URL has a user name in it; expected an https URL, as in https://accounts.example.com`},
		{"{issuer: \"https://me:hunter2@[idp\", client_id: x}", `F:4:19: sign_in.issuer: is not a URL; expected an https URL, as in https://accounts.example.com`},
		{"{issuer: \"https://idp.example.com/?a=b\", client_id: x}", `F:4:19: sign_in.issuer: the issuer "https://idp.example.com/?a=b" has a query or a fragment; expected an https URL, as in https://accounts.example.com`},
		{"{issuer: https://idp.example.com, client_id: \"\"}", `F:4:55: sign_in.client_id: "" is empty or has space around it`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret: hunter2}", `F:4:58: sign_in: unknown key "client_secret"; secrets do not belong in this file; name a file in client_secret_file or a variable in client_secret_env`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_file: good.key, client_secret_env: SET}", `F:4:10: sign_in: has both client_secret_file and client_secret_env; keep one`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_file: open.key}", `F:4:78: sign_in.client_secret_file: DIR/open.key is open to other users (mode 0644); run chmod 600 DIR/open.key`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_file: none}", `F:4:78: sign_in.client_secret_file: there is no file DIR/none`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_file: dir}", `F:4:78: sign_in.client_secret_file: DIR/dir is not a regular file`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_file: empty}", `F:4:78: sign_in.client_secret_file: DIR/empty is empty; expected a secret`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_file: large}", `F:4:78: sign_in.client_secret_file: DIR/large is larger than 16 KiB; expected a secret alone`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_env: UNSET}", `F:4:77: sign_in.client_secret_env: the environment variable UNSET is not set or empty`},
		{"{issuer: https://idp.example.com, client_id: x, client_secret_env: hunter2!}", `F:4:77: sign_in.client_secret_env: is not the name of an environment variable; expected one as in OIDC_CLIENT_SECRET`},
		{"{issuer: https://idp.example.com, client_id: x, scopes: \"openid email\"}", `F:4:66: sign_in.scopes[0]: "openid email" is not a scope; list scopes one by one, as in [openid, email]`},
		{"{issuer: https://idp.example.com, client_id: x, groups_claim: a..b, max_pending: 0}", `
F:4:72: sign_in.groups_claim: the claim's name "a..b" has an empty part
F:4:91: sign_in.max_pending: 0 is out of range; expected 1 to 100000`},
	}
	dir := badDir(t)
	env := func(name string) string { return map[string]string{"SET": "hunter2"}[name] }
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := config.ParseGateway([]byte(head+tt.in+"\n"), filepath.Join(dir, "F"), env)
			checkProblems(t, dir, got == nil, err, tt.want)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the secret is in the error: %v", err)
			}
		})
	}
}

func TestBadConnector(t *testing.T) {
	const files = "certificate_file: good.crt\nkey_file: good.key\n" // what follows begins in line 3
	tests := []struct {
		name, in, want string
	}{
		{"empty", "", `F:1:1: the file is empty; "sshgate connector example" prints one to start from`},
		{"everything missing", "connections: 2\n", `
F:1:1: certificate_file: there is no file DIR/connector.crt
F:1:1: gateway: is missing; expected the gateway's HOST:PORT, as in gate.example.com:443
F:1:1: key_file: there is no file DIR/connector.key
F:1:1: origins: is missing; expected what the connector publishes`},
		{"no origins", files + "gateway: gate.example.com\norigins: []\n", `F:4:10: origins: is empty; expected what the connector publishes`},
		{"values", "certificate_file: good.key\nkey_file: open.key\ngateway: \"https://gate.example.com\"\ngateway_ca_file: none\nserver_name: a b\nconnections: 9\norigin: x\norigins: {name: a, url: ssh://a}\n", `
F:2:11: key_file: DIR/open.key is open to other users (mode 0644); run chmod 600 DIR/open.key
F:3:10: gateway: "https://gate.example.com" is not an address; expected HOST:PORT, as in gate.example.com:443
F:4:18: gateway_ca_file: there is no file DIR/none
F:5:14: server_name: "a b" is not a host name; expected the name in the gateway's certificate
F:6:14: connections: 9 is out of range; expected 1 to 8
F:7:1: unknown key "origin"; did you mean origins?`},
		{"gateway port", files + "gateway: \"gate.example.com:0\"\norigins: {name: a, url: ssh://a}\n", `F:3:10: gateway: "0" is not a port number; expected HOST:PORT, as in gate.example.com:443`},
		{"urls", files + `gateway: gate.example.com
origins:
  - {name: a, url: http://127.0.0.1}
  - {name: b, url: ssh://root@127.0.0.1}
  - {name: c, url: "127.0.0.1:22"}
  - {name: d, url: ssh://127.0.0.1/x}
  - {name: e, url: "ssh://127.0.0.1:0"}
  - {name: f, url: "ssh://127.0.0.1?x"}
  - {name: g, url: "ssh:127.0.0.1"}
  - {name: h, url: "ssh://:22"}
  - {name: "*.x", url: ssh://a}
  - {name: A, url: ssh://a}
  - {name: i}
`, `
F:5:20: origins[0].url: the scheme "http" is not supported; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:6:20: origins[1].url: the origin's URL has a user name in it; the policy says who logs in as whom; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:7:20: origins[2].url: is not a URL; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:8:20: origins[3].url: "ssh://127.0.0.1/x" has more than a host and a port; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:9:20: origins[4].url: "0" is not a port number; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:10:20: origins[5].url: "ssh://127.0.0.1?x" has more than a host and a port; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:11:20: origins[6].url: is not a URL; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:12:20: origins[7].url: "" is not a host name or IP address; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:13:12: origins[8].name: origin "*.x" has a character that DNS names do not have; expected the name that people reach it by, as in web1
F:15:5: origins[10].url: is missing; expected what to dial, as in ssh://127.0.0.1:22`},
		{"services", files + `gateway: gate.example.com
origins:
  - {name: A, url: ssh://a}
  - {name: a, url: "ssh://a:2222"}
  - {name: a, url: "tcp://a:5432"}
  - {name: a, url: rdp://a, port: 5432}
  - {name: b, url: ssh://b, port: 2222}
  - {name: b, url: tcp://b}
  - {name: b, url: "tcp://b:22"}
  - {name: b, url: "unix:///run/x"}
  - {name: b, url: "unix://run/x", port: 1}
  - {name: b, url: "unix:///run/x", port: 0}
  - {name: b, url: "unix:///run/x?y", port: 3}
`, `
F:6:12: origins[1].name: "a" at port 22 is origins[0] too; names or ports must differ
F:8:12: origins[3].name: "a" at port 5432 is origins[2] too; names or ports must differ
F:9:35: origins[4].port: has no meaning for ssh, which is always published at port 22; remove it
F:10:20: origins[5].url: "tcp://b" has no port; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:11:5: origins[6]: is published at port 22, which is SSH's; write ssh://HOST:PORT, or another port
F:12:5: origins[7]: has no port; a unix socket needs one, by which people reach it
F:13:20: origins[8].url: the path of a unix socket is absolute, with three slashes: unix:///run/NAME.sock; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH
F:14:43: origins[9].port: "0" is not a port; expected a number from 1 to 65535
F:15:20: origins[10].url: "unix:///run/x?y" has more than a path; expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH`},
	}
	dir := badDir(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.ParseConnector([]byte(tt.in), filepath.Join(dir, "F"), nil)
			checkProblems(t, dir, got == nil, err, tt.want)
		})
	}
}
