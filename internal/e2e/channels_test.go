package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// channelsPolicy limits what may be done on origins that are all the same machine.
const channelsPolicy = `
policy:
  session_duration: 1h
  applications:
    - name: servers
      hosts: [web1]
      rules: [{name: alice, action: allow, include: [{email: alice@example.com}], logins: [LOGIN]}]
    - name: read
      hosts: [read]
      rules:
        - {name: read, action: allow, include: [{email: alice@example.com}], logins: [LOGIN], channels: {exec: [uptime, "echo *"], sftp: [read], scp: [read], git: {read: ["/**/app"]}, forward: ["localhost:PORT"]}}
    - name: write
      hosts: [write]
      rules:
        - {name: write, action: allow, include: [{email: alice@example.com}], logins: [LOGIN], channels: {sftp: [write], scp: [write], git: {write: ["/**/app"], read: ["/**/app"]}}}
    - name: run
      hosts: [run]
      rules:
        - {name: run, action: allow, include: [{email: alice@example.com}], logins: [LOGIN], channels: {exec: ["*"], forward: ["127.0.0.1:*"]}}
    - name: why
      hosts: [why]
      rules:
        - {name: why, action: allow, include: [{email: alice@example.com}], logins: [LOGIN], purpose: true, end_to_end: true}
`

// limitedStack returns a client of alice's and the address of a web server that
// "read" may be used to reach.
func limitedStack(t *testing.T) (c *client, port, text string) {
	t.Helper()
	address, text := webServer(t)
	_, port, _ = strings.Cut(address, ":")
	names := []string{"read", "write", "run", "why"}
	services := ""
	for _, name := range names {
		services += "  - name: " + name + "\n    url: ssh://127.0.0.1:SSHDPORT\n"
	}
	s := newStack(t, stackOptions{policy: strings.ReplaceAll(channelsPolicy, "PORT", port), hostnames: names, services: services})
	c = s.signedIn(t)
	hosts := ""
	for _, name := range names {
		hosts += fmt.Sprintf("Host %s\n  HostKeyAlias [127.0.0.1]:%d\n  HostName 127.0.0.1\n  User %s+%s\n", name, s.sshPort, s.login, name)
	}
	config, err := os.ReadFile(c.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, c.config, hosts+strings.Replace(string(config), "Host gate\n", "Host gate read write run why\n", 1))
	return c, port, text
}

// refused checks that a command was turned away with the sentence.
func refused(t *testing.T, cmd *exec.Cmd, code int, sentence string) {
	t.Helper()
	r := run1(t, cmd)
	if r.code != code || !strings.Contains(r.stderr, sentence) || !strings.Contains(r.stderr, "(request r-") || r.stdout != "" {
		t.Errorf("%v: exit %d, want %d with %q\nstdout: %s\nstderr: %s", cmd.Args, r.code, code, sentence, r.stdout, r.stderr)
	}
}

func TestChannelsOfARule(t *testing.T) {
	t.Parallel()
	need(t, "git", "scp", "sftp", "curl", "plink", "psftp", "puttygen", "dbclient", "dropbearkey")
	c, port, text := limitedStack(t)
	t.Run("commands", func(t *testing.T) { c.testCommands(t) })
	t.Run("sftp", func(t *testing.T) { c.testSFTPWays(t) })
	t.Run("scp", func(t *testing.T) { c.testSCPWays(t) })
	t.Run("git", func(t *testing.T) { c.testGitWays(t) })
	t.Run("forwards", func(t *testing.T) { c.testForwards(t, port, text) })
	t.Run("lent", func(t *testing.T) { c.testLent(t) })
	t.Run("an editor", func(t *testing.T) { c.testEditor(t, port, text) })
	t.Run("other clients", func(t *testing.T) { c.testOtherClients(t) })
	t.Run("purpose", func(t *testing.T) { c.testPurpose(t) })
}

