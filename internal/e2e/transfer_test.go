package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// bulk is how much the large transfers carry: past the 1 GiB at which a rekey
// breaks naive relays. Under the race detector, less.
func bulk() int64 {
	if os.Getenv("SSHGATE_E2E_RACE") != "" {
		return 256 * mib
	}
	return 3 * gib
}

// stream yields n reproducible pseudo-random bytes and hashes what is read.
type stream struct {
	src  *rand.ChaCha8
	left int64
	hash.Hash
}

func newStream(n int64) *stream {
	return &stream{src: rand.NewChaCha8([32]byte{1}), left: n, Hash: sha256.New()}
}

func (s *stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.left))
	_, _ = s.src.Read(p[:n])
	s.Hash.Write(p[:n])
	s.left -= int64(n)
	return n, nil
}

func (s *stream) sum() string { return hex.EncodeToString(s.Sum(nil)) }

// counter hashes and counts what is written to it.
type counter struct {
	n int64
	hash.Hash
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

// TestBulkBothWaysPastRekeys sends and receives 3 GiB at once, with some fifty
// key exchanges on the way.
func TestBulkBothWaysPastRekeys(t *testing.T) {
	c := sharedStack(t).signedIn(t)
	n := bulk()
	up := newStream(n)
	down := &counter{Hash: sha256.New()}
	// tee echoes while sha256sum takes what arrived.
	cmd := c.ssh("-o", "RekeyLimit=64M", "-c", "aes128-gcm@openssh.com", "gate", "tee >(sha256sum >&2)")
	cmd.Args[len(cmd.Args)-1] = "bash -c 'tee >(sha256sum >&2)'"
	var stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = up, down, &stderr
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	t.Logf("%d MiB each way in %s", n/mib, time.Since(begin).Round(time.Millisecond))
	if down.n != n || hex.EncodeToString(down.Sum(nil)) != up.sum() {
		t.Errorf("came back: %d bytes of %d, or other ones", down.n, n)
	}
	if !strings.Contains(stderr.String(), up.sum()) {
		t.Errorf("the origin got other bytes: %s", &stderr)
	}
}

func TestTarThroughSSH(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	source := c.tree("source", 200)
	target := filepath.Join(c.home, "target")
	cmd := c.command("bash", "-c", fmt.Sprintf("set -o pipefail; tar -C %s -cf - . | ssh -F %s gate 'mkdir %s && tar -C %[3]s -xf -'", source, c.config, target))
	must(t, cmd)
	must(t, c.command("diff", "-r", source, target))
	back := filepath.Join(c.home, "back")
	must(t, c.command("bash", "-c", fmt.Sprintf("set -o pipefail; mkdir %s; ssh -F %s gate 'tar -C %s -cf - .' | tar -C %[1]s -xf -", back, c.config, target)))
	must(t, c.command("diff", "-r", source, back))
}

// tree makes a folder of small files.
func (c *client) tree(name string, files int) string {
	c.t.Helper()
	dir := filepath.Join(c.home, name)
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprint(i%10))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			c.t.Fatal(err)
		}
		data, err := io.ReadAll(newStream(int64(i * 37 % 5000)))
		if err != nil {
			c.t.Fatal(err)
		}
		write(c.t, filepath.Join(sub, fmt.Sprint(i)), string(data))
	}
	return dir
}

