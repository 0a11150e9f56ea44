package endtoend

import (
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Facts are what is known of a passage.
type Facts struct {
	Client   Client
	Endpoint sshgate.Endpoint
	Channel  sshgate.Channel
	Detail   string
	Since    time.Time // zero until it is carried
}

// Facts returns what is known of the passage.
func (p *Passage) Facts() Facts {
	p.broker.mu.Lock()
	defer p.broker.mu.Unlock()
	return Facts{Client: p.client, Endpoint: p.endpoint, Channel: p.channel, Detail: p.detail, Since: p.broker.live[p]}
}

func (b *Broker) begin(p *Passage, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live[p] = at
}

func (b *Broker) end(p *Passage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.live, p)
}

// Live returns the passages that are being carried.
func (b *Broker) Live() []*Passage {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*Passage, 0, len(b.live))
	for p := range b.live {
		list = append(list, p)
	}
	return list
}
