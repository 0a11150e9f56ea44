// Package store keeps what must outlive a restart of the gateway: which SSH key
// stands for which sign-in, the host keys that origins are known by, and the
// tokens of machines and helpers, as hashes.
//
// Start with OpenSQLite. The package keeps and returns. It decides few
// things, because they have to be decided in one step with the reading or the
// writing: an expired sign-in is never handed out, a host key that is pinned is
// never replaced, two service tokens that are not revoked never share a name or
// a key, and what is revoked stays so. Whether a token is good is the caller's to
// judge, who has to say why it is not.
//
// All methods may be called at the same time from many goroutines, and from
// several processes that opened the same state. A method that returns an error
// has changed nothing.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

var (
	// ErrNotFound says that there is no such entry, or no longer.
	ErrNotFound = sshgate.ErrNotFound
	// ErrExists says that a name or a key is taken.
	ErrExists = errors.New("it exists already")
	// ErrRevoked says that a token or a certificate was revoked, which nothing undoes.
	ErrRevoked = sshgate.ErrRevoked
	// ErrSpent says that a join token is no longer good.
	ErrSpent = sshgate.ErrSpent
)

// encodeIdentity returns the identity as JSON, its time in UTC.
func encodeIdentity(id sshgate.Identity) (string, error) {
	id.SignedInAt = id.SignedInAt.UTC()
	data, err := json.Marshal(id)
	if err != nil {
		return "", fmt.Errorf("encode the identity %s: %w", id.Subject, err)
	}
	return string(data), nil
}

// decodeIdentity is the inverse of encodeIdentity. Numbers among the claims
// come back as float64, as encoding/json decodes them.
func decodeIdentity(data string) (sshgate.Identity, error) {
	var id sshgate.Identity
	if err := json.Unmarshal([]byte(data), &id); err != nil {
		return sshgate.Identity{}, fmt.Errorf("decode a stored identity: %w", err)
	}
	return id, nil
}

// checkLogin refuses an entry that would stand for nobody, or for no key.
func checkLogin(login sshgate.KeyLogin) error {
	switch {
	case login.Fingerprint == "":
		return errors.New("the key's fingerprint is empty")
	case login.Identity.Issuer == "":
		return errors.New("the identity has no issuer")
	case login.Identity.Subject == "":
		return errors.New("the identity has no subject")
	}
	return nil
}

// checkPins refuses pins that are not for origin, or of no key.
func checkPins(origin sshgate.OriginName, pins []sshgate.HostKeyPin) error {
	if origin == "" {
		return errors.New("the origin's name is empty")
	}
	for _, pin := range pins {
		switch {
		case pin.Origin != origin:
			return fmt.Errorf("a host key of %q among those of %q", pin.Origin, origin)
		case pin.Key == "":
			return fmt.Errorf("an empty host key for %q", origin)
		}
	}
	return nil
}

// freshPins returns which of the reported pins to add to those that an origin
// has. An origin without any gets them all. One that has some gets a key of a
// further type only from a report that holds one of its pinned keys and
// contradicts none: a report that agrees in nothing could be anybody's.
func freshPins(held, reported []sshgate.HostKeyPin) []sshgate.HostKeyPin {
	keys, types := make(map[string]bool), make(map[string]bool)
	for _, pin := range held {
		keys[pin.Key], types[keyType(pin.Key)] = true, true
	}
	agrees := len(held) == 0
	var fresh []sshgate.HostKeyPin
	for _, pin := range reported {
		switch {
		case keys[pin.Key]:
			agrees = true
		case types[keyType(pin.Key)]:
			return nil // another key of a type that is pinned
		default:
			fresh = append(fresh, pin)
		}
	}
	if !agrees {
		return nil
	}
	return fresh
}

// keyType returns the type of a key in authorized_keys form, "ssh-ed25519".
func keyType(key string) string {
	typ, _, _ := strings.Cut(key, " ")
	return typ
}

// Times are kept as microseconds since 1970 in UTC; what is finer is cut off.

func toMicros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }
