package sshgate

import "fmt"

// DenialCode says what kind of refusal it is, for programs.
type DenialCode string

// The kinds of refusals.
const (
	DenialPolicy      DenialCode = "denied"             // the policy, or a name that does not exist
	DenialExpired     DenialCode = "sign_in_expired"    // allowed, after another sign-in
	DenialOffline     DenialCode = "origin_offline"     // no connector publishes it right now
	DenialUnreachable DenialCode = "origin_unreachable" // its connector cannot reach it
	DenialHostKey     DenialCode = "host_key_changed"   // the origin's host key is not the pinned one
	DenialTimeout     DenialCode = "origin_timeout"     // the origin did not answer in time
	DenialClosing     DenialCode = "shutting_down"      // the gateway is about to stop
	DenialLimit       DenialCode = "too_many"           // a limit is reached
)

// Denied is a refusal. It carries two texts, one for each reader: Sentence goes
// to the user and gives nothing away, Cause goes to the log. RequestID stands
// in both.
type Denied struct {
	RequestID RequestID
	Code      DenialCode // may be empty where no program asks
	Sentence  string
	Cause     error
}

// Error returns the text for the log. Never send it to a client: that is what
// UserMessage is for.
func (d *Denied) Error() string {
	if d.Cause == nil {
		return d.Sentence
	}
	return d.Cause.Error()
}

func (d *Denied) Unwrap() error { return d.Cause }

// UserMessage returns the text for the user, which ends in the request id.
func (d *Denied) UserMessage() string {
	return fmt.Sprintf("%s (request %s)", d.Sentence, d.RequestID)
}
