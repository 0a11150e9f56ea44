package sshgate

import "time"

// IdentityKey is what makes two identities the same person: the provider and
// the provider's own name for them (OpenID Connect Core 1.0 section 5.7). An
// e-mail address is not part of it; addresses are reassigned.
type IdentityKey struct {
	Issuer  string
	Subject string
}

// IdentityKind tells people from machines. Rules that allow people never match
// machines, and the other way round.
type IdentityKind string

// The kinds of identities.
const (
	Person       IdentityKind = ""              // signed in at the provider
	ServiceToken IdentityKind = "service_token" // proved a service token, or an SSH key registered for one
	Workload     IdentityKind = "workload"      // a job that proved its platform's ID token
)

// ServiceIssuer is the issuer of identities of service tokens, whose subject is
// the token's ID. No provider has it: it is no URL.
const ServiceIssuer = "sshgate:service-token"

// Identity is somebody who signed in, or a machine that proved a credential.
type Identity struct {
	Kind IdentityKind `json:"kind,omitempty"`
	// Issuer is the provider's issuer URL, Subject its name for the person.
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	// Email is the "email" claim. It decides nothing unless EmailVerified.
	Email         string `json:"email,omitempty"`
	EmailVerified bool   `json:"email_verified,omitempty"`
	// Name is the display name of a person, never used in a decision. Of a
	// machine it is the name of its service token, or of the configuration's
	// workload that it matched.
	Name string `json:"name,omitempty"`
	// Groups holds the values of the configured groups claim.
	Groups []string `json:"groups,omitempty"`
	// Claims holds every claim of the ID token, as decoded JSON.
	Claims map[string]any `json:"claims,omitempty"`
	// SignedInAt is when the person last proved who they are.
	SignedInAt time.Time `json:"signed_in_at"`
}

// Key returns what tells this identity from any other.
func (id Identity) Key() IdentityKey {
	return IdentityKey{Issuer: id.Issuer, Subject: id.Subject}
}

// VerifiedEmail returns the e-mail address when the provider vouches for it,
// otherwise "".
func (id Identity) VerifiedEmail() string {
	if !id.EmailVerified {
		return ""
	}
	return id.Email
}

// Machine tells a machine from a person.
func (id Identity) Machine() bool { return id.Kind != Person }

// String names the identity for people: the verified address where there is
// one, otherwise the subject, with the preferred_username claim beside it where
// the provider sends one. It decides nothing.
func (id Identity) String() string {
	switch id.Kind {
	case ServiceToken:
		return "service-token:" + id.Name
	case Workload:
		return "workload:" + id.Name + " (" + id.Subject + ")"
	}
	if email := id.VerifiedEmail(); email != "" {
		return email
	}
	if name, ok := id.Claims["preferred_username"].(string); ok && name != "" && len(name) <= 256 {
		return id.Subject + " (" + name + ")"
	}
	return id.Subject
}
