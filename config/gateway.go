package config

import (
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
)

// Gateway is the configuration of sshgated.
type Gateway struct {
	// Hostname is the name that people and connectors use. Required.
	Hostname string
	// DataDir is the directory of keys, CA and database, absolute here.
	// Required; it need not exist.
	DataDir string
	SSH     SSH
	Tunnel  Tunnel
	Metrics Metrics
	SignIn  SignIn
	// Limits bounds what addresses and identities may do; the fields for what
	// they may have at once stand with the ports.
	Limits Limits
	// ProxyProtocol says whose PROXY headers are believed.
	ProxyProtocol ProxyProtocol
	// Connectors says how connectors are let in.
	Connectors Connectors
	// Origins says how the gateway signs in at origins; see Origin, the method.
	Origins []Origin
	// Workloads are the jobs that get in with an ID token of their platform, in
	// the order in which they are tried.
	Workloads []Workload

	policy   sshgate.Policy
	tests    []policyTest
	warnings []Problem
}

// SSH is the port for people.
type SSH struct {
	// Listen is HOST:PORT. Default ":22".
	Listen string
	// Advertise is the HOST:PORT that banners and printed commands show. Default
	// the hostname with the port of Listen.
	Advertise string
	// LoginTimeout limits the whole authentication, the sign-in in the browser
	// included. Default 10m, from 1m to 1h.
	LoginTimeout time.Duration
	// HandshakeTimeout limits what comes before the authentication. Default 20s,
	// from 1s to 5m.
	HandshakeTimeout time.Duration
	// MaxConnections limits all connections. Default 4096.
	MaxConnections int
	// MaxStartups limits those that have not signed in yet, as sshd's MaxStartups
	// does. Default 300:30:1000.
	MaxStartups sshgate.Startups
	// MaxStartupsPerAddress limits those of one address. Default 100.
	MaxStartupsPerAddress int
	// MaxConnectionsPerIdentity, MaxChannelsPerIdentity and MaxSessionsPerIdentity
	// limit what one identity has open at once, SSH and HTTPS together. Defaults
	// 500, 2000 and 1000.
	MaxConnectionsPerIdentity int
	MaxChannelsPerIdentity    int
	MaxSessionsPerIdentity    int
	// MaxAuthTries limits the attempts of one connection, of which each key that
	// an agent offers is one. Default 20.
	MaxAuthTries int
	// MaxChannels limits the open channels of one connection. Default 256.
	MaxChannels int
	// DrainTimeout is how long running sessions may go on after SIGTERM. Default
	// 30s, up to 1d; 0s ends them at once.
	DrainTimeout time.Duration
}

// Tunnel is the TLS port that connectors and helpers dial.
type Tunnel struct {
	// Listen is HOST:PORT. Default ":443".
	Listen string
	// Advertise is the HOST:PORT that helpers are told. Default the hostname with
	// the port of Listen.
	Advertise string
	// CertificateFile and KeyFile are PEM files, absolute here. Both are empty
	// by default: then the gateway's own CA signs a certificate for Hostname.
	CertificateFile string
	KeyFile         string
	// ACME has a certificate authority issue the certificate; nil by default.
	ACME *ACME
	// MaxTunnels limits the connections of connectors, of which each has two by
	// default. Default 16384.
	MaxTunnels int
	// MaxConnectionsPerAddress limits the connections of one address that are not
	// a connector's. Default 1000.
	MaxConnectionsPerAddress int
}

// ACME is a certificate authority that issues certificates by itself (RFC 8555).
type ACME struct {
	// Email is where the authority may write to. Empty by default.
	Email string
	// Directory is the authority's URL. Default that of Let's Encrypt.
	Directory string
	// CAFile is a PEM file, absolute here, with the roots by which the authority's own
	// server is trusted. Empty by default: the system's.
	CAFile string
}

// Metrics is the port for monitoring: /healthz, /readyz and /metrics.
type Metrics struct {
	// Listen is HOST:PORT. Default 127.0.0.1:9090. Empty when the file says off.
	Listen string
}

// Connectors says how connectors are let in; who may let them in stands in the
// policy.
type Connectors struct {
	// CertificateTTL is how long a new connector's certificate is good for. It is
	// renewed in time, for as long again. Default 90d, from 1m to 3650d.
	CertificateTTL time.Duration
}

