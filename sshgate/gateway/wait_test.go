package gateway

import (
	"net"
	"testing"
	"time"
)

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// waitForStats polls, since counters have no event.
func waitForStats(t *testing.T, b *bench, ok func(Stats) bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok(b.server.Stats()) {
		if time.Now().After(deadline) {
			t.Fatalf("the server stays at %+v", b.server.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}
