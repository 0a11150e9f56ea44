//go:build unix

package devorigin

import (
	"bytes"
	"errors"
	"fmt"

	gossh "golang.org/x/crypto/ssh"
)

// errNoAuth refuses the method "none".
var errNoAuth = errors.New("a user certificate is needed")

// serverConfig returns a fresh configuration: gliderlabs changes the one it gets.
func (c *conn) serverConfig() *gossh.ServerConfig {
	algorithms := gossh.SupportedAlgorithms() // without SHA-1 and the like
	cfg := &gossh.ServerConfig{
		Config: gossh.Config{
			KeyExchanges: algorithms.KeyExchanges,
			Ciphers:      algorithms.Ciphers,
			MACs:         algorithms.MACs,
		},
		PublicKeyAuthAlgorithms: algorithms.PublicKeyAuths,
		PublicKeyCallback:       c.authenticate,
		ServerVersion:           "SSH-2.0-sshgate-demo",
		// gliderlabs sets NoClientAuth where none of its own handlers is set,
		// which lets anyone in unless this refuses.
		NoClientAuthCallback: func(gossh.ConnMetadata) (*gossh.Permissions, error) { return nil, errNoAuth },
		AuthLogCallback:      c.authenticated,
	}
	if banner := c.origin.cfg.Banner; banner != "" {
		cfg.BannerCallback = func(gossh.ConnMetadata) string { return banner }
	}
	return cfg
}

// authenticate accepts a user certificate of the trusted authority that is valid
// now, names the login as a principal and has no critical option that is not
// enforced. x/crypto enforces source-address from the permissions returned.
func (c *conn) authenticate(meta gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
	cfg := &c.origin.cfg
	if meta.User() != cfg.Login {
		return nil, fmt.Errorf("no such user: %q", meta.User())
	}
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		return nil, errors.New("a plain key instead of a certificate")
	}
	// To CertChecker no principal means every principal; sshd takes such a
	// certificate from no TrustedUserCAKeys, and neither does this.
	if len(cert.ValidPrincipals) == 0 {
		return nil, errors.New("the certificate has no principal")
	}
	checker := gossh.CertChecker{
		SupportedCriticalOptions: []string{"source-address"},
		Clock:                    cfg.Now,
		IsUserAuthority: func(authority gossh.PublicKey) bool {
			return bytes.Equal(authority.Marshal(), cfg.TrustedCA.Marshal())
		},
	}
	return checker.Authenticate(meta, cert)
}

// authenticated is called after each attempt to sign in.
func (c *conn) authenticated(meta gossh.ConnMetadata, method string, err error) {
	if err != nil {
		c.log.Debug("sign-in refused", "user", meta.User(), "method", method, "err", err)
		return
	}
	c.log.Debug("signed in", "user", meta.User(), "method", method)
	c.loginTimer.Stop()
}

// permits tells whether a certificate's extensions grant something.
func permits(p *gossh.Permissions, extension string) bool {
	if p == nil {
		return false
	}
	_, ok := p.Extensions[extension]
	return ok
}
