package sshgate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Channel says what a client asks for inside its connection.
type Channel string

// The kinds of channels that a policy is asked about.
const (
	ChannelSession Channel = "session" // shell, exec or a subsystem, RFC 4254 section 6
	ChannelForward Channel = "forward" // ssh -L and -D, direct-tcpip
	ChannelUnix    Channel = "unix"    // ssh -L to a unix socket, direct-streamlocal@openssh.com
	ChannelListen  Channel = "listen"  // ssh -R, tcpip-forward and its unix form
	// ChannelEndToEnd is a connection whose SSH the client and the origin do
	// between them (ssh -J): the gateway sees no login and no content.
	ChannelEndToEnd Channel = "end-to-end"
	// ChannelTCP is a connection to a service of an origin that is not SSH, a
	// database for instance: Request.Port says which.
	ChannelTCP Channel = "tcp"
	// The next two are in events only: what the client lends to a session.
	ChannelAgent Channel = "agent"
	ChannelX11   Channel = "x11"
)

// Action is what a rule does with a request that it matches.
type Action string

// The actions of a rule.
const (
	Allow   Action = "allow"   // people
	Service Action = "service" // machines: service tokens and workloads
	Deny    Action = "deny"    // both
)

// Request is one question to the policy. Identity needs an issuer and a
// subject, Target an origin, and Time must be set: the policy denies a request
// that lacks any of them.
type Request struct {
	Identity   Identity
	Target     Target
	ClientAddr netip.Addr
	Channel    Channel
	// Activity is what is asked for inside the channel. Ask about it with
	// Target.Login set to the login that the channel was opened with.
	Activity Activity
	// Port is the service's port for ChannelTCP, and says nothing otherwise.
	Port uint16
	Time time.Time
	// Opened is when what is asked about was opened, for a request that asks
	// whether it may go on. Zero otherwise.
	Opened time.Time
	Key    Key
	// Country is where ClientAddr is, in two capital letters (ISO 3166-1); empty
	// where nobody knows.
	Country string
	// Purpose is what the person says it is for; empty until asked.
	Purpose string
}

// Decision is the policy's answer.
type Decision struct {
	Allowed bool
	// Application and Rule name what decided; empty where nothing matched.
	Application string
	Rule        string
	// Expired is set, with Allowed false, when a rule would allow the request
	// after a new sign-in: this one has reached SessionDuration or the rule's
	// MaxAge, or was not of the kind that the rule requires.
	Expired bool
	// StepUp is what to ask the provider for in that sign-in. Nil unless Expired,
	// and where any sign-in does.
	StepUp *StepUp
	// Purpose is set when the rule wants to know what it is for. Allowed is false
	// until Request.Purpose says so.
	Purpose bool
	// Login is the account to use at the origin: the one asked for, or the
	// rule's default where none was. Empty where no rule would allow the request,
	// and for ChannelEndToEnd and ChannelTCP, where the gateway does not learn it.
	Login Login
	// SessionDuration is how long a sign-in is good for under this rule,
	// counted from Identity.SignedInAt. Zero where no rule would allow the request.
	SessionDuration time.Duration
	// Files is which way files may go, for ActivitySFTP that is allowed: what is
	// not set must be refused inside.
	Files Transfer
	// Reason is a sentence for the log, never for the client.
	Reason string
}

// Policy says who reaches what, and as whom. What no rule allows is denied.
//
// The application whose host pattern fits the origin best answers: an exact
// name before a wildcard, a longer wildcard before a shorter one. In it, a deny
// rule that matches wins over every allow rule, wherever it stands. Otherwise
// each allow rule that matches, for machines each service rule, gives what it
// says under its own conditions, and what any of them gives outright is allowed.
// So no order of rules, and no further deny, ever widens access: the order only
// picks the default login, and which of several rules is named.
//
// A Policy is read only once it is in use, so goroutines may share it. The zero
// Policy denies everything.
type Policy struct {
	Applications []Application
	// SessionDuration holds for applications and rules that set none. Zero
	// means DefaultSessionDuration.
	SessionDuration time.Duration
	// CountryOf tells where an address is, for requests that do not say, as Request has
	// it. Nil, or an empty answer, is that nobody knows.
	CountryOf func(netip.Addr) string
	// Publish says who may let connectors in, and for which hostnames.
	Publish []PublishRule
	// Groups are lists of selectors that rules name with PolicyGroup. Each matches
	// when any of its selectors does.
	Groups map[string][]Selector
	// Administrators are those whom any of these matches. None: nobody.
	Administrators []Selector
}

