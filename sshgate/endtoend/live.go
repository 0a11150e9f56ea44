package endtoend

import (
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
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
	return Facts{Client: p.client, Endpoint: p.endpoint, Channel: p.channel, Detail: p.detail, Since: p.broker.live[p].since}
}

// carried is a passage that is.
type carried struct {
	since time.Time
	end   func(*live.Ending)
}

func (b *Broker) begin(p *Passage, at time.Time, end func(*live.Ending)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live[p] = carried{at, end}
}

func (b *Broker) end(p *Passage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.live, p)
}

// End ends a passage that is being carried. It does not wait.
func (p *Passage) End(ending *live.Ending) {
	p.broker.mu.Lock()
	c, ok := p.broker.live[p]
	p.broker.mu.Unlock()
	if ok {
		c.end(ending)
	}
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
