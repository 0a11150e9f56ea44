package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gliderlabs/ssh"
	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
	gossh "golang.org/x/crypto/ssh"
)

// keepaliveInterval is how often a client that waits for its user's sign-in is
// sent an empty info-request: it keeps NAT entries alive and proves that the
// client is still there.
const keepaliveInterval = 10 * time.Second

// authGrace is how long a client may take to prove its keys, touches of a security
// key included. It is OpenSSH's LoginGraceTime.
const authGrace = 2 * time.Minute

// grant is what authentication ends in. It travels in the Permissions of the
// callback that succeeded and nowhere else: what an earlier callback of the same
// connection saw proves nothing (CVE-2024-45337).
type grant struct {
	identity sshgate.Identity
	target   sshgate.Target
	key      string // fingerprint of the key that was proven, "" where none was
	proof    sshgate.Key

	// credential is what the client got in by, until when, and since the moment before
	// it was found good. The zero one is of a sign-in that could not be kept.
	credential sshgate.Credential
	until      time.Time
	since      live.Moment
}

type grantKey struct{}

func (g *grant) permissions() *gossh.Permissions {
	return &gossh.Permissions{ExtraData: map[any]any{grantKey{}: g}}
}

// grantOf returns what the connection authenticated as, nil where nothing says.
func grantOf(sc *gossh.ServerConn) *grant {
	if sc == nil || sc.Permissions == nil {
		return nil
	}
	g, _ := sc.Permissions.ExtraData[grantKey{}].(*grant)
	return g
}

// authState is what the callbacks of one connection remember between them. None
// of it says who the client is.
type authState struct {
	banner func(string) error // shows a text in every client, BatchMode too
	proven string             // fingerprint of the first key that the client proved
	proofs map[string]sshgate.Key
	// demands are what a sign-in must be like that helps where one of before does not.
	demands authflow.Demands
	over    bool // a sign-in has ended without success; do not offer another
}

// note keeps what is known of a key that was proven. That a FIDO token was touched is
// a condition of x/crypto's for its signature.
func (a *authState) note(fingerprint string, key gossh.PublicKey) {
	if a.proofs == nil {
		a.proofs = make(map[string]sshgate.Key)
	}
	proof := sshgate.Key{Type: key.Type()}
	proof.Touched = proof.Hardware()
	a.proofs[fingerprint] = proof
}

var (
	errNoneAuth    = errors.New("authentication is required")
	errUnknownKey  = errors.New("the key belongs to no sign-in")
	errCertificate = errors.New("certificates are not taken, the key itself is")
	errSignInOver  = errors.New("the sign-in is over")
)

// serverConfig returns the configuration of one connection. It is fresh each
// time because gliderlabs adds its host keys to it.
//
// gliderlabs sets NoClientAuth when none of its own authentication handlers is
// set, and they cannot be: they know no partial success. NoClientAuthCallback
// is what keeps the door shut then.
func (s *Server) serverConfig(ctx ssh.Context) *gossh.ServerConfig {
	c := ctx.Value(connKey{}).(*conn)
	cfg := &gossh.ServerConfig{
		Config:                  transport(),
		PublicKeyAuthAlgorithms: gossh.SupportedAlgorithms().PublicKeyAuths,
		MaxAuthTries:            s.cfg.MaxAuthTries,
		ServerVersion:           "SSH-2.0-" + s.cfg.Version,
		NoClientAuthCallback: func(gossh.ConnMetadata) (*gossh.Permissions, error) {
			return nil, errNoneAuth
		},
		PublicKeyCallback:           anyPlainKey,
		VerifiedPublicKeyCallback:   c.keyProven,
		KeyboardInteractiveCallback: c.signIn,
		PreAuthConnCallback: func(pre gossh.ServerPreAuthConn) {
			c.auth.banner = pre.SendAuthBanner
			c.net.begun.Store(true)
			c.net.limit(min(authGrace, s.cfg.LoginTimeout)) // signIn allows more
		},
		AuthLogCallback: func(_ gossh.ConnMetadata, method string, err error) {
			c.log.Debug("authentication attempt", "method", method, "err", err)
		},
	}
	for _, key := range s.cfg.HostKeys {
		cfg.AddHostKey(key)
	}
	return cfg
}

