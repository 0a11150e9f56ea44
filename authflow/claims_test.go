package authflow

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/sshgate/sshgate/sshgate"
)

// atHash is OpenID Connect Core 1.0 section 3.1.3.6 for ES256.
func atHash(accessToken string) string {
	sum := sha256.Sum256([]byte(accessToken))
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}

// waitForToken runs a login that ends in the given token.
func waitForToken(t *testing.T, f *fake, token func() string) (sshgate.Identity, error) {
	t.Helper()
	f.token = func(int) reply { return f.tokens(token()) }
	return f.login().Wait(t.Context())
}

func TestTokenChecks(t *testing.T) {
	later := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	tests := []struct {
		name   string
		claims func() map[string]any // laid over good ones; nil values delete
		ok     bool
	}{
		{"good", func() map[string]any { return nil }, true},
		{"wrong issuer", func() map[string]any { return map[string]any{"iss": "https://evil.example.com"} }, false},
		{"no issuer", func() map[string]any { return map[string]any{"iss": nil} }, false},
		{"wrong audience", func() map[string]any { return map[string]any{"aud": "other"} }, false},
		{"no audience", func() map[string]any { return map[string]any{"aud": nil} }, false},
		{"audience in a list", func() map[string]any { return map[string]any{"aud": []string{"gate"}} }, true},
		{"two audiences, no azp", func() map[string]any { return map[string]any{"aud": []string{"gate", "other"}} }, false},
		{"two audiences, our azp", func() map[string]any { return map[string]any{"aud": []string{"gate", "other"}, "azp": "gate"} }, true},
		{"two audiences, their azp", func() map[string]any { return map[string]any{"aud": []string{"gate", "other"}, "azp": "other"} }, false},
		{"another client's azp", func() map[string]any { return map[string]any{"azp": "other"} }, false},
		{"azp is no string", func() map[string]any { return map[string]any{"azp": []string{"gate"}} }, false},
		{"expired", func() map[string]any { return map[string]any{"exp": later(-time.Second)} }, false},
		{"no expiry", func() map[string]any { return map[string]any{"exp": nil} }, false},
		{"not yet valid", func() map[string]any { return map[string]any{"nbf": later(10 * time.Minute)} }, false},
		{"issued a little ahead", func() map[string]any { return map[string]any{"iat": later(50 * time.Second)} }, true},
		{"issued in the future", func() map[string]any { return map[string]any{"iat": later(2 * time.Minute)} }, false},
		{"no iat", func() map[string]any { return map[string]any{"iat": nil} }, false},
		{"no sub", func() map[string]any { return map[string]any{"sub": nil} }, false},
		{"empty sub", func() map[string]any { return map[string]any{"sub": ""} }, false},
		{"sub of 255 bytes", func() map[string]any { return map[string]any{"sub": strings.Repeat("s", 255)} }, true},
		{"sub of 256 bytes", func() map[string]any { return map[string]any{"sub": strings.Repeat("s", 256)} }, false},
		{"escapes in sub", func() map[string]any { return map[string]any{"sub": "u\x1b[31m"} }, false},
		{"sub is a number", func() map[string]any { return map[string]any{"sub": 7} }, false},
		{"a claim like sub", func() map[string]any { return map[string]any{"Sub": "u-2"} }, false},
		{"a claim like sub instead", func() map[string]any { return map[string]any{"sub": nil, "SUB": "u-2"} }, false},
		{"a claim like iss, folded", func() map[string]any { return map[string]any{"i\u017fs": "x"} }, false},
		{"at_hash", func() map[string]any { return map[string]any{"at_hash": atHash("access")} }, true},
		{"wrong at_hash", func() map[string]any { return map[string]any{"at_hash": atHash("another")} }, false},
		{"too long", func() map[string]any { return map[string]any{"x": strings.Repeat("x", maxClaims)} }, false},
		{"groups elsewhere", func() map[string]any {
			return map[string]any{"groups": nil, "_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://graph.example.com"}}}
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				id, err := waitForToken(t, f, func() string {
					claims := f.claims()
					for name, value := range test.claims() {
						if claims[name] = value; value == nil {
							delete(claims, name)
						}
					}
					return f.sign(claims)
				})
				if !test.ok {
					wantFailure(t, err, CodeInvalidToken)
					if !reflect.DeepEqual(id, sshgate.Identity{}) {
						t.Errorf("an identity came with the error: %+v", id)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if id.Issuer != f.issuer || id.Subject == "" || id.VerifiedEmail() != "alice@example.com" || !slices.Equal(id.Groups, []string{"eng"}) {
					t.Errorf("got %+v", id)
				}
				if !id.SignedInAt.Equal(time.Now()) {
					t.Errorf("SignedInAt %v, want now, %v", id.SignedInAt, time.Now())
				}
			})
		})
	}
}

