package sshgate

import "fmt"

// Denied is a refusal. It carries two texts, one for each reader: Sentence goes
// to the user and gives nothing away, Cause goes to the log. RequestID stands
// in both.
type Denied struct {
	RequestID RequestID
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