// SignIn is the OpenID Connect provider.
type SignIn struct {
	// Issuer is the provider's issuer URL, exactly as the provider writes it:
	// https, or http on a loopback host. Required.
	Issuer string
	// ClientID is what the provider calls the gateway. Required.
	ClientID string
	// ClientSecret is the content of client_secret_file or of the variable that
	// client_secret_env names. Empty for a public client.
	ClientSecret Secret
	// Scopes are those to ask for; openid is always the first. Default openid,
	// email, profile.
	Scopes []string
	// GroupsClaim names the claim that holds the groups. Default groups.
	GroupsClaim sshgate.ClaimPath
	// Flow is how people sign in. Default FlowAuto.
	Flow SignInFlow
	// ConfirmCode has the terminal answer with a number that the page shows. It
	// needs FlowWeb.
	ConfirmCode bool
	// SameNetwork refuses browsers that are in another network than the client. It
	// needs FlowWeb.
	SameNetwork bool
	// Networks count as one network together, for SameNetwork.
	Networks []netip.Prefix
	// UserInfo asks the provider's UserInfo endpoint for claims that the ID token
	// lacks.
	UserInfo bool
	// MaxPending limits the sign-ins that wait at once. Default 1000.
	MaxPending int
	// MaxPendingPerAddress limits those of one address. Default 20.
	MaxPendingPerAddress int
}

// SignInFlow is a way for people to sign in.
type SignInFlow string

// The ways for people to sign in.
const (
	FlowAuto   SignInFlow = ""       // FlowDevice where the provider has it, else FlowWeb
	FlowDevice SignInFlow = "device" // at the provider alone, RFC 8628
	FlowWeb    SignInFlow = "web"    // on the gateway's page and at the provider
)

// OriginAuth is a way of signing in at an origin.
type OriginAuth string

// The ways of signing in at an origin.
const (
	AuthCA    OriginAuth = "ca"    // a short certificate of the gateway's user CA
	AuthAgent OriginAuth = "agent" // the agent that the client forwards
	AuthKey   OriginAuth = "key"   // a private key in a file
)

// Origin says how the gateway signs in at the origins that Name stands for.
type Origin struct {
	Name sshgate.HostPattern
	// Auth is AuthCA by default.
	Auth OriginAuth
	// KeyFile is the private key for AuthKey, absolute here, otherwise empty.
	KeyFile string
	// CertificateTTL is how long a certificate of AuthCA is valid. Default 5m,
	// from 1m to 1d. Zero for other ways.
	CertificateTTL time.Duration
}

const defaultCertificateTTL = 5 * time.Minute

// Policy returns the access policy, which has been validated. It is shared:
// do not change it.
func (g *Gateway) Policy() *sshgate.Policy { return &g.policy }

// Origin returns how to sign in at the origin: the entry of Origins with the
// most specific name that matches, or AuthCA with its defaults.
func (g *Gateway) Origin(name sshgate.OriginName) Origin {
	best := Origin{Auth: AuthCA, CertificateTTL: defaultCertificateTTL}
	specificity := -1
	for _, o := range g.Origins {
		if o.Name.Match(name) && o.Name.Specificity() > specificity {
			best, specificity = o, o.Name.Specificity()
		}
	}
	return best
}

// Warnings returns what is legal but hardly meant, in the order of its lines.
func (g *Gateway) Warnings() []Problem { return g.warnings }

// PolicyTests returns how many tests the policy has, all of which it passes.
func (g *Gateway) PolicyTests() int { return len(g.tests) }

// ParseGateway reads the configuration of sshgated from memory. The name of the
// file is for messages and says where relative paths start; see LoadGateway.
func ParseGateway(data []byte, file string, env func(string) string) (*Gateway, error) {
	return Reader{Env: env}.ParseGateway(data, file)
}

