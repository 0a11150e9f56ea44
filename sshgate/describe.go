package sshgate

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// describe returns the selector as the configuration has it, and what the request
// has of what it looks at.
func describe(s Selector, r Request) (want, have string) {
	id := r.Identity
	switch s := s.(type) {
	case nil:
		return "no selector", "nothing"
	case Email:
		return "email: " + join(s), or(id.VerifiedEmail(), "no verified address")
	case EmailDomain:
		return "email_domain: " + join(s), or(id.VerifiedEmail(), "no verified address")
	case Group:
		return "group: " + join(s), or(join(id.Groups), "no groups")
	case Claim:
		return fmt.Sprintf("claim: %s = %s", s.Path, join(s.Values)), or(join(s.Path.Texts(id.Claims)), "no such claim")
	case Address:
		return "address: " + ranges(s), addressOf(r.ClientAddr)
	case ServiceTokenNamed:
		return "service_token: " + join(s), id.String()
	case WorkloadNamed:
		return "workload: " + join(s), id.String()
	case ACR:
		return "acr: " + join(s), or(join(ClaimPath("acr").Texts(id.Claims)), "no such claim")
	case AMR:
		return "amr: " + join(s), or(join(ClaimPath("amr").Texts(id.Claims)), "no such claim")
	case Country:
		return "country: " + join(s), or(r.Country, "no country")
	case KeyType:
		return "key_type: " + s.text(), r.Key.text()
	case TimeWindow:
		return "time: " + s.text(), s.now(r).Format("Mon 15:04 MST")
	case PolicyGroup:
		return "policy_group: " + string(s), id.String()
	case Everyone:
		return "everyone", id.String()
	}
	return fmt.Sprintf("%T", s), id.String()
}

func join(values []string) string { return strings.Join(values, ", ") }

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func ranges(s Address) string {
	texts := make([]string, len(s))
	for i, p := range s {
		texts[i] = p.String()
	}
	return join(texts)
}

func addressOf(addr netip.Addr) string {
	if !addr.IsValid() {
		return "no address"
	}
	return addr.Unmap().String()
}

func (s KeyType) text() string {
	return join(s.Types) + flags(s.Touched, s.Verified)
}

func (k Key) text() string {
	return or(k.Type, "no key") + flags(k.Touched, k.Verified)
}

func flags(touched, verified bool) (text string) {
	if touched {
		text += ", touched"
	}
	if verified {
		text += ", verified"
	}
	return text
}

func (s TimeWindow) text() string {
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", d/time.Hour, d%time.Hour/time.Minute) }
	days := make([]string, len(s.Weekdays))
	for i, d := range s.Weekdays {
		days[i] = strings.ToLower(d.String()[:3])
	}
	zone := time.UTC
	if s.Location != nil {
		zone = s.Location
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s-%s %s", join(days), clock(s.From), clock(s.To), zone))
}

// now returns the request's time on the window's clock.
func (s TimeWindow) now(r Request) time.Time {
	if s.Location == nil {
		return r.Time.UTC()
	}
	return r.Time.In(s.Location)
}
