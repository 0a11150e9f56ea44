package gateway

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// clockSkew is how far an origin's clock may lag behind the gateway's.
const clockSkew = time.Minute

// UserCA is the authority whose user certificates the origins trust
// (TrustedUserCAKeys in sshd_config). Its key is not a host key and never
// leaves its file.
type UserCA struct {
	signer gossh.Signer
}

// OpenUserCA returns the authority whose Ed25519 key is in dir, mode 0600,
// making it on first use.
func OpenUserCA(dir string) (*UserCA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the certificate authority: %w", err)
	}
	signer, err := openKey(filepath.Join(dir, "ssh_user_ca_ed25519_key"), newEd25519)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return &UserCA{signer: signer}, nil
}

// PublicKey returns what origins trust.
func (ca *UserCA) PublicKey() gossh.PublicKey { return ca.signer.PublicKey() }

// everything is the extent of rules without limits.
var everything = sshgate.Extent{Session: true, Terminal: true, Shell: true, Forward: true, Agent: true, X11: true}

// extensions are what a certificate lets its holder do at the origin, as sshd
// knows it.
func extensions(e sshgate.Extent) map[string]string {
	granted := map[string]string{}
	for name, has := range map[string]bool{
		"permit-X11-forwarding":   e.X11,
		"permit-agent-forwarding": e.Agent,
		"permit-port-forwarding":  e.Forward,
		"permit-pty":              e.Terminal,
		"permit-user-rc":          e.Shell, // ~/.ssh/rc is a script of the account's own
	} {
		if has {
			granted[name] = ""
		}
	}
	return granted
}

// extent is what a connection to the origin is opened for: all that the rules give
// to its login, since the channels of the client share it.
func (c *conn) extent(a *access) sshgate.Extent {
	if c.srv.cfg.Origins(a.target.Origin).Method != CertificateAuth {
		return everything
	}
	req := a.request
	req.Target.Login = a.decision.Login
	return c.srv.cfg.Policy().Extent(req)
}

// holds tells whether sshd lets the holder do it.
func holds(e sshgate.Extent, a sshgate.Activity) bool {
	switch a.Kind {
	case sshgate.ActivityForward, sshgate.ActivityUnix, sshgate.ActivityListen:
		return e.Forward
	case sshgate.ActivityAgent:
		return e.Agent
	case sshgate.ActivityX11:
		return e.X11
	}
	return true
}

// sign returns a signer with a fresh Ed25519 key and a certificate for it that
// is good for one login and for ttl from now. The key exists in memory only.
func (ca *UserCA) sign(login sshgate.Login, keyID string, now time.Time, ttl time.Duration, extensions map[string]string) (gossh.Signer, error) {
	key, err := newEd25519()
	if err != nil {
		return nil, err
	}
	signer, err := gossh.NewSignerFromSigner(key)
	if err != nil {
		return nil, err
	}
	cert, err := ca.certify(signer.PublicKey(), []sshgate.Login{login}, keyID, now, ttl, extensions)
	if err != nil {
		return nil, err
	}
	return gossh.NewCertSigner(cert, signer)
}

// Certify signs a certificate for the key that is good for the logins, of which
// there must be one, and for ttl from now. Its holder may do all that an account
// can.
func (ca *UserCA) Certify(key gossh.PublicKey, logins []sshgate.Login, keyID string, now time.Time, ttl time.Duration) (*gossh.Certificate, error) {
	return ca.certify(key, logins, keyID, now, ttl, extensions(everything))
}

func (ca *UserCA) certify(key gossh.PublicKey, logins []sshgate.Login, keyID string, now time.Time, ttl time.Duration, extensions map[string]string) (*gossh.Certificate, error) {
	if len(logins) == 0 || ttl <= 0 {
		return nil, errors.New("a certificate without a login would be good for all, and one without a time for none")
	}
	principals := make([]string, len(logins))
	for i, login := range logins {
		principals[i] = string(login)
	}
	var serial [8]byte
	rand.Read(serial[:]) // never fails, see crypto/rand
	cert := &gossh.Certificate{
		Key:             key,
		Serial:          binary.BigEndian.Uint64(serial[:]),
		CertType:        gossh.UserCert,
		KeyId:           keyID,
		ValidPrincipals: principals,
		ValidAfter:      uint64(now.Add(-clockSkew).Unix()),
		ValidBefore:     uint64(now.Add(ttl).Unix()),
		Permissions:     gossh.Permissions{Extensions: extensions},
	}
	if err := cert.SignCert(rand.Reader, ca.signer); err != nil {
		return nil, fmt.Errorf("signing the certificate for the origin: %w", err)
	}
	return cert, nil
}
