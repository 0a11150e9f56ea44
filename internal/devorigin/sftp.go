//go:build unix

package devorigin

import (
	"sync"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"
)

// runSFTP serves the sftp subsystem in this process.
func (s *session) runSFTP(req *gossh.Request) {
	server, err := sftp.NewServer(keepOpen{s.ch}, sftp.WithServerWorkingDirectory(s.cfg.Dir))
	if err != nil {
		s.log.Warn("cannot start sftp", "err", err)
		reply(req, false)
		return
	}
	reply(req, true)
	var refusing sync.WaitGroup
	refusing.Go(func() {
		for req := range s.requests {
			reply(req, false)
		}
	})
	status := struct{ Status uint32 }{}
	if err := server.Serve(); err != nil {
		s.log.Debug("sftp ended", "err", err)
		status.Status = 1
	}
	_, _ = s.ch.SendRequest("exit-status", false, gossh.Marshal(status)) // fails only with the connection
	s.close()
	refusing.Wait()
}

// keepOpen is the channel without Close. The sftp server calls it when it reads
// what is no packet, which would leave the client without an exit status.
type keepOpen struct{ gossh.Channel }

func (keepOpen) Close() error { return nil }
