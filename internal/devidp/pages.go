package devidp

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// Paths of the pages.
const (
	devicePath  = "/device"
	confirmPath = "/device/confirm"
	donePath    = "/device/done/"
	loginPath   = "/login"
	stylePath   = "/style.css"
)

//go:embed page.html style.css
var assets embed.FS

var pageTemplate = template.Must(template.ParseFS(assets, "page.html"))

// page is what page.html shows.
type page struct {
	Step    string // code, login, confirm, done or error
	Title   string
	Error   string // what was wrong with the last try
	CSRF    string
	Client  string
	Code    string // as a terminal shows it
	Email   string
	Name    string
	Auth    string // ID of an authorization code login, or ""
	Allowed bool

	status     int
	formTarget string // where else than here a form may end up, or ""
}

func (p *Provider) addPages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, devicePath, http.StatusSeeOther)
	})
	mux.HandleFunc("GET "+stylePath, p.serveStyle)
	mux.HandleFunc("GET "+devicePath, p.showCode)
	mux.HandleFunc("POST "+devicePath, p.takeCode)
	mux.HandleFunc("GET "+loginPath, p.showLogin)
	mux.HandleFunc("POST "+loginPath, p.takeLogin)
	mux.HandleFunc("GET "+confirmPath, p.showConfirm)
	mux.HandleFunc("POST "+confirmPath, p.takeConfirm)
	mux.HandleFunc("GET "+donePath+"{answer}", p.showDone)
}

// render writes a page with headers that leave it no scripts, no frames, and no
// way out but its own forms.
func (p *Provider) render(w http.ResponseWriter, content page) {
	content.Client = p.cfg.ClientName
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, content); err != nil {
		p.cfg.Log.Error("can't render a page", "step", content.Step, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+content.formTarget))
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	if content.status == 0 {
		content.status = http.StatusOK
	}
	w.WriteHeader(content.status)
	_, _ = w.Write(body.Bytes()) // fails only with the connection
}

func (p *Provider) serveStyle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "max-age=3600")
	http.ServeFileFS(w, r, assets, "style.css")
}

// stop shows that a page can't go on.
func (p *Provider) stop(w http.ResponseWriter, status int, message string) {
	p.render(w, page{Step: "error", Title: "That did not work", Error: message, status: status})
}

const (
	messageForm = "This form is out of date. Open the link from your terminal again."
	messageFull = "Too many people are signing in. Try again in a few minutes."
	messageMany = "Too many wrong tries. Wait ten minutes, then try again."
)

// posted returns the session that a form was sent in, or answers the request.
func (p *Provider) posted(w http.ResponseWriter, r *http.Request) (session, bool) {
	s, ok := p.sessions.get(r)
	if !ok || !s.checkCSRF(r) {
		p.stop(w, http.StatusForbidden, messageForm)
		return session{}, false
	}
	return s, true
}

// opened returns the session of a browser that looks at a page, or answers the
// request.
func (p *Provider) opened(w http.ResponseWriter, r *http.Request) (session, bool) {
	s, ok := p.sessions.open(w, r)
	if !ok {
		p.stop(w, http.StatusServiceUnavailable, messageFull)
	}
	return s, ok
}

// showCode asks for the code that the terminal shows. The code in a link fills
// the field and no more: a link must not take the decision off the person (RFC
// 8628 section 5.4).
func (p *Provider) showCode(w http.ResponseWriter, r *http.Request) {
	s, ok := p.opened(w, r)
	if !ok {
		return
	}
	p.render(w, codePage(s, normalCode(r.URL.Query().Get("user_code"))))
}

func codePage(s session, code string) page {
	return page{Step: "code", Title: "Connect a terminal", CSRF: s.csrf, Code: shownCode(code)}
}

func (p *Provider) takeCode(w http.ResponseWriter, r *http.Request) {
	s, ok := p.posted(w, r)
	if !ok {
		return
	}
	from := clientKey(r)
	if p.limits.exceeded(from, maxPerClient) {
		p.stop(w, http.StatusTooManyRequests, messageMany)
		return
	}
	code := normalCode(r.PostFormValue("user_code"))
	if !p.storage.waiting(code) {
		p.limits.fail(from)
		again := codePage(s, code)
		again.Error, again.status = "No sign-in waits for this code. It may have expired.", http.StatusUnprocessableEntity
		p.render(w, again)
		return
	}
	s.code = code
	p.sessions.save(s)
	p.forward(w, r, s)
}

// forward sends a browser that has entered a code to the page that is next.
func (p *Provider) forward(w http.ResponseWriter, r *http.Request, s session) {
	switch {
	case s.code == "":
		http.Redirect(w, r, devicePath, http.StatusSeeOther)
	case s.subject == "":
		http.Redirect(w, r, loginPath, http.StatusSeeOther)
	default:
		http.Redirect(w, r, confirmPath, http.StatusSeeOther)
	}
}

