package sshgate

import (
	"errors"
	"net/netip"
	"time"
)

// How a store says no.
var (
	// ErrNotFound says that there is no such entry, or no longer.
	ErrNotFound = errors.New("not found")
	// ErrRevoked says that a token or a certificate was revoked, which nothing undoes.
	ErrRevoked = errors.New("it is revoked")
	// ErrSpent says that a join token has no use left, has expired or was revoked.
	ErrSpent = errors.New("the join token is used up, expired or revoked")
)

// KeyLogin is the memory of a sign-in: whoever proves this SSH key is this
// identity, until ExpiresAt.
type KeyLogin struct {
	// Fingerprint is the key's SHA256:... fingerprint, as ssh-keygen -l prints it.
	Fingerprint string
	Identity    Identity
	ExpiresAt   time.Time
}

// LastUse is where somebody's session went, and when the last one did.
type LastUse struct {
	Target Target
	At     time.Time // accurate to about a minute
}

// HostKeyPin is a host key that an origin is known by.
type HostKeyPin struct {
	Origin OriginName
	// Key is the public key in authorized_keys form, "ssh-ed25519 AAAA...",
	// without a comment.
	Key string
	// Connector names the connector that reported it.
	Connector string
	PinnedAt  time.Time
}

// ServiceTokenRecord is what the gateway keeps of a service token: a machine's
// credential, which is a secret, an SSH key, or both.
type ServiceTokenRecord struct {
	ID ServiceTokenID
	// Name is unique among the tokens that are not revoked.
	Name string
	// SecretHash is the SHA-256 of the secret, nil where there is none.
	SecretHash []byte
	// PreviousHash is that of the secret before the last rotation, good until
	// PreviousUntil.
	PreviousHash  []byte
	PreviousUntil time.Time
	// Key is an SSH public key in authorized_keys form without a comment, and
	// Fingerprint its SHA256:... fingerprint. Both are empty where there is none.
	Key         string
	Fingerprint string

	CreatedAt time.Time
	ExpiresAt time.Time
	RevokedAt time.Time // zero while it is not
	// LastUsedAt is accurate to about a minute; zero when it was never used.
	LastUsedAt time.Time
}

// AccessTokenRecord is what the gateway keeps of a token that lets its bearer
// act as an identity.
type AccessTokenRecord struct {
	// Hash is the SHA-256 of the token.
	Hash      []byte
	Identity  Identity
	CreatedAt time.Time
	ExpiresAt time.Time
}

// ConnectorRecord is what the gateway keeps of a connector's certificate.
type ConnectorRecord struct {
	// Serial is the certificate's serial number, hexadecimal and lower case.
	Serial string
	// Connector is the name in the certificate. A connector may have several.
	Connector string
	Hostnames []string // patterns that it may publish

	// Via says how it came to be.
	Via EnrolmentVia
	// ApproverIssuer and ApproverSubject tell who let the connector in, and Approver
	// is their Identity.String(). Empty unless a person did, by signing in. A renewal
	// has those of what it renews.
	ApproverIssuer, ApproverSubject, Approver string
	// JoinToken is the one that let the connector in, empty where none did.
	JoinToken JoinTokenID
	// Machine is what the machine calls itself, and Address where it asked from.
	Machine string
	Address netip.Addr
	// Renews is the serial number of the certificate that this one renews.
	Renews string

	IssuedAt   time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero while it is not
	LastSeenAt time.Time // accurate to about a minute; zero when it was never used
}

// ApprovedBy tells whether the person let the connector in.
func (r ConnectorRecord) ApprovedBy(id Identity) bool {
	return r.ApproverSubject != "" && r.ApproverIssuer == id.Issuer && r.ApproverSubject == id.Subject
}

// Good tells whether the certificate lets its connector in at that time.
func (r ConnectorRecord) Good(now time.Time) bool {
	return r.RevokedAt.IsZero() && now.Before(r.ExpiresAt)
}

// EnrolmentVia is a way in which a connector's certificate comes to be.
type EnrolmentVia string

// The ways.
const (
	ViaSignIn  EnrolmentVia = "sign-in" // somebody signed in and said yes
	ViaToken   EnrolmentVia = "token"   // the machine had a join token
	ViaCommand EnrolmentVia = "command" // sshgated connector-cert
	ViaRenewal EnrolmentVia = "renewal"
)

// JoinTokenRecord is what the gateway keeps of a join token, which lets connectors
// in without a person.
type JoinTokenRecord struct {
	ID JoinTokenID
	// Hash is the SHA-256 of the token.
	Hash []byte
	// Connector is the name that those who join get; empty leaves it to them, as long
	// as nobody has it.
	Connector string
	Hostnames []string // patterns that they may publish
	Uses      int      // how many it is good for
	Left      int      // of these

	CreatedAt  time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero while it is not
	LastUsedAt time.Time // zero when it was never used
}

// OriginOwner says which connector a hostname belongs to: the first that published
// it.
type OriginOwner struct {
	Origin    OriginName
	Connector string
	Since     time.Time
}
