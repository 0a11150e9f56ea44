package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const playbook = `
- hosts: all
  gather_facts: false
  tasks:
    - copy: {src: file, dest: "{{ dir }}/{{ inventory_hostname }}"}
    - command: wc -c {{ dir }}/{{ inventory_hostname }}
      register: counted
    - assert: {that: counted.stdout.startswith("70000 ")}
`

// TestAnsible runs a playbook on ten hosts at once, five in mode A and five over
// the jump, after one sign-in.
func TestAnsible(t *testing.T) {
	t.Parallel()
	need(t, "ansible", "ansible-playbook", "python3")
	s, c := jumpStack(t, stackOptions{})
	// The certificate is for mode A, the key for mode B.
	s.sshd.stop(15)
	s.sshd = startSSHD(t, s.path("sshd"), s.path("user_ca.pub"), s.sshd.port, "AuthorizedKeysFile "+c.key+".pub")
	if r := c.signInWith(c.ssh("gate", "true"), alice, approveAs(alice)); r.code != 0 {
		t.Fatalf("the sign-in: %+v", r)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), strings.Repeat("a line\n", 10_000))
	write(t, filepath.Join(dir, "play.yaml"), playbook)
	inventory := "[all:vars]\nansible_ssh_common_args=-F " + c.config + "\nansible_python_interpreter=/usr/bin/python3\n[all]\n"
	for i := range 5 {
		inventory += fmt.Sprintf("a%d ansible_host=gate\nb%d ansible_host=web1\n", i, i)
	}
	write(t, filepath.Join(dir, "hosts"), inventory)
	var all sync.WaitGroup
	for _, pipelining := range []string{"True", "False"} {
		all.Go(func() {
			out := filepath.Join(dir, pipelining)
			if err := os.Mkdir(out, 0o755); err != nil {
				t.Error(err)
				return
			}
			cmd := c.command("ansible-playbook", "-i", filepath.Join(dir, "hosts"), "-f", "10", "-e", "dir="+out, filepath.Join(dir, "play.yaml"))
			cmd.Env = append(cmd.Env, "ANSIBLE_PIPELINING="+pipelining, "ANSIBLE_HOST_KEY_CHECKING=True", "ANSIBLE_NOCOLOR=1", "LC_ALL=C.UTF-8",
				"ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=3s", // as by default, but for the time
				"ANSIBLE_SSH_CONTROL_PATH_DIR="+filepath.Join(c.home, "cp"+pipelining[:1]))
			r := run1(t, cmd)
			if r.code != 0 || strings.Count(r.stdout, "failed=0") != 10 || strings.Contains(r.stdout, "unreachable=1") {
				t.Errorf("pipelining %s: exit %d\n%s\n%s", pipelining, r.code, r.stdout, r.stderr)
			}
		})
	}
	all.Wait()
	if n := len(s.events(t, "login.start")); n != 1 {
		t.Errorf("%d sign-ins, want 1", n)
	}
}

// TestThirtyConnectionsOverTheJump is what an editor does at its start.
func TestThirtyConnectionsOverTheJump(t *testing.T) {
	t.Parallel()
	s, c := jumpStack(t, stackOptions{})
	stderr := newOutput()
	var all sync.WaitGroup
	for i := range 30 {
		cmd := c.ssh("web1", fmt.Sprint("echo ", i))
		cmd.Stderr = stderr
		all.Go(func() {
			if out, err := cmd.Output(); err != nil || string(out) != fmt.Sprintln(i) {
				t.Errorf("%d printed %q, %v", i, out, err)
			}
		})
	}
	url, err := stderr.wait(t.Context(), signInURL.FindString)
	if err == nil {
		err = approveAs(alice)(t.Context(), url)
	}
	if err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if n := len(s.events(t, "login.success")); n < 1 {
		t.Errorf("%d sign-ins", n)
	}
}
