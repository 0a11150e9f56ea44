package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sshgate/sshgate/sshgate"
)

func TestOrigins(t *testing.T) {
	b := newAPI(t, answering)
	for name, test := range map[string]struct{ header, want string }{
		"alice":  {b.bearer(person("alice")), "web1 online deploy [{22 ssh true true} {5432 tcp false true}]; web2 online deploy [{22 ssh true false}]"},
		"bob":    {b.bearer(person("bob")), ""},
		"backup": {second(b.serviceToken("backup", time.Now().Add(time.Hour))), "web1 online  [{5432 tcp false true}]"},
		"ci":     {b.bearer(sshgate.Identity{Kind: sshgate.Workload, Issuer: "https://ci", Subject: "x", Name: "ci", SignedInAt: time.Now()}), "web1 offline  any [{22 ssh true true}]"},
	} {
		resp, got := b.do(http.MethodGet, "/api/v1/origins", test.header, nil)
		var lines []string
		for _, o := range got["origins"].([]any) {
			o := o.(map[string]any)
			var services []string
			for _, s := range o["services"].([]any) {
				s := s.(map[string]any)
				services = append(services, fmt.Sprintf("{%v %v %v %v}", s["port"], s["kind"], s["session"] == true, s["end_to_end"]))
			}
			state := map[any]string{true: "online", false: "offline"}[o["online"]]
			logins := strings.Trim(fmt.Sprint(o["logins"]), "[]")
			if o["any_login"] == true {
				logins += " any"
			}
			lines = append(lines, fmt.Sprintf("%v %s %s %v", o["name"], state, logins, services))
		}
		if list := strings.Join(lines, "; "); resp.StatusCode != 200 || list != test.want {
			t.Errorf("%s: %s\n got %s\nwant %s", name, resp.Status, list, test.want)
		}
	}
	if resp, got := b.do(http.MethodGet, "/api/v1/origins", "", nil); resp.StatusCode != 401 || got["error"] != "token_required" || resp.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("without a credential: %s %v", resp.Status, got)
	}
}

func second[A, B any](_ A, b B) B { return b }

func TestOrigin(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	resp, got := b.do(http.MethodGet, "/api/v1/origins/WEB1.", alice, nil)
	if resp.StatusCode != 200 || got["name"] != "web1" || got["online"] != false || got["end_to_end"] != true || len(got["host_keys"].([]any)) != 1 {
		t.Errorf("web1: %s %v", resp.Status, got)
	}
	resp, got = b.do(http.MethodGet, "/api/v1/origins/web1?port=5432", alice, nil)
	if resp.StatusCode != 200 || got["online"] != true || got["session"] != false || len(got["host_keys"].([]any)) != 0 {
		t.Errorf("web1:5432: %s %v", resp.Status, got)
	}
	for path, want := range map[string]int{
		"web1?port=23": 403, "web1?port=0": 403, "web1?port=x": 400, "secret": 403, "nowhere": 403, "a%20b": 403, strings.Repeat("x", 300): 403,
	} {
		if resp, got := b.do(http.MethodGet, "/api/v1/origins/"+path, alice, nil); resp.StatusCode != want {
			t.Errorf("%.20s: %s %v, want %d", path, resp.Status, got, want)
		}
	}
}

func TestGatewayInfo(t *testing.T) {
	b := newAPI(t, answering)
	resp, got := b.do(http.MethodGet, "/api/v1/gateway", "", nil)
	ca := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(b.ca.PublicKey())))
	if resp.StatusCode != 200 || got["hostname"] != "gate.test" || got["ssh"] != "gate.test:22" || got["user_ca"] != ca {
		t.Errorf("%s %v", resp.Status, got)
	}
}

func (b *bench) certificate(header, key, host, login string) (*http.Response, map[string]any) {
	b.t.Helper()
	body := must(json.Marshal(map[string]string{"public_key": key, "hostname": host, "login": login}))
	return b.do(http.MethodPost, "/api/v1/certificate", header, string(body))
}