// anyPlainKey lets the client prove any key, so that a client that has proven
// none is told nothing about which keys are known. Certificates would need checks of their own to mean anything;
// OpenSSH offers the plain key after one.
func anyPlainKey(_ gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
	if _, ok := key.(*gossh.Certificate); ok {
		return nil, errCertificate
	}
	return &gossh.Permissions{}, nil
}

// keyProven is called when the client has signed with key. A key that is bound
// to a sign-in is enough. The first other one leads on: the client's further
// keys, of which one may be bound, or the sign-in.
func (c *conn) keyProven(meta gossh.ConnMetadata, key gossh.PublicKey, _ *gossh.Permissions, _ string) (*gossh.Permissions, error) {
	fingerprint := gossh.FingerprintSHA256(key)
	c.auth.note(fingerprint, key)
	g, rejection := c.machine(meta, fingerprint)
	if rejection != nil {
		return nil, c.rejectKey(fingerprint, rejection)
	}
	if g == nil {
		g = c.remembered(meta, fingerprint)
	}
	if g != nil {
		if denied := c.takeConnection(g); denied != nil {
			return nil, c.rejectKey(fingerprint, ofLimit(denied))
		}
		c.record(sshgate.Event{Kind: sshgate.EventLoginKey, Key: fingerprint}.By(g.identity))
		return c.admit(g), nil
	}
	if c.auth.proven != "" || c.auth.over {
		return nil, errUnknownKey
	}
	c.auth.proven = fingerprint
	// Interactive clients read the sign-in's address next. One in BatchMode
	// leaves now, and this is all that its user gets to see.
	_ = c.auth.banner(c.batchHint(meta.User())) // fails only with the connection
	// From here on only keys that are bound are worth a signature: a security key
	// must not ask for a touch in vain. As with any SSH server, the holder of one
	// key can now find out whether another's public key would be let in.
	return nil, &gossh.PartialSuccessError{Next: gossh.ServerAuthCallbacks{
		PublicKeyCallback: func(meta gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
			fingerprint := gossh.FingerprintSHA256(key)
			services := c.srv.cfg.Services
			if (services == nil || !services.KeyRegistered(c.ctx, fingerprint)) && c.remembered(meta, fingerprint) == nil {
				return nil, errUnknownKey
			}
			return &gossh.Permissions{}, nil
		},
		KeyboardInteractiveCallback: c.signIn,
	}}
}

// remembered returns the grant of a key that is bound to a sign-in which is
// still good for the target, otherwise nil.
func (c *conn) remembered(meta gossh.ConnMetadata, fingerprint string) *grant {
	target, err := sshgate.ParseTarget(meta.User())
	if err != nil || fingerprint == "" {
		return nil
	}
	since := c.srv.cfg.Live.Moment()
	login, err := c.srv.cfg.Logins.KeyLogin(c.ctx, fingerprint)
	if err != nil {
		c.log.Debug("key is not remembered", "key", fingerprint, "err", err)
		return nil
	}
	now := c.srv.cfg.Now()
	if login.Fingerprint != fingerprint || !now.Before(login.ExpiresAt) {
		return nil
	}
	g := &grant{
		identity: login.Identity, target: target, key: fingerprint, proof: c.auth.proofs[fingerprint],
		credential: sshgate.Credential{Key: fingerprint, Identity: login.Identity.Key()}, until: login.ExpiresAt, since: since,
	}
	if decision := c.srv.cfg.Policy().Decide(c.request(g, target, sshgate.ChannelSession)); decision.Expired {
		if up := decision.StepUp; up != nil {
			c.auth.demands = authflow.Demands{MaxAge: up.MaxAge, ACRValues: up.ACRValues, Prompt: up.Prompt}
		}
		return nil // good elsewhere, but this origin wants a newer one, or one of another kind
	}
	return g
}

