package sshgate

// Extent is what rules give to one login at an origin at all: the outermost
// bounds of what Decide may ever say, for a certificate that is good for it.
type Extent struct {
	Session  bool // something in a session
	Terminal bool // a shell or commands
	Shell    bool
	Forward  bool // any forward, to or from the origin
	Agent    bool
	X11      bool
}

// Extent returns what the rules for people like the request's give to the login
// that it names. Their conditions, how old the sign-in is and the rules that deny
// do not count, so this is never less than what Decide allows for a sign-in of this
// kind. It is no permission.
func (p *Policy) Extent(req Request) Extent {
	var e Extent
	app := p.application(req.Target.Origin)
	if app == nil || req.incomplete() != "" {
		return e
	}
	m := p.matcher(req)
	for _, rule := range app.Rules {
		if !rule.isFor(req.Identity) || min(m.any(rule.Include), m.all(rule.Require), m.any(rule.Exclude).not()) == no {
			continue
		}
		if _, ok := rule.login(req); ok {
			e.add(rule.Channels)
		}
	}
	return e
}

// add adds what one rule gives; nil is everything.
func (e *Extent) add(c *Channels) {
	if c == nil {
		*e = Extent{Session: true, Terminal: true, Shell: true, Forward: true, Agent: true, X11: true}
		return
	}
	e.Session = e.Session || c.session()
	e.Terminal = e.Terminal || c.Shell || len(c.Exec) > 0
	e.Shell = e.Shell || c.Shell
	e.Forward = e.Forward || c.Listen || len(c.Forward) > 0 || len(c.Unix) > 0
	e.Agent = e.Agent || c.Agent
	e.X11 = e.X11 || c.X11
}
