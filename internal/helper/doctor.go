package helper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Check is one line of a doctor's report.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, fail or skip
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// The statuses of a Check.
const (
	OK   = "ok"
	Fail = "fail"
	Skip = "skip"
)

// doctor collects checks.
type doctor struct {
	access *Access
	report func(Check)
	failed bool
	info   GatewayInfo
}

// maxSkew is how far apart clocks may be before certificates suffer.
const maxSkew = time.Minute

// Doctor looks at all that a connection needs, in order, and reports each thing. It
// tells whether all is well. hostname may be empty. Nobody is asked to sign in.
func (a *Access) Doctor(ctx context.Context, hostname string, report func(Check)) bool {
	a.opts.NoLogin = true
	d := &doctor{access: a, report: report}
	if !d.reach(ctx) {
		for _, name := range []string{"tls", "clock", "ssh", "token", "policy", "origin", "connect", "websocket"} {
			d.add(name, Skip, "the gateway cannot be reached", "")
		}
		return false
	}
	if d.answers(ctx) {
		d.sshPort(ctx)
	} else {
		d.add("ssh", Skip, "the gateway does not answer", "")
	}
	d.origin(ctx, hostname, d.token(ctx))
	return !d.failed
}

func (d *doctor) add(name, status, detail, advice string) {
	d.failed = d.failed || status == Fail
	d.report(Check{Name: name, Status: status, Detail: printable(detail), Advice: printable(advice)})
}

// fail reports a problem with its advice.
func (d *doctor) fail(name string, err error, advice string) {
	var p *Problem
	if errors.As(err, &p) && p.Next != "" {
		q := *p
		q.Next, advice = "", p.Next
		err = &q
	}
	d.add(name, Fail, err.Error(), advice)
}

