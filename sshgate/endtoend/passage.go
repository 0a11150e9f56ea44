package endtoend

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
)

// Stream is the client's side of a passage. CloseWrite ends the direction to the
// client, which can still send. Close ends both at once and must not look like an
// end of the service's own.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Passage is an open connection to a service, for one client.
type Passage struct {
	// ID names the request in the log and to the user.
	ID sshgate.RequestID

	broker   *Broker
	client   Client
	endpoint sshgate.Endpoint
	channel  sshgate.Channel
	detail   string
	request  sshgate.Request
	decision sshgate.Decision
	conn     connector.Conn
	giveBack func() // what the client's quotas are charged
	left     sync.Once
}

// Close ends a passage at once, carried or not. It may be called again.
func (p *Passage) Close() {
	p.conn.Close()
	p.left.Do(func() {
		p.giveBack()
		p.broker.leave()
	})
}

// Carry copies both ways, with half-closes, until both directions have ended, one
// has failed, ctx is done, or it is no longer allowed: then the error is a
// *live.Ending. The passage is closed afterwards. The stream is closed if anything
// failed, which the error says; otherwise both of its directions have ended and
// closing it is the caller's.
func (p *Passage) Carry(ctx context.Context, client Stream) error {
	defer p.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	now := p.broker.cfg.Now
	p.broker.cfg.Events.Record(p.event(sshgate.EventSessionStart))
	begin := now()
	p.broker.begin(p, begin, func(ending *live.Ending) { cancel(ending) })
	defer p.broker.end(p)
	defer p.broker.cfg.Live.Add(p.client.Since, live.Holding{
		Request: p.request, Decision: p.decision, Credential: p.client.Credential, Until: p.client.Until,
		Event: p.event(sshgate.EventDecision), End: func(ending *live.Ending) { cancel(ending) },
	})()
	in, out, err := splice(ctx, client, p.conn)
	if ending, ok := errors.AsType[*live.Ending](context.Cause(ctx)); ok {
		err = ending // rather than what it came to
	}
	end := p.event(sshgate.EventSessionEnd)
	end.BytesIn, end.BytesOut, end.Duration = in, out, now().Sub(begin)
	if err != nil {
		end.Reason = err.Error()
	}
	p.broker.cfg.Events.Record(end)
	return err
}

func (p *Passage) recordDecision() {
	event := p.event(sshgate.EventDecision)
	event.Allowed, event.Reason = p.decision.Allowed, p.decision.Reason
	p.broker.cfg.Events.Record(event)
}

func (p *Passage) event(kind sshgate.EventKind) sshgate.Event {
	return sshgate.Event{
		Time:        p.broker.cfg.Now(),
		Kind:        kind,
		Connection:  p.client.Connection,
		Request:     p.ID,
		ClientAddr:  p.client.Addr,
		Key:         p.client.Key,
		Origin:      p.endpoint.Origin,
		Channel:     p.channel,
		Detail:      p.detail,
		Application: p.decision.Application,
		Rule:        p.decision.Rule,
	}.By(p.client.Identity)
}

// splice returns the bytes from and to the client, and the failure.
func splice(ctx context.Context, client Stream, origin connector.Conn) (in, out int64, err error) {
	// Whatever fails, the other direction must not wait for more.
	stop := context.AfterFunc(ctx, func() {
		origin.Close()
		client.Close()
	})
	defer stop()
	var fromClient, toClient atomic.Int64
	var once sync.Once
	fail := func(cause error) { // what comes after the first failure is its consequence
		once.Do(func() { err = cause })
	}
	var both sync.WaitGroup
	both.Go(func() {
		inErr := Copy(origin, client, &fromClient)
		if inErr == nil {
			inErr = origin.CloseWrite()
		}
		if inErr != nil {
			fail(inErr)
			origin.Close()
		}
	})
	if outErr := Copy(client, origin, &toClient); outErr == nil {
		_ = client.CloseWrite() // fails where the client closed first
	} else {
		// The tunnel was lost, or the client has left.
		fail(outErr)
		_ = client.Close()
		_ = origin.SetReadDeadline(time.Unix(1, 0))
	}
	both.Wait()
	if err != nil {
		_ = client.Close()
	}
	return fromClient.Load(), toClient.Load(), err
}

// copyBuffer is x/crypto's largest channel packet: one read, one packet.
const copyBuffer = 32 << 10

// Copy copies until src ends, which is no error, or fails, or dst takes no more.
func Copy(dst io.Writer, src io.Reader, n *atomic.Int64) error {
	buf := make([]byte, copyBuffer)
	for {
		read, err := src.Read(buf)
		if read > 0 {
			if _, werr := dst.Write(buf[:read]); werr != nil {
				return werr
			}
			n.Add(int64(read))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
