// Package oidcprovider runs npm oidc-provider, a certified OpenID Connect
// provider, for tests that want an implementation other than the embedded one.
package oidcprovider

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/internal/devidp/approve"
)

// The clients that the provider knows. All have the device flow, and the code flow with
// the redirect URI https://gate.example.com/oauth/callback.
const (
	ClientPublic = "sshgate"       // no secret
	ClientBasic  = "sshgate-basic" // client_secret_basic
	ClientPost   = "sshgate-post"  // client_secret_post
)

// Secret returns the secret of ClientBasic or ClientPost. It has characters
// that must be escaped on the way.
func Secret(clientID string) string { return "secret of " + clientID + " & more: 100%" }

const (
	startTimeout   = 30 * time.Second
	installTimeout = 3 * time.Minute
	maxPages       = 8
)

// Process is a provider that runs. Anybody can sign in, with any password: the
// account "alice" has the subject alice, the verified address
// alice@example.com, and the groups engineering and oncall.
type Process struct {
	// Issuer is its URL on 127.0.0.1.
	Issuer string
}

// Start runs a provider until the test ends. Its packages are installed on the
// first use. Without node and npm the test is skipped, or fails where the
// environment has CI set.
func Start(t testing.TB) *Process {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing, which the tests against oidc-provider need: %v", program, err)
			}
			t.Skipf("SKIPPED, sign-in is not tested against oidc-provider: %s is missing", program)
		}
	}
	dir := folder()
	if err := install(t, dir); err != nil {
		t.Fatalf("install oidc-provider: %v", err)
	}
	process, err := run(t, dir)
	if err != nil {
		t.Fatalf("start oidc-provider: %v", err)
	}
	return process
}

// folder returns the one that this file is in.
func folder() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// install runs npm ci unless that is done. Test binaries run side by side, so
// it holds a lock.
func install(t testing.TB, dir string) error {
	lock, err := os.Open(filepath.Join(dir, "package.json"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider", "package.json")); err == nil {
		return nil
	}
	t.Log("running npm ci in", dir)
	ctx, stop := context.WithTimeout(t.Context(), installTimeout)
	defer stop()
	npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	npm.Dir = dir
	if output, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, output)
	}
	return nil
}

// run starts node and reads the issuer. The process ends with its standard
// input, hence with this one, however that ends.
func run(t testing.TB, dir string) (*Process, error) {
	node := exec.Command("node", "server.mjs")
	node.Dir = dir
	node.Env = append(os.Environ(), "NODE_ENV=test")
	var log strings.Builder
	node.Stderr = &log
	stdin, err := node.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := node.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := node.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(startTimeout, func() { _ = node.Process.Kill() })
	t.Cleanup(func() {
		late.Stop()
		stdin.Close()
		_ = node.Process.Kill()
		_ = node.Wait() // reports the kill
		if t.Failed() {
			t.Logf("oidc-provider said:\n%s", log.String())
		}
	})
	issuer, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("no issuer on its standard output: %w", err)
	}
	late.Stop()
	return &Process{Issuer: strings.TrimSpace(issuer)}, nil
}

// Approve signs in as login and allows the device login of userCode, as a
// person with a browser would. verificationURI is the one without the code.
func (p *Process) Approve(ctx context.Context, client *http.Client, verificationURI, userCode, login string) error {
	browser := approve.NewBrowser(client)
	page, err := p.enter(ctx, browser, verificationURI, url.Values{"user_code": {userCode}, "confirm": {"yes"}})
	for range maxPages {
		if err != nil {
			return err
		}
		if page.Status != http.StatusOK {
			return fmt.Errorf("%s answered %d", page.URL, page.Status)
		}
		if len(page.Forms) == 0 {
			return nil
		}
		var values url.Values
		switch form := &page.Forms[0]; form.Fields.Get("prompt") {
		case "login":
			values = url.Values{"login": {login}, "password": {"any"}}
		case "consent":
		default:
			return fmt.Errorf("%s has an unknown form", page.URL)
		}
		page, err = browser.Submit(ctx, page, &page.Forms[0], values)
	}
	return fmt.Errorf("not done after %d pages", maxPages)
}

// Deny refuses the device login of userCode.
func (p *Process) Deny(ctx context.Context, client *http.Client, verificationURI, userCode string) error {
	_, err := p.enter(ctx, approve.NewBrowser(client), verificationURI, url.Values{"user_code": {userCode}, "abort": {"yes"}})
	return err
}

// enter fills in the form that asks for the code.
func (p *Process) enter(ctx context.Context, browser *approve.Browser, verificationURI string, values url.Values) (*approve.Page, error) {
	page, err := browser.Get(ctx, verificationURI)
	if err != nil {
		return nil, err
	}
	if len(page.Forms) != 1 || !page.Forms[0].Fields.Has("user_code") {
		return nil, errors.New("the device page has no form for the code")
	}
	return browser.Submit(ctx, page, &page.Forms[0], values)
}
