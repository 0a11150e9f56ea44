package authflow

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/sshgate/sshgate/sshgate"
)

const jobAudience = "https://gate.example.com"

// platform is an issuer of job tokens, with metadata as GitHub's: no endpoint but
// that of the keys. It is a real server.
type platform struct {
	*fake  // signs
	server *httptest.Server
	client *http.Client
	keys   atomic.Int32 // fetches of the keys
	broken atomic.Bool  // the keys can't be fetched
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{fake: newFake(t), client: testClient(t)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wellKnown, func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.issuer, "jwks_uri": p.issuer + "/keys", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.keys.Add(1)
		if p.broken.Load() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
			{Key: p.key.Public(), KeyID: "k1", Use: "sig"},
			{Key: []byte(strings.Repeat("symmetric ", 4)), KeyID: "oct"},
		}})
	})
	p.server = httptest.NewServer(mux)
	t.Cleanup(p.server.Close)
	p.issuer = p.server.URL
	return p
}

// job returns the claims of a good token of this platform.
func (p *platform) job() map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": p.issuer, "aud": jobAudience, "sub": "repo:acme/app:ref:refs/heads/main",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"repository": "acme/app", "ref": "refs/heads/main", "run_attempt": 2, "runner": map[string]any{"labels": []string{"linux", "x64"}},
	}
}

func (p *platform) workload(name string, claims map[sshgate.ClaimPath][]string) WorkloadConfig {
	return WorkloadConfig{Name: name, Issuer: p.issuer, Audience: jobAudience, Claims: claims}
}

