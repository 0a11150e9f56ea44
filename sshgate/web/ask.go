package web

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/endtoend"
	"golang.org/x/crypto/ssh"
)

// gateway is what anybody may know.
func (a *API) gateway(w http.ResponseWriter, _ *http.Request) {
	keys := make([]string, len(a.cfg.HostKeys))
	for i, key := range a.cfg.HostKeys {
		keys[i] = keyLine(key)
	}
	answer(w, http.StatusOK, map[string]any{
		"hostname": a.cfg.Hostname, "version": a.cfg.Version, "ssh": a.cfg.SSH, "host_keys": keys,
		"user_ca": keyLine(a.cfg.CA.PublicKey()), "time": a.cfg.Now().UTC().Format(time.RFC3339),
	})
}

// keyLine returns the key in authorized_keys form, without a comment.
func keyLine(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

func (a *API) whoami(w http.ResponseWriter, _ *http.Request, who caller) {
	kind := string(who.identity.Kind)
	if who.identity.Kind == sshgate.Person {
		kind = "person"
	}
	answer(w, http.StatusOK, struct {
		Identity   string    `json:"identity"`
		Kind       string    `json:"kind"`
		Issuer     string    `json:"issuer"`
		Subject    string    `json:"subject"`
		Email      string    `json:"email,omitempty"`
		Name       string    `json:"name,omitempty"`
		Groups     []string  `json:"groups,omitempty"`
		SignedInAt time.Time `json:"signed_in_at"`
		ExpiresAt  time.Time `json:"expires_at"`
	}{
		printable(who.identity.String()), kind, who.identity.Issuer, who.identity.Subject, who.identity.VerifiedEmail(),
		who.identity.Name, who.identity.Groups, who.identity.SignedInAt.UTC().Truncate(time.Second), who.expires.UTC().Truncate(time.Second),
	})
}

// service is what a caller may do with one service of an origin.
type service struct {
	Port     uint16 `json:"port"`
	Kind     string `json:"kind"`
	Session  bool   `json:"session,omitempty"`
	EndToEnd bool   `json:"end_to_end"`
}

// reachable is an origin that a caller may reach.
type reachable struct {
	Name     sshgate.OriginName `json:"name"`
	Online   bool               `json:"online"`
	Logins   []sshgate.Login    `json:"logins"`
	AnyLogin bool               `json:"any_login"`
	Services []service          `json:"services"`
}

// request is a question to the policy.
func (a *API) request(who caller, origin sshgate.OriginName, channel sshgate.Channel, port uint16) sshgate.Request {
	return sshgate.Request{
		Identity: who.identity, Target: sshgate.Target{Origin: origin}, ClientAddr: who.addr, Channel: channel, Port: port, Time: a.cfg.Now(),
	}
}

// look says what the caller may do with one service.
func (a *API) look(who caller, endpoint sshgate.Endpoint) (s service, logins []sshgate.Login, anyLogin bool) {
	policy := a.cfg.Policy()
	s = service{Port: endpoint.Port, Kind: "tcp"}
	s.EndToEnd = policy.Decide(a.request(who, endpoint.Origin, endpoint.Channel(), endpoint.Port)).Allowed
	if endpoint.Port == sshgate.SSHPort {
		s.Kind = "ssh"
		logins, anyLogin = policy.Logins(a.request(who, endpoint.Origin, sshgate.ChannelSession, 0))
		s.Session = len(logins) > 0 || anyLogin
	}
	return s, logins, anyLogin
}

// origins lists what the caller may reach of what is published, or was.
func (a *API) origins(w http.ResponseWriter, r *http.Request, who caller) {
	pins, err := a.cfg.HostPins.AllHostKeys(r.Context())
	if err != nil {
		a.cfg.Log.Error("the pinned host keys could not be read", "err", err)
		fail(w, problem{status: http.StatusServiceUnavailable, code: "unavailable", text: "the gateway cannot read its state right now; try again in a moment"})
		return
	}
	online := publishedNow(a.cfg.Origins())
	all := make(map[sshgate.Endpoint]bool, len(online))
	for endpoint := range online {
		all[endpoint] = true
	}
	for _, pin := range pins {
		endpoint := sshgate.Endpoint{Origin: pin.Origin, Port: sshgate.SSHPort}
		all[endpoint] = online[endpoint]
	}
	found := map[sshgate.OriginName]*reachable{}
	for endpoint, up := range all {
		s, logins, anyLogin := a.look(who, endpoint)
		if !s.EndToEnd && !s.Session {
			continue
		}
		o := found[endpoint.Origin]
		if o == nil {
			o = &reachable{Name: endpoint.Origin, Logins: []sshgate.Login{}}
			found[endpoint.Origin] = o
		}
		o.Services = append(o.Services, s)
		o.Online = o.Online || up
		o.Logins, o.AnyLogin = append(o.Logins, logins...), o.AnyLogin || anyLogin
	}
	list := make([]*reachable, 0, len(found))
	for _, o := range found {
		slices.SortFunc(o.Services, func(a, b service) int { return int(a.Port) - int(b.Port) })
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b *reachable) int { return strings.Compare(string(a.Name), string(b.Name)) })
	answer(w, http.StatusOK, map[string]any{"origins": list})
}

