package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// token is what `sshgated token create --json` prints.
type token struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
}

func (s *stack) createToken(t *testing.T, args ...string) token {
	t.Helper()
	out := s.sshgated(append([]string{"token", "create", "--config", s.path("gateway.yaml"), "--json"}, args...)...)
	var created token
	if err := json.Unmarshal([]byte(out), &created); err != nil || created.ID == "" {
		t.Fatalf("token create printed %s: %v", out, err)
	}
	return created
}

// as makes a command use a service token.
func (k token) as(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "SSHGATE_SERVICE_TOKEN_ID="+k.ID, "SSHGATE_SERVICE_TOKEN_SECRET="+k.Secret)
	return cmd
}

func TestServiceTokenOverHTTPS(t *testing.T) {
	t.Parallel()
	need(t, "curl", "ncat", "socat")
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	echo := fmt.Sprintf("web1:%d", h.echo)
	backup, other := h.createToken(t, "backup"), h.createToken(t, "other")
	ask := func(k token) result {
		cmd := k.as(c.access("ssh", "--hostname", echo))
		cmd.Stdin = strings.NewReader("q")
		return run1(t, cmd)
	}
	if r := ask(backup); r.stdout != "got q" || r.stderr != "" || r.code != 0 {
		t.Fatalf("%+v", r)
	}
	c.configureFor(t, backup)
	if r := run1(t, backup.as(c.hssh("-o", "BatchMode=yes", "web1", "echo by token"))); r.stdout != "by token\n" {
		t.Errorf("ssh: %+v", r)
	}
	c.testForeignTools(t, backup, echo)

	reached := h.reached.Load()
	if r := ask(other); r.code != 3 {
		t.Errorf("a token that no rule names: %+v", r)
	}
	if r := ask(token{backup.ID, other.Secret}); r.code != 4 || strings.Contains(r.stderr, "user_code") {
		t.Errorf("another token's secret: %+v", r)
	}
	old := backup
	var rotated token
	out := h.sshgated("token", "rotate", "--config", h.path("gateway.yaml"), "--overlap", "1h", "--json", "backup")
	if err := json.Unmarshal([]byte(out), &rotated); err != nil || rotated.ID != backup.ID || rotated.Secret == backup.Secret {
		t.Fatalf("token rotate printed %s: %v", out, err)
	}
	for _, k := range []token{old, rotated} {
		if r := ask(k); r.code != 0 {
			t.Errorf("in the overlap: %+v", r)
		}
	}
	reached += 2
	h.sshgated("token", "revoke", "--config", h.path("gateway.yaml"), "backup")
	for _, k := range []token{old, rotated} {
		if r := ask(k); r.code != 4 || !strings.Contains(r.stderr, "revoked") || strings.Contains(r.stderr, "user_code") {
			t.Errorf("revoked: %+v", r)
		}
	}
	if n := h.reached.Load(); n != reached {
		t.Errorf("%d connections reached the origin, want %d", n, reached)
	}
	if strings.Contains(h.gateway.out.String(), backup.Secret) {
		t.Error("the gateway's log has the secret")
	}
}

// configureFor is configure for a machine.
func (c *helperClient) configureFor(t *testing.T, k token) {
	t.Helper()
	block := must(t, k.as(c.access("ssh-config", "--hostname", "web1")))
	write(t, c.config, block+fmt.Sprintf("\nHost *\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n", c.stack.login, c.key))
}

// testForeignTools reaches the service by programs that know HTTPS proxies.
func (c *helperClient) testForeignTools(t *testing.T, k token, echo string) {
	ca := c.path("connector/gateway-ca.crt")
	proxy := fmt.Sprintf("https://127.0.0.1:%d", c.tlsPort)
	r := run1(t, c.command("curl", "-sS", "--max-time", "20", "-p", "--proxy-cacert", ca, "-x", proxy, "--proxy-user", k.ID+":"+k.Secret, "http://"+echo))
	if r.stdout != "by http" {
		t.Errorf("curl: %+v", r)
	}
	if r := run1(t, k.as(c.access("curl", "http://"+echo, "--", "-sS"))); r.stdout != "by http" || r.stderr != "" {
		t.Errorf("access curl: %+v", r)
	}
	r = run1(t, c.command("curl", "-sS", "--max-time", "20", "-p", "--proxy-cacert", ca, "-x", proxy, "http://"+echo))
	if r.code == 0 || !strings.Contains(r.stderr, "407") {
		t.Errorf("curl without a credential: %+v", r)
	}
	// ncat speaks to proxies in clear alone; socat puts TLS below it.
	port := freePort(t)
	relay := start(t, "socat", fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr", port),
		fmt.Sprintf("OPENSSL:127.0.0.1:%d,cafile=%s,verify=1", c.tlsPort, ca))
	cmd := c.command("ncat", "--proxy", fmt.Sprintf("127.0.0.1:%d", port), "--proxy-type", "http", "--proxy-auth", k.ID+":"+k.Secret,
		"web1", strings.TrimPrefix(echo, "web1:"))
	eventually(t, "ncat through socat", 15*time.Second, func() error {
		again := c.command(cmd.Path, cmd.Args[1:]...)
		again.Stdin = strings.NewReader("from ncat")
		if r := run1(t, again); r.stdout != "got from ncat" {
			return fmt.Errorf("%+v; %s", r, relay.out)
		}
		return nil
	})
}

