package install_test

import (
	"strings"
	"testing"
)

// A system that does not run: everything is below its directory, nothing is started, and
// it takes no root.
func TestRoot(t *testing.T) {
	need(t, "systemctl", "ssh-keygen")
	root := t.TempDir()
	login(t, root+"/etc/sshgate", "gate.test")
	write(t, root+"/etc/ssh/sshd_config", "Include /etc/ssh/conf.d/*.conf sshd_config.d/*.conf\n", 0o644)
	write(t, root+"/etc/ssh/conf.d/10.conf", "Port 22\nMatch User x\nTrustedUserCAKeys /etc/ssh/x\n", 0o644)
	before := tree(t, root)

	sshgate(t, 0, "install", "--root", root, "--dry-run")
	sameTree(t, before, tree(t, root))
	text := sshgate(t, 0, "install", "--root", root)
	contains(t, text, "check    /etc/ssh/sshd_config (it has trustedusercakeys /etc/ssh/sshgate_user_ca.pub)", "systemctl --root="+root+" enable")
	for _, never := range []string{"restart", "reload", "sshd -"} {
		if strings.Contains(text, never) {
			t.Errorf("there is %q in:\n%s", never, text)
		}
	}
	contains(t, read(t, root+unit), "LoadCredential=connector.key:/etc/sshgate/connector.key\n")
	if read(t, root+program) != read(t, built) || !exists(root+wants) || !exists(root+dropIn) || read(t, root+ca) != read(t, root+"/etc/sshgate/user-ca.pub") {
		t.Error("not all of it is there")
	}
	contains(t, sshgate(t, 0, "install", "--root", root), "nothing to change")
	sshgate(t, 0, "uninstall", "--root", root)
	sameTree(t, before, tree(t, root))

	write(t, root+"/etc/ssh/sshd_config", "Port 22\n", 0o644)
	contains(t, sshgate(t, 1, "install", "--root", root), "add this line at the top of /etc/ssh/sshd_config")
	outside := t.TempDir() + "/key"
	write(t, outside, "a key\n", 0o600)
	write(t, root+"/etc/sshgate/connector.yaml", "key_file: "+outside+"\n"+read(t, root+"/etc/sshgate/connector.yaml"), 0o644)
	contains(t, sshgate(t, 2, "install", "--root", root), "which is outside of")
	contains(t, sshgate(t, 2, "install", "--root", root+"/none"), "there is no configuration")
}
