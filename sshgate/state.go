package sshgate

import "time"

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
