package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// modes are the three ways in, as Host blocks of one ssh_config: a, b and c lead to
// web1, fa, fb and fc to forge.
func (c *helperClient) configureModes(forgePort int) {
	c.t.Helper()
	program := "'" + sshgateBin + "'"
	write(c.t, c.config, fmt.Sprintf(`
Host a
  HostName 127.0.0.1
  Port %[1]d
  User %[2]s+web1
Host fa
  HostName 127.0.0.1
  Port %[1]d
  User git+forge
  ForwardAgent yes
Host jump
  HostName 127.0.0.1
  Port %[1]d
  User alice
Host b
  HostName web1
  User %[2]s
  ProxyJump jump
Host fb
  HostName forge
  User git
  ProxyJump jump
Host c
  HostName web1
  User %[2]s
  ProxyCommand %[3]s access ssh --hostname %%h
Host fc
  HostName forge
  User git
  ProxyCommand %[3]s access ssh --hostname %%h
Host *
  IdentityFile %[4]s
  IdentitiesOnly yes
  UserKnownHostsFile %[5]s/known_hosts
  StrictHostKeyChecking accept-new
`, c.sshPort, c.stack.login, program, c.key, c.home))
}

// git runs git with ssh's configuration, in a directory of this machine.
func (c *helperClient) git(dir string, args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := c.run("git", append([]string{"-c", "protocol.file.allow=always", "-c", "user.name=Alice", "-c", "user.email=alice@example.com", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "GIT_CONFIG_GLOBAL="+filepath.Join(c.home, ".gitconfig"))
	return cmd
}

// newRepository makes a bare repository with two commits, the second of which has
// a submodule where one is named.
func (c *helperClient) newRepository(name, submodule string) string {
	c.t.Helper()
	bare, work := filepath.Join(c.home, name+".git"), filepath.Join(c.home, name+".work")
	must(c.t, c.git(c.home, "init", "-q", "--bare", bare))
	must(c.t, c.git(c.home, "clone", "-q", bare, work))
	for i := range 2 {
		write(c.t, filepath.Join(work, fmt.Sprint("file", i)), strings.Repeat("a line\n", 1000*(i+1)))
		if i == 1 && submodule != "" {
			// A relative address: the submodule is beside, whichever way one comes.
			must(c.t, c.git(work, "submodule", "--quiet", "add", "../"+filepath.Base(submodule), "sub"))
		}
		must(c.t, c.git(work, "add", "."))
		must(c.t, c.git(work, "commit", "-q", "-m", fmt.Sprint("commit ", i)))
	}
	must(c.t, c.git(work, "push", "-q", "origin", "main"))
	return bare
}

// TestGitThroughAllModes has git-shell at the origin, as an account for git has.
func TestGitThroughAllModes(t *testing.T) {
	t.Parallel()
	need(t, "git", "git-shell")
	h := &helperStack{keys: filepath.Join(t.TempDir(), "authorized_keys")}
	write(t, h.keys, "")
	h.stack = newStack(t, stackOptions{
		sshd:   "AuthorizedKeysFile " + h.keys + "\nForceCommand git-shell -c \"$SSH_ORIGINAL_COMMAND\"",
		policy: strings.Replace(defaultPolicy, "logins: [LOGIN]", "logins: [LOGIN]\n          end_to_end: true", 1),
	})
	c := h.newHelper(t)
	c.configureModes(0)
	library := c.newRepository("library", "")
	app := c.newRepository("app", library)
	hook := filepath.Join(app, "hooks", "pre-receive")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nwhile read old new ref; do case $ref in */forbidden) echo 'this branch is not for you' >&2; exit 1;; esac; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// One sign-in for modes A and B, and one for the helper.
	if r := c.signInWith(c.git(c.home, "ls-remote", "-q", "a:"+app), alice, approveAs(alice)); r.code != 0 {
		t.Fatalf("the sign-in underneath git: %+v", r)
	}
	c.login(alice)
	for _, mode := range []string{"a", "b", "c"} {
		t.Run(mode, func(t *testing.T) { c.testGit(t, mode, app) })
	}
	if n := len(h.events(t, "login.start")); n != 2 {
		t.Errorf("%d sign-ins were offered, want 2", n)
	}
}

func (c *helperClient) testGit(t *testing.T, mode, app string) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, c.git(dir, "clone", "-q", mode+":"+app, "scp"))
	must(t, c.git(dir, "clone", "-q", "ssh://"+mode+app, "url"))
	must(t, c.git(dir, "clone", "-q", "--depth", "1", "ssh://"+mode+app, "shallow"))
	if got := must(t, c.git(in("shallow"), "rev-list", "--count", "HEAD")); got != "1\n" {
		t.Errorf("the shallow clone has %s commits", got)
	}
	must(t, c.git(dir, "clone", "-q", "--recurse-submodules", "--jobs", "8", mode+":"+app, "deep"))
	if _, err := os.Stat(in("deep/sub/file1")); err != nil {
		t.Errorf("the submodule is empty: %v", err)
	}
	write(t, in("scp/new"), strings.Repeat(mode, 1<<20))
	must(t, c.git(in("scp"), "add", "."))
	must(t, c.git(in("scp"), "commit", "-q", "-m", "by mode "+mode))
	must(t, c.git(in("scp"), "push", "-q", "origin", "HEAD:refs/heads/by-"+mode))
	must(t, c.git(in("url"), "fetch", "-q", "--jobs", "8", "--all", "--recurse-submodules"))
	if got := must(t, c.git(in("url"), "log", "-1", "--format=%s", "origin/by-"+mode)); got != "by mode "+mode+"\n" {
		t.Errorf("fetched %q", got)
	}
	r := run1(t, c.git(in("scp"), "push", "origin", "HEAD:refs/heads/forbidden"))
	if r.code == 0 || !strings.Contains(r.stderr, "remote: this branch is not for you") {
		t.Errorf("a push that the hook rejects: %+v", r)
	}
	r = run1(t, c.hssh("-T", mode))
	if r.code == 0 || !strings.Contains(r.stderr, "fatal:") {
		t.Errorf("ssh -T: %+v", r)
	}
	if r := run1(t, c.git(dir, "clone", "-q", mode+":/nowhere.git")); r.code == 0 || !strings.Contains(r.stderr, "nowhere") {
		t.Errorf("a repository that does not exist: %+v", r)
	}
}