// publishedNow returns the services that a connector publishes.
func publishedNow(statuses []connector.OriginStatus) map[sshgate.Endpoint]bool {
	online := make(map[sshgate.Endpoint]bool, len(statuses))
	for _, s := range statuses {
		if len(s.Connectors) > 0 {
			online[sshgate.Endpoint{Origin: s.Origin, Port: s.Port}] = true
		}
	}
	return online
}

// origin is about one service.
func (a *API) origin(w http.ResponseWriter, r *http.Request, who caller) {
	port := uint64(sshgate.SSHPort)
	if text := r.URL.Query().Get("port"); text != "" {
		var err error
		if port, err = strconv.ParseUint(text, 10, 16); err != nil {
			fail(w, badRequest("the port is not a number from 1 to 65535"))
			return
		}
	}
	name := r.PathValue("name")
	endpoint, err := sshgate.NewEndpoint(name, uint32(port))
	if err != nil {
		a.deny(w, who, sshgate.OriginName(printable(name[:min(len(name), 64)])), err)
		return
	}
	s, logins, anyLogin := a.look(who, endpoint)
	pins, err := a.cfg.HostPins.HostKeys(r.Context(), endpoint.Origin)
	if err != nil {
		a.cfg.Log.Error("the pinned host keys could not be read", "err", err)
	}
	up := publishedNow(a.cfg.Origins())[endpoint]
	known := up || endpoint.Port == sshgate.SSHPort && len(pins) > 0
	if !known || !s.EndToEnd && !s.Session {
		a.deny(w, who, endpoint.Origin, fmt.Errorf("asked about %s", endpoint))
		return
	}
	keys := []string{}
	for _, pin := range pins {
		if endpoint.Port == sshgate.SSHPort {
			keys = append(keys, pin.Key)
		}
	}
	answer(w, http.StatusOK, map[string]any{
		"name": endpoint.Origin, "port": endpoint.Port, "online": up, "session": s.Session, "end_to_end": s.EndToEnd,
		"logins": append([]sshgate.Login{}, logins...), "any_login": anyLogin, "host_keys": keys,
	})
}

// deny answers as to a name that does not exist.
func (a *API) deny(w http.ResponseWriter, who caller, name sshgate.OriginName, cause error) {
	denial := endtoend.NotThere(sshgate.NewRequestID(), name, cause)
	a.cfg.Log.Info("a question was refused", "request", denial.RequestID, "identity", who.identity.String(), "cause", cause)
	fail(w, ofDenial(denial))
}
