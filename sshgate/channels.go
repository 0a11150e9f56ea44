package sshgate

import "slices"

// Channels says what a rule lets people do at an origin. What is not set is not
// allowed, so the zero value allows nothing; a rule without Channels allows
// everything.
//
// A shell is everything that the account can do, and so is the command `*`: the
// limits beside them hold for programs that mean well.
type Channels struct {
	Shell bool
	// Exec are the commands, without a terminal or with one. What they allow is
	// not limited by SCP and Git, which are commands too.
	Exec []CommandPattern
	// SFTP is the subsystem, SCP the older protocol of that name.
	SFTP, SCP Transfer
	Git       GitAccess
	// Subsystems other than sftp, by their names.
	Subsystems []string
	Forward    []DestinationPattern // ssh -L and -D
	Unix       []PathPattern        // ssh -L to a socket
	Listen     bool                 // ssh -R
	Agent      bool                 // ssh -A
	X11        bool                 // ssh -X
}

// Transfer says which way files may go.
type Transfer struct {
	Read  bool // from the origin
	Write bool // to the origin, and changes to what is there
}

// GitAccess says which repositories may be read (fetch, clone, archive) and
// written (push). Writing does not include reading.
type GitAccess struct {
	Read, Write []PathPattern
}

// permits tells whether the activity may happen in the channel.
func (c *Channels) permits(channel Channel, a Activity) bool {
	if c == nil {
		return true
	}
	if a.Kind == ActivityOpen {
		if channel == ChannelSession {
			return c.session()
		}
		a.Kind = ActivityKind(channel)
	}
	switch a.Kind {
	case ActivityShell:
		return c.Shell
	case ActivityExec:
		return c.exec(a.Command)
	case ActivitySFTP:
		return c.SFTP != Transfer{}
	case ActivitySCP:
		return a.Write && c.SCP.Write || !a.Write && c.SCP.Read || c.exec(a.Command)
	case ActivityGit:
		patterns := c.Git.Read
		if a.Write {
			patterns = c.Git.Write
		}
		return slices.ContainsFunc(patterns, func(p PathPattern) bool { return p.MatchRepository(a.Repository) }) || c.exec(a.Command)
	case ActivitySubsystem:
		return slices.Contains(c.Subsystems, a.Command)
	case ActivityForward:
		return slices.ContainsFunc(c.Forward, func(p DestinationPattern) bool { return p.Match(a.Destination) })
	case ActivityUnix:
		return slices.ContainsFunc(c.Unix, func(p PathPattern) bool { return p.Match(a.Destination) })
	case ActivityListen:
		return c.Listen
	case ActivityAgent:
		return c.Agent
	case ActivityX11:
		return c.X11
	}
	return false
}

func (c *Channels) exec(line string) bool {
	return slices.ContainsFunc(c.Exec, func(p CommandPattern) bool { return p.Match(line) })
}

// session tells whether anything may run in a session.
func (c *Channels) session() bool {
	return c.Shell || len(c.Exec) > 0 || c.SFTP != Transfer{} || c.SCP != Transfer{} ||
		len(c.Git.Read) > 0 || len(c.Git.Write) > 0 || len(c.Subsystems) > 0
}

// files returns which way files may go in an SFTP session.
func (c *Channels) files() Transfer {
	if c == nil {
		return Transfer{Read: true, Write: true}
	}
	return c.SFTP
}
