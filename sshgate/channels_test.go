package sshgate_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sshgate/sshgate/sshgate"
)

// columns are the limits of the matrix below; a rule without any is all.
var columns = map[string]*sshgate.Channels{
	"all":    nil,
	"none":   {},
	"shell":  {Shell: true},
	"uptime": {Exec: []sshgate.CommandPattern{"uptime", "uptime -*"}},
	"any":    {Exec: []sshgate.CommandPattern{"*"}},
	"git-*":  {Exec: []sshgate.CommandPattern{"git *", "git-upload-pack '/srv/*'"}},
	"down":   {SFTP: sshgate.Transfer{Read: true}, SCP: sshgate.Transfer{Read: true}},
	"up":     {SFTP: sshgate.Transfer{Write: true}, SCP: sshgate.Transfer{Write: true}},
	"fetch":  {Git: sshgate.GitAccess{Read: []sshgate.PathPattern{"acme/*", "/srv/git/**"}}},
	"push":   {Git: sshgate.GitAccess{Write: []sshgate.PathPattern{"acme/app.git"}}},
	"sub":    {Subsystems: []string{"netconf"}},
	"db":     {Forward: []sshgate.DestinationPattern{mustDestination("db1:5432"), mustDestination("*.db.example.com:5432"), mustDestination("10.0.0.0/8:*")}},
	"web":    {Forward: []sshgate.DestinationPattern{mustDestination("*:443"), mustDestination("[2001:db8::/32]:80")}},
	"unix":   {Unix: []sshgate.PathPattern{"/run/app/*.sock"}},
	"listen": {Listen: true},
	"lend":   {Agent: true, X11: true},
}

// Every cell is a decision: x is allowed.
const matrix = `
                                               all none shell uptime any git-* down up fetch push sub db web unix listen lend
open                                             x    .     x      x   x     x    x  x     x    x   x  .   .    .      .    .
shell                                            x    .     x      .   .     .    .  .     .    .   .  .   .    .      .    .
run uptime                                       x    .     .      x   x     .    .  .     .    .   .  .   .    .      .    .
run uptime -p                                    x    .     .      x   x     .    .  .     .    .   .  .   .    .      .    .
run uptime -p; id                                x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run uptime -$(id)                                x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run uptime -p & id                               x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run uptime -p > /etc/motd                        x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run  uptime                                      x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run uptimes                                      x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run                                              x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git log                                      x    .     .      .   x     x    .  .     .    .   .  .   .    .      .    .
run git log; rm -rf /                            x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git log\nrm -rf /                            x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git log "x"                                  x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git upload-pack acme/app                     x    .     .      .   x     x    .  .     x    .   .  .   .    .      .    .
run git-upload-pack 'acme/app.git'               x    .     .      .   x     .    .  .     x    .   .  .   .    .      .    .
run git-upload-pack '/acme/app.git'              x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git-upload-pack 'acme/a/b.git'               x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git-upload-pack 'acme/../x.git'              x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git-upload-pack '/srv/git/a/b.git'           x    .     .      .   x     x    .  .     x    .   .  .   .    .      .    .
run git-upload-pack '/srv/git/../../x'           x    .     .      .   x     x    .  .     .    .   .  .   .    .      .    .
run git-upload-archive 'acme/app.git'            x    .     .      .   x     .    .  .     x    .   .  .   .    .      .    .
run git-receive-pack 'acme/app.git'              x    .     .      .   x     .    .  .     .    x   .  .   .    .      .    .
run git-receive-pack 'acme/app'                  x    .     .      .   x     .    .  .     .    x   .  .   .    .      .    .
run git-receive-pack 'acme/apps.git'             x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git-receive-pack 'acme/app.git'; id          x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run git-receive-pack 'acme/app.git' x            x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run scp -f /etc/motd                             x    .     .      .   x     .    x  .     .    .   .  .   .    .      .    .
run scp -r -p -f -- /etc                         x    .     .      .   x     .    x  .     .    .   .  .   .    .      .    .
run scp -t /tmp                                  x    .     .      .   x     .    .  x     .    .   .  .   .    .      .    .
run scp -rt '/tmp/a b'                           x    .     .      .   x     .    .  x     .    .   .  .   .    .      .    .
run scp -f -t /tmp                               x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run scp -f $(id)                                 x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run scp -f /a /b                                 x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run scp -S sh -f /a                              x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
run scp /a b:                                    x    .     .      .   x     .    .  .     .    .   .  .   .    .      .    .
sub sftp                                         x    .     .      .   .     .    x  x     .    .   .  .   .    .      .    .
sub netconf                                      x    .     .      .   .     .    .  .     .    .   x  .   .    .      .    .
sub                                              x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to db1:5432                                      x    .     .      .   .     .    .  .     .    .   .  x   .    .      .    .
to DB1.:5432                                     x    .     .      .   .     .    .  .     .    .   .  x   .    .      .    .
to db1:22                                        x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to a.db.example.com:5432                         x    .     .      .   .     .    .  .     .    .   .  x   .    .      .    .
to db.example.com:5432                           x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to 10.9.9.9:22                                   x    .     .      .   .     .    .  .     .    .   .  x   .    .      .    .
to [::ffff:10.9.9.9]:22                          x    .     .      .   .     .    .  .     .    .   .  x   .    .      .    .
to 11.9.9.9:22                                   x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to 167772161:22                                  x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to anything:443                                  x    .     .      .   .     .    .  .     .    .   .  .   x    .      .    .
to [2001:db8::1]:80                              x    .     .      .   .     .    .  .     .    .   .  .   x    .      .    .
to [2001:db9::1]:80                              x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to anything                                      x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
to                                               x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
socket /run/app/a.sock                           x    .     .      .   .     .    .  .     .    .   .  .   .    x      .    .
socket /run/app/../docker.sock                   x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
socket /run/app/x/a.sock                         x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
socket run/app/a.sock                            x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    .
listen                                           x    .     .      .   .     .    .  .     .    .   .  .   .    .      x    .
agent                                            x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    x
x11                                              x    .     .      .   .     .    .  .     .    .   .  .   .    .      .    x
`

