package console

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Service is what somebody may do with one service of an origin.
type Service struct {
	Port     uint16 `json:"port"`
	Session  bool   `json:"session,omitempty"`
	EndToEnd bool   `json:"end_to_end"`
}

// Origin is an origin that somebody may reach.
type Origin struct {
	Name     sshgate.OriginName `json:"name"`
	Online   bool               `json:"online"`
	Logins   []sshgate.Login    `json:"logins"`
	AnyLogin bool               `json:"any_login"`
	Services []Service          `json:"services"`
	// LastUsed is when the caller was there last, and LastLogin as whom; zero
	// where that is not known.
	LastUsed  time.Time     `json:"last_used,omitzero"`
	LastLogin sshgate.Login `json:"last_login,omitempty"`
}

// Directory returns what somebody may reach, and nothing else: those used last
// first, then by name, and what is offline after all others. For those who are
// Local, whom no rule is about, it is all that there is.
func (c *Console) Directory(ctx context.Context, who Caller) ([]Origin, error) {
	pins, err := c.cfg.State.AllHostKeys(ctx)
	if err != nil {
		return nil, err
	}
	published := map[sshgate.Endpoint]bool{}
	for _, pin := range pins { // those that were here before
		published[sshgate.Endpoint{Origin: pin.Origin, Port: sshgate.SSHPort}] = false
	}
	for _, status := range c.cfg.Origins() {
		if len(status.Connectors) > 0 {
			published[sshgate.Endpoint{Origin: status.Origin, Port: status.Port}] = true
		}
	}
	found := map[sshgate.OriginName]*Origin{}
	for endpoint, online := range published {
		service, logins, anyLogin := c.look(who, endpoint)
		if !service.Session && !service.EndToEnd && !who.Local {
			continue
		}
		o := found[endpoint.Origin]
		if o == nil {
			o = &Origin{Name: endpoint.Origin, Logins: []sshgate.Login{}}
			found[endpoint.Origin] = o
		}
		o.Services = append(o.Services, service)
		o.Online = o.Online || online
		o.Logins, o.AnyLogin = append(o.Logins, logins...), o.AnyLogin || anyLogin
	}
	c.lastUses(ctx, who, found)
	list := make([]Origin, 0, len(found))
	for _, o := range found {
		slices.SortFunc(o.Services, func(a, b Service) int { return cmp.Compare(a.Port, b.Port) })
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b Origin) int {
		switch {
		case a.Online != b.Online:
			return map[bool]int{true: -1, false: 1}[a.Online]
		case !a.LastUsed.Equal(b.LastUsed):
			return b.LastUsed.Compare(a.LastUsed)
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return list, nil
}

// lastUses adds when the caller was where. Without them the list is in another
// order, which is no reason to have none.
func (c *Console) lastUses(ctx context.Context, who Caller, found map[sshgate.OriginName]*Origin) {
	uses, err := c.cfg.State.LastUses(ctx, who.Identity.Key())
	if err != nil {
		c.cfg.Log.Warn("the last uses could not be read", "err", err)
	}
	for _, use := range uses {
		if o := found[use.Target.Origin]; o != nil && use.At.After(o.LastUsed) {
			o.LastUsed, o.LastLogin = use.At, use.Target.Login
		}
	}
}

// look says what somebody may do with one service.
func (c *Console) look(who Caller, endpoint sshgate.Endpoint) (s Service, logins []sshgate.Login, anyLogin bool) {
	policy := c.cfg.Policy()
	s = Service{Port: endpoint.Port}
	s.EndToEnd = policy.Decide(c.request(who, sshgate.Target{Origin: endpoint.Origin}, endpoint.Channel(), endpoint.Port)).Allowed
	if endpoint.Port == sshgate.SSHPort {
		logins, anyLogin = policy.Logins(c.request(who, sshgate.Target{Origin: endpoint.Origin}, sshgate.ChannelSession, 0))
		s.Session = len(logins) > 0 || anyLogin
	}
	return s, logins, anyLogin
}

// request is a question to the policy.
func (c *Console) request(who Caller, target sshgate.Target, channel sshgate.Channel, port uint16) sshgate.Request {
	return sshgate.Request{Identity: who.Identity, Target: target, ClientAddr: who.Addr, Channel: channel, Port: port, Time: c.cfg.Now()}
}
