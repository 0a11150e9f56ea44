package sshgate

import (
	"net/netip"
	"time"
)

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	EventLoginStart   EventKind = "login.start"    // a sign-in was offered
	EventLoginSuccess EventKind = "login.success"  // somebody signed in
	EventLoginKey     EventKind = "login.key"      // a key was proven that is bound to a sign-in
	EventLoginFailure EventKind = "login.failure"  // a sign-in was denied, expired or left
	EventLoginPage    EventKind = "login.page"     // somebody used, or may not use, the page of a sign-in
	EventLoginReport  EventKind = "login.report"   // somebody says that a sign-in for them is not theirs
	EventDecision     EventKind = "decision"       // the policy answered a request
	EventSessionStart EventKind = "session.start"  // a channel to an origin opened
	EventSessionEnd   EventKind = "session.end"    // that channel closed
	EventOriginUp     EventKind = "origin.up"      // a connector publishes an origin
	EventOriginDown   EventKind = "origin.down"    // its last connector left
	EventHostKey      EventKind = "origin.hostkey" // a host key was pinned or refused
	EventRefused      EventKind = "origin.refused" // a connector may not publish an origin
	EventEnrolment    EventKind = "enrolment"      // a connector asked to be let in, was let in or renewed, or was not
	EventCredential   EventKind = "credential"     // a token or a certificate was issued, used for access, refused or revoked
	EventLimit        EventKind = "limit"          // a limit was reached: its name is the detail
	EventCommand      EventKind = "command"        // somebody asked the gateway for what changes something, or is about others
)

// Event is one fact for the record. Fields that do not apply are zero. An Event
// never holds a secret.
type Event struct {
	Time       time.Time    `json:"time"`
	Kind       EventKind    `json:"kind"`
	Connection ConnectionID `json:"connection,omitempty"`
	Request    RequestID    `json:"request,omitempty"`

	Issuer   string `json:"issuer,omitempty"`
	Subject  string `json:"subject,omitempty"`
	Identity string `json:"identity,omitempty"` // Identity.String()
	// IdentityKind is empty for people.
	IdentityKind IdentityKind `json:"identity_kind,omitempty"`
	ClientAddr   netip.Addr   `json:"client,omitzero"`
	Key          string       `json:"key,omitempty"` // SHA256:... fingerprint of the client's proven key

	Origin  OriginName `json:"origin,omitempty"`
	Login   Login      `json:"login,omitempty"`
	Channel Channel    `json:"channel,omitempty"`
	// Activity is what was asked for inside the channel.
	Activity ActivityKind `json:"activity,omitempty"`
	// Purpose is what the person said it is for, where a rule asks.
	Purpose string `json:"purpose,omitempty"`
	// Detail is what the channel was for: a command, a subsystem's name, the
	// destination of a forward.
	Detail string `json:"detail,omitempty"`

	Allowed     bool   `json:"allowed,omitempty"`
	Application string `json:"application,omitempty"`
	Rule        string `json:"rule,omitempty"`
	Reason      string `json:"reason,omitempty"`
	// Count is how many like it the event stands for, where it is a summary.
	Count int `json:"count,omitempty"`

	BytesIn  int64         `json:"bytes_in,omitempty"`  // client to origin
	BytesOut int64         `json:"bytes_out,omitempty"` // origin to client
	Duration time.Duration `json:"duration,omitempty"`  // nanoseconds
	// Exit is how the session's command ended: "0", "3", "signal TERM", or
	// empty where the channel has no such thing or closed without it.
	Exit string `json:"exit,omitempty"`
}

// By returns the event with the identity's fields filled in.
func (e Event) By(id Identity) Event {
	e.Issuer, e.Subject, e.Identity, e.IdentityKind = id.Issuer, id.Subject, id.String(), id.Kind
	return e
}
