package connector

import "github.com/sshgate/sshgate/sshgate"

// index finds a hub's tunnels without a walk through all of them. It is guarded by
// the hub's mu.
type index struct {
	connectors map[string]int // tunnels of each
	// services are those that are published, with the number of tunnels that do.
	services map[sshgate.Endpoint]int
	// origins has the tunnels that publish a service of the origin, or were refused it.
	origins map[sshgate.OriginName]map[*tunnel]bool
}

func newIndex() index {
	return index{
		connectors: make(map[string]int),
		services:   make(map[sshgate.Endpoint]int),
		origins:    make(map[sshgate.OriginName]map[*tunnel]bool),
	}
}

// add enters what the tunnel publishes and was refused.
func (x *index) add(t *tunnel) {
	for name := range t.published {
		x.services[name]++
		x.link(name.Origin, t)
	}
	for name := range t.refused {
		x.link(name.Origin, t)
	}
}

func (x *index) link(origin sshgate.OriginName, t *tunnel) {
	if x.origins[origin] == nil {
		x.origins[origin] = make(map[*tunnel]bool)
	}
	x.origins[origin][t] = true
}

// remove undoes add, for which the tunnel must be as it was.
func (x *index) remove(t *tunnel) {
	for name := range t.published {
		less(x.services, name)
		x.unlink(name.Origin, t)
	}
	for name := range t.refused {
		x.unlink(name.Origin, t)
	}
}

func (x *index) unlink(origin sshgate.OriginName, t *tunnel) {
	delete(x.origins[origin], t)
	if len(x.origins[origin]) == 0 {
		delete(x.origins, origin)
	}
}

// less counts one down, and out at zero.
func less[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