// asked returns the request of a row.
func asked(t *testing.T, row string) sshgate.Request {
	r := ask(alice(), "deploy+web1")
	verb, rest, _ := strings.Cut(row, " ")
	rest = strings.ReplaceAll(rest, `\n`, "\n")
	switch verb {
	case "open":
	case "shell", "agent", "x11":
		r.Activity.Kind = sshgate.ActivityKind(verb)
	case "run":
		r.Activity = sshgate.ParseCommand(rest)
	case "sub":
		r.Activity = sshgate.ParseSubsystem(rest)
	case "to":
		r.Channel, r.Activity = sshgate.ChannelForward, sshgate.Activity{Kind: sshgate.ActivityForward, Destination: rest}
	case "socket":
		r.Channel, r.Activity = sshgate.ChannelUnix, sshgate.Activity{Kind: sshgate.ActivityUnix, Destination: rest}
	case "listen":
		r.Channel = sshgate.ChannelListen
	default:
		t.Fatalf("the row %q is of no kind", row)
	}
	return r
}

func TestChannelsMatrix(t *testing.T) {
	lines := strings.Split(strings.Trim(matrix, "\n"), "\n")
	const width = 49 // of the first column
	names := strings.Fields(lines[0])
	if len(names) != len(columns) {
		t.Fatalf("%d columns, %d limits", len(names), len(columns))
	}
	for _, line := range lines[1:] {
		row, cells := strings.TrimRight(line[:width-1], " "), strings.Fields(line[width-1:])
		r := asked(t, row)
		for i, name := range names {
			p := sshgate.Policy{Applications: []sshgate.Application{{Name: "a", Hosts: hosts("*"), Rules: []sshgate.Rule{{
				Name: "r", Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}), Logins: logins("*"), Channels: columns[name],
			}}}}}
			if d := p.Decide(r); d.Allowed != (cells[i] == "x") || !d.Allowed && d.Rule != "" {
				t.Errorf("%s under %s: %+v, want %s", row, name, d, cells[i])
			}
		}
	}
}