func TestServiceTokenByKey(t *testing.T) {
	t.Parallel()
	h := newHelperStack(t, "")
	c := h.newHelper(t)
	write(t, h.keys, "")
	h.createToken(t, "backup", "--key", c.key+".pub", "--no-secret")
	// Mode A, and mode B without a key at the origin is refused by the origin.
	if r := run1(t, c.ssh("-o", "BatchMode=yes", "gate", "echo by key")); r.stdout != "by key\n" || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	if end := h.waitForEvents(t, "session.end", 1)[0]; end["identity"] != "service-token:backup" || end["identity_kind"] != "service_token" {
		t.Errorf("session.end: %v", end)
	}
	// A connection that lasts, to ask for another channel when it is too late.
	socket := filepath.Join(c.home, "control")
	must(t, c.ssh("-M", "-S", socket, "-o", "BatchMode=yes", "-o", "ControlPersist=60", "gate", "true"))
	h.sshgated("token", "revoke", "--config", h.path("gateway.yaml"), "backup")
	r := run1(t, c.ssh("gate", "true")) // not in BatchMode: it must not be asked to sign in
	if r.code != 255 || !strings.Contains(r.stderr, "revoked") || strings.Contains(r.stderr, "user_code") {
		t.Errorf("revoked: %+v", r)
	}
	if r := run1(t, c.ssh("-S", socket, "-o", "BatchMode=yes", "gate", "true")); r.code == 0 {
		t.Errorf("another channel of the old connection: %+v", r)
	}
	_ = c.ssh("-S", socket, "-O", "exit", "gate").Run()
	if n := len(h.events(t, "login.start")); n != 0 {
		t.Errorf("%d sign-ins were offered", n)
	}
}

// platform is an issuer of ID tokens for jobs.
type platform struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{key: key}
	mux := http.NewServeMux()
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	mux.Handle("/.well-known/openid-configuration", answer(map[string]any{
		"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL, "token_endpoint": p.URL,
		"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
	}))
	mux.Handle("/keys", answer(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}}))
	return p
}

// token returns the ID token of a job of a repository.
func (p *platform) token(t *testing.T, audience, repository string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{
		"iss": p.URL, "sub": "repo:" + repository, "aud": audience, "repository": repository,
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func TestWorkloadIdentity(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	h := &helperStack{keys: filepath.Join(t.TempDir(), "authorized_keys")}
	h.stack = newStack(t, stackOptions{
		origins: fmt.Sprintf("workloads:\n  - name: deploy\n    issuer: %s\n    claims: {repository: example/app}\n", p.URL),
		policy: strings.Replace(defaultPolicy, "          logins: [LOGIN]\n", `          logins: [LOGIN]
        - name: deploy
          action: service
          include: [{workload: deploy}]
          logins: [LOGIN]
          end_to_end: true
`, 1),
	})
	c := &helperClient{client: h.newClient(t), stack: h}
	job := func(idToken string) *exec.Cmd {
		// With a certificate: the origin has no key of the job.
		cmd := c.run("ssh", "-F", c.config, "-o", "BatchMode=yes", h.login+"@web1", "echo deployed")
		cmd.Env = append(cmd.Env, "SSHGATE_ID_TOKEN="+idToken)
		return cmd
	}
	config := c.access("ssh-config", "--hostname", "web1", "--short-lived-cert")
	config.Env = append(config.Env, "SSHGATE_ID_TOKEN="+p.token(t, "https://gate.test", "example/app"))
	write(t, c.config, must(t, config)+"\nHost *\n  StrictHostKeyChecking yes\n")
	if r := run1(t, job(p.token(t, "https://gate.test", "example/app"))); r.stdout != "deployed\n" {
		t.Fatalf("%+v", r)
	}
	if end := h.waitForEvents(t, "session.end", 1)[0]; end["identity_kind"] != "workload" || !strings.Contains(fmt.Sprint(end["identity"]), "workload:deploy") {
		t.Errorf("session.end: %v", end)
	}
	for name, bad := range map[string]string{
		"another repository": p.token(t, "https://gate.test", "example/evil"),
		"another audience":   p.token(t, "https://other.test", "example/app"),
		"garbage":            "e30.e30.e30",
	} {
		fresh := &helperClient{client: h.newClient(t), stack: h}
		cmd := fresh.access("ssh", "--hostname", "web1")
		cmd.Env = append(cmd.Env, "SSHGATE_ID_TOKEN="+bad)
		if r := run1(t, cmd); r.code != 4 || strings.Contains(r.stderr, "user_code") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
