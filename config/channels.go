package config

import (
	"fmt"

	"github.com/sshgate/sshgate/sshgate"
)

// channels decodes what a rule lets people do. What is not set is not allowed.
func channels(dst **sshgate.Channels) func(cursor) {
	return func(c cursor) {
		var ch sshgate.Channels
		c.object(schema{
			"shell":      parsed(&ch.Shell, boolean, ""),
			"exec":       list(&ch.Exec, commandPattern),
			"sftp":       transfer(&ch.SFTP),
			"scp":        transfer(&ch.SCP),
			"git":        gitAccess(&ch.Git),
			"subsystems": texts(&ch.Subsystems),
			"forward":    list(&ch.Forward, destinationPattern),
			"unix":       list(&ch.Unix, pathPattern),
			"listen":     parsed(&ch.Listen, boolean, ""),
			"agent":      parsed(&ch.Agent, boolean, ""),
			"x11":        parsed(&ch.X11, boolean, ""),
		}, nil)
		*dst = &ch
	}
}

func commandPattern(dst *sshgate.CommandPattern) func(cursor) {
	return parsed(dst, sshgate.ParseCommandPattern, `expected a command line, in which * stands for arguments`)
}

func pathPattern(dst *sshgate.PathPattern) func(cursor) {
	return parsed(dst, sshgate.ParsePathPattern, `expected one as in /srv/git/* or team/**`)
}

func destinationPattern(dst *sshgate.DestinationPattern) func(cursor) {
	return parsed(dst, sshgate.ParseDestinationPattern, `expected one as in db1:5432, "*:443", "10.0.0.0/8:*" or "[2001:db8::/32]:22"`)
}

// transfer decodes a list of directions.
func transfer(dst *sshgate.Transfer) func(cursor) {
	return func(c cursor) {
		var ways []string
		list(&ways, func(way *string) func(cursor) {
			return parsed(way, func(s string) (string, error) {
				switch s {
				case "read":
					dst.Read = true
				case "write":
					dst.Write = true
				default:
					return "", fmt.Errorf("%s is no way for files to go; expected read, write or both", quote(s))
				}
				return s, nil
			}, "")
		})(c)
	}
}

func gitAccess(dst *sshgate.GitAccess) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"read":  list(&dst.Read, pathPattern),
			"write": list(&dst.Write, pathPattern),
		}, nil)
	}
}