func (c *client) testCommands(t *testing.T) {
	if got := must(t, c.ssh("read", "echo a b")); got != "a b\n" {
		t.Errorf("echo printed %q", got)
	}
	must(t, c.ssh("read", "uptime"))
	trace := filepath.Join(c.home, "trace")
	for _, command := range []string{
		"touch " + trace, "uptime; touch " + trace, "uptime\ntouch " + trace, "echo $(touch " + trace + ")", "echo `touch " + trace + "`",
		"echo a >" + trace, "echo a | tee " + trace, "echo a & touch " + trace, "/usr/lib/openssh/sftp-server", "env X=1 uptime",
	} {
		refused(t, c.ssh("read", command), 126, "sshgate: you may not run this command on read")
	}
	refused(t, c.ssh("-tt", "read", "touch "+trace), 126, "sshgate: you may not run this command on read")
	if _, err := os.Stat(trace); err == nil {
		t.Error("a command was smuggled through")
	}
	refused(t, c.ssh("read"), 126, "sshgate: you may not open a shell on read")
	refused(t, c.ssh("-s", "read", "sftp "), 126, "sshgate: you may not use this subsystem on read")
	refused(t, c.ssh("-s", "read", "netconf"), 126, "sshgate: you may not use this subsystem on read")

	// Every channel is decided on, also on a connection that is open already.
	socket := filepath.Join(c.home, "master")
	must(t, c.ssh("-M", "-S", socket, "-o", "ControlPersist=60", "-f", "-N", "read"))
	defer func() { _ = c.ssh("-S", socket, "-O", "exit", "read").Run() }()
	for range 3 {
		if got := must(t, c.ssh("-S", socket, "read", "echo a")); got != "a\n" {
			t.Errorf("echo printed %q", got)
		}
		refused(t, c.ssh("-S", socket, "read", "id"), 126, "you may not run this command")
	}
}

// sftp runs a batch that goes on after failures.
func (c *client) sftp(host string, batch ...string) result {
	c.t.Helper()
	file := write(c.t, filepath.Join(c.home, "batch"), "-"+strings.Join(batch, "\n-")+"\n")
	return run1(c.t, c.command("sftp", "-q", "-F", c.config, "-b", file, host))
}