// ParseGateway reads from memory, see the function of that name.
func (r Reader) ParseGateway(data []byte, file string) (*Gateway, error) {
	g := &Gateway{
		SSH: SSH{
			Listen: ":22", LoginTimeout: 10 * time.Minute, HandshakeTimeout: 20 * time.Second,
			MaxConnections: 4096, MaxStartups: sshgate.Startups{Start: 300, Rate: 30, Full: 1000}, MaxStartupsPerAddress: 100,
			MaxConnectionsPerIdentity: 500, MaxChannelsPerIdentity: 2000, MaxSessionsPerIdentity: 1000,
			MaxAuthTries: 20, MaxChannels: 256, DrainTimeout: 30 * time.Second,
		},
		Tunnel:     Tunnel{Listen: ":443", MaxTunnels: 16384, MaxConnectionsPerAddress: 1000},
		Limits:     defaultLimits(),
		Metrics:    Metrics{Listen: "127.0.0.1:9090"},
		Connectors: Connectors{CertificateTTL: 90 * day},
		SignIn: SignIn{
			Scopes: []string{"openid", "email", "profile"}, GroupsClaim: "groups", MaxPending: 1000, MaxPendingPerAddress: 20,
		},
	}
	var err error
	if g.warnings, err = r.parse(data, file, exampleGateway, g.decode); err != nil {
		return nil, err
	}
	if g.SSH.Advertise == "" {
		_, port, _ := net.SplitHostPort(g.SSH.Listen) // parsed before
		g.SSH.Advertise = net.JoinHostPort(g.Hostname, port)
	}
	if g.Tunnel.Advertise == "" {
		_, port, _ := net.SplitHostPort(g.Tunnel.Listen) // parsed before
		g.Tunnel.Advertise = net.JoinHostPort(g.Hostname, port)
	}
	return g, nil
}

func (g *Gateway) decode(c cursor) {
	c.object(schema{
		"hostname":   parsed(&g.Hostname, hostname, "expected the gateway's name, as in gate.example.com"),
		"data_dir":   directory(&g.DataDir),
		"ssh":        g.SSH.decode,
		"tunnel":     g.Tunnel.decode,
		"metrics":    g.Metrics.decode,
		"sign_in":    g.SignIn.decode,
		"limits":     g.Limits.decode,
		"connectors": g.Connectors.decode,
		"origins":    list(&g.Origins, origin),
		"workloads":  list(&g.Workloads, workload),
		"policy":     decodePolicy(&g.policy, &g.tests),

		"proxy_protocol": g.ProxyProtocol.decode,
	}, required{
		"hostname": "expected the name that people and connectors use, as in gate.example.com",
		"data_dir": "expected a directory for keys and state, as in /var/lib/sshgated",
		"sign_in":  "expected the issuer and client_id of the OpenID Connect provider",
		"policy":   "without one nobody reaches anything",
	})
	g.checkListeners(c)
	g.checkACME(c)
	checkNames(c, g.Origins, func(o Origin) sshgate.HostPattern { return o.Name })
	g.checkWorkloads(c)
	g.checkWorkloadSelectors(c)
	g.runTests(c)
}

// checkListeners reports two ports that can not be opened together.
func (g *Gateway) checkListeners(c cursor) {
	listeners := []struct{ path, address string }{
		{"ssh.listen", g.SSH.Listen}, {"tunnel.listen", g.Tunnel.Listen}, {"metrics.listen", g.Metrics.Listen},
	}
	for i, b := range listeners {
		for _, a := range listeners[:i] {
			if overlap(a.address, b.address) {
				if c.doc.nodes[b.path] == nil {
					a, b = b, a // blame the one that the file sets
				}
				c.doc.problemAt(b.path, "takes the same port as "+a.path+" ("+a.address+"); give it another")
			}
		}
	}
}

// overlap tells whether two addresses to listen on are in each other's way.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isWildcard(hostA) || isWildcard(hostB)
}

func isWildcard(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }

// checkNames reports names that stand twice in the list `origins`.
func checkNames[T any, N comparable](c cursor, origins []T, name func(T) N) {
	var none N // did not decode
	for i, o := range origins {
		first := slices.IndexFunc(origins, func(other T) bool { return name(other) == name(o) })
		if first < i && name(o) != none {
			c.doc.problemAt(fmt.Sprintf("origins[%d].name", i), fmt.Sprintf("%s is the name of origins[%d] too; names must differ", quote(fmt.Sprint(name(o))), first))
		}
	}
}