func (p *Provider) showLogin(w http.ResponseWriter, r *http.Request) {
	s, ok := p.opened(w, r)
	if !ok {
		return
	}
	auth := r.URL.Query().Get("auth")
	if auth == "" && s.code == "" {
		http.Redirect(w, r, devicePath, http.StatusSeeOther)
		return
	}
	p.render(w, p.loginPage(s, auth))
}

func (p *Provider) loginPage(s session, auth string) page {
	content := page{Step: "login", Title: "Sign in", CSRF: s.csrf, Auth: auth, Code: shownCode(s.code)}
	if a, ok := p.storage.authRequest(auth); ok {
		// Browsers hold the redirects after a form to form-action as well.
		if u, err := url.Parse(a.GetRedirectURI()); err == nil {
			content.formTarget = u.Scheme + "://" + u.Host
		}
	}
	return content
}

func (p *Provider) takeLogin(w http.ResponseWriter, r *http.Request) {
	s, ok := p.posted(w, r)
	if !ok {
		return
	}
	email, auth := r.PostFormValue("email"), r.PostFormValue("auth")
	from, account := clientKey(r), "user "+strings.ToLower(email)
	if p.limits.exceeded(from, maxPerClient) || p.limits.exceeded(account, maxPerUser) {
		p.stop(w, http.StatusTooManyRequests, messageMany)
		return
	}
	user, ok := p.authenticate(email, r.PostFormValue("password"))
	if !ok {
		p.limits.fail(from, account)
		p.cfg.Log.Warn("wrong password", "email", email)
		again := p.loginPage(s, auth)
		again.Email, again.Error, again.status = email, "The e-mail address or the password is wrong.", http.StatusUnauthorized
		p.render(w, again)
		return
	}
	s.subject, s.signedInAt = user.Subject, p.cfg.Now()
	if s, ok = p.sessions.renew(w, s); !ok {
		p.stop(w, http.StatusServiceUnavailable, messageFull)
		return
	}
	p.cfg.Log.Info("signed in", "email", user.Email)
	if auth == "" {
		p.forward(w, r, s)
		return
	}
	if !p.storage.signIn(auth, user.Subject, s.signedInAt) {
		p.stop(w, http.StatusUnprocessableEntity, "This sign-in has expired. Start again where you came from.")
		return
	}
	ctx := op.ContextWithIssuer(r.Context(), p.cfg.Issuer)
	http.Redirect(w, r, op.AuthCallbackURL(p.op)(ctx, auth), http.StatusSeeOther)
}

// authenticate takes as long for an unknown address as for a wrong password.
func (p *Provider) authenticate(email, password string) (User, bool) {
	user, known := p.storage.userByEmail(email)
	// Hashes, because the comparison would give away the length.
	want, got := sha256.Sum256([]byte(user.Password)), sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(want[:], got[:]) == 1
	return user, same && known
}

func (p *Provider) showConfirm(w http.ResponseWriter, r *http.Request) {
	s, ok := p.opened(w, r)
	if !ok {
		return
	}
	user, known := p.storage.userBySubject(s.subject)
	if s.code == "" || !known {
		p.forward(w, r, s)
		return
	}
	p.render(w, page{Step: "confirm", Title: "Allow access?", CSRF: s.csrf, Code: shownCode(s.code), Email: user.Email, Name: user.Name})
}

func (p *Provider) takeConfirm(w http.ResponseWriter, r *http.Request) {
	s, ok := p.posted(w, r)
	if !ok {
		return
	}
	if s.code == "" || s.subject == "" {
		p.forward(w, r, s)
		return
	}
	var said answer
	var done string
	switch r.PostFormValue("decision") {
	case "allow":
		said, done = allowed, "allowed"
	case "deny":
		said, done = denied, "denied"
	case "switch":
		s.subject = ""
		p.sessions.save(s)
		p.forward(w, r, s)
		return
	default:
		p.stop(w, http.StatusBadRequest, messageForm)
		return
	}
	code := s.code
	s.code = ""
	p.sessions.save(s)
	if !p.storage.decide(code, s.subject, s.signedInAt, said) {
		p.stop(w, http.StatusUnprocessableEntity, "This sign-in has expired. Start again in your terminal.")
		return
	}
	p.cfg.Log.Info("device login answered", "answer", done, "subject", s.subject)
	http.Redirect(w, r, donePath+done, http.StatusSeeOther)
}

func (p *Provider) showDone(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("answer") {
	case "allowed":
		p.render(w, page{Step: "done", Title: "You are signed in", Allowed: true})
	case "denied":
		p.render(w, page{Step: "done", Title: "Access denied"})
	default:
		http.NotFound(w, r)
	}
}

// clientKey names who asks in the limits: the address without the port.
func clientKey(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return "from " + host
}