func TestFiles(t *testing.T) {
	rule := func(name string, c *sshgate.Channels) sshgate.Rule {
		return sshgate.Rule{Name: name, Action: sshgate.Allow, Include: selectors(sshgate.Everyone{}), Logins: logins("deploy"), Channels: c}
	}
	asks := rule("asks", &sshgate.Channels{SFTP: sshgate.Transfer{Write: true}})
	asks.Purpose = true
	for _, tt := range []struct {
		name  string
		rules []sshgate.Rule
		want  sshgate.Transfer
	}{
		{"no limits", []sshgate.Rule{rule("r", nil)}, sshgate.Transfer{Read: true, Write: true}},
		{"read", []sshgate.Rule{rule("r", columns["down"])}, sshgate.Transfer{Read: true}},
		{"write", []sshgate.Rule{rule("r", columns["up"])}, sshgate.Transfer{Write: true}},
		{"two rules", []sshgate.Rule{rule("r", columns["up"]), rule("s", columns["down"])}, sshgate.Transfer{Read: true, Write: true}},
		{"two rules, the other way", []sshgate.Rule{rule("r", columns["down"]), rule("s", columns["up"])}, sshgate.Transfer{Read: true, Write: true}},
		{"the other rule asks for more", []sshgate.Rule{rule("r", columns["down"]), asks}, sshgate.Transfer{Read: true}},
		{"the other rule allows no files", []sshgate.Rule{rule("r", columns["shell"]), rule("s", columns["down"])}, sshgate.Transfer{Read: true}},
	} {
		p := sshgate.Policy{Applications: []sshgate.Application{{Name: "a", Hosts: hosts("*"), Rules: tt.rules}}}
		if d := p.Decide(asked(t, "sub sftp")); !d.Allowed || d.Files != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, d, tt.want)
		}
		if d := p.Decide(asked(t, "open")); d.Files != (sshgate.Transfer{}) {
			t.Errorf("%s: to open gives files: %+v", tt.name, d)
		}
	}
}

func TestActivityOfAnotherChannel(t *testing.T) {
	p := companyPolicy()
	for channel, kinds := range map[sshgate.Channel][]sshgate.ActivityKind{
		sshgate.ChannelForward:  {sshgate.ActivityShell, sshgate.ActivityUnix, sshgate.ActivityAgent},
		sshgate.ChannelSession:  {sshgate.ActivityForward, sshgate.ActivityListen, "no such kind"},
		sshgate.ChannelEndToEnd: {sshgate.ActivityShell, sshgate.ActivitySFTP},
		sshgate.ChannelTCP:      {sshgate.ActivityForward},
	} {
		for _, kind := range kinds {
			r := ask(alice(), "root+db1")
			r.Channel, r.Port, r.Activity.Kind = channel, 5432, kind
			if d := p.Decide(r); d.Allowed || !strings.Contains(d.Reason, "no activity of channel") {
				t.Errorf("%s in %s: %+v", kind, channel, d)
			}
		}
	}
}

// Patterns agree with regular expressions.
func TestPatternsAgreeWithRegexp(t *testing.T) {
	words := func(alphabet ...string) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(alphabet), 0, 8).Draw(t, "words"), "")
		})
	}
	command := words("a", "b", " ", "*", ";", "é", "'")
	name := words("a", "b", "/", "*", "**", ".")
	rapid.Check(t, func(t *rapid.T) {
		pattern, line := command.Draw(t, "pattern"), command.Draw(t, "line")
		re := "^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[^;&|<>$`+"`"+`(){}!^\\"'\x00-\x1f\x7f]*`) + "$"
		want := pattern == "*" || regexp.MustCompile(re).MatchString(line)
		if got := sshgate.CommandPattern(pattern).Match(line); got != want {
			t.Fatalf("the command %q under %q: %v, want %v", line, pattern, got, want)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		pattern, text := name.Draw(t, "pattern"), name.Draw(t, "name")
		p, err := sshgate.ParsePathPattern(pattern)
		if err != nil || text == "" {
			return
		}
		re := regexp.MustCompile("^" + strings.NewReplacer(`\*\*\*`, ".*", `\*\*`, ".*", `\*`, "[^/]*").Replace(regexp.QuoteMeta(pattern)) + "$")
		clean, err := sshgate.ParsePathPattern(text)
		want := err == nil && string(clean) == text && re.MatchString(text) && strings.HasPrefix(pattern, "/") == strings.HasPrefix(text, "/")
		if got := p.Match(text); got != (want || pattern == "**") {
			t.Fatalf("the path %q under %q: %v, want %v", text, pattern, got, want)
		}
	})
}

func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"git-upload-pack 'a'", "git upload-pack a", "scp -t -- 'x y'", "scp -f x;id", "git-receive-pack 'a'\\''b'", "''", " "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		a := sshgate.ParseCommand(line)
		if a.Command != line {
			t.Fatalf("%q: %+v", line, a)
		}
		if a.Kind == sshgate.ActivityExec {
			return
		}
		// Outside quotes nothing may mean anything to a shell.
		for i, part := range strings.Split(line, "'") {
			if i%2 == 0 && strings.ContainsAny(part, ";&|<>$`(){}\\\"*?[]#\n\r\t") || strings.ContainsAny(part, "\\!\n\x00") {
				t.Fatalf("%q is taken for %+v", line, a)
			}
		}
		if strings.Count(line, "'")%2 != 0 || strings.HasPrefix(a.Repository, "-") {
			t.Fatalf("%q is taken for %+v", line, a)
		}
	})
}