func (s *SSH) decode(c cursor) {
	c.object(schema{
		"listen":            parsed(&s.Listen, listenAddress, listenExpected),
		"advertise":         parsed(&s.Advertise, dialAddress("22"), "expected HOST:PORT, as in gate.example.com:22"),
		"login_timeout":     duration(&s.LoginTimeout, time.Minute, time.Hour),
		"handshake_timeout": duration(&s.HandshakeTimeout, time.Second, 5*time.Minute),
		"max_connections":   integer(&s.MaxConnections, 1, 1_000_000),
		"max_startups":      parsed(&s.MaxStartups, sshgate.ParseStartups, "expected START:RATE:FULL, as in 300:30:1000, or one number"),

		"max_startups_per_address":     integer(&s.MaxStartupsPerAddress, 1, 1_000_000),
		"max_connections_per_identity": integer(&s.MaxConnectionsPerIdentity, 1, 1_000_000),
		"max_channels_per_identity":    integer(&s.MaxChannelsPerIdentity, 1, 1_000_000),
		"max_sessions_per_identity":    integer(&s.MaxSessionsPerIdentity, 1, 1_000_000),

		"max_auth_tries": integer(&s.MaxAuthTries, 1, 100),
		"max_channels":   integer(&s.MaxChannels, 1, 10_000),
		"drain_timeout":  duration(&s.DrainTimeout, 0, day),
	}, nil)
}

func (t *Tunnel) decode(c cursor) {
	hasCertificate, hasKey := false, false
	c.object(schema{
		"listen":           parsed(&t.Listen, listenAddress, listenExpected),
		"advertise":        parsed(&t.Advertise, dialAddress("443"), "expected HOST:PORT, as in gate.example.com:443"),
		"certificate_file": noted(&hasCertificate, publicFile(&t.CertificateFile)),
		"key_file":         noted(&hasKey, secretFile(&t.KeyFile)),
		"acme":             t.decodeACME,
		"max_tunnels":      integer(&t.MaxTunnels, 1, 1_000_000),

		"max_connections_per_address": integer(&t.MaxConnectionsPerAddress, 1, 1_000_000),
	}, nil)
	if t.ACME != nil && (hasCertificate || hasKey) {
		c.problem("has both acme and certificate_file or key_file; keep one")
		return
	}
	if hasCertificate != hasKey {
		c.problem("has only one of certificate_file and key_file; set both, or none to have the gateway's own CA sign a certificate")
	}
}

func (t *Tunnel) decodeACME(c cursor) {
	t.ACME = &ACME{Directory: "https://acme-v02.api.letsencrypt.org/directory"}
	c.object(schema{
		"email":     parsed(&t.ACME.Email, mailAddress, "expected an address, as in ops@example.com"),
		"directory": parsed(&t.ACME.Directory, directoryURL, "expected an https URL, as in https://ca.example.com/acme/directory"),
		"ca_file":   publicFile(&t.ACME.CAFile),
	}, nil)
}

// checkACME refuses a hostname that no authority signs.
func (g *Gateway) checkACME(c cursor) {
	if g.Tunnel.ACME == nil || c.doc.reported("hostname") {
		return
	}
	if _, err := netip.ParseAddr(g.Hostname); err == nil || !strings.Contains(g.Hostname, ".") {
		c.doc.problemAt("tunnel.acme", "needs a hostname that is a full DNS name; "+quote(g.Hostname)+" is none")
	}
}

func mailAddress(s string) (string, error) {
	if addr, err := mail.ParseAddress(s); err != nil || addr.Address != s {
		return "", fmt.Errorf("%s is not an e-mail address", quote(s))
	}
	return s, nil
}

func directoryURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" || u.User != nil {
		return "", errors.New("is not an https URL")
	}
	return s, nil
}

// noted sets the flag when the key is there, whether or not its value decodes.
func noted(flag *bool, decode func(cursor)) func(cursor) {
	return func(c cursor) {
		*flag = true
		decode(c)
	}
}

func (m *Metrics) decode(c cursor) {
	c.object(schema{"listen": parsed(&m.Listen, func(s string) (string, error) {
		if s == "off" {
			return "", nil
		}
		return listenAddress(s)
	}, listenExpected+", or off")}, nil)
}

