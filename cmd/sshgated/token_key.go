package main

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"

	gossh "golang.org/x/crypto/ssh"
)

const (
	maxKeyFile = 64 << 10 // bytes
	minRSABits = 2048
)

// readTokenKey reads the one SSH public key in a file, or on stdin when the name
// is "-".
func readTokenKey(name string, stdin io.Reader) (gossh.PublicKey, error) {
	source, shown := stdin, "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		source, shown = f, name
	}
	data, err := io.ReadAll(io.LimitReader(source, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", shown, err)
	}
	key, err := parseTokenKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s %w", shown, err)
	}
	return key, nil
}

// parseTokenKey takes the text of a .pub file. Its errors go on from the name of
// the file.
func parseTokenKey(data []byte) (gossh.PublicKey, error) {
	switch {
	case len(data) > maxKeyFile:
		return nil, errors.New("is too large for a public key")
	case bytes.Contains(data, []byte("PRIVATE KEY-----")), bytes.HasPrefix(data, []byte("PuTTY-User-Key-File")):
		return nil, errors.New("holds a private key, which must stay where it is; give the public half, the .pub file")
	}
	key, _, options, rest, err := gossh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, errors.New(`has no public key; give one line such as "ssh-ed25519 AAAA..."`)
	}
	if len(options) > 0 {
		return nil, errors.New("has options before the key, which would not be heeded; remove them, and say in the policy where the key may be used from")
	}
	if _, _, _, _, err := gossh.ParseAuthorizedKey(rest); err == nil {
		return nil, errors.New("has more than one key; a token has one")
	}
	return key, checkTokenKey(key)
}

// checkTokenKey refuses what the gateway would not take from a client, or should
// not.
func checkTokenKey(key gossh.PublicKey) error {
	switch key.Type() {
	case gossh.KeyAlgoED25519, gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
		gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256:
		return nil
	case gossh.KeyAlgoRSA:
		public, ok := key.(gossh.CryptoPublicKey)
		if !ok {
			return errors.New("has an RSA key that can't be measured")
		}
		if rsaKey, ok := public.CryptoPublicKey().(*rsa.PublicKey); !ok || rsaKey.N.BitLen() < minRSABits {
			return fmt.Errorf("has an RSA key of less than %d bits; make a better one: ssh-keygen -t ed25519", minRSABits)
		}
		return nil
	}
	if _, ok := key.(*gossh.Certificate); ok {
		return errors.New("has a certificate; give the plain public key that it is for")
	}
	return fmt.Errorf("has a key of type %s, which is not taken; make one with: ssh-keygen -t ed25519", key.Type())
}
