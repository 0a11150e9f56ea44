package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	gossh "golang.org/x/crypto/ssh"
)

// hostKeyKinds are the gateway's host keys: Ed25519 for everybody, ECDSA and
// RSA for clients that know nothing newer.
var hostKeyKinds = []struct {
	file string
	make func() (crypto.Signer, error)
}{
	{"ssh_host_ed25519_key", newEd25519},
	{"ssh_host_ecdsa_key", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }},
	{"ssh_host_rsa_key", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 3072) }},
}

func newEd25519() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// OpenHostKeys returns the gateway's host keys from dir, in OpenSSH's format
// and mode 0600. Those that do not exist yet are made; one that exists is never
// replaced.
func OpenHostKeys(dir string) ([]gossh.Signer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the host keys: %w", err)
	}
	var signers []gossh.Signer
	for _, kind := range hostKeyKinds {
		signer, err := openKey(filepath.Join(dir, kind.file), kind.make)
		if err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
		if signer.PublicKey().Type() == gossh.KeyAlgoRSA {
			// Without this the key would also sign with SHA-1 (ssh-rsa).
			signer, err = gossh.NewSignerWithAlgorithms(signer.(gossh.AlgorithmSigner),
				[]string{gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256})
			if err != nil {
				return nil, fmt.Errorf("host key: %w", err)
			}
		}
		signers = append(signers, signer)
	}
	return signers, nil
}

// openKey reads the private key at path, or makes one there with generate.
func openKey(path string, generate func() (crypto.Signer, error)) (gossh.Signer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = createKey(path, generate)
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	signer, err := gossh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return signer, nil
}

// createKey makes a key and links it into place whole, so that a crash leaves
// no half of a file and two starts at once agree on one key.
func createKey(path string, generate func() (crypto.Signer, error)) ([]byte, error) {
	key, err := generate()
	if err != nil {
		return nil, fmt.Errorf("generating %s: %w", path, err)
	}
	block, err := gossh.MarshalPrivateKey(key, "sshgate")
	if err != nil {
		return nil, fmt.Errorf("generating %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

// MakeKey makes an Ed25519 private key at path, in OpenSSH's format and mode
// 0600, unless there is one.
func MakeKey(path string) error {
	_, err := openKey(path, newEd25519)
	return err
}
