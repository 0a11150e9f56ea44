package web

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"github.com/sshgate/sshgate/sshgate/enrolment"
	"golang.org/x/crypto/ssh"
)

// Tokens issues and checks what callers show. *authflow.Tokens is one. Its errors
// are *authflow.Failure.
type Tokens interface {
	Issue(ctx context.Context, id sshgate.Identity, expires time.Time) (string, error)
	Access(ctx context.Context, token string) (sshgate.Identity, time.Time, error)
	Service(ctx context.Context, id sshgate.ServiceTokenID, secret string) (sshgate.Identity, time.Time, error)
	Revoke(ctx context.Context, token string) error
}

// Workloads takes ID tokens of jobs. *authflow.Workloads is one.
type Workloads interface {
	Exchange(ctx context.Context, idToken string) (sshgate.Identity, error)
}

// SignIns starts sign-ins. *authflow.Pending is one.
type SignIns interface {
	Join(ctx context.Context, key string) (*authflow.Ticket, error)
}

// UserCA signs certificates that origins trust. *gateway.UserCA is one.
type UserCA interface {
	PublicKey() ssh.PublicKey
	Certify(key ssh.PublicKey, logins []sshgate.Login, keyID string, now time.Time, ttl time.Duration) (*ssh.Certificate, error)
}

// HostKeyPins has the host keys that origins are known by.
type HostKeyPins interface {
	AllHostKeys(ctx context.Context) ([]sshgate.HostKeyPin, error)
	HostKeys(ctx context.Context, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error)
}

// Recorder takes events for the record. *audit.Log is one.
type Recorder interface {
	Record(sshgate.Event)
}

// APIConfig is what an API needs. Fields without a default must be set.
type APIConfig struct {
	Hostname string // of the gateway
	// URL is where clients reach the API, "https://gate.example.com".
	URL string
	// SSH is the HOST:PORT of the gateway's SSH server, HostKeys its host keys.
	SSH      string
	HostKeys []ssh.PublicKey
	Version  string

	Policy    func() *sshgate.Policy
	Broker    *endtoend.Broker
	Tokens    Tokens
	Workloads func() Workloads // those in force now; nil, or nil from it: there are none
	SignIns   SignIns
	Origins   func() []connector.OriginStatus // what connectors publish now
	HostPins  HostKeyPins
	CA        UserCA
	Events    Recorder
	// Enrolment lets connectors in; nil: none are. CheckConnector decides whether a
	// connector's certificate is still good, as connector.HubConfig.Check does.
	Enrolment      *enrolment.Desk
	CheckConnector func(context.Context, connector.Certificate) error

	Log *slog.Logger     // default: nothing is logged
	Now func() time.Time // default time.Now
}

// API is what helpers use: API.md says how. Close it when it serves no more.
type API struct {
	cfg      APIConfig
	mux      *http.ServeMux
	devices  *devices
	visitors *visitors
	wrong    *tries // credentials that an address gets wrong
	signIns  *tries // that an address starts
}

// NewAPI checks the configuration and returns a handler for the TLS port.
func NewAPI(cfg APIConfig) (*API, error) {
	if cfg.Policy == nil || cfg.Broker == nil || cfg.Tokens == nil || cfg.SignIns == nil || cfg.Origins == nil ||
		cfg.HostPins == nil || cfg.CA == nil || cfg.Events == nil || cfg.URL == "" {
		return nil, errors.New("the API lacks a required part of its configuration")
	}
	if cfg.Enrolment != nil && cfg.CheckConnector == nil {
		return nil, errors.New("the API lets connectors in, but cannot check their certificates")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Workloads == nil {
		cfg.Workloads = func() Workloads { return nil }
	}
	a := &API{cfg: cfg, mux: http.NewServeMux(), devices: newDevices(), visitors: newVisitors(), wrong: newTries(20, 3*time.Second), signIns: newTries(60, time.Second)}
	landing := Landing()
	routes := []route{
		{"GET /{$}", landing.ServeHTTP},
		{"GET /.well-known/oauth-authorization-server", a.metadata},
		{"POST /oauth/device_authorization", a.deviceAuthorization},
		{"POST /oauth/token", a.token},
		{"POST /oauth/revoke", a.revoke},
		{"GET /connect/{host}/{port}", a.websocket},
		{"GET /api/v1/gateway", a.gateway},
		{"GET /api/v1/whoami", a.authenticated(a.whoami)},
		{"GET /api/v1/origins", a.authenticated(a.origins)},
		{"GET /api/v1/origins/{name}", a.authenticated(a.origin)},
		{"POST /api/v1/certificate", a.authenticated(a.certificate)},
	}
	if cfg.Enrolment != nil {
		routes = append(routes, a.enrolmentRoutes()...)
	}
	for _, route := range routes {
		a.mux.HandleFunc(route.pattern, route.handle)
	}
	return a, nil
}

// route is a path, and what answers there.
type route struct {
	pattern string
	handle  http.HandlerFunc
}

func (a *API) enrolmentRoutes() []route {
	return []route{
		{"GET " + enrolPath, a.enrolPage},
		{"GET " + enrolPath + "/style.css", a.style},
		{"POST " + enrolPath + "/sign-in", a.enrolSignIn},
		{"GET " + enrolPath + "/machine", a.enrolMachine},
		{"POST " + enrolPath + "/decide", a.enrolDecide},
		{"POST /api/v1/enrolments", a.enrol},
		{"POST /api/v1/enrolments/certificate", a.enrolmentAnswer},
		{"GET /api/v1/connector", a.certified(a.aboutConnector)},
		{"POST /api/v1/connector/renew", a.certified(a.renew)},
	}
}

// Close gives up the sign-ins that wait.
func (a *API) Close() {
	a.devices.close()
	a.visitors.close()
}

const maxBody = 64 << 10 // bytes of a request

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		a.connect(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	SecureHeaders(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := a.mux.Handler(r); pattern == "" {
			a.noRoute(w, r)
			return
		}
		a.mux.ServeHTTP(w, r)
	})).ServeHTTP(w, r)
}

// noRoute answers in the form of all errors what the mux would in its own.
func (a *API) noRoute(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := a.mux.Handler(other); pattern != "" {
			w.Header().Set("Allow", method)
			fail(w, problem{status: http.StatusMethodNotAllowed, code: "bad_method", text: "the method there is " + method})
			return
		}
	}
	fail(w, problem{status: http.StatusNotFound, code: "not_found", text: "there is nothing at this path"})
}
