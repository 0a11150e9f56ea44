package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorder answers for systemctl, and notes how it was called.
type recorder struct {
	calls  []string
	answer func(call string) (string, error)
}

func (r *recorder) Run(_ context.Context, name string, args ...string) (string, error) {
	call := name + " " + strings.Join(args, " ")
	r.calls = append(r.calls, call)
	return r.answer(call)
}

// After a restart it is the new instance that has to become active.
func TestWait(t *testing.T) {
	answers := []string{
		"ActiveState=active\nInvocationID=1\n",
		"ActiveState=activating\nSubState=start\nInvocationID=2\n",
		"ActiveState=active\nSubState=running\nStatusText=a=b\nInvocationID=2\n",
	}
	r := &recorder{}
	r.answer = func(string) (string, error) { return answers[min(len(r.calls), len(answers))-1], nil }
	restart := &Change{Command: []string{"systemctl", "restart"}, begun: true}
	p := &Plan{machine: &Machine{Run: r}, before: State{invocation: "1"}, Changes: []*Change{restart}}
	state, err := p.Wait(t.Context(), time.Minute)
	if err != nil || len(r.calls) != 3 || state.Sub != "running" || state.Status != "a=b" {
		t.Errorf("%+v, %v after %q", state, err, r.calls)
	}

	p = &Plan{machine: &Machine{User: &UserDirs{}, Run: r}}
	r.answer = func(string) (string, error) { return "ActiveState=activating\n", nil }
	if state, err := p.Wait(t.Context(), 0); err != nil || state.Active != "activating" {
		t.Errorf("%+v, %v", state, err)
	}
	if last := r.calls[len(r.calls)-1]; !strings.HasPrefix(last, "systemctl --user show -p ActiveState,") {
		t.Errorf("it was asked by %q", last)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Wait(ended, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	r.answer = func(string) (string, error) { return "", errors.New("no bus") }
	if _, err := p.Wait(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "no bus") {
		t.Errorf("without a service manager: %v", err)
	}
}

// An interrupt in the middle of a command undoes that one, too.
func TestApplyInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{}
	r.answer = func(call string) (string, error) {
		if call == "b" || call == "b " {
			cancel()
			return "", errors.New("killed")
		}
		return "", nil
	}
	p := &Plan{machine: &Machine{Run: r}}
	p.run("", []string{"a"}, []string{"undo a"})
	p.run("", []string{"b"}, []string{"undo b"})
	p.run("", []string{"c"}, []string{"undo c"})
	err := p.Apply(ctx, func(string) {})
	if want := []string{"a ", "b ", "undo b ", "undo a "}; err == nil || !p.Undone() || !slices.Equal(r.calls, want) {
		t.Errorf("%q, %v, want %q", r.calls, err, want)
	}
}

func TestRenderUnit(t *testing.T) {
	s := Service{Config: "/srv/c.yaml", CertificateFile: "/srv/a.crt", KeyFile: "/srv/a.key"}
	for _, test := range []struct {
		version     int
		user        bool
		has, hasNot []string
	}{
		{252, false, []string{
			"\nExecStart=/opt/sshgate connector run --config /srv/c.yaml\n",
			"\nLoadCredential=connector.key:/srv/a.key\nLoadCredential=connector.crt:/srv/a.crt\n",
			"\nDynamicUser=yes\n", "\nWantedBy=multi-user.target\n",
		}, []string{"RestartSteps", "/etc/sshgate"}},
		{254, false, []string{"\nRestartSec=5\nRestartSteps=5\nRestartMaxDelaySec=60\n"}, nil},
		{255, true, []string{"RestartSteps=5", "\nWantedBy=default.target\n", "systemctl --user edit", "\nNoNewPrivileges=yes\n"},
			append([]string{"A user of its own", "\n\n\n", "The key is root's"}, systemOnly...)},
	} {
		text := renderUnit(s, "/opt/sshgate", test.version, test.user)
		for _, want := range test.has {
			if !strings.Contains(text, want) {
				t.Errorf("%d: there is no %q in:\n%s", test.version, want, text)
			}
		}
		for _, not := range test.hasNot {
			if strings.Contains(text, not) && !slices.Contains(systemOnly, not) || strings.Contains(text, "\n"+not+"=") {
				t.Errorf("%d: there is %q in:\n%s", test.version, not, text)
			}
		}
	}
}

func TestSSHDWords(t *testing.T) {
	for line, want := range map[string]string{
		"":                               `[]`,
		"  # TrustedUserCAKeys /x":       `[]`,
		"TrustedUserCAKeys /x":           `["TrustedUserCAKeys" "/x"]`,
		"\tTrustedUserCAKeys  = /x \r":   `["TrustedUserCAKeys" "/x"]`,
		"TrustedUserCAKeys=\"/x y\" # z": `["TrustedUserCAKeys" "/x y"]`,
		"Include a=b \"c d\" e":          `["Include" "a=b" "c d" "e"]`,
		"Include \"no end":               `["Include" "no end"]`,
		"PermitRootLogin\tno\t# because": `["PermitRootLogin" "no"]`,
	} {
		if got := fmt.Sprintf("%q", sshdWords(line)); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
}

// The first setting counts, in sshd's order, and one that goes round in circles ends.
func TestFirstSetting(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"sshd_config": "Include none/*.conf\nInclude d/*.conf\nTrustedUserCAKeys /last\n",
		"d/2.conf":    "Include /etc/ssh/sshd_config\ntrustedusercakeys /second\n",
		"d/1.conf":    "Match all\nTrustedUserCAKeys /first\n",
	} {
		path := filepath.Join(root, "etc/ssh", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := (&Machine{Root: root}).firstSetting("trustedusercakeys")
	if err != nil || found == nil || found.value != "/last" || found.file != "/etc/ssh/sshd_config" || found.line != 3 {
		t.Errorf("%+v, %v", found, err) // at the depth where sshd would give up
	}
	if found, err := (&Machine{Root: root}).firstSetting("port"); found != nil || err != nil {
		t.Errorf("port: %+v, %v", found, err)
	}
	if _, err := (&Machine{Root: root + "/none"}).firstSetting("port"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without sshd_config: %v", err)
	}
}

func TestDiff(t *testing.T) {
	numbers := func(from, to int) string {
		var text strings.Builder
		for i := from; i <= to; i++ {
			fmt.Fprintln(&text, i)
		}
		return text.String()
	}
	for _, test := range []struct{ before, after, want string }{
		{"a\nb\n", "a\nc\n", " a\n-b\n+c\n"},
		{"a\n", "a\nb\n", " a\n+b\n"},
		{numbers(1, 20), numbers(1, 9) + "x\n" + numbers(11, 20), "...\n 7\n 8\n 9\n-10\n+x\n 11\n 12\n 13\n...\n"},
	} {
		if got := diff(test.before, test.after); got != test.want {
			t.Errorf("from %q to %q:\n%s", test.before, test.after, got)
		}
	}
}

func TestPublicKey(t *testing.T) {
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHbGd69bUZwwiLvfLisLafOFjCHFPCfiqg2orc3M+ttm"
	for line, want := range map[string]string{
		good:                       good,
		good + " a gateway":        good,
		good[4:]:                   "",
		"ssh-rsa " + good[12:]:     "",
		"ssh-ed25519":              "",
		"ssh-ed25519 AAAA":         "",
		"ssh-ed25519 /////w==":     "",
		"cert-authority " + good:   "",
		"ssh-ed25519 not base 64!": "",
	} {
		if key, ok := publicKey(line); key != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", line, key, ok)
		}
	}
}
