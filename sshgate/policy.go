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
	// Port is the service's port for ChannelTCP, and says nothing otherwise.
	Port uint16
	Time time.Time
}

// Decision is the policy's answer.
type Decision struct {
	Allowed bool
	// Application and Rule name what decided; empty where nothing matched.
	Application string
	Rule        string
	// Expired is set, with Allowed false, when a rule would allow the request
	// but the sign-in has reached SessionDuration: ask for a new sign-in.
	Expired bool
	// Login is the account to use at the origin: the one asked for, or the
	// rule's default where none was. Empty unless Allowed or Expired, and for
	// ChannelEndToEnd and ChannelTCP, where the gateway does not learn it.
	Login Login
	// SessionDuration is how long a sign-in is good for under this rule,
	// counted from Identity.SignedInAt. Zero unless Allowed or Expired.
	SessionDuration time.Duration
	// Reason is a sentence for the log, never for the client.
	Reason string
}

// Policy says who reaches what, and as whom. What no rule allows is denied.
//
// The application whose host pattern fits the origin best answers: an exact
// name before a wildcard, a longer wildcard before a shorter one. In it, a deny
// rule that matches wins over every allow rule, wherever it stands; otherwise
// the first allow rule that matches and permits the login decides, for machines
// the first service rule. So no order
// of rules, and no further deny, ever widens access: the order only picks the
// default login and the session duration where several rules allow.
//
// A Policy is read only once it is in use, so goroutines may share it. The zero
// Policy denies everything.
type Policy struct {
	Applications []Application
	// SessionDuration holds for applications and rules that set none. Zero
	// means DefaultSessionDuration.
	SessionDuration time.Duration
	// Publish says who may let connectors in, and for which hostnames.
	Publish []PublishRule
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
	Rules           []Rule
}

// Rule allows or denies. It matches when any selector of Include matches, every
// selector of Require does, and none of Exclude does. An empty Include matches
// nobody. An action that is none of Allow, Service and Deny denies.
type Rule struct {
	Name            string
	Action          Action
	Include         []Selector
	Require         []Selector
	Exclude         []Selector
	Logins          []LoginTemplate // not in deny rules; the first that yields a login is the default
	SessionDuration time.Duration   // zero: the application's
	// EndToEnd lets the rule allow ChannelEndToEnd too, where Logins cannot be
	// enforced: the origin's sshd alone decides on the account.
	EndToEnd bool
	// Ports are those of other services than SSH that the rule allows to reach
	// (ChannelTCP).
	Ports []uint16
}

// Decide answers the request. It is pure: the same request gets the same answer
// from the same policy.
//
// A sign-in is good from Identity.SignedInAt until SessionDuration later, that
// moment excluded. After it, what a rule would allow is Expired instead.
func (p *Policy) Decide(req Request) Decision {
	if reason := req.incomplete(); reason != "" {
		return Decision{Reason: reason}
	}
	app := p.application(req.Target.Origin)
	if app == nil {
		return Decision{Reason: fmt.Sprintf("no application has origin %s", req.Target.Origin)}
	}
	if rule := app.denies(req); rule != nil {
		return Decision{
			Application: app.Name,
			Rule:        rule.Name,
			Reason:      fmt.Sprintf("rule %q denies %q", rule.Name, req.Identity),
		}
	}
	reason := fmt.Sprintf("no rule of application %q allows %q", app.Name, req.Identity)
	for _, rule := range app.Rules {
		if !rule.isFor(req.Identity) || !rule.matches(req) {
			continue
		}
		login, refusal := rule.permits(req, app)
		if refusal != "" {
			reason = refusal
			continue
		}
		return p.allow(req, app, rule, login)
	}
	return Decision{Application: app.Name, Reason: reason}
}

// denies returns the first rule that denies the request, or nil.
func (app *Application) denies(req Request) *Rule {
	for i := range app.Rules {
		if rule := &app.Rules[i]; !rule.allows() && rule.matches(req) {
			return rule
		}
	}
	return nil
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

// permits returns the login that the rule, which matches, gives to the request,
// or why it has nothing for it.
func (r Rule) permits(req Request, app *Application) (login Login, refusal string) {
	switch req.Channel {
	case ChannelEndToEnd:
		if !r.EndToEnd {
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
	return login, ""
}

// Logins returns the accounts that the rules permit on the request's target by
// its channel: the one that it names where that is permitted; where it names
// none, all that templates other than `*` yield. any tells that every other would
// do as well, if it is named.
func (p *Policy) Logins(req Request) (logins []Login, any bool) {
	app := p.application(req.Target.Origin)
	if req.incomplete() != "" || app == nil || app.denies(req) != nil {
		return nil, false
	}
	for _, rule := range app.Rules {
		if !rule.isFor(req.Identity) || !rule.matches(req) || req.Channel == ChannelEndToEnd && !rule.EndToEnd || !p.allow(req, app, rule, "").Allowed {
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

// allow returns the decision of the allow rule, which matches and permits the
// login.
func (p *Policy) allow(req Request, app *Application, rule Rule, login Login) Decision {
	d := Decision{
		Allowed:         true,
		Application:     app.Name,
		Rule:            rule.Name,
		Login:           login,
		SessionDuration: cmp.Or(rule.SessionDuration, app.SessionDuration, p.SessionDuration, DefaultSessionDuration),
		Reason:          fmt.Sprintf("rule %q allows %q as %s", rule.Name, req.Identity, login),
	}
	switch req.Channel {
	case ChannelEndToEnd:
		d.Reason = fmt.Sprintf("rule %q allows %q end to end, where its logins (%s) cannot be enforced", rule.Name, req.Identity, joinTemplates(rule.Logins))
	case ChannelTCP:
		d.Reason = fmt.Sprintf("rule %q allows %q to port %d", rule.Name, req.Identity, req.Port)
	}
	if req.Time.Sub(req.Identity.SignedInAt) >= d.SessionDuration {
		d.Allowed, d.Expired = false, true
		d.Reason = fmt.Sprintf("the sign-in of %q is older than the session duration of %v", req.Identity, d.SessionDuration)
	}
	return d
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
	if name, err := ParseOriginName(string(r.Target.Origin)); err != nil {
		return fmt.Sprintf("the request names no origin: %v", err)
	} else if name != r.Target.Origin {
		return fmt.Sprintf("the request's origin %q is not in normal form", r.Target.Origin)
	}
	return ""
}

func (r Rule) matches(req Request) bool {
	return anyMatches(r.Include, req) && allMatch(r.Require, req) && !anyMatches(r.Exclude, req)
}

func anyMatches(selectors []Selector, req Request) bool {
	return slices.ContainsFunc(selectors, func(s Selector) bool { return s.Matches(req) })
}

func allMatch(selectors []Selector, req Request) bool {
	return !slices.ContainsFunc(selectors, func(s Selector) bool { return !s.Matches(req) })
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
