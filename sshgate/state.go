package sshgate

import (
	"errors"
	"time"
)

// ErrNotFound is how a store says that it has no such entry, or no longer.
var ErrNotFound = errors.New("not found")

// KeyLogin is the memory of a sign-in: whoever proves this SSH key is this
// identity, until ExpiresAt.
type KeyLogin struct {
	// Fingerprint is the key's SHA256:... fingerprint, as ssh-keygen -l prints it.
	Fingerprint string
	Identity    Identity
	ExpiresAt   time.Time
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

	IssuedAt   time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero while it is not
	LastSeenAt time.Time // accurate to about a minute; zero when it was never used
}
