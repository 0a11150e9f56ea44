package connector

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sshgate/sshgate/sshgate"
)

// Origin is a service that an agent publishes: the SSH server of an origin, or
// another one.
type Origin struct {
	// Name is what people reach it by.
	Name sshgate.OriginName
	// Port tells the services of a name apart. Default 22, the SSH server; it is
	// not the port that is dialled.
	Port uint16
	// Network is "tcp", the default, or "unix".
	Network string
	// Address is what the agent dials for it: HOST:PORT, or the path of a socket.
	Address string
}

func (o Origin) endpoint() sshgate.Endpoint {
	return sshgate.Endpoint{Origin: o.Name, Port: cmp.Or(o.Port, sshgate.SSHPort)}
}

func (o Origin) isSSH() bool { return o.endpoint().Port == sshgate.SSHPort }

// AgentConfig is what an Agent needs.
type AgentConfig struct {
	// Gateway is the HOST:PORT of the gateway's tunnel. Required.
	Gateway string
	// TLS holds the connector's certificate (Certificates or, to renew it
	// without a restart, GetClientCertificate), the gateway's CA (RootCAs; nil
	// means the system's) and the gateway's name (ServerName; default the host
	// of Gateway). Required. Version and protocols are set by the agent, and
	// InsecureSkipVerify is refused.
	TLS *tls.Config
	// Connections is how many tunnels are kept open. Default 2.
	Connections int
	// Origins are all that the agent ever dials: 1 to MaxOrigins, with
	// different names or ports.
	Origins []Origin
	// MaxStreams is how many connections to origins there can be at a time, in
	// all tunnels. Default 1024.
	MaxStreams int
	// Software names the program and its version to the gateway, as in
	// "sshgate/1.2.3". Default "sshgate".
	Software string
	// Log is for the operator of the connector. Nil discards.
	Log *slog.Logger
	// Now is the clock that tells whether a tunnel was stable. Default time.Now.
	Now func() time.Time
	// DialGateway and DialOrigin open the network connections. Default net.Dialer.
	DialGateway Dialer
	DialOrigin  Dialer
}

const (
	defaultConnections   = 2
	defaultAgentStreams  = 1024
	defaultSoftware      = "sshgate"
	maxLingering         = 16 // drained tunnels with streams on them
	maxConcurrentScans   = 4
	retryMultiplier      = 2
	tcpNetwork           = "tcp"
	unixNetwork          = "unix"
	gatewayNotOurTLSHint = "is that the tunnel port of an sshgate gateway?"
)

// Agent is the origins' end of the tunnels. Make one with NewAgent, then call
// Run.
type Agent struct {
	cfg    AgentConfig
	log    *slog.Logger
	timing timing
	tls    *tls.Config
	keys   *hostKeys

	instance  string        // tells this process from the connector's replicas
	ready     chan struct{} // closed at the first registration
	readyOnce sync.Once
	stopping  context.Context // done once Shutdown is called
	stop      context.CancelFunc
	done      chan struct{} // closed when Run returns
	cancel    context.CancelCauseFunc
	tunnels   sync.WaitGroup // slots and uplinks

	connected atomic.Int64
	lingering atomic.Int64
	streams   atomic.Int64
	served    atomic.Uint64
	traffic   traffic

	// mu guards what follows. It is taken before those of an uplink and of keys.
	mu       sync.Mutex
	running  bool
	renewed  chan struct{} // closed, and replaced, when there is another certificate
	origins  map[sshgate.Endpoint]Origin
	watching map[sshgate.Endpoint]context.CancelFunc // host keys, while Run runs
	watch    func(Origin) context.CancelFunc         // nil unless Run runs
	refused  map[sshgate.Endpoint]Refusal            // what the log was told last
	accepted map[sshgate.Endpoint]bool               // the gateway's last word
	slots    []slot
	uplinks  map[*uplink]bool // that are registered
	counts   counts
}

// NewAgent checks the configuration. Nothing is dialled before Run.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	host, err := checkAddress(cfg.Gateway)
	if err != nil {
		return nil, fmt.Errorf("connector: the gateway's address: %w", err)
	}
	tlsConfig, err := clientTLS(cfg.TLS, host)
	if err != nil {
		return nil, fmt.Errorf("connector: %w", err)
	}
	origins, err := checkOrigins(cfg.Origins)
	if err != nil {
		return nil, fmt.Errorf("connector: %w", err)
	}
	cfg.Connections = cmp.Or(cfg.Connections, defaultConnections)
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, defaultAgentStreams)
	cfg.Software = cmp.Or(cfg.Software, defaultSoftware)
	if cfg.Connections < 0 || cfg.MaxStreams < 0 {
		return nil, errors.New("connector: a limit is negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.DialGateway == nil {
		cfg.DialGateway = (&net.Dialer{}).DialContext
	}
	if cfg.DialOrigin == nil {
		cfg.DialOrigin = (&net.Dialer{}).DialContext
	}
	a := &Agent{
		cfg:      cfg,
		log:      orDiscard(cfg.Log),
		timing:   defaultTiming(),
		tls:      tlsConfig,
		origins:  origins,
		keys:     newHostKeys(cfg.Origins),
		watching: make(map[sshgate.Endpoint]context.CancelFunc),
		ready:    make(chan struct{}),
		renewed:  make(chan struct{}),
		instance: strings.ToLower(rand.Text()[:10]),
		done:     make(chan struct{}),
		refused:  make(map[sshgate.Endpoint]Refusal),
		accepted: make(map[sshgate.Endpoint]bool),
		slots:    make([]slot, cfg.Connections),
		uplinks:  make(map[*uplink]bool),
		counts:   newCounts(),
	}
	a.stopping, a.stop = context.WithCancel(context.Background())
	return a, nil
}

