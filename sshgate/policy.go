package sshgate

import (
	"net/netip"
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
)

// Action is what a rule does with a request that it matches.
type Action string

// The actions of a rule.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// Request is one question to the policy.
type Request struct {
	Identity   Identity
	Target     Target
	ClientAddr netip.Addr
	Channel    Channel
	Time       time.Time
}

// Decision is the policy's answer.
type Decision struct {
	Allowed bool
	// Application and Rule name what decided; empty where nothing matched.
	Application string
	Rule        string
	// Login is the account to use at the origin: the one asked for, or the
	// rule's default where none was.
	Login Login
	// SessionDuration is how long a sign-in is good for under this rule,
	// counted from Identity.SignedInAt.
	SessionDuration time.Duration
	// Reason is a sentence for the log, never for the client.
	Reason string
}

// Policy says who reaches what, and as whom. What no rule allows is denied.
//
// The application whose host pattern fits the origin best answers: an exact
// name before a wildcard, a longer wildcard before a shorter one. In it, a deny
// rule that matches wins over every allow rule, wherever it stands; otherwise
// the first allow rule that matches and permits the login decides. So no order
// of rules, and no further deny, ever widens access.
type Policy struct {
	Applications []Application
	// SessionDuration holds for applications and rules that set none. Zero
	// means DefaultSessionDuration.
	SessionDuration time.Duration
}

// DefaultSessionDuration is how long a sign-in is good for where nothing else
// is said.
const DefaultSessionDuration = 12 * time.Hour

// Application is a set of origins under the same rules.
type Application struct {
	Name            string
	Hosts           []HostPattern
	SessionDuration time.Duration // zero: the policy's
	Rules           []Rule
}

// Rule allows or denies. It matches when any selector of Include matches, every
// selector of Require does, and none of Exclude does. An empty Include matches
// nobody.
type Rule struct {
	Name            string
	Action          Action
	Include         []Selector
	Require         []Selector
	Exclude         []Selector
	Logins          []LoginTemplate // allow rules only; the first is the default
	SessionDuration time.Duration   // zero: the application's
}