// DefaultSessionDuration is how long a sign-in is good for where nothing else
// is said.
const DefaultSessionDuration = 12 * time.Hour

// Application is a set of origins under the same rules. Where two have the same
// host pattern, which Validate refuses, the first one answers.
type Application struct {
	Name            string
	Hosts           []HostPattern
	SessionDuration time.Duration // zero: the policy's
	MaxAge          time.Duration // for rules that set none; zero: any
	Rules           []Rule
}

// Rule allows or denies. It matches when any selector of Include matches, every
// selector of Require does, none of Exclude does, and When holds. An empty Include
// matches nobody. An action that is none of Allow, Service and Deny denies.
//
// What cannot be told counts against the request: a rule whose condition fails, or
// that names a group which is not there, does not match if it allows and matches
// if it denies.
type Rule struct {
	Name            string
	Action          Action
	Include         []Selector
	Require         []Selector
	Exclude         []Selector
	When            Condition       // nil: always
	Logins          []LoginTemplate // not in deny rules; the first that yields a login is the default
	SessionDuration time.Duration   // zero: the application's
	// MaxAge is how long ago somebody may have proven who they are when something
	// is opened, see Identity.AuthenticatedAt; that moment excluded. What is open
	// may go on. Zero: the application's.
	MaxAge time.Duration
	// Purpose asks people what it is for before it is allowed.
	Purpose bool
	// Channels limits what may be done; nil does not.
	Channels *Channels
	// EndToEnd lets the rule allow ChannelEndToEnd too, where Logins cannot be
	// enforced: the origin's sshd alone decides on the account. A rule with
	// Channels never does, since those cannot be enforced either.
	EndToEnd bool
	// Ports are those of other services than SSH that the rule allows to reach
	// (ChannelTCP).
	Ports []uint16
}

// Decide answers the request. It is pure: the same request gets the same answer
// from the same policy.
//
// A sign-in is good from Identity.SignedInAt until SessionDuration later, that
// moment excluded. After it, what a rule would allow is Expired instead. Where no
// rule allows the request outright, the answer is what the person can do about it:
// name a purpose before signing in again.
func (p *Policy) Decide(req Request) Decision {
	d, _, _ := p.decide(req)
	return d
}

// decide also returns the application that answered and what it was asked in the
// end: with the default login, where the request names none. Both are nil where
// it did not come to that.
func (p *Policy) decide(req Request) (Decision, *Application, *matcher) {
	if reason := req.incomplete(); reason != "" {
		return Decision{Reason: reason}, nil, nil
	}
	app := p.application(req.Target.Origin)
	if app == nil {
		return Decision{Reason: fmt.Sprintf("no application has origin %s", req.Target.Origin)}, nil, nil
	}
	m := p.matcher(req)
	if rule := m.denies(app); rule != nil {
		return Decision{
			Application: app.Name,
			Rule:        rule.Name,
			Reason:      fmt.Sprintf("rule %q denies %q", rule.Name, req.Identity),
		}, app, m
	}
	offers, refusal := m.offers(app)
	if len(offers) == 0 {
		return Decision{Application: app.Name, Reason: refusal}, app, m
	}
	if login := offers[0].login; login != "" && req.Target.Login == "" {
		// The first rule picks the login, and then all are asked about that one.
		m.req.Target.Login = login
		offers, _ = m.offers(app)
	}
	return m.best(app, offers), app, m
}

// allows tells the rules that allow from those that deny.
func (r Rule) allows() bool { return r.Action == Allow || r.Action == Service }

// isFor tells whether the rule allows people and the identity is one, or
// machines and it is one of those.
func (r Rule) isFor(id Identity) bool {
	if id.Machine() {
		return r.Action == Service
	}
	return r.Action == Allow
}

// offer is a rule that would allow the request.
type offer struct {
	rule  Rule
	login Login
	// stepUp is nil where the rule matches, and otherwise the sign-in after which
	// it would.
	stepUp *StepUp
}