func TestTokenSignatures(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(fakeKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte(strings.Repeat("client secret ", 4))
	tests := []struct {
		name string
		sign func(f *fake) string
	}{
		{"another key", func(f *fake) string { return f.signWith(f.claims(), jose.ES256, other, "k1") }},
		{"unknown key ID", func(f *fake) string { return f.signWith(f.claims(), jose.ES256, other, "k2") }},
		{"HS256 with the client secret", func(f *fake) string { return f.signWith(f.claims(), jose.HS256, secret, "oct") }},
		{"HS256 with the public key", func(f *fake) string { return f.signWith(f.claims(), jose.HS256, public, "k1") }},
		{"none", func(f *fake) string { return f.unsigned(f.claims()) }},
		{"changed claims", func(f *fake) string {
			good, changed := strings.Split(f.sign(f.claims()), "."), f.claims()
			changed["sub"] = "u-2"
			return good[0] + "." + strings.Split(f.sign(changed), ".")[1] + "." + good[2]
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				// The worst key set: it has the client secret in it, so that nothing
				// but the list of algorithms stands against HS256.
				f.intercept = onPath("/keys", ok(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
					{Key: f.key.Public(), KeyID: "k1"}, {Key: secret, KeyID: "oct"},
				}}))
				_, err := waitForToken(t, f, func() string { return test.sign(f) })
				wantFailure(t, err, CodeInvalidToken)
			})
		})
	}
}

func TestKeysCanNotBeFetched(t *testing.T) {
	for name, answer := range map[string]reply{
		"5xx":  {status: 503},
		"huge": {status: 200, body: strings.Repeat(" ", maxBody+1)},
		"hang": {hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.intercept = onPath("/keys", answer)
				_, err := f.login().Wait(t.Context())
				wantFailure(t, err, CodeInvalidToken)
			})
		})
	}
}