func (p *platform) workloads(t *testing.T, list ...WorkloadConfig) *Workloads {
	t.Helper()
	w, err := NewWorkloads(WorkloadsConfig{Workloads: list, HTTPClient: p.client})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// with lays claims over others; nil deletes.
func with(claims, changes map[string]any) map[string]any {
	claims = maps.Clone(claims)
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func claim(name string, values ...string) map[sshgate.ClaimPath][]string {
	return map[sshgate.ClaimPath][]string{sshgate.ClaimPath(name): values}
}

func TestWorkload(t *testing.T) {
	p, ctx := newPlatform(t), testContext(t)
	w := p.workloads(t,
		p.workload("release", map[sshgate.ClaimPath][]string{"repository": {"acme/app"}, "ref": {"refs/tags/*"}}),
		p.workload("ci", claim("repository", "acme/lib", "acme/app")),
		p.workload("any branch", claim("repository", "acme/*")),
	)
	before := time.Now()
	id, err := w.Exchange(ctx, p.sign(p.job()))
	if err != nil {
		t.Fatal(err)
	}
	if id.SignedInAt.Before(before) || id.SignedInAt.After(time.Now()) {
		t.Errorf("SignedInAt is %v", id.SignedInAt)
	}
	if id.Claims["repository"] != "acme/app" {
		t.Errorf("claims %v", id.Claims)
	}
	id.SignedInAt, id.Claims = time.Time{}, nil
	want := sshgate.Identity{Kind: sshgate.Workload, Issuer: p.issuer, Subject: "repo:acme/app:ref:refs/heads/main", Name: "ci"}
	if !reflect.DeepEqual(id, want) {
		t.Errorf("got %+v, want %+v", id, want)
	}
	for _, test := range []struct {
		changes map[string]any
		want    string
	}{
		{map[string]any{"ref": "refs/tags/v1"}, "release"},
		{map[string]any{"repository": "acme/new"}, "any branch"},
		{map[string]any{"email": "a@b.c", "email_verified": true}, "ci"},
	} {
		id, err := w.Exchange(ctx, p.sign(with(p.job(), test.changes)))
		if err != nil || id.Name != test.want || id.Email != "" {
			t.Errorf("%v: %+v, %v, want %s", test.changes, id, err, test.want)
		}
	}
	if n := p.keys.Load(); n != 1 {
		t.Errorf("%d fetches of the keys, want 1", n)
	}
}

func TestWorkloadClaims(t *testing.T) {
	p, ctx := newPlatform(t), testContext(t)
	for _, test := range []struct {
		name   string
		claims map[sshgate.ClaimPath][]string
		ok     bool
	}{
		{"equal", claim("repository", "acme/app"), true},
		{"one of", claim("repository", "acme/lib", "acme/app"), true},
		{"all of", map[sshgate.ClaimPath][]string{"repository": {"acme/app"}, "ref": {"refs/heads/main"}}, true},
		{"one is wrong", map[sshgate.ClaimPath][]string{"repository": {"acme/app"}, "ref": {"refs/heads/dev"}}, false},
		{"one is missing", map[sshgate.ClaimPath][]string{"repository": {"acme/app"}, "environment": {"prod"}}, false},
		{"beginning", claim("repository", "acme/*"), true},
		{"another's beginning", claim("repository", "acm/*"), false},
		{"the whole, with a star", claim("repository", "acme/app*"), true},
		{"a beginning without a star", claim("repository", "acme/"), false},
		{"a star within", claim("repository", "*/app"), false},
		{"letter case", claim("repository", "ACME/app"), false},
		{"the subject", claim("sub", "repo:acme/app:*"), true},
		{"a number", claim("run_attempt", "2"), true},
		{"a nested list", claim("runner.labels", "x64"), true},
		{"not in the list", claim("runner.labels", "arm64"), false},
		{"an object", claim("runner", "x64"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, err := p.workloads(t, p.workload("ci", test.claims)).Exchange(ctx, p.sign(p.job()))
			if test.ok {
				if err != nil || id.Name != "ci" {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			failure := wantFailure(t, err, CodeNoWorkload)
			if !strings.Contains(failure.Sentence, `of issuer "`+p.issuer+`" and audience "`+jobAudience+`"`) {
				t.Errorf("the sentence is %q", failure.Sentence)
			}
			if strings.Contains(failure.Sentence, "acm") || strings.Contains(failure.Sentence, "ci") && strings.Contains(failure.Sentence, "claim") {
				t.Errorf("the sentence gives the rule away: %q", failure.Sentence)
			}
			if !strings.Contains(failure.Error(), "workload ci: the claim ") || !strings.Contains(failure.Error(), "repo:acme/app") {
				t.Errorf("the cause does not say what did not match: %v", failure)
			}
			if id.Subject != "" {
				t.Errorf("an identity came with the error: %+v", id)
			}
		})
	}
}

func TestWorkloadTokenChecks(t *testing.T) {
	p, ctx := newPlatform(t), testContext(t)
	w := p.workloads(t, p.workload("ci", claim("repository", "acme/app")))
	later := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for _, test := range []struct {
		name    string
		changes map[string]any
		code    string // empty: it is good
	}{
		{"several audiences", map[string]any{"aud": []string{"other", jobAudience}}, ""},
		{"another party's azp", map[string]any{"azp": "somebody"}, ""},
		{"no nbf", map[string]any{"nbf": nil}, ""},
		{"issued a little ahead", map[string]any{"iat": later(50 * time.Second)}, ""},
		{"issued a while ago", map[string]any{"iat": later(-59 * time.Minute)}, ""},
		{"another audience", map[string]any{"aud": "https://other.example.com"}, CodeNoWorkload},
		{"an audience like ours", map[string]any{"aud": jobAudience + "/"}, CodeNoWorkload},
		{"an audience that begins like ours", map[string]any{"aud": jobAudience + ".evil.example"}, CodeNoWorkload},
		{"no audience", map[string]any{"aud": nil}, CodeNoWorkload},
		{"an empty list of audiences", map[string]any{"aud": []string{}}, CodeNoWorkload},
		{"another issuer", map[string]any{"iss": "https://evil.example.com"}, CodeNoWorkload},
		{"an issuer like ours", map[string]any{"iss": p.issuer + "/"}, CodeNoWorkload},
		{"no issuer", map[string]any{"iss": nil}, CodeInvalidToken},
		{"the issuer is a list", map[string]any{"iss": []string{p.issuer}}, CodeInvalidToken},
		{"expired", map[string]any{"exp": later(-2 * time.Second)}, CodeTokenExpired},
		{"no expiry", map[string]any{"exp": nil}, CodeTokenExpired},
		{"too old", map[string]any{"iat": later(-61 * time.Minute)}, CodeTokenExpired},
		{"not yet valid", map[string]any{"nbf": later(10 * time.Minute)}, CodeInvalidToken},
		{"issued in the future", map[string]any{"iat": later(2 * time.Minute)}, CodeInvalidToken},
		{"no iat", map[string]any{"iat": nil}, CodeInvalidToken},
		{"no sub", map[string]any{"sub": nil}, CodeInvalidToken},
		{"sub is too long", map[string]any{"sub": strings.Repeat("s", 256)}, CodeInvalidToken},
		{"escapes in sub", map[string]any{"sub": "a\x1b[31m"}, CodeInvalidToken},
		{"a claim like sub", map[string]any{"Sub": "repo:acme/app"}, CodeInvalidToken},
		{"a claim like aud", map[string]any{"aud": "other", "AUD": jobAudience}, CodeInvalidToken},
		{"a claim like iss", map[string]any{"iss": "https://evil.example.com", "Iss": p.issuer}, CodeInvalidToken},
		{"a claim like a rule's", map[string]any{"repository": nil, "Repository": "acme/app"}, CodeNoWorkload},
		{"huge", map[string]any{"x": strings.Repeat("x", maxClaims)}, CodeInvalidToken},
		{"escapes in the audience", map[string]any{"aud": "a\x1b[31m"}, CodeNoWorkload},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, err := w.Exchange(ctx, p.sign(with(p.job(), test.changes)))
			if test.code == "" {
				if err != nil || id.Name != "ci" {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			wantFailure(t, err, test.code)
			if !reflect.DeepEqual(id, sshgate.Identity{}) {
				t.Errorf("an identity came with the error: %+v", id)
			}
		})
	}
}

func TestWorkloadHostileTokens(t *testing.T) {
	p, ctx := newPlatform(t), testContext(t)
	w := p.workloads(t, p.workload("ci", claim("repository", "acme/app")))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := strings.Split(p.sign(p.job()), ".")
	forged := strings.Split(p.sign(with(p.job(), map[string]any{"repository": "evil/app"})), ".")
	encode := base64.RawURLEncoding.EncodeToString
	for name, token := range map[string]string{
		"nothing":                     "",
		"dots":                        "..",
		"no JWT":                      "hunter2",
		"two parts":                   good[0] + "." + good[1],
		"four parts":                  strings.Join(good, ".") + ".x",
		"not base64":                  good[0] + ".%%%." + good[2],
		"no JSON":                     good[0] + "." + encode([]byte("hello")) + "." + good[2],
		"a list":                      good[0] + "." + encode([]byte("[]")) + "." + good[2],
		"null":                        good[0] + "." + encode([]byte("null")) + "." + good[2],
		"deep":                        good[0] + "." + encode([]byte(strings.Repeat(`{"a":`, 20_000))) + "." + good[2],
		"huge":                        strings.Repeat("x", maxIDToken) + "." + good[1] + "." + good[2],
		"none":                        p.unsigned(p.job()),
		"no signature":                good[0] + "." + good[1] + ".",
		"another token's claims":      forged[0] + "." + good[1] + "." + forged[2],
		"another key":                 p.signWith(p.job(), jose.ES256, other, "k1"),
		"an unknown key":              p.signWith(p.job(), jose.ES256, other, "k2"),
		"HS256 with the public key":   p.signWith(p.job(), jose.HS256, public, "k1"),
		"HS256 with a key of the set": p.signWith(p.job(), jose.HS256, []byte(strings.Repeat("symmetric ", 4)), "oct"),
	} {
		t.Run(name, func(t *testing.T) {
			id, err := w.Exchange(ctx, token)
			failure := wantFailure(t, err, CodeInvalidToken)
			if len(failure.Error()) > 1000 || len(token) > 40 && strings.Contains(failure.Error(), token) {
				t.Errorf("the cause quotes the token: %.2000v", failure)
			}
			if name == "huge" && !strings.Contains(failure.Error(), "longer than") {
				t.Errorf("it was read nevertheless: %v", failure)
			}
			if id.Subject != "" {
				t.Errorf("an identity came with the error: %+v", id)
			}
		})
	}
	// All those bad signatures made the gateway ask for the keys once, or once
	// more where this machine is slow.
	if n := p.keys.Load(); n > 2 {
		t.Errorf("%d fetches of the keys", n)
	}
	if _, err := w.Exchange(ctx, strings.Join(good, ".")); err != nil {
		t.Error("a good one afterwards:", err)
	}
}

// TestWorkloadIssuers has two platforms: the key of one signs nothing for the
// other, and each is asked for its own.
func TestWorkloadIssuers(t *testing.T) {
	ours, theirs, ctx := newPlatform(t), newPlatform(t), testContext(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	theirs.key = key
	w := ours.workloads(t, ours.workload("ours", claim("repository", "acme/app")), theirs.workload("theirs", claim("repository", "acme/app")))
	for _, test := range []struct{ signer, issuer *platform }{{ours, ours}, {theirs, theirs}, {theirs, ours}, {ours, theirs}} {
		id, err := w.Exchange(ctx, test.signer.sign(test.issuer.job()))
		if test.signer != test.issuer {
			wantFailure(t, err, CodeInvalidToken)
			continue
		}
		if want := map[*platform]string{ours: "ours", theirs: "theirs"}[test.issuer]; err != nil || id.Name != want || id.Issuer != test.issuer.issuer {
			t.Errorf("%+v, %v, want %s", id, err, want)
		}
	}
}

func TestWorkloadIssuerInTrouble(t *testing.T) {
	p, ctx := newPlatform(t), testContext(t)
	now := time.Now()
	w, err := NewWorkloads(WorkloadsConfig{
		Workloads:  []WorkloadConfig{p.workload("ci", claim("repository", "acme/app"))},
		HTTPClient: p.client, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	p.broken.Store(true)
	for range 5 {
		_, err := w.Exchange(ctx, p.sign(p.job()))
		wantFailure(t, err, CodeProviderUnreachable)
	}
	if n := p.keys.Load(); n != 1 {
		t.Errorf("%d fetches of keys that can't be had, want 1", n)
	}
	p.broken.Store(false)
	now = now.Add(keysPause)
	if _, err := w.Exchange(ctx, p.sign(p.job())); err != nil {
		t.Error("not asked again:", err)
	}
	p.server.Close()
	now = now.Add(time.Second)
	if _, err := w.Exchange(ctx, p.sign(p.job())); err != nil {
		t.Error("keys that are known are not used while the issuer is gone:", err)
	}
	unknown := p.workloads(t, p.workload("ci", claim("repository", "acme/app")))
	_, err = unknown.Exchange(ctx, p.sign(p.job()))
	wantFailure(t, err, CodeProviderUnreachable)
}

// TestWorkloadKeysRotate uses a new key once it is published.
func TestWorkloadKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		delete(f.document, "token_endpoint")
		delete(f.document, "device_authorization_endpoint")
		w, err := NewWorkloads(WorkloadsConfig{
			Workloads:  []WorkloadConfig{{Name: "ci", Issuer: f.issuer, Audience: "gate", Claims: claim("sub", "u-1")}},
			HTTPClient: &http.Client{Transport: f},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Exchange(t.Context(), f.sign(f.claims())); err != nil {
			t.Fatal(err)
		}
		renewed, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		f.intercept = onPath("/keys", ok(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: renewed.Public(), KeyID: "k2"}}}))
		token := func() string { return f.signWith(f.claims(), jose.ES256, renewed, "k2") }
		_, err = w.Exchange(t.Context(), token()) // within the pause
		wantFailure(t, err, CodeInvalidToken)
		time.Sleep(keysPause)
		if _, err := w.Exchange(t.Context(), token()); err != nil {
			t.Error(err)
		}
	})
}

func TestNewWorkloadsChecksItsConfiguration(t *testing.T) {
	good := WorkloadConfig{Name: "ci", Issuer: "https://ci.example.com", Audience: jobAudience, Claims: claim("repository", "acme/app")}
	spoil := func(change func(*WorkloadConfig)) []WorkloadConfig {
		bad := good
		change(&bad)
		return []WorkloadConfig{bad}
	}
	for name, test := range map[string]struct {
		list []WorkloadConfig
		want string
	}{
		"none":               {nil, ""},
		"good":               {[]WorkloadConfig{good}, ""},
		"twice":              {[]WorkloadConfig{good, good}, "taken by another"},
		"no name":            {spoil(func(c *WorkloadConfig) { c.Name = "" }), "no name"},
		"no issuer":          {spoil(func(c *WorkloadConfig) { c.Issuer = "" }), "issuer is empty"},
		"plain http":         {spoil(func(c *WorkloadConfig) { c.Issuer = "http://ci.example.com" }), "not https"},
		"no audience":        {spoil(func(c *WorkloadConfig) { c.Audience = "" }), "no audience"},
		"no claims":          {spoil(func(c *WorkloadConfig) { c.Claims = nil }), "any job of the platform gets in"},
		"a claim, no values": {spoil(func(c *WorkloadConfig) { c.Claims = claim("ref") }), "the claim ref needs values"},
		"every value":        {spoil(func(c *WorkloadConfig) { c.Claims = claim("ref", "a", "*") }), "matches everything"},
		"an empty value":     {spoil(func(c *WorkloadConfig) { c.Claims = claim("ref", "") }), "empty"},
	} {
		w, err := NewWorkloads(WorkloadsConfig{Workloads: test.list})
		if test.want == "" && (err != nil || w == nil) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
	w, err := NewWorkloads(WorkloadsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	_, err = w.Exchange(t.Context(), f.sign(f.claims()))
	wantFailure(t, err, CodeNoWorkload)
}

// FuzzWorkloadToken: whatever comes, no identity does.
func FuzzWorkloadToken(f *testing.F) {
	w, err := NewWorkloads(WorkloadsConfig{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a.b.c")
	f.Add("e30.eyJpc3MiOiJodHRwczovL2NpIiwiYXVkIjpbImEiLDFdfQ.x")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := w.Exchange(t.Context(), token)
		if err == nil || id.Subject != "" {
			t.Fatalf("%q is %+v", token, id)
		}
		if failure, ok := err.(*Failure); !ok || !allPrintable(failure.Sentence) {
			t.Errorf("%q: %v", token, err)
		}
	})
}
