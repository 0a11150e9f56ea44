package config

import (
	"strings"
	"testing"
)

func TestEndToEndSetting(t *testing.T) {
	load := func(setting string) (*Gateway, error) {
		return ParseGateway([]byte(`
hostname: gate.example.com
data_dir: data
sign_in: {issuer: "https://idp.example.com", client_id: x}
policy:
  applications:
    - name: a
      hosts: web1
      rules:
        - {name: r, action: allow, include: [{everyone: true}], logins: deploy`+setting+`}
`), "F", nil)
	}
	for setting, want := range map[string]bool{"": false, ", end_to_end: true": true, ", end_to_end: false": false} {
		g, err := load(setting)
		if err != nil {
			t.Fatalf("%q: %v", setting, err)
		}
		if got := g.Policy().Applications[0].Rules[0].EndToEnd; got != want {
			t.Errorf("%q: EndToEnd is %v", setting, got)
		}
	}
	_, err := load(", end_to_end: no")
	if err == nil || !strings.Contains(err.Error(), `F:10:93: policy.applications[0].rules[0].end_to_end: "no" is neither true nor false`) {
		t.Errorf("got %v", err)
	}
}
