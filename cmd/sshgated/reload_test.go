package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate/web"
)

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// reloading is a gateway of which only the reloader runs.
type reloading struct {
	*gatewayd
	t   *testing.T
	log lockedBuffer
}

func newReloading(t *testing.T, path string) *reloading {
	t.Helper()
	load := func() (*config.Gateway, error) { return config.LoadGateway(path, nil) }
	r := newReloader(path, load)
	r.poll = 10 * time.Millisecond
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	g := &reloading{t: t}
	log := slog.New(slog.NewTextHandler(&g.log, nil))
	g.gatewayd = &gatewayd{cfg: cfg, log: log, reloader: r, metrics: web.NewMetrics(web.MetricsConfig{})}
	first, err := newSettings(cfg, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	g.settings.Store(first)
	g.metrics.ConfigLoaded(time.Now(), false)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.run(ctx, g.gatewayd) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		r.close()
	})
	return g
}

// expect waits until the policy has so many applications and the metrics that line.
func (g *reloading) expect(what string, applications int, metric string) {
	g.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		w := httptest.NewRecorder()
		g.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		n := len(g.policy().Applications)
		if n == applications && strings.Contains(w.Body.String(), metric+"\n") {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: %d applications, want %d, and %s\n%s", what, n, applications, metric, &g.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// configText is a configuration with the applications.
func configText(applications ...string) string {
	text := "hostname: gate.test\ndata_dir: data\nsign_in: {issuer: \"https://accounts.example.com\", client_id: sshgate}\npolicy:\n  applications:\n"
	for _, name := range applications {
		text += "    - {name: " + name + ", hosts: [" + name + "], rules: [{name: all, action: allow, include: [{everyone: true}], logins: [deploy]}]}\n"
	}
	return text
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReloadOnChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	put(t, path, configText("a"))
	g := newReloading(t, path)
	g.expect("the start", 1, "sshgate_config_valid 1")

	put(t, path, configText("a", "b"))
	g.expect("written in place", 2, `sshgate_config_reloads_total{result="success"} 1`)

	put(t, path+".new", configText("a", "b", "c"))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	g.expect("replaced", 3, `sshgate_config_reloads_total{result="success"} 2`)

	put(t, path, configText("a")+"ssh: {listen: \":2299\"}\n")
	g.expect("another port", 1, `sshgate_config_reloads_total{result="success"} 3`)
	if log := g.log.String(); !strings.Contains(log, "takes a restart") || !strings.Contains(log, "ssh.listen") {
		t.Errorf("nothing says that the port takes a restart:\n%s", log)
	}
}

func TestReloadOfAFileThatCannotBeUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	put(t, path, configText("a"))
	g := newReloading(t, path)
	put(t, path, configText("a", "b")+"    - {name: c, hosts: [a..b]}\nports: 1\n")
	g.expect("a bad file", 1, "sshgate_config_valid 0")
	err := g.reloader.problem()
	if err == nil || !strings.Contains(err.Error(), "a..b") || !strings.Contains(err.Error(), "ports") {
		t.Errorf("not all problems are told: %v", err)
	}
	if log := g.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "a..b") {
		t.Errorf("the log has no error:\n%s", log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	g.expect("no file", 1, `sshgate_config_reloads_total{result="failure"} 2`)
	put(t, path, configText("a", "b"))
	g.expect("mended", 2, "sshgate_config_valid 1")
	if err := g.reloader.problem(); err != nil {
		t.Error(err)
	}
}

// TestReloadOfASwappedFolder is how Kubernetes changes a ConfigMap that is mounted.
func TestReloadOfASwappedFolder(t *testing.T) {
	dir := t.TempDir()
	for version, text := range map[string]string{"1": configText("a"), "2": configText("b", "c")} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, version, "gateway.yaml"), text)
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("1", "..data")
	link("..data/gateway.yaml", "gateway.yaml")
	g := newReloading(t, filepath.Join(dir, "gateway.yaml"))
	link("2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	g.expect("swapped", 2, "sshgate_config_valid 1")
}

func TestReloadOnHangup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	put(t, path, configText("a"))
	g := newReloading(t, path)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	g.expect("the same again", 1, `sshgate_config_reloads_total{result="success"} 1`)
}