func TestCertificate(t *testing.T) {
	b := newAPI(t, answering)
	key, line := newKey(t)
	soon := person("alice")
	soon.SignedInAt = time.Now().Add(-57 * time.Minute)
	ci := sshgate.Identity{Kind: sshgate.Workload, Issuer: "https://ci", Subject: "x", Name: "ci", SignedInAt: time.Now()}
	for name, test := range map[string]struct {
		header, login string
		logins        []string
		most          time.Duration
	}{
		"all logins":               {b.bearer(person("alice")), "", []string{"deploy"}, 10 * time.Minute},
		"a login":                  {b.bearer(person("alice")), "deploy", []string{"deploy"}, 10 * time.Minute},
		"shortly before its end":   {b.bearer(soon), "", []string{"deploy"}, 3 * time.Minute},
		"any login, when it names": {b.bearer(ci), "root", []string{"root"}, 10 * time.Minute},
	} {
		resp, got := b.certificate(test.header, line, "web1", test.login)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s %v", name, resp.Status, got)
			continue
		}
		parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(got["certificate"].(string)))
		if err != nil {
			t.Fatal(err)
		}
		cert := parsed.(*ssh.Certificate)
		checker := &ssh.CertChecker{IsUserAuthority: func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(b.ca.PublicKey().Marshal()) }}
		if err := checker.CheckCert(test.logins[0], cert); err != nil || !slices.Equal(cert.ValidPrincipals, test.logins) || string(cert.Key.Marshal()) != string(key.Marshal()) || cert.CertType != ssh.UserCert {
			t.Errorf("%s: %v, %+v", name, err, cert)
		}
		if left := time.Until(time.Unix(int64(cert.ValidBefore), 0)); left > test.most || left < test.most-time.Minute {
			t.Errorf("%s: good for %s, want %s", name, left, test.most)
		}
		if !strings.Contains(cert.KeyId, "request=r-") || !strings.Contains(cert.KeyId, "identity=") {
			t.Errorf("%s: key id %q", name, cert.KeyId)
		}
	}
	if e := must(b.events.Wait(t.Context(), func(e sshgate.Event) bool { return e.Kind == sshgate.EventCredential && e.Allowed })); e.Detail != "certificate" || e.Key != ssh.FingerprintSHA256(key) {
		t.Errorf("%+v", e)
	}
}

func TestCertificateRefusals(t *testing.T) {
	b := newAPI(t, answering)
	alice := b.bearer(person("alice"))
	_, line := newKey(t)
	cert := must(b.ca.Certify(must(ssh.ParsePublicKey(b.ca.PublicKey().Marshal())), []sshgate.Login{"x"}, "id", time.Now(), time.Minute))
	old := person("alice")
	old.SignedInAt = time.Now().Add(-2 * time.Hour)
	ci := b.bearer(sshgate.Identity{Kind: sshgate.Workload, Issuer: "https://ci", Subject: "x", Name: "ci", SignedInAt: time.Now()})
	_, backup := b.serviceToken("backup", time.Now().Add(time.Hour))
	for name, test := range map[string]struct {
		header, key, host, login string
		status                   int
	}{
		"another login":         {alice, line, "web1", "root", 403},
		"a login that is none":  {alice, line, "web1", "a b", 403},
		"sessions alone":        {alice, line, "web2", "", 403},
		"another origin":        {alice, line, "secret", "", 403},
		"another port":          {alice, line, "web1:5432", "", 403},
		"no origin":             {alice, line, "", "", 403},
		"somebody else":         {b.bearer(person("bob")), line, "web1", "", 403},
		"an old sign-in":        {b.bearer(old), line, "web1", "", 401},
		"any login without one": {ci, line, "web1", "", 403},
		"a service without SSH": {backup, line, "web1", "", 403},
		"nobody":                {"", line, "web1", "", 401},
		"a certificate":         {alice, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))), "web1", "", 400},
		"two keys":              {alice, line + "\n" + line, "web1", "", 400},
		"a key with options":    {alice, "no-pty " + line, "web1", "", 400},
		"a key that is none":    {alice, "ssh-ed25519 AAAA", "web1", "", 400},
	} {
		if resp, got := b.certificate(test.header, test.key, test.host, test.login); resp.StatusCode != test.status || got["certificate"] != nil {
			t.Errorf("%s: %s %v, want %d", name, resp.Status, got, test.status)
		}
	}
	for _, body := range []string{"", "[]", "{} {}", `{"public_key":1}`, strings.Repeat(" ", 100<<10)} {
		if resp, got := b.do(http.MethodPost, "/api/v1/certificate", alice, body); resp.StatusCode != 400 {
			t.Errorf("%.20q: %s %v", body, resp.Status, got)
		}
	}
}
