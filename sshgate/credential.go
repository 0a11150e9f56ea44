package sshgate

// Credential is what somebody got in by, as far as the gateway keeps it: it stands
// for them until it ends or is taken back. It holds no secret. The zero Credential is
// that of somebody of whom nothing is kept.
type Credential struct {
	// Key is the fingerprint of the SSH key that was proven, or NoKey for a
	// connection. Empty where a token was shown.
	Key string
	// Hash is the SHA-256 of the access token, or of the service token's secret.
	Hash string
	// Identity is who it stands for.
	Identity IdentityKey
}

// NoKey is what a sign-in without a key is remembered by, as long as its connection
// lasts, in the place of a fingerprint.
func NoKey(connection ConnectionID) string { return "connection " + string(connection) }
