package gateway

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/audit"
	gossh "golang.org/x/crypto/ssh"
)

func TestHostKeysAreMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hostkeys")
	var all sync.WaitGroup
	made := make([][]gossh.Signer, 4)
	for i := range made { // several starts at once agree
		all.Go(func() {
			var err error
			if made[i], err = OpenHostKeys(dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, signers := range made {
		if len(signers) != 3 {
			t.Fatalf("%d host keys", len(signers))
		}
		for j, signer := range signers {
			if gossh.FingerprintSHA256(signer.PublicKey()) != gossh.FingerprintSHA256(made[0][j].PublicKey()) {
				t.Errorf("two starts made different keys of type %s", signer.PublicKey().Type())
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%v in the folder, %v", entries, err)
	}
	path := filepath.Join(dir, "ssh_host_ed25519_key")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHostKeys(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
}

func TestBrokenKeyIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ssh_user_ca_ed25519_key")
	if err := os.WriteFile(path, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenUserCA(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "half a key" {
		t.Error("the file was replaced")
	}
}

func TestUserCertificate(t *testing.T) {
	ca, err := OpenUserCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signer, err := ca.sign("deploy", "alice@example.com session=c-1", now, 5*time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert := signer.PublicKey().(*gossh.Certificate)
	checker := &gossh.CertChecker{IsUserAuthority: func(gossh.PublicKey) bool { return true }, Clock: func() time.Time { return now }}
	if err := checker.CheckCert("deploy", cert); err != nil {
		t.Error(err)
	}
	if err := checker.CheckCert("root", cert); err == nil {
		t.Error("the certificate is good for another login")
	}
	checker.Clock = func() time.Time { return now.Add(5*time.Minute + time.Second) }
	if err := checker.CheckCert("deploy", cert); err == nil {
		t.Error("the certificate outlives its time")
	}
	if cert.KeyId != "alice@example.com session=c-1" || cert.CertType != gossh.UserCert || len(cert.ValidPrincipals) != 1 {
		t.Errorf("certificate %+v", cert)
	}
	again, err := ca.sign("deploy", "x", now, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(again.PublicKey().(*gossh.Certificate).Key.Marshal()) == string(cert.Key.Marshal()) {
		t.Error("two certificates share a key")
	}
}

// memoryPins is the smallest HostKeyStore: the first report is pinned whole, and
// the first connector has the origin.
type memoryPins struct {
	pins   map[sshgate.OriginName][]sshgate.HostKeyPin
	owners map[sshgate.OriginName]string
}

func newMemoryPins() *memoryPins {
	return &memoryPins{pins: map[sshgate.OriginName][]sshgate.HostKeyPin{}, owners: map[sshgate.OriginName]string{}}
}

func (m *memoryPins) ClaimOrigin(_ context.Context, origin sshgate.OriginName, connector string, _ time.Time) (string, error) {
	if m.owners[origin] == "" {
		m.owners[origin] = connector
	}
	return m.owners[origin], nil
}

func (m *memoryPins) HostKeys(_ context.Context, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error) {
	return m.pins[origin], nil
}

func (m *memoryPins) PinHostKeys(_ context.Context, origin sshgate.OriginName, report []sshgate.HostKeyPin) ([]sshgate.HostKeyPin, error) {
	if len(m.pins[origin]) == 0 {
		m.pins[origin] = report
	}
	return m.pins[origin], nil
}

func TestRegistrar(t *testing.T) {
	events := audit.NewRecorder(10)
	r := &Registrar{Store: newMemoryPins(), Events: events, Now: time.Now}
	line := func(s gossh.Signer) string {
		return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(s.PublicKey())))
	}
	first, second := line(newSigner(t)), line(newSigner(t))
	admit := func(keys ...string) error {
		return r.Admit(t.Context(), connector.Registration{Port: sshgate.SSHPort, Connector: "rack1", Origin: "web1", HostKeys: keys})
	}
	for range 2 {
		if err := admit(first); err != nil {
			t.Fatal(err)
		}
	}
	if err := admit(); err != nil {
		t.Errorf("a report without keys: %v", err)
	}
	err := admit(second)
	refusal, ok := err.(*connector.Refusal)
	if !ok || refusal.Code != connector.CodeHostKeyChanged || !strings.Contains(refusal.Reason, "sshgated hostkeys forget web1") {
		t.Errorf("a changed key: %v", err)
	}
	// Another connector gets neither the origin nor a service of it, whatever it reports.
	for _, port := range []uint16{sshgate.SSHPort, 5432} {
		err := r.Admit(t.Context(), connector.Registration{Port: port, Connector: "rack2", Origin: "web1"})
		refusal, ok := err.(*connector.Refusal)
		if !ok || refusal.Code != connector.CodeTaken || !strings.Contains(refusal.Reason, "sshgated connector release web1") {
			t.Errorf("a takeover at port %d: %v", port, err)
		}
	}
	got := events.Events()
	if len(got) != 2 || !got[0].Allowed || got[1].Allowed || got[1].Identity != "connector rack1" {
		t.Errorf("events: %+v", got)
	}
}
