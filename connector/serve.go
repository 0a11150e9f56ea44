package connector

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/sshgate/sshgate/sshgate"
)

// serve is the life of one stream: header, dial, reply, and then bytes until
// both directions have ended.
func (u *uplink) serve(tunnel context.Context, stream *yamux.Stream) {
	ctx, cancel := context.WithCancel(tunnel)
	defer cancel()
	refusal := u.take(stream.StreamID(), cancel)
	defer u.give(stream.StreamID())
	defer func() {
		if tunnel.Err() != nil {
			u.close() // first: the end of the tunnel must not pass for the origin's
		}
		stream.Close() // both directions have ended, or the gateway ends its own
	}()
	if refusal != nil {
		u.refuse(stream, refusal)
		return
	}
	_ = stream.SetReadDeadline(time.Now().Add(u.timing.header)) // always nil
	header, err := readHeader(stream)
	if err != nil {
		u.log.Warn("a stream of the gateway was refused", "err", err)
		u.refuse(stream, &Refusal{CodeBadRequest, "the stream's header cannot be read"})
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	log := u.log.With("request", printable(header.RequestID, 64), "connection", printable(header.ConnectionID, 64),
		"origin", printable(header.label(), 260), "login", printable(header.Login, 64),
		"identity", printable(header.Identity, maxIdentity), "client", printable(header.ClientAddress, 64))
	origin, err := u.agent.dialOrigin(ctx, header)
	if err != nil {
		log.Warn("a connection was refused", "err", err)
		if ctx.Err() != nil { // nobody waits for the answer
			u.reply(stream, refusalOf(err))
			return
		}
		u.refuse(stream, refusalOf(err))
		return
	}
	defer func() { u.closeOrigin(origin) }()
	if !u.reply(stream, nil) {
		return
	}
	s := &splice{stream: stream, origin: origin, all: &u.agent.traffic, lost: u.session.IsClosed, closeOrigin: func() { u.closeOrigin(origin) }}
	u.onAbort(stream.StreamID(), s.abort)
	if ctx.Err() != nil {
		return // aborted, or the tunnel is gone
	}
	defer onDone(tunnel, func() {
		u.close() // before the origin's connection, whose end is passed on as a FIN
		reset(origin)
	})()
	u.agent.served.Add(1)
	start := time.Now()
	log.Info("a connection has begun")
	s.run()
	log.Info("a connection has ended", "bytes_in", s.in.Load(), "bytes_out", s.out.Load(), "duration", time.Since(start).Round(time.Millisecond))
}

// closeOrigin ends a connection to an origin. A service must not take what it got for
// all that there is when the tunnel was lost.
func (u *uplink) closeOrigin(conn net.Conn) {
	if u.session.IsClosed() {
		reset(conn)
		return
	}
	conn.Close()
}

// take counts the stream in. cancel is what an abort calls until onAbort.
func (u *uplink) take(stream uint32, cancel context.CancelFunc) *Refusal {
	count := u.agent.streams.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.aborts[stream] = cancel
	switch {
	case u.refusing:
		return &Refusal{CodeDraining, "the connector is about to stop"}
	case count > int64(u.agent.cfg.MaxStreams):
		return &Refusal{CodeOverloaded, "the connector carries as many connections as it may"}
	}
	return nil
}

// give counts the stream out.
func (u *uplink) give(stream uint32) {
	u.agent.streams.Add(-1)
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.aborts, stream)
	u.lastEnd = time.Now()
	u.checkIdle()
}

// onAbort replaces what an abort of the stream calls.
func (u *uplink) onAbort(stream uint32, abort func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.aborts[stream] = abort
}

// refuse answers a stream's header with a refusal, and counts that.
func (u *uplink) refuse(stream *yamux.Stream, refusal *Refusal) {
	u.agent.refusing(refusal.Code)
	u.reply(stream, refusal)
}

// reply answers a stream's header, with ok when refusal is nil. It tells
// whether the answer is on its way.
func (u *uplink) reply(stream *yamux.Stream, refusal *Refusal) bool {
	reply := dialReply{OK: refusal == nil}
	if refusal != nil {
		reply.Code, reply.Reason = refusal.Code, refusal.Reason
	}
	return writeFrame(stream, reply, maxHeaderFrame) == nil
}

// dialOrigin connects to an origin of the configuration, and to nothing else.
func (a *Agent) dialOrigin(ctx context.Context, header dialHeader) (net.Conn, error) {
	service, err := sshgate.NewEndpoint(header.Origin, uint32(cmp.Or(header.Port, sshgate.SSHPort)))
	if err != nil {
		return nil, &Refusal{CodeBadRequest, "the origin's name is not valid"}
	}
	origin, ok := a.origin(service)
	if !ok {
		return nil, &Refusal{CodeUnknownOrigin, "the connector does not have that origin"}
	}
	ctx, cancel := context.WithTimeout(ctx, a.timing.originDial)
	defer cancel()
	start := time.Now()
	conn, err := a.cfg.DialOrigin(ctx, origin.Network, origin.Address)
	if err == nil {
		a.dialled(time.Since(start))
	}
	return conn, err
}

// refusalOf puts a failed dial into words that do not show addresses of the
// origin's network; the connector's log has those.
func refusalOf(err error) *Refusal {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Refusal{CodeDialRefused, "nothing listens at the origin's address: connection refused"}
	case isTimeout(err), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return &Refusal{CodeDialTimeout, "the origin does not answer"}
	}
	return &Refusal{CodeDialFailed, "the origin cannot be connected to"}
}
