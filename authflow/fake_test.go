package authflow

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// fake is a provider that misbehaves on demand. It is an http.RoundTripper
// rather than a server, so that it works with the fake clock of testing/synctest.
type fake struct {
	t      *testing.T
	issuer string
	key    *ecdsa.PrivateKey

	document map[string]any // the discovery document
	device   map[string]any // the answer to a device authorization request
	// token answers the n-th poll, from 0. nil means a good token at once.
	token func(n int) reply
	// intercept, if set, may answer a request in place of the rest.
	intercept func(*http.Request) *reply

	mu       sync.Mutex
	requests []request
}

// request is what the fake was sent.
type request struct {
	at         time.Time
	path       string
	form       url.Values
	user, pass string // basic authentication
}

// reply is what it answers.
type reply struct {
	status int
	body   string
	header http.Header
	err    error // instead of an answer
	hang   bool  // no answer until the request's context ends
}

var fakeKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func newFake(t *testing.T) *fake {
	const issuer = "https://idp.example.com"
	return &fake{
		t: t, issuer: issuer, key: fakeKey(),
		document: map[string]any{
			"issuer":                                issuer,
			"token_endpoint":                        issuer + "/token",
			"device_authorization_endpoint":         issuer + "/device_authorization",
			"authorization_endpoint":                issuer + "/authorize",
			"jwks_uri":                              issuer + "/keys",
			"id_token_signing_alg_values_supported": []string{"none", "HS256", "ES256"},
			"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic", "none"},
		},
		device: map[string]any{
			"device_code":               "device-code",
			"user_code":                 "WDJB-MJHT",
			"verification_uri":          issuer + "/device",
			"verification_uri_complete": issuer + "/device?user_code=WDJB-MJHT",
			"expires_in":                600,
			"interval":                  5,
		},
	}
}

// oidc returns an OIDC that talks to the fake.
func (f *fake) oidc(change func(*OIDCConfig)) *OIDC {
	cfg := OIDCConfig{Issuer: f.issuer, ClientID: "gate", HTTPClient: &http.Client{Transport: f}}
	if change != nil {
		change(&cfg)
	}
	return newOIDC(f.t, cfg)
}

// login begins a device login at the fake.
func (f *fake) login() *DeviceLogin {
	f.t.Helper()
	login, err := f.oidc(nil).StartDevice(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return login
}

func (f *fake) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	answer := f.answer(req)
	if answer.hang {
		<-req.Context().Done()
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if answer.err != nil {
		return nil, answer.err
	}
	recorder := httptest.NewRecorder()
	recorder.Header().Set("Content-Type", "application/json")
	maps.Copy(recorder.Header(), answer.header)
	recorder.WriteHeader(answer.status)
	io.WriteString(recorder, answer.body)
	res := recorder.Result()
	res.Request = req
	return res, nil
}

func (f *fake) answer(req *http.Request) reply {
	polls := f.record(req)
	if f.intercept != nil {
		if answer := f.intercept(req); answer != nil {
			return *answer
		}
	}
	switch req.URL.Path {
	case "/.well-known/openid-configuration":
		return ok(f.document)
	case "/keys":
		return ok(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: f.key.Public(), KeyID: "k1", Use: "sig"}}})
	case "/device_authorization":
		return ok(f.device)
	case "/token":
		if f.token != nil {
			return f.token(polls)
		}
		return f.good()
	}
	return reply{status: http.StatusNotFound}
}

// record notes a request and returns how many polls came before it.
func (f *fake) record(req *http.Request) (polls int) {
	noted := request{at: time.Now(), path: req.URL.Path}
	noted.user, noted.pass, _ = req.BasicAuth()
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			f.t.Error(err)
		}
		noted.form, _ = url.ParseQuery(string(body))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	polls = len(f.to("/token"))
	f.requests = append(f.requests, noted)
	return polls
}

// to returns the requests to a path. The caller holds f.mu, or the requests are
// over.
func (f *fake) to(path string) []request {
	var found []request
	for _, r := range f.requests {
		if r.path == path {
			found = append(found, r)
		}
	}
	return found
}

func ok(body any) reply {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return reply{status: http.StatusOK, body: string(encoded)}
}

func refuse(status int, code string) reply {
	return reply{status: status, body: `{"error":"` + code + `","error_description":"because \u001b[31m"}`}
}

var errRefused = errors.New("connection refused")

// good is a token answer that passes every check.
func (f *fake) good() reply { return f.tokens(f.sign(f.claims())) }

func (f *fake) tokens(idToken string) reply {
	return ok(map[string]any{"access_token": "access", "token_type": "Bearer", "id_token": idToken})
}

func (f *fake) claims() map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": f.issuer, "aud": "gate", "sub": "u-1",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"email": "alice@example.com", "email_verified": true, "groups": []string{"eng"},
	}
}

func (f *fake) sign(claims map[string]any) string {
	return f.signWith(claims, jose.ES256, f.key, "k1")
}

func (f *fake) signWith(claims map[string]any, alg jose.SignatureAlgorithm, key any, kid string) string {
	f.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		f.t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

// unsigned makes a token with alg none.
func (f *fake) unsigned(claims map[string]any) string {
	good := f.sign(claims)
	const header = "eyJhbGciOiJub25lIn0" // {"alg":"none"}
	return header + good[strings.Index(good, "."):strings.LastIndex(good, ".")+1]
}
