package config_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
)

// writeCountries writes a database in which 192.0.2.0/24 and 2001:db8::/32 are in
// Germany.
func writeCountries(t *testing.T, path string) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"192.0.2.0/24", "2001:db8::/32"} {
		_, ipnet, err := net.ParseCIDR(network)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(ipnet, mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("DE")}}); err != nil {
			t.Fatal(err)
		}
	}
	var data bytes.Buffer
	if _, err := tree.WriteTo(&data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

const countryPolicy = `
hostname: gate.example.com
data_dir: data
sign_in: {issuer: https://idp.example.com, client_id: sshgate}
policy:
  COUNTRIES
  applications:
    - name: web
      hosts: [web1]
      rules:
        - {name: at home, action: allow, include: [{everyone: true}], require: [{country: DE}], logins: [deploy]}
`

func TestCountryFile(t *testing.T) {
	noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	writeCountries(t, filepath.Join(dir, "countries.mmdb"))
	parse := func(line string) (*config.Gateway, error) {
		return config.ParseGateway([]byte(strings.Replace(countryPolicy, "COUNTRIES", line, 1)), filepath.Join(dir, "gateway.yaml"), nil)
	}
	g, err := parse("country_file: countries.mmdb")
	if err != nil {
		t.Fatal(err)
	}
	if w := g.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %v", w)
	}
	for addr, want := range map[string]bool{
		"192.0.2.7": true, "::ffff:192.0.2.7": true, "2001:db8::1": true, "198.51.100.1": false, "::1": false, "": false,
	} {
		var from netip.Addr
		if addr != "" {
			from = netip.MustParseAddr(addr)
		}
		d := g.Policy().Decide(sshgate.Request{
			Identity: sshgate.Identity{Issuer: "i", Subject: "s", SignedInAt: noon}, Target: sshgate.Target{Origin: "web1"},
			ClientAddr: from, Channel: sshgate.ChannelSession, Time: noon,
		})
		if d.Allowed != want {
			t.Errorf("from %q: %v (%s)", addr, d.Allowed, d.Reason)
		}
	}
	if g, err := parse(""); err != nil || len(g.Warnings()) != 1 || !strings.Contains(g.Warnings()[0].String(), "set country_file") {
		t.Errorf("without a database: %v, %v", g.Warnings(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.mmdb"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parse("country_file: bad.mmdb"); err == nil || !strings.Contains(err.Error(), "is not a database of countries in MaxMind's format") {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := parse("country_file: none.mmdb"); err == nil || !strings.Contains(err.Error(), "there is no file") {
		t.Errorf("nothing: %v", err)
	}
}
