package authflow

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStartDevice(t *testing.T) {
	const uri = "https://idp.example.com/device"
	tests := []struct {
		name   string
		change map[string]any // nil deletes
		want   DeviceLogin
		code   string
	}{
		{name: "as it should be", want: DeviceLogin{UserCode: "WDJB-MJHT", VerificationURI: uri, VerificationURIComplete: uri + "?user_code=WDJB-MJHT"}},
		{name: "optional fields missing", change: map[string]any{"verification_uri_complete": nil, "interval": nil}, want: DeviceLogin{UserCode: "WDJB-MJHT", VerificationURI: uri}},
		{name: "numbers as strings", change: map[string]any{"expires_in": "600", "interval": "5"}, want: DeviceLogin{UserCode: "WDJB-MJHT", VerificationURI: uri, VerificationURIComplete: uri + "?user_code=WDJB-MJHT"}},
		{name: "verification_url", change: map[string]any{"verification_uri": nil, "verification_url": uri}, want: DeviceLogin{UserCode: "WDJB-MJHT", VerificationURI: uri, VerificationURIComplete: uri + "?user_code=WDJB-MJHT"}},
		{name: "escapes in the code", change: map[string]any{"user_code": "\x1b[2JAB\u009b\u202eCD\n"}, want: DeviceLogin{UserCode: "[2JABCD", VerificationURI: uri, VerificationURIComplete: uri + "?user_code=WDJB-MJHT"}},
		{name: "broken complete URI", change: map[string]any{"verification_uri_complete": "javascript:alert(1)"}, want: DeviceLogin{UserCode: "WDJB-MJHT", VerificationURI: uri}},
		{name: "escapes in the complete URI", change: map[string]any{"verification_uri_complete": uri + "\x1b[31m"}, want: DeviceLogin{UserCode: "WDJB-MJHT", VerificationURI: uri}},
		{name: "no code", change: map[string]any{"user_code": "\x1b\x07"}, code: CodeInvalidResponse},
		{name: "no device code", change: map[string]any{"device_code": nil}, code: CodeInvalidResponse},
		{name: "no URI", change: map[string]any{"verification_uri": nil}, code: CodeInvalidResponse},
		{name: "other scheme", change: map[string]any{"verification_uri": "file:///etc/passwd"}, code: CodeInvalidResponse},
		{name: "disguised host", change: map[string]any{"verification_uri": "https://idp.example.com@evil.example.com/"}, code: CodeInvalidResponse},
		{name: "escapes in the URI", change: map[string]any{"verification_uri": uri + "/\x1b]0;x\x07"}, code: CodeInvalidResponse},
		{name: "not ASCII", change: map[string]any{"verification_uri": "https://idp.ex\u0430mple.com/"}, code: CodeInvalidResponse},
		{name: "space", change: map[string]any{"verification_uri": uri + " and more"}, code: CodeInvalidResponse},
		{name: "endless URI", change: map[string]any{"verification_uri": uri + strings.Repeat("a", maxURI)}, code: CodeInvalidResponse},
		{name: "wrong type", change: map[string]any{"user_code": 7}, code: CodeInvalidResponse},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				for name, value := range test.change {
					if f.device[name] = value; value == nil {
						delete(f.device, name)
					}
				}
				login, err := f.oidc(nil).StartDevice(t.Context())
				if test.code != "" {
					wantFailure(t, err, test.code)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				test.want.ExpiresAt = time.Now().Add(10 * time.Minute)
				if got, want := login.Prompt(), test.want.Prompt(); got != want {
					t.Errorf("got  %+v\nwant %+v", got, want)
				}
				if login.interval != 5*time.Second {
					t.Errorf("interval %v, want 5s", login.interval)
				}
				if scope := f.to("/device_authorization")[0].form.Get("scope"); scope != "openid profile email" {
					t.Errorf("asked for the scopes %q", scope)
				}
			})
		})
	}
}

func TestStartDeviceFails(t *testing.T) {
	tests := []struct {
		name  string
		reply reply
		code  string
	}{
		{"refused", refuse(400, "unauthorized_client"), CodeProviderRefused},
		{"denied", refuse(403, "access_denied"), CodeAccessDenied},
		{"5xx", reply{status: 503}, CodeProviderUnreachable},
		{"no connection", reply{err: errRefused}, CodeProviderUnreachable},
		{"hangs", reply{hang: true}, CodeProviderUnreachable},
		{"redirect", reply{status: 308, header: map[string][]string{"Location": {"https://evil.example.com/"}}}, CodeInvalidResponse},
		{"garbage", reply{status: 200, body: "<html>"}, CodeInvalidResponse},
		{"huge", reply{status: 200, body: strings.Repeat(" ", maxBody+1)}, CodeProviderUnreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.intercept = onPath("/device_authorization", test.reply)
				_, err := f.oidc(nil).StartDevice(t.Context())
				failure := wantFailure(t, err, test.code)
				if !allPrintable(failure.Error()) {
					t.Errorf("error %q is not printable", failure.Error())
				}
			})
		})
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"":      time.Minute,
		"0":     time.Minute,
		"-5":    time.Minute,
		"x":     time.Minute,
		"NaN":   time.Minute,
		"7":     7 * time.Second,
		"1.5":   1500 * time.Millisecond,
		"1e300": time.Hour,
		"Inf":   time.Hour,
	} {
		if got := seconds(jsonNumber(text), time.Minute, time.Hour); got != want {
			t.Errorf("seconds(%q) = %v, want %v", text, got, want)
		}
	}
}
