package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// sshPort is where clients expect the SSH server of an origin. It is a name of
// the service, not the port that the connector dials.
const sshPort = 22

// jump carries a connection that the client's own SSH speaks with the origin's:
// ssh -J, ssh -W. The gateway resolves no name and dials no address; the host is
// the name of an origin or nothing.
func (c *conn) jump(g *grant, nc gossh.NewChannel) {
	m, err := parseDirectTCP(nc)
	if err != nil {
		_ = nc.Reject(gossh.Prohibited, err.Error())
		return
	}
	detail := clip(net.JoinHostPort(m.Host, strconv.FormatUint(uint64(m.Port), 10)), maxDetail)
	origin, err := sshgate.ParseOriginName(m.Host)
	if err == nil && m.Port != sshPort {
		err = fmt.Errorf("port %d of an origin is not published, %d is", m.Port, sshPort)
	}
	if err != nil {
		// A name that cannot exist gets the answer of one that does not.
		refused := &access{id: sshgate.NewRequestID(), grant: g, channel: sshgate.ChannelEndToEnd, detail: detail}
		event := refused.event(sshgate.EventDecision)
		event.Reason = err.Error()
		c.record(event)
		c.reject(nc, denied(refused.id, sshgate.OriginName(ascii(clip(m.Host, 64))), err))
		return
	}
	a, denial := c.ask(g, sshgate.Target{Origin: origin}, sshgate.ChannelEndToEnd, detail)
	if denial != nil {
		c.reject(nc, denial)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DialTimeout)
	defer cancel()
	upstream, denial := c.dialTunnel(ctx, a)
	if denial != nil {
		c.reject(nc, denial)
		return
	}
	defer upstream.Close()
	client, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer client.Close()
	copied := make(chan struct{})
	c.start(func() {
		gossh.DiscardRequests(requests)
		// The client has closed the channel, which reads like a half-close.
		waitFor(copied, closeHold)
		upstream.Close()
	})
	c.record(a.event(sshgate.EventSessionStart))
	begin := c.srv.cfg.Now()
	in, out, err := splice(c.ctx, client, upstream)
	close(copied)
	end := a.event(sshgate.EventSessionEnd)
	end.BytesIn, end.BytesOut, end.Duration = in, out, c.srv.cfg.Now().Sub(begin)
	if err != nil {
		end.Reason = err.Error()
	}
	c.record(end)
}

// dialTunnel reaches the origin's port. An origin that was never published gets
// the answer of one that is not allowed.
func (c *conn) dialTunnel(ctx context.Context, a *access) (connector.Conn, *sshgate.Denied) {
	upstream, err := c.srv.cfg.Tunnel.Dial(ctx, connector.DialRequest{
		RequestID:    a.id,
		ConnectionID: c.id,
		Origin:       a.target.Origin,
		Login:        a.decision.Login,
		Identity:     a.grant.identity.String(),
		ClientAddr:   c.addr,
	})
	if errors.Is(err, connector.ErrOffline) {
		if pins, perr := c.srv.cfg.HostPins.HostKeys(ctx, a.target.Origin); perr == nil && len(pins) == 0 {
			return nil, denied(a.id, a.target.Origin, err)
		}
	}
	if err != nil {
		return nil, c.dialFailure(a, err)
	}
	return upstream, nil
}

// splice copies both ways, with half-closes, until both directions have ended or
// one has failed. It returns the bytes from and to the client, and the failure.
func splice(ctx context.Context, client gossh.Channel, origin connector.Conn) (in, out int64, err error) {
	// Whatever fails, the other direction must not wait for more.
	stop := context.AfterFunc(ctx, func() { origin.Close() })
	defer stop()
	var fromClient, toClient atomic.Int64
	var inErr, outErr error
	var both sync.WaitGroup
	both.Go(func() {
		if inErr = copyCounted(origin, client, &fromClient); inErr == nil {
			inErr = origin.CloseWrite()
		}
		if inErr != nil {
			origin.Close()
		}
	})
	if outErr = copyCounted(client, origin, &toClient); outErr == nil {
		_ = client.CloseWrite() // fails where the client closed first
	} else {
		// The tunnel was lost, or the client has left.
		_ = client.Close()
		_ = origin.SetReadDeadline(time.Unix(1, 0))
	}
	both.Wait()
	if outErr == nil {
		outErr = inErr
	}
	return fromClient.Load(), toClient.Load(), outErr
}