// offers returns the rules that allow the request or would after another sign-in,
// those that match already first. Where there is none it says why.
func (m *matcher) offers(app *Application) (offers []offer, refusal string) {
	refusal = fmt.Sprintf("no rule of application %q allows %q", app.Name, m.req.Identity)
	var later []offer
	for _, rule := range app.Rules {
		if !rule.isFor(m.req.Identity) {
			continue
		}
		matches, stepUp := m.matches(rule), (*StepUp)(nil)
		if !matches {
			if stepUp = m.helps(rule); stepUp == nil {
				continue
			}
		}
		login, no := rule.permits(m.req, app)
		switch {
		case no != "" && matches:
			refusal = no
		case no != "":
		case matches:
			offers = append(offers, offer{rule: rule, login: login})
		default:
			later = append(later, offer{rule: rule, login: login, stepUp: stepUp})
		}
	}
	return append(offers, later...), refusal
}

// best returns the decision of the offer that asks for the least, the first of
// those.
func (m *matcher) best(app *Application, offers []offer) Decision {
	var best Decision
	var files Transfer
	rank := -1
	for _, o := range offers {
		d := m.decision(app, o)
		if d.Allowed && m.req.Activity.Kind == ActivitySFTP {
			more := o.rule.Channels.files()
			files = Transfer{Read: files.Read || more.Read, Write: files.Write || more.Write}
		}
		if r := d.rank(); r > rank {
			best, rank = d, r
		}
	}
	if best.Allowed {
		best.Files = files
	}
	return best
}

// rank orders decisions by how little they ask for.
func (d Decision) rank() int {
	switch {
	case d.Allowed:
		return 2
	case d.Expired:
		return 0
	}
	return 1
}

// permits returns the login that the rule, which matches, gives to the request,
// or why it has nothing for it.
func (r Rule) permits(req Request, app *Application) (login Login, refusal string) {
	switch req.Channel {
	case ChannelEndToEnd:
		if !r.endToEnd() {
			return "", fmt.Sprintf("rule %q does not allow end-to-end connections", r.Name)
		}
		return "", ""
	case ChannelTCP:
		if !slices.Contains(r.Ports, req.Port) {
			return "", fmt.Sprintf("rule %q does not allow port %d", r.Name, req.Port)
		}
		return "", ""
	}
	login, ok := r.login(req)
	if !ok {
		return "", loginReason(app, req.Target.Login)
	}
	if !r.Channels.permits(req.Channel, req.Activity) {
		return "", fmt.Sprintf("rule %q does not allow %v in channel %s", r.Name, req.Activity, req.Channel)
	}
	return login, ""
}

func (r Rule) endToEnd() bool { return r.EndToEnd && r.Channels == nil }

// Logins returns the accounts that the rules permit on the request's target by
// its channel: the one that it names where that is permitted; where it names
// none, all that templates other than `*` yield. any tells that every other would
// do as well, if it is named.
func (p *Policy) Logins(req Request) (logins []Login, any bool) {
	app := p.application(req.Target.Origin)
	if req.incomplete() != "" || app == nil {
		return nil, false
	}
	m := p.matcher(req)
	if m.denies(app) != nil {
		return nil, false
	}
	for _, rule := range app.Rules {
		if !rule.isFor(req.Identity) || !m.matches(rule) || !rule.opens(req) || !m.decision(app, offer{rule: rule}).Allowed {
			continue
		}
		if login, ok := rule.login(req); ok && req.Target.Login != "" {
			return []Login{login}, false
		}
		for _, template := range rule.Logins {
			any = any || template.Any()
			if login, err := template.Expand(req.Identity); err == nil && req.Target.Login == "" && !slices.Contains(logins, login) {
				logins = append(logins, login)
			}
		}
	}
	return logins, any && req.Target.Login == ""
}

// opens tells whether the rule, whatever its logins, allows what is asked for in
// the channel.
func (r Rule) opens(req Request) bool {
	if req.Channel == ChannelEndToEnd {
		return r.endToEnd()
	}
	return r.Channels.permits(req.Channel, req.Activity)
}

// decision returns what the offer comes to.
func (m *matcher) decision(app *Application, o offer) Decision {
	req, rule := m.req, o.rule
	d := Decision{
		Allowed:         true,
		Application:     app.Name,
		Rule:            rule.Name,
		Purpose:         rule.Purpose,
		Login:           o.login,
		SessionDuration: cmp.Or(rule.SessionDuration, app.SessionDuration, m.policy.SessionDuration, DefaultSessionDuration),
		Reason:          fmt.Sprintf("rule %q allows %q as %s", rule.Name, req.Identity, o.login),
	}
	switch req.Channel {
	case ChannelEndToEnd:
		d.Reason = fmt.Sprintf("rule %q allows %q end to end, where its logins (%s) cannot be enforced", rule.Name, req.Identity, joinTemplates(rule.Logins))
	case ChannelTCP:
		d.Reason = fmt.Sprintf("rule %q allows %q to port %d", rule.Name, req.Identity, req.Port)
	}
	if rule.Purpose && strings.TrimSpace(req.Purpose) == "" {
		d.Allowed = false
		d.Reason = fmt.Sprintf("rule %q allows %q once they say what it is for", rule.Name, req.Identity)
	}
	d.signIn(req, cmp.Or(rule.MaxAge, app.MaxAge), o.stepUp)
	return d
}

