package connector

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// hostKeyFamilies are the host key algorithms that are asked for, one family at
// a time: a server answers with the one key that fits.
var hostKeyFamilies = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// scanHandshake bounds one handshake of ScanHostKeys.
const scanHandshake = 5 * time.Second

// Dialer opens a network connection, as net.Dialer's DialContext does.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// errScanned ends a handshake once its host key is known.
var errScanned = errors.New("the host key is known")

// ScanHostKeys returns the host keys of the SSH server at address (HOST:PORT)
// in authorized_keys form without a comment, "ssh-ed25519 AAAA...": at most one
// each of ed25519, ECDSA and RSA, in this order. The server has proved each (RFC
// 4253 section 8). Nobody signs in: every handshake, one for each kind, ends
// before authentication. Each is bounded to five seconds.
//
// It fails when the server cannot be reached, has no key of these kinds, or
// answers some but not all handshakes. A nil dialer is a net.Dialer.
func ScanHostKeys(ctx context.Context, address string, dial Dialer) ([]string, error) {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	var keys []string
	for _, family := range hostKeyFamilies {
		key, err := scanHostKey(ctx, address, dial, family)
		var unknown *ssh.AlgorithmNegotiationError
		switch {
		case errors.As(err, &unknown):
			continue // the server has no such key
		case err != nil:
			return nil, fmt.Errorf("reading the host keys of %s: %w", address, err)
		}
		keys = append(keys, hostKeyLine(key))
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("reading the host keys of %s: the server has no key of a known kind", address)
	}
	return keys, nil
}

func scanHostKey(ctx context.Context, address string, dial Dialer, algorithms []string) (ssh.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, scanHandshake)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := onDone(ctx, func() { conn.Close() })
	var found ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:              "sshgate-scan", // never sent
		HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			found = key
			return errScanned
		},
	})
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if found == nil {
		return nil, err
	}
	return found, nil
}

// hostKeyLine returns the key as "type base64".
func hostKeyLine(key ssh.PublicKey) string {
	return key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}
