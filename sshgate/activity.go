package sshgate

import (
	"fmt"
	"strings"
)

// ActivityKind says what is asked for inside a channel.
type ActivityKind string

// The kinds of activities. An environment variable and a terminal need no
// decision.
const (
	// ActivityOpen is the channel as such: may it be opened at all. Of a session
	// it says nothing about what may then run in it. The channels that have their
	// one activity in their name (forward, unix, listen) are asked about that,
	// whether or not it is named.
	ActivityOpen      ActivityKind = ""
	ActivityShell     ActivityKind = "shell"
	ActivityExec      ActivityKind = "exec"      // Command
	ActivitySFTP      ActivityKind = "sftp"      // may it start; Decision.Files says which way files may go
	ActivitySCP       ActivityKind = "scp"       // Command, Path, Write
	ActivityGit       ActivityKind = "git"       // Command, Repository, Write
	ActivitySubsystem ActivityKind = "subsystem" // its name in Command; sftp is ActivitySFTP
	ActivityForward   ActivityKind = "forward"   // Destination
	ActivityListen    ActivityKind = "listen"    // Destination
	ActivityUnix      ActivityKind = "unix"      // Destination
	ActivityAgent     ActivityKind = "agent"
	ActivityX11       ActivityKind = "x11"
)

// Activity is what is asked for inside a channel, once it is open or as it is
// opened. Make those of a session with ParseCommand and ParseSubsystem.
type Activity struct {
	Kind ActivityKind
	// Command is the whole command line, which a shell at the origin interprets.
	// ActivitySCP and ActivityGit have it too: a rule that allows the command as
	// such allows them.
	Command    string
	Path       string // at the origin
	Repository string // as the client names it
	// Write tells towards the origin from away from it: an upload, a push.
	Write bool
	// Destination is HOST:PORT, or the absolute path of a socket.
	Destination string
}

// fits tells whether the activity is one of the channel's.
func (a Activity) fits(channel Channel) bool {
	switch a.Kind {
	case ActivityOpen:
		return true
	case ActivityForward, ActivityListen, ActivityUnix:
		return string(a.Kind) == string(channel)
	case ActivityAgent, ActivityX11:
		return string(a.Kind) == string(channel) || channel == ChannelSession
	case ActivityShell, ActivityExec, ActivitySFTP, ActivitySCP, ActivityGit, ActivitySubsystem:
		return channel == ChannelSession
	}
	return false
}

// String names the activity for the log.
func (a Activity) String() string {
	way := map[bool]string{false: "read", true: "write"}[a.Write]
	switch a.Kind {
	case ActivityOpen:
		return "the channel"
	case ActivityExec:
		return fmt.Sprintf("the command %q", a.Command)
	case ActivitySCP:
		return fmt.Sprintf("scp (%s) of %q", way, a.Path)
	case ActivityGit:
		return fmt.Sprintf("git (%s) of %q", way, a.Repository)
	case ActivitySubsystem:
		return fmt.Sprintf("the subsystem %q", a.Command)
	case ActivityForward, ActivityListen, ActivityUnix:
		return fmt.Sprintf("%s %q", a.Kind, a.Destination)
	}
	return string(a.Kind)
}

// ParseSubsystem returns the activity of a subsystem request (RFC 4254 section
// 6.5).
func ParseSubsystem(name string) Activity {
	if name == "sftp" {
		return Activity{Kind: ActivitySFTP}
	}
	return Activity{Kind: ActivitySubsystem, Command: name}
}

// ParseCommand returns the activity of a command line: what git and scp run at
// the other end where it is exactly that, otherwise ActivityExec.
//
// It is strict, since the line goes to a shell as it is: a line is git's or
// scp's only where no word of it means more to a shell than its letters.
func ParseCommand(line string) Activity {
	exec := Activity{Kind: ActivityExec, Command: line}
	words, ok := plainWords(line)
	if !ok || len(words) < 2 {
		return exec
	}
	if words[0] == "git" {
		words = append([]string{"git-" + words[1]}, words[2:]...)
	}
	switch words[0] {
	case "git-upload-pack", "git-upload-archive", "git-receive-pack":
		if len(words) == 2 && !strings.HasPrefix(words[1], "-") {
			return Activity{Kind: ActivityGit, Command: line, Repository: words[1], Write: words[0] == "git-receive-pack"}
		}
	case "scp":
		if path, write, ok := scpArguments(words[1:]); ok {
			return Activity{Kind: ActivitySCP, Command: line, Path: path, Write: write}
		}
	}
	return exec
}

// scpArguments reads what scp calls itself with at the other end: options, one of
// them -t (to) or -f (from), and one path.
func scpArguments(words []string) (path string, write, ok bool) {
	to, from := false, false
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && words[0] != "--" {
		options := words[0][1:]
		if options == "" || strings.Trim(options, "rpdvqtf") != "" {
			return "", false, false
		}
		to = to || strings.Contains(options, "t")
		from = from || strings.Contains(options, "f")
		words = words[1:]
	}
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) != 1 || words[0] == "" || to == from {
		return "", false, false
	}
	return words[0], to, true
}

// plainWords splits a command line at single spaces into words that every shell
// reads alike: bare, or in single quotes as a whole. ok is false where there is
// another.
func plainWords(line string) (words []string, ok bool) {
	for rest := line; ; {
		word, quoted := strings.CutPrefix(rest, "'")
		end := strings.IndexByte(word, ' ')
		if quoted {
			end = strings.IndexByte(word, '\'')
		}
		switch {
		case end < 0 && quoted:
			return nil, false
		case end < 0:
			end = len(word)
		}
		rest, word = word[end:], word[:end]
		if quoted {
			rest = rest[1:]
		}
		if !plainWord(word, quoted) {
			return nil, false
		}
		words = append(words, word)
		if rest == "" {
			return words, true
		}
		if rest[0] != ' ' {
			return nil, false
		}
		rest = rest[1:]
	}
}

// plainWord tells whether a shell takes the word as it stands. Inside quotes a C
// shell still looks at exclamation marks, and nobody at the rest.
func plainWord(word string, quoted bool) bool {
	if word == "" {
		return quoted
	}
	for i := range len(word) {
		switch c := word[i]; {
		case c < ' ' || c == 0x7f || c == '\\' || c == '!':
			return false
		case !quoted && !plainByte(c), !quoted && strings.IndexByte(" *?[]~#", c) >= 0 && (c != '~' || i == 0):
			return false
		}
	}
	return true
}

// NewActivity returns the activity of a kind whose particulars are in one text: a
// command line, the name of a subsystem, or a destination. A command is what
// ParseCommand makes of it, whichever of its kinds is named.
func NewActivity(channel Channel, kind ActivityKind, detail string) Activity {
	if kind == ActivityOpen && (channel == ChannelForward || channel == ChannelUnix || channel == ChannelListen) {
		kind = ActivityKind(channel)
	}
	switch kind {
	case ActivityExec, ActivityGit, ActivitySCP:
		return ParseCommand(detail)
	case ActivitySubsystem, ActivitySFTP:
		return ParseSubsystem(or(detail, string(kind)))
	case ActivityForward, ActivityListen, ActivityUnix:
		return Activity{Kind: kind, Destination: detail}
	}
	return Activity{Kind: kind}
}