func (c *client) testSFTPWays(t *testing.T) {
	dir := filepath.Join(c.home, "sftp")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := c.file("sftp/file", 3*mib)
	back := filepath.Join(c.home, "back")
	r := c.sftp("read", "get "+file+" "+back, "ls "+dir, "df "+dir,
		"put "+file+" "+file+".new", "rename "+file+" "+file+".moved", "rename -l "+file+" "+file+".moved", "rm "+file, "mkdir "+dir+"/sub",
		"ln "+file+" "+dir+"/hard", "ln -s "+file+" "+dir+"/soft", "chmod 777 "+file, "cp "+file+" "+dir+"/copy", "reput "+file+" "+file)
	must(t, c.command("cmp", file, back))
	if got := must(t, c.command("ls", dir)); got != "file\n" {
		t.Errorf("in the folder there are %s\n%+v", got, r)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() == 0o777 || info.Size() != 3*mib {
		t.Errorf("the file was changed: %v", err)
	}
	if n := strings.Count(strings.ToLower(r.stderr), "permission denied"); n < 8 || !strings.Contains(r.stdout, "\n"+dir+"/file") {
		t.Errorf("%d refusals\n%+v", n, r)
	}

	c.sftp("write", "put "+file+" "+file+".up", "mkdir "+dir+"/sub", "rename "+file+".up "+dir+"/sub/up")
	must(t, c.command("cmp", file, dir+"/sub/up"))
	stolen := filepath.Join(c.home, "stolen")
	r = c.sftp("write", "get "+file+" "+stolen, "ls "+dir, "cp "+file+" "+dir+"/copy", "reget "+file+" "+stolen)
	if info, err := os.Stat(stolen); err == nil && info.Size() > 0 || strings.Contains(r.stdout, "\n"+dir+"/file") {
		t.Errorf("who may only write has read: %+v", r)
	}
	refused(t, c.command("sftp", "-q", "-F", c.config, "-b", "/dev/null", "run"), 255, "sshgate: you may not use sftp on run")
}

func (c *client) testSCPWays(t *testing.T) {
	file := c.file("scp-file", 3*mib)
	for _, flags := range [][]string{{"-q"}, {"-q", "-O"}} {
		scp := func(from, to string) *exec.Cmd {
			return c.command("scp", append(append([]string{"-F", c.config}, flags...), from, to)...)
		}
		target := file + strings.Join(flags, "")
		must(t, scp("read:"+file, target+".down"))
		must(t, c.command("cmp", file, target+".down"))
		must(t, scp(file, "write:"+target+".up"))
		must(t, c.command("cmp", file, target+".up"))
		for _, cmd := range []*exec.Cmd{scp(file, "read:"+target+".x"), scp("write:"+file, target+".x"), scp(file, "run:"+target+".x")} {
			if len(flags) == 2 && strings.HasPrefix(cmd.Args[len(cmd.Args)-1], "run:") {
				continue // which may run every command, so this one too
			}
			if r := run1(t, cmd); r.code == 0 {
				t.Errorf("%v succeeded: %s", cmd.Args, r.stderr)
			}
		}
		if info, err := os.Stat(target + ".x"); err == nil && info.Size() > 0 {
			t.Errorf("%v carried a file that may not be", flags)
		}
	}
	refused(t, c.ssh("read", "scp -t "+file), 126, "you may not copy files to read with the old scp protocol")
	refused(t, c.ssh("write", "scp -f "+file), 126, "you may not copy files from write with the old scp protocol")
	trace := filepath.Join(c.home, "scp-trace")
	for _, line := range []string{"scp -f " + file + "; touch " + trace, "scp -f $(touch " + trace + ")", "scp -S " + trace + " -f x", "scp -f -t " + trace, "scp -f\ntouch " + trace} {
		refused(t, c.ssh("read", line), 126, "you may not run this command")
	}
	if _, err := os.Stat(trace); err == nil {
		t.Error("a command was smuggled through")
	}
}

func (c *client) testGitWays(t *testing.T) {
	for _, name := range []string{"app", "other"} {
		must(t, c.command("git", "init", "-q", "--bare", "-b", "main", filepath.Join(c.home, name+".git")))
	}
	git := func(work string, args ...string) *exec.Cmd {
		return c.command("git", append([]string{"-C", filepath.Join(c.home, work), "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
	}
	must(t, git("", "clone", "-q", "write:"+c.home+"/app.git", "work"))
	write(t, filepath.Join(c.home, "work", "file"), "text\n")
	must(t, git("work", "add", "."))
	must(t, git("work", "commit", "-q", "-m", "x"))
	must(t, git("work", "push", "-q", "origin", "HEAD:main"))
	must(t, git("", "clone", "-q", "read:"+c.home+"/app.git", "clone"))
	refused(t, git("clone", "push", "-q", "origin", "HEAD:refs/heads/b"), 128, "sshgate: you may not push to this repository on read")
	refused(t, git("", "clone", "-q", "read:"+c.home+"/other.git", "stolen"), 128, "sshgate: you may not read this repository on read")
	refused(t, git("", "clone", "-q", "read:"+c.home+"/app.git/../other.git", "stolen"), 128, "you may not read this repository")
	refused(t, git("", "clone", "-q", "-u", "touch trace; git-upload-pack", "read:"+c.home+"/app.git", "stolen"), 128, "you may not run this command")
}

func (c *client) testForwards(t *testing.T, port, text string) {
	for _, host := range []string{"localhost", "LOCALHOST"} {
		cmd := c.ssh("-W", host+":"+port, "read")
		cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\nConnection: close\r\n\r\n")
		if r := run1(t, cmd); !strings.HasSuffix(r.stdout, text) {
			t.Errorf("%s: %d bytes, %s", host, len(r.stdout), r.stderr)
		}
	}
	for _, to := range []string{"127.0.0.1:" + port, "[::1]:" + port, "0x7f000001:" + port, "2130706433:" + port, "localhost.example:" + port, "localhost:1"} {
		refused(t, c.ssh("-W", to, "read"), 255, "you may not forward to")
	}
	if r := run1(t, c.ssh("-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:"+port, "read", "uptime")); r.code != 255 {
		t.Errorf("a listener was granted: %+v", r)
	}
	socket := filepath.Join(c.home, "local.sock")
	p := c.background("-N", "-L", socket+":/run/docker.sock", "read")
	eventually(t, "the socket is refused", 15*time.Second, func() error {
		_ = c.command("curl", "-sS", "--max-time", "2", "--unix-socket", socket, "http://x/").Run()
		if !strings.Contains(p.out.String(), "you may not forward to /run/docker.sock") {
			return fmt.Errorf("ssh printed: %s", p.out)
		}
		return nil
	})
	if got := must(t, c.ssh("gate", "echo still")); got != "still\n" {
		t.Errorf("printed %q", got)
	}
}

func (c *client) testLent(t *testing.T) {
	socket := c.startAgent(c.key)
	for host, want := range map[string]bool{"gate": true, "run": false} {
		cmd := c.ssh("-A", host, "ssh-add -l; true")
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
		if got := must(t, cmd); strings.Contains(got, "(ED25519)") != want {
			t.Errorf("%s: ssh-add printed %q", host, got)
		}
	}
	cmd := c.ssh("-Y", "run", "echo display:$DISPLAY")
	cmd.Env = append(cmd.Env, "DISPLAY=127.0.0.1:99")
	if got := must(t, cmd); got != "display:\n" {
		t.Errorf("printed %q", got)
	}
	// A terminal needs no permission of its own where commands may run.
	if got := must(t, c.ssh("-tt", "run", "tty")); !strings.HasPrefix(got, "/dev/pts/") {
		t.Errorf("tty printed %q", got)
	}
}

// testEditor does what an editor does that works on another machine: a shell that
// is fed a script, and a proxy on the same connection to the server that it starts.
func (c *client) testEditor(t *testing.T, port, text string) {
	socks := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cmd := c.ssh("-T", "-D", socks, "-o", "ConnectTimeout=15", "run", "bash")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := newOutput()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(stdin, "echo up-$((40+2))\n")
	eventually(t, "the script runs and the proxy carries", 20*time.Second, func() error {
		if !strings.Contains(out.String(), "up-42") {
			return fmt.Errorf("it printed %s", out)
		}
		got, err := c.command("curl", "-sS", "--noproxy", "", "--socks5-hostname", socks, "http://127.0.0.1:"+port).Output()
		if err == nil && string(got) != text {
			err = fmt.Errorf("got %d bytes", len(got))
		}
		return err
	})
	if r := run1(t, c.command("curl", "-sS", "--noproxy", "", "--socks5-hostname", socks, "http://localhost:"+port)); r.code == 0 {
		t.Error("the proxy reached a name that the rule does not have")
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func (c *client) testOtherClients(t *testing.T) {
	ppk := filepath.Join(c.home, "key.ppk")
	must(t, c.command("puttygen", c.key, "-o", ppk))
	fingerprint := strings.Fields(must(t, c.command("ssh-keygen", "-l", "-f", c.stack.path("data/hostkeys/ssh_host_ed25519_key"))))[1]
	putty := func(program, origin string, args ...string) *exec.Cmd {
		return c.command(program, append([]string{"-batch", "-hostkey", fingerprint, "-i", ppk, "-P", fmt.Sprint(c.sshPort), c.login + "+" + origin + "@127.0.0.1"}, args...)...)
	}
	if r := run1(t, putty("plink", "read", "echo a")); r.code != 0 || !strings.Contains(r.stdout, "a\n") {
		t.Errorf("plink: %+v", r)
	}
	if r := run1(t, putty("plink", "read", "id")); r.code != 126 || !strings.Contains(r.stderr, "you may not run this command") {
		t.Errorf("plink: %+v", r)
	}
	file := c.file("psftp-file", mib)
	batch := write(t, filepath.Join(c.home, "psftp"), fmt.Sprintf("get %s %[1]s.back\nput %[1]s %[1]s.new\nquit\n", file))
	cmd := putty("psftp", "read")
	cmd.Args = append([]string{cmd.Args[0], "-b", batch, "-be"}, cmd.Args[1:]...)
	r := run1(t, cmd)
	must(t, c.command("cmp", file, file+".back"))
	if _, err := os.Stat(file + ".new"); err == nil || !strings.Contains(r.stdout+r.stderr, "permission denied") {
		t.Errorf("psftp: %v, %+v", err, r)
	}

	key := filepath.Join(c.home, "dropbear_key")
	must(t, c.command("dropbearkey", "-t", "ed25519", "-f", key))
	dropbear := func(origin, command string) *exec.Cmd {
		return c.command("dbclient", "-y", "-y", "-i", key, "-p", fmt.Sprint(c.sshPort), c.login+"+"+origin+"@127.0.0.1", command)
	}
	if r := c.signInWith(dropbear("read", "echo a"), alice, approveAs(alice)); r.code != 0 || r.stdout != "a\n" {
		t.Errorf("dbclient: %+v", r)
	}
	if r := run1(t, dropbear("read", "id")); r.code != 126 || !strings.Contains(r.stderr, "you may not run this command") {
		t.Errorf("dbclient: %+v", r)
	}
}

func (c *client) testPurpose(t *testing.T) {
	refused(t, c.ssh("why", "true"), 126, "say what you need why for")
	refused(t, c.ssh("-o", "SetEnv=SSHGATE_PURPOSE=short", "why", "true"), 126, "say what you need why for")
	const said = `SetEnv=SSHGATE_PURPOSE="ticket 123"`
	if got := must(t, c.ssh("-o", said, "why", "echo a$SSHGATE_PURPOSE")); got != "a\n" {
		t.Errorf("printed %q", got)
	}
	batch := write(t, filepath.Join(c.home, "batch"), "pwd\n")
	if r := run1(t, c.command("sftp", "-q", "-F", c.config, "-b", batch, "why")); r.code == 0 || !strings.Contains(r.stderr, "SSHGATE_PURPOSE") {
		t.Errorf("sftp without a purpose: %+v", r)
	}
	must(t, c.command("sftp", "-q", "-F", c.config, "-o", said, "-b", batch, "why"))
	refused(t, c.ssh("-W", "127.0.0.1:1", "why"), 255, "in a session of this connection first")

	typed := func(keys string) result {
		cmd := c.ssh("-tt", "why")
		cmd.Stdin = strings.NewReader(keys)
		return run1(t, cmd)
	}
	if r := typed("ticket 4711\rstty -echo; echo result-$((40+2)); exit 3\r"); r.code != 3 || !strings.Contains(r.stdout, "Why do you need why? (it goes on record): ticket 4711\r\n") || !strings.Contains(r.stdout, "result-42") {
		t.Errorf("at a terminal: %+v", r)
	}
	if r := typed("ticket 4711\x03"); r.code != 126 || !strings.Contains(r.stderr, "you did not say what you need why for") {
		t.Errorf("given up: %+v", r)
	}
	r := run1(t, c.ssh("-l", "alice", "-W", "why:22", "gate"))
	if r.code != 255 || !strings.Contains(r.stderr, "why wants to be told what it is for") {
		t.Errorf("end to end: %+v", r)
	}
	purposes := map[any]bool{}
	for _, kind := range []string{"decision", "session.start", "session.end"} {
		for _, e := range c.events(t, kind) {
			if e["application"] == "why" && e["allowed"] != false {
				purposes[e["purpose"]] = true
			}
		}
	}
	if len(purposes) != 2 || !purposes["ticket 123"] || !purposes["ticket 4711"] {
		t.Errorf("on record are the purposes %v", purposes)
	}
}
