package sshgate

import "time"

// IdentityKey is what makes two identities the same person: the provider and
// the provider's own name for them (OpenID Connect Core 1.0 section 5.7). An
// e-mail address is not part of it; addresses are reassigned.
type IdentityKey struct {
	Issuer  string
	Subject string
}

// Identity is somebody who signed in.
type Identity struct {
	// Issuer is the provider's issuer URL, Subject its name for the person.
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	// Email is the "email" claim. It decides nothing unless EmailVerified.
	Email         string `json:"email,omitempty"`
	EmailVerified bool   `json:"email_verified,omitempty"`
	// Name is the display name, never used in a decision.
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

// String names the identity for people: the verified address where there is
// one, otherwise the subject, with the preferred_username claim beside it where
// the provider sends one. It decides nothing.
func (id Identity) String() string {
	if email := id.VerifiedEmail(); email != "" {
		return email
	}
	if name, ok := id.Claims["preferred_username"].(string); ok && name != "" && len(name) <= 256 {
		return id.Subject + " (" + name + ")"
	}
	return id.Subject
}
