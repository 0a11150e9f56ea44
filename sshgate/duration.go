package sshgate

import (
	"cmp"
	"time"
)

// LongestSession returns the longest session duration of any rule: how long a
// sign-in is worth remembering. Each request is still decided by its own rule's.
func (p *Policy) LongestSession() time.Duration {
	longest := cmp.Or(p.SessionDuration, DefaultSessionDuration)
	for _, app := range p.Applications {
		for _, rule := range app.Rules {
			longest = max(longest, cmp.Or(rule.SessionDuration, app.SessionDuration))
		}
	}
	return longest
}