// file makes a file of n bytes.
func (c *client) file(name string, n int64) string {
	c.t.Helper()
	path := filepath.Join(c.home, name)
	f, err := os.Create(path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, newStream(n)); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func TestSCP(t *testing.T) {
	t.Parallel()
	c := sharedStack(t).signedIn(t)
	source := c.file("file", 20*mib)
	for _, protocol := range [][]string{nil, {"-O"}} { // by sftp, and the old way
		there, back := source+".there", source+".back"
		for _, pair := range [][]string{{source, "gate:" + there}, {"gate:" + there, back}} {
			must(t, c.command("scp", append(append([]string{"-q", "-F", c.config}, protocol...), pair...)...))
		}
		must(t, c.command("cmp", source, back))
	}
	dir := c.tree("dir", 30)
	must(t, c.command("scp", "-q", "-r", "-F", c.config, dir, "gate:"+dir+".copy"))
	must(t, c.command("diff", "-r", dir, dir+".copy"))
}

func TestSFTPAlone(t *testing.T) {
	t.Parallel()
	need(t, "sftp")
	c := sharedStack(t).signedIn(t)
	source := c.file("file", 20*mib)
	batch := write(t, filepath.Join(c.home, "batch"), fmt.Sprintf("put %s %[1]s.there\nget %[1]s.there %[1]s.back\nls %s\n", source, c.home))
	out := must(t, c.command("sftp", "-q", "-F", c.config, "-b", batch, "gate"))
	if !strings.Contains(out, "file.there") {
		t.Errorf("ls printed:\n%s", out)
	}
	must(t, c.command("cmp", source, source+".back"))
}

func TestRsync(t *testing.T) {
	t.Parallel()
	need(t, "rsync")
	c := sharedStack(t).signedIn(t)
	source := c.tree("source", 300)
	target := filepath.Join(c.home, "target")
	rsync := func(from, to string) {
		t.Helper()
		must(t, c.command("rsync", "-a", "--delete", "-e", "ssh -F "+c.config, from+"/", to+"/"))
	}
	rsync(source, "gate:"+target)
	must(t, c.command("diff", "-r", source, target))
	write(t, filepath.Join(source, "0", "0"), "changed")
	rsync(source, "gate:"+target)
	back := filepath.Join(c.home, "back")
	rsync("gate:"+target, back)
	must(t, c.command("diff", "-r", source, back))
}

func TestGit(t *testing.T) {
	t.Parallel()
	need(t, "git")
	s := sharedStack(t)
	c := s.signedIn(t)
	bare := filepath.Join(c.home, "repo.git")
	must(t, c.command("git", "init", "-q", "--bare", "-b", "main", bare))
	urls := []string{
		fmt.Sprintf("ssh://%s~web1@gate%s", s.login, bare), // in a URL + is a space; either works
		fmt.Sprintf("ssh://%s+web1@gate%s", s.login, bare),
		fmt.Sprintf("%s+web1@gate:%s", s.login, bare),
	}
	for i, url := range urls {
		work := filepath.Join(c.home, fmt.Sprint("work", i))
		git := func(args ...string) string {
			t.Helper()
			return must(t, c.command("git", append([]string{"-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...))
		}
		must(t, c.command("git", "clone", "-q", url, work))
		write(t, filepath.Join(work, fmt.Sprint("file", i)), strings.Repeat("some text\n", 10000))
		git("add", ".")
		git("commit", "-q", "-m", "add a file")
		git("push", "-q", "origin", "HEAD:main")
		git("fetch", "-q")
		if got := git("rev-parse", "origin/main"); got != must(t, c.command("git", "-C", bare, "rev-parse", "main")) {
			t.Errorf("%s: the push did not arrive", url)
		}
	}
	shallow := filepath.Join(c.home, "shallow")
	must(t, c.command("git", "clone", "-q", "--depth", "1", urls[2], shallow))
	if got := must(t, c.command("git", "-C", shallow, "rev-list", "--count", "HEAD")); got != "1\n" {
		t.Errorf("a shallow clone has %s commits", got)
	}
}

// TestSlowReaderDoesNotFillMemory pulls 1 GiB into a reader that stops, on a
// gateway that may not use more than a fraction of it.
func TestSlowReaderDoesNotFillMemory(t *testing.T) {
	t.Parallel()
	need(t, "prlimit")
	var capped []string
	if os.Getenv("SSHGATE_E2E_RACE") == "" { // which reserves far more than it uses
		capped = []string{"prlimit", fmt.Sprintf("--data=%d", 256*mib)}
	}
	s := newStack(t, stackOptions{gatewayPrefix: capped})
	c := s.signedIn(t)
	cmd := c.ssh("gate", "head -c 1073741824 /dev/zero")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(pipe, make([]byte, mib)); err != nil {
		t.Fatal(err)
	}
	// The transfer is stuck when the origin's counter stands still.
	before := int64(-1)
	eventually(t, "the transfer stops", 30*time.Second, func() error {
		now := readBytes(t, s.sshd.cmd.Process.Pid)
		defer func() { before = now }()
		if now != before {
			time.Sleep(200 * time.Millisecond)
			return fmt.Errorf("still moving")
		}
		return nil
	})
	const most = 160 * mib
	for name, p := range map[string]*proc{"gateway": s.gateway, "connector": s.connector} {
		peak := peakRSS(t, p.cmd.Process.Pid)
		t.Logf("%s: at most %d MiB resident", name, peak/mib)
		if peak > most && os.Getenv("SSHGATE_E2E_RACE") == "" {
			t.Errorf("the %s took %d MiB for a reader that reads nothing", name, peak/mib)
		}
	}
	n, err := io.Copy(io.Discard, pipe)
	if err != nil || n != gib-mib {
		t.Errorf("the rest was %d bytes, %v", n, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if peak := peakRSS(t, s.gateway.cmd.Process.Pid); peak > most && os.Getenv("SSHGATE_E2E_RACE") == "" {
		t.Errorf("the gateway took %d MiB in all", peak/mib)
	}
}

// readBytes returns how much a process and its children have read so far.
func readBytes(t testing.TB, pid int) int64 {
	t.Helper()
	var total int64
	out, _ := exec.Command("pgrep", "-g", fmt.Sprint(pid)).Output()
	children, _ := exec.Command("pgrep", "-P", fmt.Sprint(pid)).Output()
	for _, p := range append(strings.Fields(string(out)), strings.Fields(string(children))...) {
		data, err := os.ReadFile("/proc/" + p + "/io")
		if err != nil {
			continue
		}
		var n int64
		_, _ = fmt.Sscanf(string(data), "rchar: %d", &n)
		total += n
	}
	return total
}

// peakRSS returns the most memory that a process has had resident, in bytes.
func peakRSS(t testing.TB, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
