package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sshgate/sshgate/config"
	"golang.org/x/sys/unix"
)

// relevant are variables of the environment that change what a connector does.
var relevant = []string{
	"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOMAXPROCS", "GOMEMLIMIT", "GOGC",
	"NOTIFY_SOCKET", "WATCHDOG_USEC", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "XDG_RUNTIME_DIR", "TZ",
}

// environment says which variables are set. Their values stay out of it, but for where
// proxies are.
func (b *bundle) environment(environ []string) {
	var text strings.Builder
	text.WriteString("# of this command; a service has another\n")
	for _, setting := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(setting, "=")
		switch {
		case strings.HasSuffix(strings.ToUpper(name), "HTTPS_PROXY"), strings.HasSuffix(strings.ToUpper(name), "HTTP_PROXY"):
			fmt.Fprintf(&text, "%s=%s\n", name, maskProxy(value))
		case slices.Contains(relevant, name), strings.HasPrefix(name, "SSHGATE_"):
			fmt.Fprintf(&text, "%s is set\n", name)
		}
	}
	b.add("environment.txt", text.String())
}

// proxyURL reads a proxy as the variables have it, with or without a scheme.
func proxyURL(value string) *url.URL {
	u, err := url.Parse(value)
	if err != nil || u.Scheme == "" || u.Host == "" {
		u, err = url.Parse("http://" + value)
	}
	if err != nil || u.Host == "" {
		return nil
	}
	return u
}

// maskProxy returns a proxy's URL without its user and password.
func maskProxy(value string) string {
	u := proxyURL(value)
	switch {
	case value == "":
		return ""
	case u == nil:
		return "(not a URL)"
	case u.User != nil:
		return u.Scheme + "://***@" + u.Host
	}
	return u.Scheme + "://" + u.Host
}

// system describes the machine and its clock. cfg may be nil.
func (b *bundle) system(ctx context.Context, cfg *config.Connector) {
	var text strings.Builder
	fmt.Fprintf(&text, "time: %s\n", b.now.Format(time.RFC3339Nano))
	difference := "not known"
	if cfg != nil {
		ahead, err := clockDifference(ctx, cfg)
		if err != nil {
			b.failed("the gateway's clock", err)
		} else {
			difference = fmt.Sprintf("%s (this machine's clock minus the gateway's)", ahead.Round(10*time.Millisecond))
		}
	}
	fmt.Fprintf(&text, "difference to the gateway: %s\n", difference)
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		for _, field := range [][]byte{u.Sysname[:], u.Nodename[:], u.Release[:], u.Version[:], u.Machine[:]} {
			text.WriteString(unix.ByteSliceToString(field) + " ")
		}
		text.WriteByte('\n')
	}
	fmt.Fprintf(&text, "processors: %d, user: %d, group: %d\n\n", runtime.NumCPU(), os.Getuid(), os.Getgid())
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		b.failed("os-release", err)
	}
	text.Write(release)
	b.add("system.txt", text.String())
}

// clockDifference asks the gateway for its time and returns by how much this machine's
// clock is ahead.
func clockDifference(ctx context.Context, cfg *config.Connector) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, diagTimeout)
	defer cancel()
	site, err := newSite(cfg)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	there, err := site.Time(ctx)
	if err != nil {
		return 0, err
	}
	return begin.Add(time.Since(begin) / 2).Sub(there), nil
}

// scrubber takes secrets out of texts. The parts of diag leave them out themselves; this
// is for what a message of another program, or of a proxy, has in it.
type scrubber struct{ secrets []string }

var (
	secretName  = regexp.MustCompile(`(?i)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|PRIVATE_?KEY)`)
	secretTexts = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)-----END [A-Z ]*PRIVATE KEY-----|\bsg[a-z]_[0-9A-Za-z]{20,}`)
	urlUser     = regexp.MustCompile(`://[^/\s"@]+@`)
)

// shortestSecret is the length from which on a text is hidden wherever it is: shorter
// ones would be found in everything.
const shortestSecret = 6

// newScrubber knows the secrets in an environment.
func newScrubber(environ []string) *scrubber {
	s := &scrubber{}
	for _, setting := range environ {
		name, value, _ := strings.Cut(setting, "=")
		if strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			s.hideProxy(value)
		} else if secretName.MatchString(name) && !strings.HasPrefix(value, "/") { // else a file
			s.hide(value)
		}
	}
	return s
}

func (s *scrubber) hide(secret string) {
	if len(secret) >= shortestSecret {
		s.secrets = append(s.secrets, secret)
	}
}

// hideProxy hides a proxy's password in the forms that it may have in a message.
func (s *scrubber) hideProxy(value string) {
	u := proxyURL(value)
	if u == nil || u.User == nil {
		return
	}
	password, _ := u.User.Password()
	user := u.User.Username() + ":" + password
	for _, secret := range []string{u.User.String(), base64.StdEncoding.EncodeToString([]byte(user)), user, password, url.PathEscape(password), url.QueryEscape(password)} {
		s.hide(secret)
	}
}

// hideFile hides the lines of a key's file.
func (s *scrubber) hideFile(file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return // then nobody can have read it
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
			s.hide(line)
		}
	}
}

// clean returns the text without secrets.
func (s *scrubber) clean(text string) string {
	const hidden = "(hidden)"
	text = secretTexts.ReplaceAllString(text, hidden)
	text = urlUser.ReplaceAllString(text, "://***@")
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, hidden)
		if escaped, err := json.Marshal(secret); err == nil {
			text = strings.ReplaceAll(text, string(escaped[1:len(escaped)-1]), hidden)
		}
	}
	return text
}
