package main

import "testing"

func TestIsThisMachine(t *testing.T) {
	for hostPort, want := range map[string]bool{
		"127.0.0.1:22":          true,
		"127.9.9.9:2222":        true,
		"[::1]:22":              true,
		"[::ffff:127.0.0.1]:22": true,
		"localhost:22":          true,
		"LocalHost.:22":         true,
		"web1.localhost:22":     true,
		"192.0.2.1:22":          false,
		"[2001:db8::1]:22":      false,
		"notlocalhost:22":       false,
		"localhost.example:22":  false,
		"":                      false, // a unix socket
	} {
		if got := isThisMachine(hostPort); got != want {
			t.Errorf("%q: %v", hostPort, got)
		}
	}
}
