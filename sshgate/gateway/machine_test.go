package gateway

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// serviceKeys knows the SSH keys of service tokens.
type serviceKeys struct {
	mu     sync.Mutex
	tokens map[string]error // by fingerprint; an error where they are no longer good
	used   int
	broken error
}

func (s *serviceKeys) ServiceKey(_ context.Context, fingerprint string) (sshgate.Identity, time.Time, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return sshgate.Identity{}, time.Time{}, false, s.broken
	}
	err, registered := s.tokens[fingerprint]
	if !registered {
		return sshgate.Identity{}, time.Time{}, false, nil
	}
	s.used++
	return sshgate.Identity{Kind: sshgate.ServiceToken, Issuer: sshgate.ServiceIssuer, Subject: "st-1", Name: "backup", SignedInAt: time.Now()}, time.Now().Add(time.Hour), true, err
}

func (s *serviceKeys) KeyRegistered(_ context.Context, fingerprint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, registered := s.tokens[fingerprint]
	return registered
}

func (s *serviceKeys) set(key gossh.PublicKey, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[gossh.FingerprintSHA256(key)] = err
}

func machineBench(t *testing.T) (*bench, *serviceKeys) {
	keys := &serviceKeys{tokens: map[string]error{}}
	b := newBench(t, func(cfg *Config) {
		cfg.Services = keys
		people := allow(t, "web1", alice.Email, "deploy")
		policy := *people
		policy.Applications[0].Rules = append(policy.Applications[0].Rules, sshgate.Rule{
			Name: "backup", Action: sshgate.Service, Include: []sshgate.Selector{sshgate.ServiceTokenNamed{"backup"}}, Logins: people.Applications[0].Rules[0].Logins,
		})
		cfg.Policy = func() *sshgate.Policy { return &policy }
	})
	return b, keys
}

func TestMachineByKey(t *testing.T) {
	b, keys := machineBench(t)
	signer := newSigner(t)
	keys.set(signer.PublicKey(), nil)
	wait := b.serveOrigin(func(ch gossh.NewChannel) { _ = ch.Reject(gossh.Prohibited, "reached") })
	defer wait()
	client, err := b.dial("deploy+web1", gossh.PublicKeys(signer))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.NewSession(); err == nil || !strings.Contains(err.Error(), "reached") {
		t.Errorf("the channel: %v", err)
	}
	// What is revoked is refused at the next channel.
	keys.set(signer.PublicKey(), &authflow.Failure{Code: authflow.CodeTokenRevoked, Sentence: "the service token was revoked"})
	if _, err := client.NewSession(); err == nil || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("the next channel: %v", err)
	}
	if b.started != 0 {
		t.Errorf("%d sign-ins were started", b.started)
	}
}

// A credential that is rejected says why, and is no reason to ask anybody to sign in.
func TestRejectedMachineIsNotAskedToSignIn(t *testing.T) {
	b, keys := machineBench(t)
	rejected, unknown, known := newSigner(t), newSigner(t), newSigner(t)
	keys.set(rejected.PublicKey(), &authflow.Failure{Code: authflow.CodeTokenExpired, Sentence: "the service token backup has expired"})
	asked := false
	interactive := gossh.KeyboardInteractive(func(name, instruction string, questions []string, echos []bool) ([]string, error) {
		asked = asked || instruction != ""
		return noAnswers(name, instruction, questions, echos)
	})
	var banner strings.Builder
	dial := func(auth ...gossh.AuthMethod) error {
		client, err := gossh.Dial("tcp", b.address, &gossh.ClientConfig{
			User: "deploy+web1", Auth: auth, HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
			BannerCallback: func(text string) error { banner.WriteString(text); return nil },
		})
		if err == nil {
			client.Close()
		}
		return err
	}
	for name, auth := range map[string][]gossh.AuthMethod{
		"alone":                 {gossh.PublicKeys(rejected), interactive},
		"before an unknown key": {gossh.PublicKeys(rejected, unknown), interactive},
		"after an unknown key":  {gossh.PublicKeys(unknown, rejected), interactive},
	} {
		banner.Reset()
		if err := dial(auth...); err == nil || asked || !strings.Contains(banner.String(), "the service token backup has expired") {
			t.Errorf("%s: in: %v, asked: %v, banner %q", name, err == nil, asked, &banner)
		}
	}
	// A key that is bound to a person's sign-in is another credential.
	fingerprint := gossh.FingerprintSHA256(known.PublicKey())
	if err := b.logins.BindKey(t.Context(), sshgate.KeyLogin{Fingerprint: fingerprint, Identity: signedIn(alice), ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := dial(gossh.PublicKeys(rejected, known)); err != nil {
		t.Errorf("a person's key behind it: %v", err)
	}
}

func signedIn(id sshgate.Identity) sshgate.Identity {
	id.SignedInAt = time.Now()
	return id
}

// A mere offer of a public key is no use of it.
func TestOfferedMachineKeyIsNotUsed(t *testing.T) {
	b, keys := machineBench(t)
	mine, other := newSigner(t), newSigner(t)
	keys.set(other.PublicKey(), nil)
	if err := offer(b, mine, other.PublicKey()); err == nil {
		t.Error("somebody came in with a key of which they have the public half alone")
	}
	if keys.used != 0 {
		t.Errorf("the key counts as used %d times", keys.used)
	}
}

// offer proves a key of its own and then offers another that it cannot prove.
func offer(b *bench, mine gossh.Signer, other gossh.PublicKey) error {
	client, err := b.dial("deploy+web1", gossh.PublicKeys(mine, pretender{other, mine}))
	if err == nil {
		client.Close()
	}
	return err
}

// pretender signs for a key with another.
type pretender struct {
	key gossh.PublicKey
	gossh.Signer
}

func (p pretender) PublicKey() gossh.PublicKey { return p.key }

// While the store does not answer a person is asked to sign in as ever.
func TestStoreOfServiceKeysIsAway(t *testing.T) {
	b, keys := machineBench(t)
	keys.broken = errors.New("the store is away")
	client, err := b.dial("deploy+web1", gossh.PublicKeys(newSigner(t)), gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if b.started != 1 {
		t.Errorf("%d sign-ins were started", b.started)
	}
}