// startForge starts Soft Serve, in which the key is an administrator's, and
// returns its port.
func startForge(t *testing.T, key string) int {
	t.Helper()
	out, err := exec.Command("../deps/tool.sh", "soft").Output()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("the git server cannot be built: %v", err)
		}
		t.Skipf("the git server cannot be built: %v", err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	forge := start(t, "env", "SOFT_SERVE_DATA_PATH="+t.TempDir(), "SOFT_SERVE_INITIAL_ADMIN_KEYS="+strings.TrimSpace(string(public)),
		fmt.Sprintf("SOFT_SERVE_SSH_LISTEN_ADDR=127.0.0.1:%d", port), fmt.Sprintf("SOFT_SERVE_SSH_PUBLIC_URL=ssh://127.0.0.1:%d", port),
		fmt.Sprintf("SOFT_SERVE_HTTP_LISTEN_ADDR=127.0.0.1:%d", freePort(t)), fmt.Sprintf("SOFT_SERVE_STATS_LISTEN_ADDR=127.0.0.1:%d", freePort(t)),
		fmt.Sprintf("SOFT_SERVE_GIT_LISTEN_ADDR=127.0.0.1:%d", freePort(t)), "SOFT_SERVE_LFS_SSH_ENABLED=true",
		strings.TrimSpace(string(out)), "serve")
	eventually(t, "the git server answers", 30*time.Second, func() error {
		select {
		case <-forge.done:
			return fmt.Errorf("it has ended: %s", forge.out)
		default:
		}
		return exec.Command("ssh-keyscan", "-T", "2", "-p", fmt.Sprint(port), "127.0.0.1").Run()
	})
	t.Cleanup(func() { forge.stop(syscall.SIGKILL) }) // it takes its time otherwise
	return port
}

// TestForge has a real git server as origin, whose users are keys.
func TestForge(t *testing.T) {
	t.Parallel()
	need(t, "git", "git-lfs", "ssh-agent", "ssh-add", "ssh-keyscan")
	me := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", me).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	port := startForge(t, me)
	h := &helperStack{}
	h.stack = newStack(t, stackOptions{
		hostnames: []string{"forge"},
		services:  fmt.Sprintf("  - name: forge\n    url: ssh://127.0.0.1:%d\n", port),
		origins:   "origins: [{name: forge, auth: agent}]",
		policy: strings.Replace(strings.Replace(defaultPolicy, "hosts: [web1]", "hosts: [web1, forge]", 1),
			"logins: [LOGIN]", "logins: [LOGIN, git]\n          end_to_end: true", 1),
	})
	c := &helperClient{client: h.newClient(t), stack: h}
	c.key = me
	c.configureModes(port)
	socket := c.startAgent(me)
	env := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
		return cmd
	}
	if r := c.signInWith(env(c.hssh("-T", "fb", "info")), alice, approveAs(alice)); r.code != 0 || !strings.Contains(r.stdout, "Username: admin") {
		t.Fatalf("the forge does not greet its administrator: %+v", r)
	}
	c.login(alice)
	for _, mode := range []string{"fa", "fb", "fc"} {
		t.Run(mode, func(t *testing.T) { c.testForge(t, mode, env) })
	}
	if n := len(h.events(t, "login.start")); n != 2 {
		t.Errorf("%d sign-ins were offered, want 2", n)
	}
}

func (c *helperClient) testForge(t *testing.T, mode string, env func(*exec.Cmd) *exec.Cmd) {
	dir := t.TempDir()
	work, url := filepath.Join(dir, "work"), "ssh://"+mode+"/repo-"+mode
	must(t, c.git(dir, "init", "-q", work))
	must(t, c.git(work, "lfs", "install"))
	must(t, c.git(work, "lfs", "track", "*.bin"))
	write(t, filepath.Join(work, "large.bin"), strings.Repeat(mode+"-large-", 1<<18))
	must(t, c.git(work, "add", "."))
	must(t, c.git(work, "commit", "-q", "-m", "a large file"))
	must(t, c.git(work, "remote", "add", "origin", url))
	must(t, env(c.git(work, "push", "-q", "origin", "main")))
	must(t, env(c.git(dir, "clone", "-q", url, "back")))
	must(t, exec.Command("cmp", filepath.Join(work, "large.bin"), filepath.Join(dir, "back/large.bin")))
	pointer := must(t, c.git(work, "cat-file", "blob", "HEAD:large.bin"))
	if !strings.HasPrefix(pointer, "version https://git-lfs") {
		t.Errorf("the large file is in the repository itself: %.80q", pointer)
	}
}
