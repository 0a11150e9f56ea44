package gateway

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// TestNobodyComesInWithoutAuthentication pins the bypass that gliderlabs/ssh
// opens when none of its own handlers is set: it sets NoClientAuth.
func TestNobodyComesInWithoutAuthentication(t *testing.T) {
	b := newBench(t, nil)
	for name, auth := range map[string][]gossh.AuthMethod{
		"none":         nil,
		"password":     {gossh.Password("x")},
		"unbound key":  {gossh.PublicKeys(newSigner(t))},
		"several keys": {gossh.PublicKeys(newSigner(t), newSigner(t), newSigner(t))},
	} {
		client, err := b.dial("deploy+web1", auth...)
		if err == nil {
			client.Close()
			t.Errorf("%s: let in", name)
		}
	}
	if b.started != 0 {
		t.Errorf("%d sign-ins were started for clients that cannot sign in", b.started)
	}
}

func TestSignInBindsTheProvenKey(t *testing.T) {
	b := newBench(t, nil)
	key := newSigner(t)
	client, err := b.dial("deploy+web1", gossh.PublicKeys(key), gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	client, err = b.dial("deploy+web1", gossh.PublicKeys(key))
	if err != nil {
		t.Fatalf("the key is not remembered: %v", err)
	}
	client.Close()
	if b.started != 1 {
		t.Errorf("%d sign-ins, want 1", b.started)
	}
	if client, err = b.dial("deploy+web1", gossh.PublicKeys(newSigner(t))); err == nil {
		client.Close()
		t.Error("another key is let in")
	}
}

// offered is a key that a client shows but cannot sign with: its signature is
// by another.
type offered struct {
	gossh.Signer
	shown gossh.PublicKey
}

func (o offered) PublicKey() gossh.PublicKey { return o.shown }

// TestOfferedKeyIsNotBound: the key that counts is the one that signed, never
// one that was only asked about (CVE-2024-45337).
func TestOfferedKeyIsNotBound(t *testing.T) {
	b := newBench(t, nil)
	victim := newSigner(t)
	client, err := b.dial("deploy+web1",
		gossh.PublicKeys(offered{newSigner(t), victim.PublicKey()}), gossh.KeyboardInteractive(noAnswers))
	if err == nil {
		client.Close()
		t.Error("a wrong signature is let in")
	}
	if _, err := b.logins.KeyLogin(t.Context(), gossh.FingerprintSHA256(victim.PublicKey())); err == nil {
		t.Error("a key that was only offered is bound")
	}
	client, err = b.dial("deploy+web1", gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	b.logins.mu.Lock()
	defer b.logins.mu.Unlock()
	for name := range b.logins.logins {
		if strings.HasPrefix(name, "SHA256:") {
			t.Errorf("a sign-in without a key bound %s", name)
		}
	}
}

func TestBoundKeyAmongOthers(t *testing.T) {
	b := newBench(t, nil)
	bound := newSigner(t)
	b.bind(bound, time.Now())
	client, err := b.dial("deploy+web1", gossh.PublicKeys(newSigner(t), newSigner(t), bound))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
}

func (b *bench) bind(key gossh.Signer, signedIn time.Time) {
	b.t.Helper()
	id := alice
	id.SignedInAt = signedIn
	err := b.logins.BindKey(b.t.Context(), sshgate.KeyLogin{
		Fingerprint: gossh.FingerprintSHA256(key.PublicKey()), Identity: id, ExpiresAt: signedIn.Add(sshgate.DefaultSessionDuration),
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestExpiredSignInAsksAgain(t *testing.T) {
	b := newBench(t, nil)
	key := newSigner(t)
	b.bind(key, time.Now().Add(-sshgate.DefaultSessionDuration))
	if client, err := b.dial("deploy+web1", gossh.PublicKeys(key)); err == nil {
		client.Close()
		t.Error("an expired sign-in lets the key in")
	}
	client, err := b.dial("deploy+web1", gossh.PublicKeys(key), gossh.KeyboardInteractive(noAnswers))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if b.started != 1 {
		t.Errorf("%d sign-ins, want 1", b.started)
	}
}

// TestRuleWithShorterSessions asks again for an origin whose rule wants a newer
// sign-in than the one that is remembered.
func TestRuleWithShorterSessions(t *testing.T) {
	policy := allow(t, "web1", alice.Email, "deploy")
	policy.Applications[0].Rules[0].SessionDuration = time.Minute
	b := newBench(t, func(cfg *Config) { cfg.Policy = func() *sshgate.Policy { return policy } })
	key := newSigner(t)
	b.bind(key, time.Now().Add(-2*time.Minute))
	if client, err := b.dial("deploy+web1", gossh.PublicKeys(key)); err == nil {
		client.Close()
		t.Error("the key is let in though the rule wants a newer sign-in")
	}
}

func TestCertificateOfAClientIsNotTaken(t *testing.T) {
	b := newBench(t, nil)
	key, authority := newSigner(t), newSigner(t)
	b.bind(key, time.Now())
	cert := &gossh.Certificate{Key: key.PublicKey(), CertType: gossh.UserCert, ValidBefore: gossh.CertTimeInfinity, ValidPrincipals: []string{"deploy+web1"}}
	if err := cert.SignCert(strings.NewReader(strings.Repeat("x", 1000)), authority); err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if client, err := b.dial("deploy+web1", gossh.PublicKeys(signer)); err == nil {
		client.Close()
		t.Error("a certificate is let in")
	}
}

func TestFailedSignIn(t *testing.T) {
	b := newBench(t, nil)
	b.signInAs = &authflow.Failure{Code: authflow.CodeAccessDenied, Sentence: "the sign-in was denied at the provider", Err: errors.New("cause for the log \x1b")}
	var texts []string
	ask := func(name, instruction string, questions []string, echos []bool) ([]string, error) {
		texts = append(texts, name+instruction)
		if len(questions) > 0 {
			t.Errorf("a question was asked: %q", questions)
		}
		return nil, nil
	}
	client, err := b.dial("deploy+web1", gossh.RetryableAuthMethod(gossh.KeyboardInteractive(ask), 3))
	if err == nil {
		client.Close()
		t.Fatal("let in")
	}
	all := strings.Join(texts, "")
	if strings.Count(all, "https://idp.test/device") != 1 || !strings.Contains(all, "ABCD") || !strings.Contains(all, "denied at the provider") {
		t.Errorf("the user reads:\n%s", all)
	}
	for _, r := range all {
		if r != '\n' && (r < ' ' || r > '~') {
			t.Errorf("the user gets the character %q", r)
		}
	}
	if strings.Contains(all, "cause for the log") {
		t.Error("the user reads the cause")
	}
}

func TestSilentClientIsCutOff(t *testing.T) {
	b := newBench(t, func(cfg *Config) { cfg.HandshakeTimeout = 50 * time.Millisecond })
	c := dialTCP(t, b.address)
	defer c.Close()
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Logf("the connection ended with %v", err)
	}
	waitForStats(t, b, func(s Stats) bool { return s.Connections == 0 && s.Unauthenticated == 0 })
}

// TestLoginTimeout covers what comes after the handshake: a client that
// authenticates and authenticates.
func TestLoginTimeout(t *testing.T) {
	b := newBench(t, func(cfg *Config) { cfg.LoginTimeout = 100 * time.Millisecond })
	block := make(chan struct{})
	defer close(block)
	stall := func(_, instruction string, _ []string, _ []bool) ([]string, error) {
		if instruction != "" {
			<-time.After(time.Second)
		}
		return nil, nil
	}
	if client, err := b.dial("deploy+web1", gossh.KeyboardInteractive(stall)); err == nil {
		client.Close()
		t.Error("let in past the limit")
	}
}

func TestLimitOfUnauthenticated(t *testing.T) {
	b := newBench(t, func(cfg *Config) { cfg.MaxUnauthenticated = 2 })
	for range 2 {
		defer dialTCP(t, b.address).Close()
	}
	waitForStats(t, b, func(s Stats) bool { return s.Unauthenticated == 2 })
	c := dialTCP(t, b.address)
	defer c.Close()
	if n, _ := c.Read(make([]byte, 1)); n != 0 {
		t.Error("a connection past the limit is greeted")
	}
}

func TestAlgorithms(t *testing.T) {
	algos := transport()
	if algos.KeyExchanges[0] != gossh.KeyExchangeMLKEM768X25519 {
		t.Errorf("the first key exchange is %s", algos.KeyExchanges[0])
	}
	if algos.Ciphers[0] != gossh.CipherAES128GCM || algos.Ciphers[1] != gossh.CipherAES256GCM {
		t.Errorf("the first ciphers are %v", algos.Ciphers[:2])
	}
	for _, list := range [][]string{algos.KeyExchanges, algos.Ciphers, algos.MACs} {
		for _, name := range list {
			for _, weak := range []string{"group1-", "group14-sha1", "-cbc", "arcfour", "hmac-sha1-96", "md5"} {
				if strings.Contains(name, weak) {
					t.Errorf("%s is offered", name)
				}
			}
		}
	}
}

func TestCommandFor(t *testing.T) {
	target := sshgate.Target{Login: "deploy", Origin: "web1"}
	for advertise, want := range map[string]string{
		"gate.example.com":      "deploy+web1@gate.example.com",
		"gate.example.com:22":   "deploy+web1@gate.example.com",
		"gate.example.com:2222": "-p 2222 deploy+web1@gate.example.com",
		"[2001:db8::1]:2222":    "-p 2222 deploy+web1@2001:db8::1",
	} {
		s := &Server{cfg: Config{Advertise: advertise}}
		if got := s.commandFor(target); got != want {
			t.Errorf("%s: %q, want %q", advertise, got, want)
		}
	}
}
