package web

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
)

//go:embed page.html style.css
var assets embed.FS

var pageTemplate = template.Must(template.ParseFS(assets, "page.html"))

const (
	pagePolicy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	// pageRefresh is how often a page looks whether the sign-in is over, in seconds.
	pageRefresh = 3
)

// page is what page.html shows.
type page struct {
	Step     string // code, waiting, review, done
	Title    string
	Error    string // why the last try did not do
	Hostname string // of the gateway
	CSRF     string
	Refresh  int // seconds, 0 for never

	Code string // as the machine's terminal shows it

	// Of the step waiting.
	SignIn   string // the provider's page
	UserCode string // for that page

	// Of the step review.
	Person  string
	Machine *enrolment.Pending
	Offer   *enrolment.Offer
	Form    url.Values // what was chosen before

	// Of the step done.
	Text string

	status int
}

func (a *API) render(w http.ResponseWriter, content page) {
	content.Hostname = a.cfg.Hostname
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, content); err != nil {
		a.cfg.Log.Error("a page could not be made", "step", content.Step, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "same-origin") // without a referrer, forms have no Origin
	if content.status == 0 {
		content.status = http.StatusOK
	}
	w.WriteHeader(content.status)
	_, _ = body.WriteTo(w) // fails only with the client's connection
}

func (a *API) style(w http.ResponseWriter, _ *http.Request) {
	css, _ := assets.ReadFile("style.css") // it is embedded
	h := w.Header()
	h.Set("Content-Type", "text/css; charset=utf-8")
	h.Set("Cache-Control", "max-age=3600")
	_, _ = w.Write(css) // fails only with the client's connection
}

// foreign tells that a form was sent from another site's page. Sec-Fetch-Site decides
// where there is one: Origin is "null" on forms of pages without a referrer (Fetch
// section 3.2).
func foreign(r *http.Request) bool {
	var protection http.CrossOriginProtection
	return protection.Check(r) != nil
}

// enrolPage asks for the code of a machine, which a link may have.
func (a *API) enrolPage(w http.ResponseWriter, r *http.Request) {
	a.render(w, page{Step: "code", Title: "Let a machine in", Code: enrolment.NormalUserCode(r.URL.Query().Get("code"))})
}

// enrolSignIn has the visitor sign in for the machine with the code.
func (a *API) enrolSignIn(w http.ResponseWriter, r *http.Request) {
	again := func(text string, status int) {
		a.render(w, page{Step: "code", Title: "Let a machine in", Error: text, Code: enrolment.NormalUserCode(r.PostFormValue("code")), status: status})
	}
	addr := remoteAddr(r)
	switch {
	case foreign(r):
		again("This form was sent from another site. Send it from here.", http.StatusForbidden)
		return
	case !a.wrong.left(addr) || !a.signIns.take(addr):
		again("There were too many tries from your address. Wait a minute.", http.StatusTooManyRequests)
		return
	}
	machine, err := a.cfg.Enrolment.Find(r.PostFormValue("code"))
	if err != nil {
		a.wrong.take(addr)
		again(sentence(err), http.StatusNotFound)
		return
	}
	ticket, err := a.cfg.SignIns.Join(r.Context(), "")
	if err != nil {
		again(ofSignIn(err).text, http.StatusServiceUnavailable)
		return
	}
	if before := a.visitors.of(r); before != nil {
		a.visitors.remove(before) // the new cookie takes its place
	}
	v := a.visitors.add(ticket, machine.UserCode)
	if v == nil {
		ticket.Leave()
		again("Too many sign-ins are under way. Try again in a few minutes.", http.StatusServiceUnavailable)
		return
	}
	a.cfg.Events.Record(sshgate.Event{Time: a.cfg.Now(), Kind: sshgate.EventLoginStart, Connection: v.since, ClientAddr: addr, Detail: "enrolment page"})
	v.setCookie(w)
	http.Redirect(w, r, enrolPath+"/machine", http.StatusSeeOther)
}

