package authflow

import (
	"errors"
	"net/http"
	"reflect"
	"testing"
	"testing/synctest"
)

func TestUserInfo(t *testing.T) {
	info := func(more map[string]any) reply {
		more["sub"] = "u-1"
		return ok(more)
	}
	text := func(r reply) reply {
		r.header = http.Header{"Content-Type": {"text/plain"}}
		return r
	}
	for name, test := range map[string]struct {
		token  map[string]any // changes to the token's claims; nil removes one
		answer reply
		code   string // of the failure, "" where there is none
		groups []string
		email  string // that counts as verified
	}{
		"completes":                {map[string]any{"groups": nil}, info(map[string]any{"groups": []string{"ops"}}), "", []string{"ops"}, "alice@example.com"},
		"never overrides":          {nil, info(map[string]any{"groups": []string{"admin"}, "email": "root@example.com"}), "", []string{"eng"}, "alice@example.com"},
		"instead of an overflow":   {map[string]any{"groups": nil, "_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://graph.example.com"}}}, info(map[string]any{"groups": []string{"ops"}}), "", []string{"ops"}, "alice@example.com"},
		"an overflow is one":       {map[string]any{"groups": nil, "_claim_names": map[string]any{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]any{"endpoint": "https://graph.example.com"}}}, info(map[string]any{}), CodeInvalidToken, nil, ""},
		"vouches for the address":  {map[string]any{"email_verified": nil}, info(map[string]any{"email": "alice@example.com", "email_verified": true}), "", []string{"eng"}, "alice@example.com"},
		"vouches for another":      {map[string]any{"email_verified": nil}, info(map[string]any{"email": "eve@example.com", "email_verified": true}), "", []string{"eng"}, ""},
		"vouches for none":         {map[string]any{"email_verified": nil}, info(map[string]any{"email_verified": true}), "", []string{"eng"}, ""},
		"of somebody else":         {nil, ok(map[string]any{"sub": "u-2", "groups": []string{"admin"}}), CodeInvalidResponse, nil, ""},
		"of nobody":                {nil, ok(map[string]any{"groups": []string{"admin"}}), CodeInvalidResponse, nil, ""},
		"passes for another claim": {nil, info(map[string]any{"Sub": "u-9"}), CodeInvalidResponse, nil, ""},
		"no JSON":                  {nil, text(info(map[string]any{})), CodeInvalidResponse, nil, ""},
		"refused":                  {nil, refuse(401, "invalid_token"), CodeInvalidResponse, nil, ""},
		"in trouble":               {nil, reply{status: 503}, CodeProviderUnreachable, nil, ""},
		"unreachable":              {nil, reply{err: errRefused}, CodeProviderUnreachable, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.document["userinfo_endpoint"] = f.issuer + "/userinfo"
				f.intercept = func(req *http.Request) *reply {
					if req.URL.Path != "/userinfo" {
						return nil
					}
					if got := req.Header.Get("Authorization"); got != "Bearer access" {
						t.Errorf("it was shown %q", got)
					}
					return &test.answer
				}
				claims := f.claims()
				for name, value := range test.token {
					if claims[name] = value; value == nil {
						delete(claims, name)
					}
				}
				f.token = func(int) reply { return f.tokens(f.sign(claims)) }
				login, err := f.oidc(func(cfg *OIDCConfig) { cfg.UserInfo = true }).StartDevice(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				id, err := login.Wait(t.Context())
				var failure *Failure
				if errors.As(err, &failure); test.code != "" {
					if failure == nil || failure.Code != test.code {
						t.Errorf("got %v, want %s", err, test.code)
					}
					return
				}
				if err != nil || !reflect.DeepEqual(id.Groups, test.groups) || id.VerifiedEmail() != test.email {
					t.Errorf("%v, groups %q, address %q", err, id.Groups, id.VerifiedEmail())
				}
			})
		})
	}
}

func TestUserInfoIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		login, err := f.oidc(func(cfg *OIDCConfig) { cfg.UserInfo = true }).StartDevice(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var failure *Failure
		if _, err := login.Wait(t.Context()); !errors.As(err, &failure) || failure.Code != CodeNotConfigured {
			t.Error(err)
		}
	})
}
