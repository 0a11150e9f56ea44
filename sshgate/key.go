package sshgate

import (
	"slices"
	"strings"
)

// Key is what the gateway knows of the SSH key that the client proved. It is zero
// where the client proved none.
type Key struct {
	// Type is the algorithm's name in the key, such as ssh-ed25519 or
	// sk-ssh-ed25519@openssh.com.
	Type string
	// Touched and Verified tell that a FIDO token's signature says that somebody
	// touched it, and that it knew them by a PIN or a finger.
	Touched, Verified bool
}

// Hardware tells whether a FIDO token holds the key.
func (k Key) Hardware() bool { return strings.HasPrefix(k.Type, "sk-") }

// KeyTypeHardware stands in a KeyType for all keys that FIDO tokens hold.
const KeyTypeHardware = "hardware"

// KeyType matches clients that proved a key of one of these types, or
// KeyTypeHardware. With Touched or Verified set, the key must be that, too.
type KeyType struct {
	Types             []string
	Touched, Verified bool
}

// Matches implements Selector.
func (s KeyType) Matches(r Request) bool {
	k := r.Key
	if k.Type == "" || s.Touched && !k.Touched || s.Verified && !k.Verified {
		return false
	}
	return slices.Contains(s.Types, k.Type) || k.Hardware() && slices.Contains(s.Types, KeyTypeHardware)
}
