package web

import (
	"net/netip"
	"testing"
)

func TestSameNetwork(t *testing.T) {
	office := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::/48")}
	for _, test := range []struct {
		a, b   string
		ranges []netip.Prefix
		want   bool
	}{
		{"203.0.113.7", "203.0.113.7", nil, true},
		{"203.0.113.7", "203.0.113.200", nil, true},
		{"203.0.113.7", "203.0.112.7", nil, false},
		{"203.0.113.7", "::ffff:203.0.113.8", nil, true},
		{"2001:db8:1:2::1", "2001:db8:1:ffff::2", nil, true},
		{"2001:db8:1::1", "2001:db8:2::1", nil, false},
		{"fe80::1%eth0", "fe80::1", nil, true},
		{"198.51.100.4", "2001:db8:1::1", nil, false},
		{"198.51.100.4", "2001:db8:1::1", office, true},
		{"198.51.100.4", "203.0.113.7", office, false},
		{"203.0.113.7", "203.0.113.8", office, true},
		{"0.0.0.1", "::1", nil, false},
		{"", "", nil, false},
		{"203.0.113.7", "", office, false},
	} {
		a, _ := netip.ParseAddr(test.a)
		b, _ := netip.ParseAddr(test.b)
		if got := sameNetwork(a, b, test.ranges); got != test.want || sameNetwork(b, a, test.ranges) != got {
			t.Errorf("%s and %s, with %v: %v", test.a, test.b, test.ranges, got)
		}
	}
}
