package config

import (
	"net/netip"
	"os"

	"github.com/oschwald/maxminddb-golang/v2"
)

// maxCountryFile is the largest database of countries that is read, in bytes. Those
// in use have below 10 MiB.
const maxCountryFile = 256 << 20

// countryFile decodes the path of a database in MaxMind's format, GeoLite2 Country or
// one like it, and reads it into memory: the file may be replaced while it is in use.
func countryFile(dst *func(netip.Addr) string) func(cursor) {
	return func(c cursor) {
		var path string
		inputFile(&path, func(path string, info os.FileInfo) error { return tooLarge(path, info, maxCountryFile) })(c)
		if path == "" {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			c.problem("%v", err)
			return
		}
		db, err := maxminddb.OpenBytes(data)
		if err != nil {
			c.problem("%s is not a database of countries in MaxMind's format: %v", path, err)
			return
		}
		*dst = func(addr netip.Addr) string {
			var code string
			if err := db.Lookup(addr.Unmap().WithZone("")).DecodePath(&code, "country", "iso_code"); err != nil {
				return "" // nobody knows
			}
			return code
		}
	}
}
