package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
)

// errProbed ends an authentication once the server's answer is known.
var errProbed = errors.New("the server takes the certificate")

// probeSigner has a certificate, and no key.
type probeSigner struct {
	cert  *ssh.Certificate
	taken bool
}

func (s *probeSigner) PublicKey() ssh.PublicKey { return s.cert }

// Sign is called once the server has said that it would take the certificate.
func (s *probeSigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	s.taken = true
	return nil, errProbed
}

// ProbeCertificate asks the SSH server at address (HOST:PORT) whether it would take
// the user certificate for the login (RFC 4252 section 7). Nobody signs in, and no
// key is needed. That it would not says less: the login may not exist, or the
// server may keep it out whatever it shows. A nil dialer is a net.Dialer.
func ProbeCertificate(ctx context.Context, address string, cert *ssh.Certificate, login string, dial Dialer) (taken bool, err error) {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, scanHandshake)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := onDone(ctx, func() { conn.Close() })
	signer := &probeSigner{cert: cert}
	refused := false
	_, _, _, err = ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: login,
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			refused = true // unless Sign is called
			return []ssh.Signer{signer}, nil
		})},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // it is told nothing but a certificate
	})
	var broken *net.OpError
	switch {
	case !stop():
		return false, context.Cause(ctx)
	case signer.taken:
		return true, nil
	case refused && !errors.Is(err, io.EOF) && !errors.As(err, &broken): // else it is no answer
		return false, nil
	}
	return false, fmt.Errorf("asking %s about a certificate: %w", address, err)
}
