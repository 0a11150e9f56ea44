package connector

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/sshgate/sshgate/sshgate"
)

// TestIndex has tunnels come, change what they publish, and go, and compares the index
// with a walk through all of them.
func TestIndex(t *testing.T) {
	h, err := NewHub(HubConfig{Admit: allowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	random := rand.New(rand.NewPCG(1, 2))
	tunnels := make([]*tunnel, 20)
	for i := range tunnels {
		tunnels[i] = &tunnel{hub: h, connector: fmt.Sprint("rack", i%5)}
	}
	for range 2000 {
		tun := tunnels[random.IntN(len(tunnels))]
		switch {
		case !h.tunnels[tun]:
			if refusal, err := h.add(tun); refusal != nil || err != nil {
				t.Fatal(refusal, err)
			}
		case random.IntN(4) == 0:
			h.remove(tun, "it goes")
			h.remove(tun, "it has gone")
		default:
			published, refused := map[sshgate.Endpoint]publication{}, map[sshgate.Endpoint]*Refusal{}
			for range random.IntN(4) {
				published[randomEndpoint(random)] = publication{}
				refused[randomEndpoint(random)] = &Refusal{Code: CodeNotPermitted}
			}
			h.publish(tun, published, refused)
		}
		checkIndex(t, h)
	}
}

func randomEndpoint(random *rand.Rand) sshgate.Endpoint {
	return sshgate.Endpoint{Origin: sshgate.OriginName(fmt.Sprint("web", random.IntN(4))), Port: uint16(22 + random.IntN(3))}
}

func checkIndex(t *testing.T, h *Hub) {
	t.Helper()
	want := newIndex()
	for tun := range h.tunnels {
		want.connectors[tun.connector]++
		want.add(tun)
	}
	if !maps.Equal(h.index.connectors, want.connectors) || !maps.Equal(h.index.services, want.services) ||
		!maps.EqualFunc(h.index.origins, want.origins, maps.Equal[map[*tunnel]bool, map[*tunnel]bool]) {
		t.Fatalf("the index is %v, want %v", h.index, want)
	}
}
