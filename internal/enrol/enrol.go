// Package enrol is how a connector is let in at a gateway, and how it renews its
// certificate: the machine's side of what sshgate/web/API.md has under
// "Connectors". Keys are made here and never leave.
package enrol

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/internal/proxydial"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
)

const (
	pinTimeout  = 20 * time.Second
	pollPause   = time.Second
	pollSlowing = 5 * time.Second
	pollGrace   = 30 * time.Second // over the end that the gateway says
)

// Wish is what a machine asks for.
type Wish struct {
	Name      string // of the connector, "" for that of the machine
	Machine   string
	Software  string
	Hostnames []string // none: the person chooses
}

// Prompt is what a person has to see.
type Prompt struct {
	URL      string // with the code in it
	UserCode string
}

// Issued is a certificate, with its key and what else the gateway says.
type Issued struct {
	CertPEM, KeyPEM []byte

	Connector string
	Hostnames []string
	ExpiresAt time.Time
	UserCA    string // in authorized_keys form
}

// answer is the gateway's.
type answer struct {
	Certificate string `json:"certificate"`
	UserCA      string `json:"user_ca"`
}

// issued joins the answer with the key, which it must be for. What else it says is
// what the certificate says, and the user CA one key: it goes where sshd reads it.
func (a answer) issued(keyPEM []byte) (*Issued, error) {
	pair, err := tls.X509KeyPair([]byte(a.Certificate), keyPEM)
	if err == nil {
		err = connector.CheckName(pair.Leaf.Subject.CommonName)
	}
	if err != nil {
		return nil, &helper.Problem{Kind: helper.Unreachable, Text: "the gateway sent a certificate that cannot be used", Err: err}
	}
	for _, hostname := range pair.Leaf.DNSNames {
		if _, err := sshgate.ParseHostPattern(hostname); err != nil {
			return nil, &helper.Problem{Kind: helper.Unreachable, Text: "the gateway sent a certificate that cannot be used", Err: err}
		}
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(a.UserCA))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return nil, &helper.Problem{Kind: helper.Unreachable, Text: "the gateway sent a user CA that is not one SSH public key", Err: err}
	}
	return &Issued{
		CertPEM: connector.EncodeCertificate(pair.Leaf), KeyPEM: keyPEM,
		Connector: pair.Leaf.Subject.CommonName, Hostnames: pair.Leaf.DNSNames, ExpiresAt: pair.Leaf.NotAfter,
		UserCA: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
	}, nil
}

// body is the request that the key in keyPEM signs.
func (w Wish) body() (body map[string]any, keyPEM []byte, err error) {
	request, keyPEM, err := connector.NewRequest()
	if err != nil {
		return nil, nil, err
	}
	return map[string]any{"request": request, "name": w.Name, "machine": w.Machine, "software": w.Software, "hostnames": w.Hostnames}, keyPEM, nil
}

// Join lets the machine in with a join token.
func Join(ctx context.Context, g *helper.Gateway, w Wish, token string) (*Issued, error) {
	body, keyPEM, err := w.body()
	if err != nil {
		return nil, err
	}
	var got answer
	if err := g.Ask(ctx, http.MethodPost, "/api/v1/enrolments", helper.Credential{Token: token}, body, &got); err != nil {
		return nil, err
	}
	return got.issued(keyPEM)
}

// asked is RFC 8628 section 3.2.
type asked struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	Complete   string `json:"verification_uri_complete"`
	ExpiresIn  int    `json:"expires_in"`
}

// SignIn has a person let the machine in: show tells where.
func SignIn(ctx context.Context, g *helper.Gateway, w Wish, show func(Prompt)) (*Issued, error) {
	body, keyPEM, err := w.body()
	if err != nil {
		return nil, err
	}
	var wait asked
	if err := g.Ask(ctx, http.MethodPost, "/api/v1/enrolments", helper.Credential{}, body, &wait); err != nil {
		return nil, err
	}
	if u, err := url.Parse(wait.Complete); err != nil || u.Scheme != "https" || wait.DeviceCode == "" {
		return nil, &helper.Problem{Kind: helper.Unreachable, Text: g.Address + " sent an enrolment that cannot be used"}
	}
	show(Prompt{URL: wait.Complete, UserCode: wait.UserCode})
	got, err := poll(ctx, g, wait)
	if err != nil {
		return nil, err
	}
	return got.issued(keyPEM)
}

var errTooLate = &helper.Problem{Kind: helper.SignIn, Text: "nobody let the machine in in time", Next: "try again"}