func clientTLS(cfg *tls.Config, host string) (*tls.Config, error) {
	switch {
	case cfg == nil || len(cfg.Certificates) == 0 && cfg.GetClientCertificate == nil:
		return nil, errors.New("the TLS configuration has no client certificate")
	case cfg.InsecureSkipVerify:
		return nil, errors.New("the TLS configuration does not verify the gateway")
	}
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.NextProtos = []string{ALPN}
	cfg.ServerName = cmp.Or(cfg.ServerName, host)
	return cfg, nil
}

func checkOrigins(origins []Origin) (map[sshgate.Endpoint]Origin, error) {
	if len(origins) == 0 || len(origins) > MaxOrigins {
		return nil, fmt.Errorf("%d origins are configured, expected 1 to %d; run another connector for more", len(origins), MaxOrigins)
	}
	services := make(map[sshgate.Endpoint]Origin, len(origins))
	for _, o := range origins {
		if name, err := sshgate.ParseOriginName(string(o.Name)); err != nil || name != o.Name {
			return nil, fmt.Errorf("%q is not the name of an origin in normal form", o.Name)
		}
		service := o.endpoint()
		if _, twice := services[service]; twice {
			return nil, fmt.Errorf("the origin %s is configured twice", service.Short())
		}
		if err := o.checkAddress(); err != nil {
			return nil, fmt.Errorf("the address of %s: %w", service.Short(), err)
		}
		o.Network = cmp.Or(o.Network, tcpNetwork)
		services[service] = o
	}
	return services, nil
}

func (o Origin) checkAddress() error {
	switch {
	case o.Network == "" || o.Network == tcpNetwork:
		_, err := checkAddress(o.Address)
		return err
	case o.Network != unixNetwork:
		return fmt.Errorf("the network %q is neither tcp nor unix", o.Network)
	case o.isSSH():
		return errors.New("the SSH server of an origin is reached by TCP")
	case !filepath.IsAbs(o.Address):
		return fmt.Errorf("%q is not the absolute path of a socket", o.Address)
	}
	return nil
}

// checkAddress returns the host of HOST:PORT.
func checkAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if host == "" || port == "" {
		return "", fmt.Errorf("%q is not HOST:PORT", address)
	}
	return host, nil
}

var (
	errStopped = errors.New("the connector was told to stop")
	errGrace   = errors.New("the connector was told to stop and its connections took too long")
)

// Run keeps the tunnels open until ctx is done, which cuts all connections, or
// Shutdown has had them finish. It returns once everything it started has
// ended. An agent runs once; only a second call is an error.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.mu.Lock()
	if a.running {
		a.mu.Unlock()
		return errors.New("connector: the agent runs already")
	}
	a.running, a.cancel = true, cancel
	var scans sync.WaitGroup
	slots := make(chan struct{}, maxConcurrentScans)
	a.watch = func(o Origin) context.CancelFunc {
		watching, stop := context.WithCancel(ctx)
		scans.Go(func() { a.watchHostKeys(watching, o, slots) })
		return stop
	}
	for service, o := range a.origins {
		if o.isSSH() {
			a.watching[service] = a.watch(o)
		}
	}
	a.mu.Unlock()
	defer close(a.done)

	for n := range a.cfg.Connections {
		a.tunnels.Go(func() { a.keepConnected(ctx, n) })
	}
	a.tunnels.Wait()
	a.mu.Lock()
	a.watch = nil
	a.mu.Unlock()
	cancel(errStopped)
	scans.Wait()
	return nil
}

