package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/store"
)

// readEnv reads a file of lines NAME=VALUE.
func readEnv(ts *testscript.TestScript, name string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(ts.ReadFile(name)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			ts.Fatalf("%s has the line %q", name, line)
		}
		env[key] = value
	}
	return env
}

// scriptSetenv sets variables as a file has them: setenv FILE.
func scriptSetenv(ts *testscript.TestScript, _ bool, args []string) {
	for key, value := range readEnv(ts, args[0]) {
		ts.Setenv(key, value)
	}
}

// scriptFirstID sets a variable to the "id" of the first of the JSON objects in a file:
// firstid NAME FILE.
func scriptFirstID(ts *testscript.TestScript, _ bool, args []string) {
	var first struct{ ID string }
	ts.Check(json.NewDecoder(strings.NewReader(ts.ReadFile(args[1]))).Decode(&first))
	ts.Setenv(args[0], first.ID)
}

// scriptSecret proves the service token whose ID and secret are in a file, as the
// gateway would, and checks the answer, which is good or the code of a failure:
// secret ANSWER DATABASE FILE.
func scriptSecret(ts *testscript.TestScript, _ bool, args []string) {
	env := readEnv(ts, args[2])
	ctx := context.Background()
	db, err := store.OpenSQLite(ctx, ts.MkAbs(args[1]), time.Now)
	ts.Check(err)
	defer db.Close()
	tokens := authflow.NewTokens(authflow.TokensConfig{Access: db, Services: db})
	id := sshgate.ServiceTokenID(env["SSHGATE_SERVICE_TOKEN_ID"])
	identity, _, err := tokens.Service(ctx, id, env["SSHGATE_SERVICE_TOKEN_SECRET"])
	answer := "good"
	var failure *authflow.Failure
	if errors.As(err, &failure) {
		answer = failure.Code
	}
	if answer != args[0] || err == nil && identity.Subject != string(id) {
		ts.Fatalf("the answer is %s (%v, %v), want %s", answer, identity, err, args[0])
	}
}

// scriptNoSecret checks that no file below a folder has the text in it:
// nosecret FOLDER TEXT.
func scriptNoSecret(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(args[1])) {
			ts.Fatalf("%s holds the secret", path)
		}
		return err
	}))
}

// scriptExpired adds a service token that has expired: expired DATABASE NAME.
func scriptExpired(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	db, err := store.OpenSQLite(ctx, ts.MkAbs(args[0]), time.Now)
	ts.Check(err)
	defer db.Close()
	_, hash := authflow.NewSecret()
	ts.Check(db.CreateServiceToken(ctx, sshgate.ServiceTokenRecord{
		ID: "st-expired", Name: args[1], SecretHash: hash,
		CreatedAt: time.Now().Add(-2 * time.Hour), ExpiresAt: time.Now().Add(-time.Hour),
	}))
}

func TestTokenNames(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "7": true, "backup": true, "ci.deploy_2-x": true, strings.Repeat("a", 64): true,
		"": false, "A": false, ".a": false, "-a": false, "_a": false, "a b": false, "a\n": false, "é": false, "a/b": false,
		strings.Repeat("a", 65): false, "st-": false, "st-abc": false, "st": true, "stage": true,
	} {
		if err := checkTokenName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]string{"backup": "backup", "no": `"no"`, "1.5": `"1.5"`, "2nd": `"2nd"`, "none": "none"} {
		if got := yamlName(name); got != want {
			t.Errorf("%s is written %s, want %s", name, got, want)
		}
	}
}

// TestConfiguredWorkloads holds the configuration and what takes it together.
func TestConfiguredWorkloads(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile(writeTestConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "workloads: [{name: ci, issuer: https://ci.example.com, claims: {repository: acme/app}}]\n"...)
	cfg, err := config.ParseGateway(text, dir+"/gateway.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authflow.NewWorkloads(authflow.WorkloadsConfig{
		Workloads: []authflow.WorkloadConfig{authflow.WorkloadConfig(cfg.Workloads[0])},
	}); err != nil {
		t.Error(err)
	}
}