// machine returns the grant of a key that is registered for a service token, nil
// where it is not, or why that token is no longer good.
func (c *conn) machine(meta gossh.ConnMetadata, fingerprint string) (*grant, error) {
	if c.srv.cfg.Services == nil {
		return nil, nil
	}
	since := c.srv.cfg.Live.Moment()
	id, until, registered, err := c.srv.cfg.Services.ServiceKey(c.ctx, fingerprint)
	if !registered {
		if err != nil {
			c.log.Error("the key could not be looked up among service tokens", "key", fingerprint, "err", err)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	target, err := sshgate.ParseTarget(meta.User())
	if err != nil {
		return nil, &authflow.Failure{Code: "bad_target", Sentence: err.Error()}
	}
	return &grant{
		identity: id, target: target, key: fingerprint, proof: c.auth.proofs[fingerprint],
		credential: sshgate.Credential{Key: fingerprint, Identity: id.Key()}, until: until, since: since,
	}, nil
}

// rejectKey tells the user why a key that is known is not taken. Nobody is asked
// to sign in in its place.
func (c *conn) rejectKey(fingerprint string, rejection error) error {
	c.auth.over = true
	c.record(sshgate.Event{Kind: sshgate.EventLoginFailure, Key: fingerprint, Reason: rejection.Error()})
	_ = c.auth.banner(strings.TrimPrefix(failureText(rejection), "\n")) // fails only with the connection
	return rejection
}

// stillGood says why the credential of a machine no longer counts, nil while it
// does. People's sign-ins are judged by the policy.
func (c *conn) stillGood(g *grant) *sshgate.Denied {
	if g.identity.Kind != sshgate.ServiceToken || c.srv.cfg.Services == nil {
		return nil
	}
	_, _, registered, err := c.srv.cfg.Services.ServiceKey(c.ctx, g.key)
	if registered && err == nil {
		return nil
	}
	id, sentence := sshgate.NewRequestID(), "the service token of this key is no longer good; end this connection"
	var failure *authflow.Failure
	switch {
	case errors.As(err, &failure):
		sentence = failure.Sentence
	case err == nil:
		err = errors.New("the key is no longer registered")
	}
	event := sshgate.Event{Kind: sshgate.EventDecision, Request: id, Key: g.key, Origin: g.target.Origin, Login: g.target.Login, Reason: err.Error()}
	c.record(event.By(g.identity))
	return &sshgate.Denied{RequestID: id, Code: sshgate.DenialPolicy, Sentence: ascii(sentence), Cause: err}
}

// takeConnection counts the connection among those of its identity.
func (c *conn) takeConnection(g *grant) (denied *sshgate.Denied) {
	c.quota, denied = c.srv.cfg.Limits.Connection(g.identity, c.addr)
	return denied
}

// ofLimit is a refusal as a failed sign-in.
func ofLimit(denied *sshgate.Denied) error {
	return &authflow.Failure{Code: authflow.CodeTooMany, Sentence: denied.UserMessage(), Err: denied}
}

// admit ends authentication.
func (c *conn) admit(g *grant) *gossh.Permissions {
	c.admitted.Store(true)
	c.net.unlimited.Store(true)
	c.net.limit(0)
	c.authenticated()
	c.hold(g)
	return g.permissions()
}

// signIn is keyboard-interactive authentication: it shows where to sign in and
// waits until somebody has. It asks no question before that, because a client without
// a terminal would answer at once, and no answer is ever taken for an approval: the
// number of a page, where it is asked for, comes on top of one.
func (c *conn) signIn(meta gossh.ConnMetadata, challenge gossh.KeyboardInteractiveChallenge) (*gossh.Permissions, error) {
	if c.auth.over {
		return nil, errSignInOver
	}
	c.net.limit(c.srv.cfg.LoginTimeout)
	g, err := c.waitForSignIn(meta, challenge)
	if err == nil {
		denied := c.takeConnection(g)
		if denied == nil {
			return c.admit(g), nil
		}
		err = ofLimit(denied)
	}
	c.auth.over = true
	c.record(sshgate.Event{Kind: sshgate.EventLoginFailure, Key: c.auth.proven, Reason: err.Error()})
	if !errors.Is(context.Cause(c.ctx), errClientGone) {
		_ = say(challenge, failureText(err)) // fails only with the connection
	}
	return nil, err
}

// joinSignIn takes part in the sign-in of the key, as far as the limits allow.
func (c *conn) joinSignIn(asker authflow.Asker) (ticket *authflow.Ticket, leave func(), err error) {
	limits := c.srv.cfg.Limits
	giveBack, denied := limits.Pending(c.addr, asker.Key)
	if denied != nil {
		return nil, nil, ofLimit(denied)
	}
	ticket, err = c.srv.cfg.SignIns.Join(c.ctx, asker.Key, asker)
	if err != nil {
		giveBack()
		if failure, ok := errors.AsType[*authflow.Failure](err); ok && failure.Code == authflow.CodeTooMany {
			_ = limits.Refuse(sshgate.LimitPending, sshgate.Identity{}, c.addr, failure.Sentence)
		}
		return nil, nil, err
	}
	return ticket, func() {
		ticket.Leave()
		giveBack()
	}, nil
}

func (c *conn) waitForSignIn(meta gossh.ConnMetadata, challenge gossh.KeyboardInteractiveChallenge) (*grant, error) {
	target, err := sshgate.ParseTarget(meta.User())
	if err != nil {
		return nil, &authflow.Failure{Code: "bad_target", Sentence: err.Error()}
	}
	ticket, leave, err := c.joinSignIn(authflow.Asker{
		Connection: c.id, Address: c.addr, Client: string(meta.ClientVersion()), Key: c.auth.proven, Target: target,
		Demands: c.auth.demands,
	})
	if err != nil {
		return nil, err
	}
	defer leave()
	// Another connection with this key may have been signed in since the key
	// was looked up, too late for this one to share the sign-in.
	if g := c.remembered(meta, c.auth.proven); g != nil {
		c.record(sshgate.Event{Kind: sshgate.EventLoginKey, Key: g.key}.By(g.identity))
		return g, nil
	}
	c.record(sshgate.Event{Kind: sshgate.EventLoginStart, Key: c.auth.proven, Origin: target.Origin, Login: target.Login})
	if err := say(challenge, signInText(target, ticket.Prompt())); err != nil {
		return nil, err
	}

	if err := c.await(challenge, ticket); err != nil {
		return nil, err
	}
	identity, err := ticket.Result()
	if err != nil {
		return nil, err
	}
	g := &grant{identity: identity, target: target, key: c.auth.proven, proof: c.auth.proofs[c.auth.proven]}
	c.record(sshgate.Event{Kind: sshgate.EventLoginSuccess, Key: g.key}.By(identity))
	return g, say(challenge, c.welcomeText(g, c.remember(g)))
}

// await returns when the sign-in is over. It asks for the number of the page where
// the sign-in wants that.
func (c *conn) await(challenge gossh.KeyboardInteractiveChallenge, ticket *authflow.Ticket) error {
	tick := time.NewTicker(keepaliveInterval)
	defer tick.Stop()
	late := time.NewTimer(c.srv.cfg.LoginTimeout - c.srv.cfg.LoginTimeout/50) // while there is time to say so
	defer late.Stop()
	asked := ticket.Asked()
	for {
		select {
		case <-ticket.Done():
			return nil
		case <-asked:
			asked = nil
			if err := askNumber(challenge, ticket); err != nil {
				return err
			}
		case <-tick.C:
			if err := say(challenge, ""); err != nil {
				return err
			}
		case <-late.C:
			return &authflow.Failure{Code: authflow.CodeExpired, Sentence: "the sign-in was not completed in time"}
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// askNumber has the user type the number that the page shows. A client without a
// terminal answers with nothing at once, which is a wrong answer like any other.
func askNumber(challenge gossh.KeyboardInteractiveChallenge, ticket *authflow.Ticket) error {
	instruction := ""
	for {
		answers, err := challenge("", instruction, []string{"Number on the page: "}, []bool{true})
		if err != nil {
			return err
		}
		var text string
		if len(answers) == 1 {
			text = answers[0]
		}
		if ticket.Answer(text) == 0 {
			return nil
		}
		instruction = "That is not the number.\n"
	}
}

// remember binds the proven key to the sign-in, and says until when. Where there is no
// key the sign-in is kept as that of the connection, so that it can be revoked.
func (c *conn) remember(g *grant) (until time.Time) {
	name := g.key
	if name == "" {
		name = sshgate.NoKey(c.id)
	}
	since := c.srv.cfg.Live.Moment()
	until = g.identity.SignedInAt.Add(c.srv.cfg.Policy().LongestSession())
	err := c.srv.cfg.Logins.BindKey(c.ctx, sshgate.KeyLogin{Fingerprint: name, Identity: g.identity, ExpiresAt: until})
	if err != nil {
		// The sign-in counts all the same, for this connection alone.
		c.log.Error("the key could not be remembered", "key", name, "err", err)
		return time.Time{}
	}
	g.credential, g.until, g.since = sshgate.Credential{Key: name, Identity: g.identity.Key()}, until, since
	if g.key == "" {
		return time.Time{}
	}
	return until
}

// say shows text, which must be ASCII: OpenSSH before 10.3 escapes all else. An
// empty text is a keepalive that no client shows.
func say(challenge gossh.KeyboardInteractiveChallenge, text string) error {
	_, err := challenge("", text, nil, nil)
	return err
}

func signInText(target sshgate.Target, p authflow.Prompt) string {
	var b strings.Builder
	if target.Origin == "" {
		b.WriteString("\nSign in with your browser:\n")
	} else {
		fmt.Fprintf(&b, "\nTo reach %s, sign in with your browser:\n", target.Origin)
	}
	if p.VerificationURIComplete != "" {
		fmt.Fprintf(&b, "\n    %s\n\nand check that the page shows this code:  %s\n", p.VerificationURIComplete, p.UserCode)
	} else {
		fmt.Fprintf(&b, "\n    %s\n\nand enter this code:  %s\n", p.VerificationURI, p.UserCode)
	}
	if p.Asks {
		b.WriteString("\nThen type the number here that the page shows. Type it nowhere else.\n")
	}
	b.WriteString("\nWaiting for you ... (Ctrl-C gives up)\n")
	return b.String()
}

func (c *conn) welcomeText(g *grant, until time.Time) string {
	text := "\nSigned in as " + ascii(g.identity.String()) + "."
	if !until.IsZero() {
		text += fmt.Sprintf(" Your key is remembered for %s.", roundDuration(until.Sub(c.srv.cfg.Now())))
	}
	return text + "\n"
}

// failureText is what the user reads when the sign-in ends without success.
func failureText(err error) string {
	var failure *authflow.Failure
	switch {
	case errors.As(err, &failure):
		return "\nsshgate: " + ascii(failure.Sentence) + "\n"
	case errors.Is(err, errShuttingDown):
		return "\nsshgate: the gateway is shutting down; try again in a moment\n"
	default:
		return "\nsshgate: the sign-in failed; try again\n"
	}
}

func (c *conn) batchHint(user string) string {
	target, err := sshgate.ParseTarget(user)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("sshgate: this key is not signed in (in BatchMode, first run by hand: ssh %s)\n",
		c.srv.commandFor(target))
}

// commandFor returns the arguments of ssh that reach target through the gateway.
func (s *Server) commandFor(target sshgate.Target) string {
	host, port, err := net.SplitHostPort(s.cfg.Advertise)
	if err != nil {
		host, port = s.cfg.Advertise, "22"
	}
	command := target.String() + "@" + host
	if port != "22" {
		command = "-p " + port + " " + command
	}
	return command
}

// ascii replaces what a terminal or an old client would not show as it stands.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// roundDuration gives the two largest units that people care about.
func roundDuration(d time.Duration) string {
	d = d.Round(time.Minute)
	h, m := d/time.Hour, d%time.Hour/time.Minute
	switch {
	case h == 0:
		return fmt.Sprintf("%d min", m)
	case m == 0 || h >= 24:
		return fmt.Sprintf("%d h", h)
	default:
		return fmt.Sprintf("%d h %d min", h, m)
	}
}

// record stamps an event with what the connection knows.
func (c *conn) record(e sshgate.Event) {
	e.Time = c.srv.cfg.Now()
	e.Connection = c.id
	e.ClientAddr = c.addr
	c.srv.cfg.Events.Record(e)
}

// request is the question to the policy about one channel.
func (c *conn) request(g *grant, target sshgate.Target, channel sshgate.Channel) sshgate.Request {
	return sshgate.Request{
		Identity:   g.identity,
		Target:     target,
		ClientAddr: c.addr,
		Key:        g.proof,
		Channel:    channel,
		Time:       c.srv.cfg.Now(),
	}
}