func (s *SignIn) decode(c cursor) {
	fromFile, fromEnv := false, false
	c.object(schema{
		"issuer":             parsed(&s.Issuer, issuerURL, "expected an https URL, as in https://accounts.example.com"),
		"client_id":          text(&s.ClientID),
		"client_secret_file": noted(&fromFile, secretFromFile(&s.ClientSecret)),
		"client_secret_env":  noted(&fromEnv, secretFromEnv(&s.ClientSecret)),
		"scopes":             list(&s.Scopes, scope),
		"userinfo":           parsed(&s.UserInfo, boolean, ""),
		"groups_claim":       parsed(&s.GroupsClaim, sshgate.ParseClaimPath, ""),
		"flow":               parsed(&s.Flow, signInFlow, ""),
		"confirm_code":       parsed(&s.ConfirmCode, boolean, ""),
		"same_network":       parsed(&s.SameNetwork, boolean, ""),
		"networks":           list(&s.Networks, func(dst *netip.Prefix) func(cursor) { return parsed(dst, addressRange, "") }),
		"max_pending":        integer(&s.MaxPending, 1, 100_000),

		"max_pending_per_address": integer(&s.MaxPendingPerAddress, 1, 100_000),
	}, required{
		"issuer":    "expected the provider's URL, as in https://accounts.example.com",
		"client_id": "expected what the provider calls this gateway",
	})
	if fromFile && fromEnv {
		c.problem("has both client_secret_file and client_secret_env; keep one")
	}
	s.Scopes = withOpenID(s.Scopes)
	s.checkFlow(c)
}

// checkFlow refuses protections that the flow would leave out.
func (s *SignIn) checkFlow(c cursor) {
	if (s.ConfirmCode || s.SameNetwork) && s.Flow != FlowWeb && !c.doc.reported(c.path+".flow") {
		c.problem("confirm_code and same_network need flow: web; the device flow has no page of the gateway's")
	}
	if len(s.Networks) > 0 && !s.SameNetwork && !c.doc.reported(c.path+".same_network") {
		c.problem("networks has no meaning without same_network: true")
	}
}

func signInFlow(s string) (SignInFlow, error) {
	switch flow := SignInFlow(s); flow {
	case FlowDevice, FlowWeb:
		return flow, nil
	}
	return "", fmt.Errorf("%s is not a way to sign in; expected device or web", quote(s))
}

// withOpenID puts openid first and drops repetitions.
func withOpenID(scopes []string) []string {
	result := []string{"openid"}
	for _, s := range scopes {
		if s != "" && !slices.Contains(result, s) {
			result = append(result, s)
		}
	}
	return result
}

func (k *Connectors) decode(c cursor) {
	c.object(schema{"certificate_ttl": duration(&k.CertificateTTL, time.Minute, 3650*day)}, nil)
}

func origin(dst *Origin) func(cursor) {
	return func(c cursor) {
		hasKey, hasTTL := false, false
		*dst = Origin{Auth: AuthCA, CertificateTTL: defaultCertificateTTL}
		c.object(schema{
			"name":            hostPattern(&dst.Name),
			"auth":            parsed(&dst.Auth, originAuth, ""),
			"key_file":        noted(&hasKey, secretFile(&dst.KeyFile)),
			"certificate_ttl": noted(&hasTTL, duration(&dst.CertificateTTL, time.Minute, day)),
		}, required{"name": `expected an origin's name, "*.suffix" or "*"`})
		if c.doc.reported(c.path + ".auth") {
			return
		}
		if hasKey != (dst.Auth == AuthKey) {
			c.problem("key_file and auth: key go together; set both or neither")
		}
		if dst.Auth != AuthCA {
			dst.CertificateTTL = 0
			if hasTTL {
				c.problem("certificate_ttl has no meaning with auth: %s", dst.Auth)
			}
		}
	}
}

func originAuth(s string) (OriginAuth, error) {
	switch auth := OriginAuth(s); auth {
	case AuthCA, AuthAgent, AuthKey:
		return auth, nil
	}
	return "", fmt.Errorf("%s is not a way to sign in; expected ca, agent or key", quote(s))
}
