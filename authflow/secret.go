package authflow

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"hash/crc32"
	"strings"
)

// The text of tokens: a prefix that says what it is, random letters and digits,
// and a checksum of both. Prefix and checksum let secret scanners find tokens
// that leaked with hardly a false alarm, and tell a typing error without a
// look-up.
const (
	accessPrefix = "sga_" // access tokens
	secretPrefix = "sgs_" // the secrets of service tokens
	joinPrefix   = "sgj_" // join tokens of connectors

	randomDigits   = 43 // base 62: 256 bits
	checksumDigits = 6  // base 62: 32 bits
	tokenLength    = len(accessPrefix) + randomDigits + checksumDigits
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewSecret returns a fresh secret for a service token, and its hash, which is
// what to keep.
func NewSecret() (secret string, hash []byte) {
	secret = newToken(secretPrefix)
	return secret, hashToken(secret)
}

// NewJoinToken returns a fresh join token, and its hash, which is what to keep.
func NewJoinToken() (token string, hash []byte) {
	token = newToken(joinPrefix)
	return token, hashToken(token)
}

// ParseJoinToken checks the form of a join token and returns its hash.
func ParseJoinToken(token string) ([]byte, error) { return parseToken(joinPrefix, token) }

// newToken returns a fresh random token.
func newToken(prefix string) string {
	text := make([]byte, 0, tokenLength)
	text = append(text, prefix...)
	var random [2 * randomDigits]byte
	for len(text) < len(prefix)+randomDigits {
		rand.Read(random[:]) // never fails, see crypto/rand
		for _, b := range random {
			// The bytes past the last multiple of 62 would favour some digits.
			if b < 256/62*62 && len(text) < len(prefix)+randomDigits {
				text = append(text, base62[b%62])
			}
		}
	}
	return string(text) + checksum(string(text))
}

// checksum returns the CRC-32 of text (that of RFC 1952) as base 62 digits, the
// highest first.
func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	var digits [checksumDigits]byte
	for i := range digits {
		digits[checksumDigits-1-i] = base62[sum%62]
		sum /= 62
	}
	return string(digits[:])
}

// parseToken checks the form of a token and returns its hash.
func parseToken(prefix, token string) ([]byte, error) {
	body, found := strings.CutPrefix(token, prefix)
	switch {
	case !found:
		return nil, errors.New("it does not begin with " + prefix)
	case len(token) != tokenLength:
		return nil, errors.New("it is too short or too long; perhaps it was not copied whole")
	case strings.Trim(body, base62) != "":
		return nil, errors.New("it has characters other than letters and digits")
	}
	text, sum := token[:tokenLength-checksumDigits], token[tokenLength-checksumDigits:]
	if subtle.ConstantTimeCompare([]byte(checksum(text)), []byte(sum)) != 1 {
		return nil, errors.New("its checksum is wrong; perhaps it was mistyped")
	}
	return hashToken(token), nil
}

// hashToken is what is kept of a token. It needs neither salt nor a slow hash:
// 256 random bits are not to be guessed.
func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// sameHash compares in constant time. Nothing is the same as no hash.
func sameHash(got, want []byte) bool {
	return subtle.ConstantTimeCompare(got, want) == 1 && len(want) == sha256.Size
}