// SetOrigins replaces what the agent publishes. Connections that are open go on. An
// error says what is wrong with the list, and changes nothing.
func (a *Agent) SetOrigins(list []Origin) error {
	origins, err := checkOrigins(list)
	if err != nil {
		return fmt.Errorf("connector: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for service, stop := range a.watching {
		if origins[service] != a.origins[service] {
			stop()
			delete(a.watching, service)
			a.keys.forget(service.Origin)
		}
	}
	for service := range a.origins {
		if _, stays := origins[service]; !stays {
			delete(a.accepted, service)
			delete(a.refused, service)
		}
	}
	a.origins = origins
	for service, o := range origins {
		if _, watched := a.watching[service]; !watched && o.isSSH() && a.watch != nil {
			a.watching[service] = a.watch(o)
		}
	}
	a.keys.publish(list)
	return nil
}

// origin returns what the configuration has of the service.
func (a *Agent) origin(service sshgate.Endpoint) (Origin, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.origins[service]
	return o, ok
}

// Shutdown has the agent stop: the gateway dials nothing more through it, and
// Run returns when the last connection to an origin has ended. When ctx is done
// before, the rest is cut and its cause returned. It waits for Run.
func (a *Agent) Shutdown(ctx context.Context) error {
	a.stop()
	a.mu.Lock()
	running, cancel := a.running, a.cancel
	a.mu.Unlock()
	if !running {
		return nil
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		cancel(errGrace)
		<-a.done
		return context.Cause(ctx)
	}
}

// Ready is closed when the first tunnel is registered.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// AgentStats are counts for monitoring.
type AgentStats struct {
	Tunnels int    // registered now
	Streams int    // connections to origins now
	Served  uint64 // connections to origins so far
}

// Stats returns the agent's counts.
func (a *Agent) Stats() AgentStats {
	return AgentStats{
		Tunnels: int(a.connected.Load()),
		Streams: int(a.streams.Load()),
		Served:  a.served.Load(),
	}
}

func (a *Agent) isStopping() bool { return a.stopping.Err() != nil }

// keepConnected keeps one tunnel open, whatever happens to it, until ctx is
// done or the agent stops.
func (a *Agent) keepConnected(ctx context.Context, n int) {
	retry := a.newBackOff(a.timing.retryFirst, a.timing.retryMost)
	log := a.log.With("gateway", a.cfg.Gateway, "slot", n)
	var before *uplink // the tunnel whose place the next one takes
	for {
		a.trying(n)
		u, err := a.connect(ctx, n, log, before)
		if ctx.Err() != nil || a.isStopping() {
			return
		}
		if u != nil {
			before = u
			if a.cfg.Now().Sub(u.registeredAt()) >= a.timing.stable {
				retry.Reset()
			}
		}
		if errors.Is(err, errRenewed) {
			continue
		}
		wait := retry.NextBackOff()
		if isDraining(err) {
			// It says so because it is about to stop: another takes its place soon.
			wait = min(wait, a.timing.retryDrained)
		}
		err = a.explain(err)
		a.down(n, err, a.cfg.Now().Add(wait))
		log.Warn("the tunnel is down", "cause", err, "next_try_in", wait.Round(time.Millisecond))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.stopping.Done():
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil || a.isStopping() {
			return
		}
	}
}

// newBackOff returns waits that double from first to most, each longer or
// shorter by up to half.
func (a *Agent) newBackOff(first, most time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, most, retryMultiplier
	b.Reset()
	return b
}

var (
	errMoved   = errors.New("the gateway asked for another tunnel in its place")
	errRenewed = errors.New("the certificate was renewed")
)

func isDraining(err error) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && refusal.Code == CodeDraining
}

// connect opens one tunnel and returns when it has ended or another should take
// its place, with the reason, and with the tunnel if it was registered. The tunnel
// before is left to its connections once this one is registered.
func (a *Agent) connect(ctx context.Context, n int, log *slog.Logger, before *uplink) (*uplink, error) {
	renewed := a.whenRenewed()
	u, err := a.open(ctx, log)
	if err != nil {
		return nil, err
	}
	u.slot = n
	ended := make(chan error, 1)
	a.tunnels.Go(func() { ended <- u.run(ctx) })
	select {
	case <-u.up:
	case err = <-ended:
		return nil, err
	}
	if before != nil {
		before.retire()
	}
	select {
	case <-renewed:
		err = errRenewed
	case err = <-ended:
	case <-u.moved:
		err = errMoved
	}
	return u, err
}

// Renewed has the agent open its tunnels again, one by one, because its certificate
// is another now. Connections go on in the tunnels before, which end with them.
func (a *Agent) Renewed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.renewed)
	a.renewed = make(chan struct{})
}

func (a *Agent) whenRenewed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.renewed
}

// explain adds to an error what to do about it, where that is known.
func (a *Agent) explain(err error) error {
	var unknown *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; is gateway_ca_file that gateway's CA, and server_name a name in its certificate?", err)
	case isAlert(err):
		if leaf := a.certificate(); leaf != nil && a.cfg.Now().After(leaf.NotAfter) {
			return fmt.Errorf("%w; this connector's certificate expired on %s, let it in again with: sshgate connector login --force",
				err, leaf.NotAfter.UTC().Format("2006-01-02 15:04 UTC"))
		}
		return fmt.Errorf("%w; does the gateway know this connector's certificate, and is it still good?", err)
	}
	return err
}

// certificate is the connector's own, nil where it cannot be read.
func (a *Agent) certificate() *x509.Certificate {
	if len(a.tls.Certificates) > 0 {
		return a.tls.Certificates[0].Leaf
	}
	pair, err := a.tls.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil || pair == nil {
		return nil
	}
	return pair.Leaf
}
