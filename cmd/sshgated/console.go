package main

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/console"
	"github.com/sshgate/sshgate/sshgate/console/ctl"
	"github.com/sshgate/sshgate/sshgate/live"
)

// latestEvents is how many events are kept in memory, for "events".
const latestEvents = 1000

// newConsole is what answers those who name no origin, and sshgated ctl.
func (g *gatewayd) newConsole(latest *console.Latest) (*console.Console, error) {
	return console.New(console.Config{
		Policy: g.policy,
		Administrator: func(id sshgate.Identity, addr netip.Addr, now time.Time) bool {
			return g.policy().Administrator(id, addr, sshgate.Key{}, now)
		},
		Origins:   g.hub.Origins,
		Logins:    g.store,
		State:     g.store,
		Sessions:  openSessions{g},
		Latest:    latest,
		Events:    g.events,
		Advertise: g.cfg.SSH.Advertise,
		Log:       g.log,
	})
}

// serveCtl takes the commands of sshgated ctl. A gateway that cannot goes on
// without.
func (g *gatewayd) serveCtl(ctx context.Context) {
	l, err := ctl.Listen(ctlSocket(g.cfg.DataDir))
	if err != nil {
		g.log.Error("sshgated ctl will not work", "err", err)
		return
	}
	ctl.Serve(ctx, l, g.console, g.log)
}

// ctlSocket is where a gateway takes the commands of sshgated ctl.
func ctlSocket(dataDir string) string { return filepath.Join(dataDir, "ctl.sock") }

// openSessions are those of both ports.
type openSessions struct{ *gatewayd }

func (o openSessions) Sessions() []console.Session {
	list := o.ssh.Sessions()
	for _, p := range o.helpers.Live() {
		list = append(list, console.OfPassage(p))
	}
	return list
}

func (o openSessions) End(match func(console.Session) bool, reason string) int {
	n := o.ssh.End(match, reason)
	for _, p := range o.helpers.Live() {
		if match(console.OfPassage(p)) {
			p.End(&live.Ending{Sentence: reason, Cause: reason})
			n++
		}
	}
	return n
}