// poll asks until a person has answered.
func poll(ctx context.Context, g *helper.Gateway, wait asked) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(max(wait.ExpiresIn, 60))*time.Second+pollGrace, errTooLate)
	defer cancel()
	pause := pollPause
	for {
		var got answer
		err := g.Ask(ctx, http.MethodPost, "/api/v1/enrolments/certificate", helper.Credential{}, map[string]string{"device_code": wait.DeviceCode}, &got)
		var p *helper.Problem
		switch {
		case err == nil:
			return got, nil
		case ctx.Err() != nil:
			return answer{}, context.Cause(ctx)
		case !errors.As(err, &p):
			return answer{}, err
		case p.Code == "slow_down":
			pause += pollSlowing
		case p.Code == "authorization_pending", p.Kind == helper.Unreachable && p.Code != "unavailable":
			// The gateway may be restarting: the wish is lost only when it says so.
		case p.Code == "invalid_grant", p.Code == "unavailable":
			return answer{}, &helper.Problem{Kind: helper.SignIn, Text: "the enrolment was lost, the gateway was restarted perhaps", Next: "try again"}
		default:
			return answer{}, p
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answer{}, context.Cause(ctx)
		}
	}
}

// PinnedCA returns the CA with the pin, PEM, that the gateway at the address
// (HOST:PORT) shows, after it has proved that it has a certificate of it.
func PinnedCA(ctx context.Context, address, pin string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, pinTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := proxydial.New().DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &helper.Problem{Kind: helper.Unreachable, Text: "the gateway " + address + " cannot be reached", Err: err, Next: "check the name and the network"}
	}
	defer raw.Close()
	var caPEM []byte
	conn := tls.Client(raw, &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // VerifyConnection does it, by the pin
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			caPEM, err = connector.PinnedCA(pin, host, state, time.Now())
			return err
		},
	})
	err = conn.HandshakeContext(ctx)
	switch {
	case errors.Is(err, connector.ErrPin):
		return nil, &helper.Problem{Kind: helper.Unreachable, Code: "tls", Text: "the gateway " + address + " is not the one with that pin", Err: err,
			Next: "compare with what \"sshgated connector pin\" prints on the gateway; somebody may be in between"}
	case err != nil:
		return nil, &helper.Problem{Kind: helper.Unreachable, Code: "tls", Text: "TLS with the gateway " + address + " failed", Err: err}
	}
	return caPEM, nil
}

// Site is a gateway that has let the connector in.
type Site struct {
	Address     string // HOST:PORT
	ServerName  string
	CAPEM       []byte // what signs the gateway's certificate; empty: what the system trusts
	Credentials *connector.Credentials
}

// gateway returns it as one that is asked once.
func (s *Site) gateway() (*helper.Gateway, error) {
	g, err := helper.NewGateway(s.Address, s.CAPEM)
	if err != nil {
		return nil, err
	}
	g.ServerName = s.ServerName
	g.Certificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.Credentials.Current() }
	return g, nil
}

// Renew replaces the connector's certificate and key.
func (s *Site) Renew(ctx context.Context) error {
	g, err := s.gateway()
	if err != nil {
		return err
	}
	defer g.CloseIdle()
	body, keyPEM, err := Wish{}.body()
	if err != nil {
		return err
	}
	var got answer
	if err := g.Ask(ctx, http.MethodPost, "/api/v1/connector/renew", helper.Credential{}, body, &got); err != nil {
		return err
	}
	issued, err := got.issued(keyPEM)
	if err != nil {
		return err
	}
	return s.Credentials.Replace(issued.CertPEM, issued.KeyPEM)
}

// Time asks the gateway what time it is there. It shows no certificate.
func (s *Site) Time(ctx context.Context) (time.Time, error) {
	g, err := s.gateway()
	if err != nil {
		return time.Time{}, err
	}
	defer g.CloseIdle()
	g.Certificate = nil
	var about About
	err = g.Ask(ctx, http.MethodGet, "/api/v1/gateway", helper.Credential{}, nil, &about)
	return about.Time, err
}

// About is what the gateway says of the connector.
type About struct {
	Connector        string    `json:"connector"`
	Hostnames        []string  `json:"hostnames"`
	Serial           string    `json:"serial"`
	ExpiresAt        time.Time `json:"expires_at"`
	UserCA           string    `json:"user_ca"`
	ProbeCertificate string    `json:"probe_certificate"`
	Version          string    `json:"version"`
	Time             time.Time `json:"time"`
}

// About asks the gateway, which proves that it knows the certificate. The login, ""
// for none, is one that the probe certificate shall be for, too.
func (s *Site) About(ctx context.Context, login sshgate.Login) (*About, error) {
	g, err := s.gateway()
	if err != nil {
		return nil, err
	}
	defer g.CloseIdle()
	path := "/api/v1/connector"
	if login != "" {
		path += "?login=" + url.QueryEscape(string(login))
	}
	var about About
	if err := g.Ask(ctx, http.MethodGet, path, helper.Credential{}, nil, &about); err != nil {
		return nil, fmt.Errorf("asking the gateway: %w", err)
	}
	return &about, nil
}
