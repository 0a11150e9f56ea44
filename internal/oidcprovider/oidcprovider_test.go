package oidcprovider

import (
	"encoding/json"
	"net/http"
	"testing"
)

func TestStartServesADeviceFlow(t *testing.T) {
	process := Start(t)
	res, err := http.Get(process.Issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var doc struct {
		Issuer string `json:"issuer"`
		Device string `json:"device_authorization_endpoint"`
	}
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.Issuer != process.Issuer || doc.Device == "" {
		t.Errorf("got %+v, want the issuer %s and a device endpoint", doc, process.Issuer)
	}
}