// sentence is an error for a page.
func sentence(err error) string {
	text := ofRefusal(err).text
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// enrolMachine shows the machine to a visitor who has signed in, and to others
// where to.
func (a *API) enrolMachine(w http.ResponseWriter, r *http.Request) {
	v := a.visitors.of(r)
	if v == nil {
		http.Redirect(w, r, enrolPath, http.StatusSeeOther)
		return
	}
	id, over, err := v.signedIn()
	if !over {
		prompt := v.ticket.Prompt()
		a.render(w, page{
			Step: "waiting", Title: "Sign in", Refresh: pageRefresh, Code: v.code, UserCode: prompt.UserCode, SignIn: signInURL(prompt),
		})
		return
	}
	v.told.Do(func() { a.recordVisit(v, remoteAddr(r), id, err) })
	if err != nil {
		a.visitors.remove(v)
		a.render(w, page{Step: "code", Title: "Let a machine in", Code: v.code, Error: sentence(&enrolment.Refused{Sentence: ofSignIn(err).text}), status: http.StatusForbidden})
		return
	}
	a.review(w, r, v, id, nil)
}

func signInURL(prompt authflow.Prompt) string {
	return cmp.Or(prompt.VerificationURIComplete, prompt.VerificationURI)
}

func (a *API) recordVisit(v *visitor, addr netip.Addr, id sshgate.Identity, err error) {
	event := sshgate.Event{Time: a.cfg.Now(), Kind: sshgate.EventLoginSuccess, Connection: v.since, ClientAddr: addr, Detail: "enrolment page"}
	if err != nil {
		event.Kind, event.Reason = sshgate.EventLoginFailure, err.Error()
	} else {
		event = event.By(id)
	}
	a.cfg.Events.Record(event)
}

// review shows what the visitor may answer.
func (a *API) review(w http.ResponseWriter, r *http.Request, v *visitor, id sshgate.Identity, cause error) {
	content := page{Step: "review", Title: "Let this machine in?", Code: v.code, CSRF: v.csrf, Person: id.String(), Form: r.PostForm}
	machine, err := a.cfg.Enrolment.Find(v.code)
	if err == nil {
		content.Machine = machine
		content.Offer, err = a.cfg.Enrolment.Offer(r.Context(), machine, enrolment.Person{Identity: id, Address: remoteAddr(r)}, strings.TrimSpace(r.PostFormValue("name")))
	}
	if err != nil {
		a.visitors.remove(v)
		a.render(w, page{Step: "done", Title: "Not let in", Text: sentence(err), status: ofRefusal(err).status})
		return
	}
	if cause != nil {
		content.Error, content.status = sentence(cause), ofRefusal(cause).status
	}
	a.render(w, content)
}

// enrolDecide takes the visitor's answer.
func (a *API) enrolDecide(w http.ResponseWriter, r *http.Request) {
	v := a.visitors.of(r)
	if v == nil {
		http.Redirect(w, r, enrolPath, http.StatusSeeOther)
		return
	}
	id, over, err := v.signedIn()
	if foreign(r) || !v.sent(r) || !over || err != nil {
		a.render(w, page{Step: "code", Title: "Let a machine in", Code: v.code, Error: "This form is not from a page of yours. Begin again.", status: http.StatusForbidden})
		return
	}
	machine, err := a.cfg.Enrolment.Find(v.code)
	if err != nil {
		a.review(w, r, v, id, err) // which says so
		return
	}
	who := enrolment.Person{Identity: id, Address: remoteAddr(r)}
	switch r.PostFormValue("decision") {
	case "yes":
		a.letIn(w, r, v, machine, who)
	case "no", "report":
		a.cfg.Enrolment.Deny(machine, who, r.PostFormValue("decision") == "report")
		a.visitors.remove(v)
		a.render(w, page{Step: "done", Title: "Not let in", Text: "The machine was told no. You can close this page."})
	default:
		a.review(w, r, v, id, &enrolment.Refused{Code: enrolment.CodeBadRequest, Sentence: "press one of the buttons"})
	}
}

func (a *API) letIn(w http.ResponseWriter, r *http.Request, v *visitor, machine *enrolment.Pending, who enrolment.Person) {
	yes := enrolment.Approval{Person: who, Name: strings.TrimSpace(r.PostFormValue("name")), Replica: r.PostFormValue("replica") == "yes"}
	texts := append(r.PostForm["hostname"], strings.FieldsFunc(r.PostFormValue("hostnames"), func(c rune) bool { return strings.ContainsRune(" ,;\t\r\n", c) })...)
	for _, text := range texts {
		h, err := sshgate.ParseHostPattern(text)
		if err != nil {
			a.review(w, r, v, who.Identity, &enrolment.Refused{Code: enrolment.CodeBadRequest, Sentence: printable(err.Error())})
			return
		}
		yes.Hostnames = append(yes.Hostnames, h)
	}
	err := a.cfg.Enrolment.Approve(r.Context(), machine, yes)
	var refused *enrolment.Refused
	switch {
	case err == nil:
		a.visitors.remove(v)
		a.render(w, page{Step: "done", Title: "The machine is let in", Text: "It goes on in its terminal by itself. You can close this page."})
	case errors.As(err, &refused):
		a.review(w, r, v, who.Identity, refused)
	default:
		a.review(w, r, v, who.Identity, err)
	}
}

// Ago says how long the machine has been waiting.
func (p page) Ago() string { return time.Since(p.Machine.Since).Round(time.Second).String() }

// Chosen tells whether the hostname was chosen before, or nothing was yet.
func (p page) Chosen(name, value string, fresh bool) bool {
	if p.Form == nil {
		return fresh
	}
	for _, v := range p.Form[name] {
		if v == value {
			return true
		}
	}
	return false
}

// Value is what was written into a field before.
func (p page) Value(name, fresh string) string {
	if p.Form == nil {
		return fresh
	}
	return p.Form.Get(name)
}