// reach looks at name, proxy and port.
func (d *doctor) reach(ctx context.Context) bool {
	g := d.access.Gateway
	proxy, err := g.Proxy()
	switch {
	case err != nil:
		d.fail("proxy", err, "check HTTPS_PROXY")
		return false
	case proxy != nil:
		d.add("proxy", OK, "through "+proxy.Scheme+"://"+proxy.Host, "")
		d.add("name", Skip, "the proxy looks names up", "")
	default:
		d.add("proxy", OK, "none", "")
		addresses, err := net.DefaultResolver.LookupHost(ctx, g.host())
		if err != nil {
			d.fail("name", err, "check the name of the gateway and this machine's DNS")
			d.add("port", Skip, "the name is unknown", "")
			return false
		}
		d.add("name", OK, g.host()+" is "+strings.Join(addresses, ", "), "")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := g.dialTCP(ctx)
	if err != nil {
		d.fail("port", err, "a firewall, or the wrong port?")
		return false
	}
	conn.Close()
	d.add("port", OK, g.Address+" takes connections", "")
	return true
}

// answers looks at TLS, its certificate, and the clocks.
func (d *doctor) answers(ctx context.Context) bool {
	g := d.access.Gateway
	conn, err := g.dial(ctx)
	if err != nil {
		d.fail("tls", err, "")
		d.add("clock", Skip, "no TLS", "")
		return false
	}
	state := conn.ConnectionState()
	leaf := state.PeerCertificates[0]
	d.add("tls", OK, fmt.Sprintf("certificate of %s, good until %s, ALPN %s", leaf.Issuer.CommonName, leaf.NotAfter.Format(time.DateOnly), state.NegotiatedProtocol), "")
	conn.Close()
	begin := time.Now()
	if d.info, err = g.Info(ctx); err != nil {
		d.fail("clock", err, "is that an sshgate gateway?")
		return false
	}
	skew := time.Since(begin)/2 + begin.Sub(d.info.Time)
	if skew.Abs() > maxSkew {
		d.add("clock", Fail, fmt.Sprintf("this machine's clock differs by %s", skew.Round(time.Second)), "set the clock, with NTP for instance")
	} else {
		d.add("clock", OK, "the gateway's and this machine's agree", "")
	}
	return true
}

// sshPort looks at the gateway's SSH server, which modes A and B use.
func (d *doctor) sshPort(ctx context.Context) {
	host, port, err := net.SplitHostPort(d.info.SSH)
	if err != nil {
		d.add("ssh", Skip, "the gateway names no SSH server", "")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		// Not a failure: this way is not the one that is asked about.
		d.add("ssh", Skip, "no way to "+d.info.SSH+" from here, so ssh LOGIN+ORIGIN@"+host+" and ssh -J do not work: "+err.Error(), "use sshgate access ssh")
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // fails only on a closed connection
	banner, err := bufio.NewReaderSize(conn, 256).ReadString('\n')
	if err != nil || !strings.HasPrefix(banner, "SSH-2.0-") {
		d.add("ssh", Fail, d.info.SSH+" does not answer as an SSH server", "tell whoever runs the gateway")
		return
	}
	d.add("ssh", OK, d.info.SSH+" answers "+strings.TrimSpace(banner), "")
}

// token looks whether there is a credential, and whether the gateway takes it.
func (d *doctor) token(ctx context.Context) bool {
	a := d.access
	var me struct {
		Identity  string    `json:"identity"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	err := a.Call(ctx, http.MethodGet, "/api/v1/whoami", nil, &me)
	switch {
	case err == nil:
		d.add("token", OK, me.Identity+", until "+me.ExpiresAt.Local().Format("2006-01-02 15:04"), "")
		return true
	case !a.Machine() && a.Place.Token().Value == "":
		d.add("token", Skip, "not signed in", "run: sshgate access login --gateway "+a.Gateway.Address)
	default:
		d.fail("token", err, "run: sshgate access login --gateway "+a.Gateway.Address)
	}
	return false
}

// origin looks at what the policy says of the host, and whether it answers.
func (d *doctor) origin(ctx context.Context, hostname string, signedIn bool) {
	skip := func(why string, names ...string) {
		for _, name := range names {
			d.add(name, Skip, why, "")
		}
	}
	switch {
	case hostname == "":
		skip("give --hostname to look at an origin", "policy", "origin", "connect", "websocket")
		return
	case !signedIn:
		skip("not without a token", "policy", "origin", "connect", "websocket")
		return
	}
	service, err := sshgate.ParseEndpoint(hostname)
	if err != nil {
		d.fail("policy", err, "the hostname is an origin's name, or NAME:PORT")
		skip("no such name", "origin", "connect", "websocket")
		return
	}
	o, err := d.access.Origin(ctx, service)
	if err != nil {
		d.fail("policy", err, "ask whoever runs the gateway")
		skip("not allowed", "origin", "connect", "websocket")
		return
	}
	d.policy(service, o)
	if !o.Online {
		d.add("origin", Fail, service.Short()+" is offline: no connector publishes it right now", "look at the connector there: systemctl status sshgate-connector")
		skip("the origin is offline", "connect", "websocket")
		return
	}
	d.add("origin", OK, service.Short()+" is online", "")
	if !o.EndToEnd {
		skip("the policy does not allow it end to end", "connect", "websocket")
		return
	}
	d.ways(ctx, service)
}

func (d *doctor) policy(service sshgate.Endpoint, o OriginService) {
	var ways []string
	if o.Session {
		logins := strings.Join(o.Logins, ", ")
		if o.AnyLogin {
			logins = strings.TrimPrefix(logins+", any", ", ")
		}
		ways = append(ways, "sessions as "+logins)
	}
	if o.EndToEnd {
		ways = append(ways, "end to end")
	}
	d.add("policy", OK, service.Short()+": "+strings.Join(ways, "; "), "")
}

// ways tries the two ways to the service.
func (d *doctor) ways(ctx context.Context, service sshgate.Endpoint) {
	c, err := d.access.Credential(ctx, "")
	if err != nil {
		d.fail("connect", err, "")
		return
	}
	for _, way := range []struct {
		name string
		open func(context.Context, Credential, sshgate.Endpoint) (Stream, error)
	}{{"connect", d.access.Gateway.connect}, {"websocket", d.access.Gateway.connectWebSocket}} {
		stream, err := way.open(ctx, c, service)
		var swallowed *swallowedError
		switch {
		case err == nil:
			stream.Close()
			d.add(way.name, OK, service.Short()+" can be reached", "")
		case errors.As(err, &swallowed):
			d.add(way.name, Skip, err.Error(), "something between here and the gateway keeps CONNECT back; WebSocket is used instead")
		default:
			d.fail(way.name, err, "run it again with: sshgate access ssh --hostname "+service.String())
		}
	}
}