func TestIdentityFromClaims(t *testing.T) {
	many := func(n int) []any { return slices.Repeat([]any{"g"}, n) }
	tests := []struct {
		name   string
		claims map[string]any
		want   sshgate.Identity
		err    string
	}{
		{"bare", map[string]any{}, sshgate.Identity{}, ""},
		{"verified", map[string]any{"email": "a@b.c", "email_verified": true}, sshgate.Identity{Email: "a@b.c", EmailVerified: true}, ""},
		{"verified as a string", map[string]any{"email": "a@b.c", "email_verified": "true"}, sshgate.Identity{Email: "a@b.c", EmailVerified: true}, ""},
		{"not verified", map[string]any{"email": "a@b.c", "email_verified": false}, sshgate.Identity{Email: "a@b.c"}, ""},
		{"verified as something else", map[string]any{"email": "a@b.c", "email_verified": 1.0}, sshgate.Identity{Email: "a@b.c"}, ""},
		{"verified as True", map[string]any{"email": "a@b.c", "email_verified": "True"}, sshgate.Identity{Email: "a@b.c"}, ""},
		{"nothing said", map[string]any{"email": "a@b.c"}, sshgate.Identity{Email: "a@b.c"}, ""},
		{"verified but missing", map[string]any{"email_verified": true}, sshgate.Identity{}, ""},
		{"address with an escape", map[string]any{"email": "a\x1b@b.c", "email_verified": true}, sshgate.Identity{}, ""},
		{"two addresses", map[string]any{"email": "a@b.c d@e.f", "email_verified": true}, sshgate.Identity{}, ""},
		{"no address", map[string]any{"email": "alice", "email_verified": true}, sshgate.Identity{}, ""},
		{"address is a list", map[string]any{"email": []any{"a@b.c"}, "email_verified": true}, sshgate.Identity{}, ""},
		{"name", map[string]any{"name": "Ada \x1b[1mL\u00f6velace\u202e", "preferred_username": "ada"}, sshgate.Identity{Name: "Ada [1mL\u00f6velace"}, ""},
		{"second name", map[string]any{"name": " ", "preferred_username": "ada"}, sshgate.Identity{Name: "ada"}, ""},
		{"endless name", map[string]any{"name": strings.Repeat("\u00f6", maxName)}, sshgate.Identity{Name: strings.Repeat("\u00f6", maxName/2)}, ""},
		{"groups", map[string]any{"groups": []any{"a", "b"}}, sshgate.Identity{Groups: []string{"a", "b"}}, ""},
		{"one group", map[string]any{"groups": "a b"}, sshgate.Identity{Groups: []string{"a b"}}, ""},
		{"groups null", map[string]any{"groups": nil}, sshgate.Identity{}, ""},
		{"most groups", map[string]any{"groups": many(maxGroups)}, sshgate.Identity{Groups: slices.Repeat([]string{"g"}, maxGroups)}, ""},
		{"too many groups", map[string]any{"groups": many(maxGroups + 1)}, sshgate.Identity{}, "more than 5000"},
		{"a group is a number", map[string]any{"groups": []any{"a", 1.0}}, sshgate.Identity{}, "not a string"},
		{"a group is empty", map[string]any{"groups": []any{""}}, sshgate.Identity{}, "not a string"},
		{"groups are an object", map[string]any{"groups": map[string]any{}}, sshgate.Identity{}, "neither"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.claims["sub"] = "u-1"
			got, err := identityFromClaims(test.claims, "groups")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			test.want.Subject, test.want.Claims = "u-1", test.claims
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestGroupsClaimIsConfigurable(t *testing.T) {
	claims := map[string]any{"sub": "u-1", "groups": []any{"wrong"}, "https://example.com/roles": []any{"right"}}
	id, err := identityFromClaims(claims, "https://example.com/roles")
	if err != nil || !slices.Equal(id.Groups, []string{"right"}) {
		t.Errorf("got %v, %v", id.Groups, err)
	}
}

// FuzzClaims looks for claims that make an identity which could do harm: not
// bounded, or not fit for a terminal and a log.
func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{"sub":"u-1","email":"a@b.c","email_verified":"true","groups":["a","b"],"name":"A"}`,
		`{"sub":"u-1","groups":"a","_claim_names":{"groups":"s"}}`,
		`{"sub":"u\u001b","Sub":"u"}`, `{"sub":1}`, `null`, `[]`, `{"email":"\ud800@b"}`,
	} {
		f.Add([]byte(seed), "groups")
	}
	f.Fuzz(func(t *testing.T, raw []byte, groupsClaim string) {
		claims, err := parseClaims(raw)
		if err != nil {
			return
		}
		id, err := identityFromClaims(claims, groupsClaim)
		if err != nil {
			return
		}
		if id.Subject == "" || len(id.Subject) > maxSubject || !allPrintable(id.Subject) {
			t.Errorf("sub %q", id.Subject)
		}
		if id.EmailVerified && !strings.Contains(id.Email, "@") {
			t.Errorf("verified address %q", id.Email)
		}
		for _, s := range []string{id.Email, id.Name} {
			if !utf8.ValidString(s) || len(s) > maxEmail || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 }) {
				t.Errorf("%q is not fit to be shown", s)
			}
		}
		if len(id.Groups) > maxGroups || slices.Contains(id.Groups, "") {
			t.Errorf("groups %q", id.Groups)
		}
		if _, err := json.Marshal(id); err != nil {
			t.Error("can't be stored:", err)
		}
	})
}

// FuzzDeviceAnswer looks for answers that put something into a prompt which is
// not fit for a terminal.
func FuzzDeviceAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"device_code":"d","user_code":"AB-CD","verification_uri":"https://a.b/c","verification_uri_complete":"https://a.b/c?d","expires_in":600,"interval":"5"}`,
		`{"device_code":"d","user_code":"\u001b[2J","verification_url":"http://a/","expires_in":1e999}`,
		`{"device_code":"d","user_code":"A","verification_uri":"https://a@b"}`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		asked := time.Unix(1_700_000_000, 0)
		login, err := parseDeviceAuth(body, asked)
		if err != nil {
			return
		}
		p := login.Prompt()
		if p.UserCode == "" || p.VerificationURI == "" || !allPrintable(p.UserCode+p.VerificationURI+p.VerificationURIComplete) {
			t.Errorf("prompt %+v", p)
		}
		for _, uri := range []string{p.VerificationURI, p.VerificationURIComplete} {
			if uri != "" && !strings.HasPrefix(strings.ToLower(uri), "http") {
				t.Errorf("URI %q", uri)
			}
		}
		if life := p.ExpiresAt.Sub(asked); life <= 0 || life > maxLifetime || login.interval <= 0 || login.interval > maxInterval {
			t.Errorf("lives %v, polls every %v", life, login.interval)
		}
	})
}

func ExampleFailure() {
	err := error(&Failure{Code: CodeAccessDenied, Sentence: "the sign-in was denied at the provider"})
	fmt.Println(err)
	// Output: sign-in failed: the sign-in was denied at the provider
}
