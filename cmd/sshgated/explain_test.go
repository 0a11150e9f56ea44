package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

// Groups and claims of an event's person are those of the sign-in that the gateway
// remembers for the key, unless the key is somebody else's by now.
func TestExplainEventKnowsThePerson(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.yaml")
	if err := os.WriteFile(file, []byte(`hostname: gate.test
data_dir: data
sign_in: {issuer: "https://accounts.example.com", client_id: sshgate}
policy:
  applications:
    - name: servers
      hosts: web1
      rules: [{name: ops, action: allow, include: [{group: ops}], logins: deploy}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenSQLite(t.Context(), filepath.Join(dir, "data", "sshgated.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	err = db.BindKey(t.Context(), sshgate.KeyLogin{
		Fingerprint: "SHA256:known",
		Identity:    sshgate.Identity{Issuer: "https://accounts.example.com", Subject: "7", Groups: []string{"ops"}, SignedInAt: time.Now()},
		ExpiresAt:   time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, key, subject, want string
		note                     bool
	}{
		{"the same person", "SHA256:known", "7", "allow", false},
		{"another person", "SHA256:known", "8", "deny", true},
		{"another key", "SHA256:other", "7", "deny", true},
		{"no key", "", "7", "deny", true},
	} {
		line, err := json.Marshal(map[string]any{
			"time": time.Now(), "kind": "decision", "request": "r-1", "issuer": "https://accounts.example.com", "subject": tt.subject,
			"identity": tt.subject, "key": tt.key, "origin": "web1", "channel": "session", "allowed": true, "application": "servers", "rule": "ops",
		})
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(dir, "log.json")
		if err := os.WriteFile(log, line, 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		if code := Run(t.Context(), []string{"explain", "--config", file, "--event", "r-1", "--log", log, "--json"}, &stdout, &stderr); code != 0 {
			t.Fatalf("%s: exit code %d: %s", tt.name, code, stderr.String())
		}
		var got explanationJSON
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Result != tt.want || (got.Note != "") != tt.note || got.Then == nil || got.Then.Differs == (tt.want == "allow") {
			t.Errorf("%s: %s", tt.name, stdout.String())
		}
	}
}