// signIn sets the decision to Expired where it takes another sign-in. stepUp is
// what the rule requires of it, nil where it requires nothing that this one has
// not.
func (d *Decision) signIn(req Request, maxAge time.Duration, stepUp *StepUp) {
	asked := req.Time
	if !req.Opened.IsZero() {
		asked = req.Opened
	}
	tooOld := maxAge > 0 && asked.Sub(req.Identity.AuthenticatedAt()) >= maxAge
	switch {
	case req.Time.Sub(req.Identity.SignedInAt) >= d.SessionDuration:
		d.Reason = fmt.Sprintf("the sign-in of %q is older than the session duration of %v", req.Identity, d.SessionDuration)
	case tooOld:
		d.Reason = fmt.Sprintf("%q proved who they are longer ago than the %v that rule %q requires", req.Identity, maxAge, d.Rule)
	case stepUp != nil:
		d.Reason = fmt.Sprintf("the sign-in of %q was not of the kind that rule %q requires", req.Identity, d.Rule)
	default:
		return
	}
	d.Allowed, d.Expired = false, true
	if stepUp == nil && maxAge == 0 {
		return
	}
	d.StepUp = &StepUp{MaxAge: maxAge}
	if stepUp != nil {
		d.StepUp.ACRValues, d.StepUp.Prompt = stepUp.ACRValues, stepUp.Prompt
	}
	if tooOld {
		d.StepUp.Prompt = "login"
	}
}

// application returns the application that answers for the origin, or nil.
func (p *Policy) application(origin OriginName) *Application {
	var best *Application
	specificity := -1
	for i := range p.Applications {
		for _, host := range p.Applications[i].Hosts {
			if host.Match(origin) && host.Specificity() > specificity {
				best, specificity = &p.Applications[i], host.Specificity()
			}
		}
	}
	return best
}

// incomplete says what keeps the request from being decided. A name that is not
// in its normal form would slip past the pattern meant for it.
func (r Request) incomplete() string {
	if r.Identity.Issuer == "" || r.Identity.Subject == "" {
		return "the request is nobody's: its identity has no issuer or no subject"
	}
	if r.Time.IsZero() {
		return "the request has no time"
	}
	if r.Channel == ChannelTCP && (r.Port == 0 || r.Port == SSHPort) {
		return fmt.Sprintf("port %d is none of a service other than SSH", r.Port)
	}
	if !r.Activity.fits(r.Channel) {
		return fmt.Sprintf("%q is no activity of channel %q", r.Activity.Kind, r.Channel)
	}
	if name, err := ParseOriginName(string(r.Target.Origin)); err != nil {
		return fmt.Sprintf("the request names no origin: %v", err)
	} else if name != r.Target.Origin {
		return fmt.Sprintf("the request's origin %q is not in normal form", r.Target.Origin)
	}
	return ""
}

// login returns the account that the rule gives to the request, if any: the one
// that it asks for where a template permits it, the first that a template
// yields where it asks for none.
func (r Rule) login(req Request) (Login, bool) {
	want := req.Target.Login
	for _, template := range r.Logins {
		if template.Any() {
			if want != "" {
				return want, true
			}
			continue
		}
		login, err := template.Expand(req.Identity)
		if err == nil && (want == "" || want == login) {
			return login, true
		}
	}
	return "", false
}

func joinTemplates(templates []LoginTemplate) string {
	names := make([]string, len(templates))
	for i, t := range templates {
		names[i] = t.String()
	}
	return strings.Join(names, ", ")
}

func loginReason(app *Application, want Login) string {
	if want == "" {
		return fmt.Sprintf("the request names no login and no rule of application %q has a default for it", app.Name)
	}
	return fmt.Sprintf("no rule of application %q permits login %q", app.Name, want)
}
