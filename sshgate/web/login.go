package web

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sshgate/sshgate/authflow"
	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/enrolment"
)

// WebSignIn is the web flow: sign-ins that people confirm on the gateway's page.
// *authflow.Web is one.
type WebSignIn interface {
	// Chosen tells whether sign-ins go by this flow.
	Chosen(ctx context.Context) (bool, error)
	// Find returns the sign-in that waits under the code, nil where none does.
	Find(code string) *authflow.WebLogin
	// Authorize begins the provider's part for one browser.
	Authorize(ctx context.Context, demands authflow.Demands) (*authflow.Authorization, error)
}

const (
	loginPath = authflow.LoginPath

	titleLogin = "Sign in a terminal"
	titleNo    = "Not signed in"

	tooManyTries = "There were too many tries from your address. Wait a minute."
)

func (a *API) loginRoutes() []route {
	return []route{
		{"GET " + loginPath, a.loginPage},
		{"POST " + loginPath, a.loginCode},
		{"GET " + loginPath + "/{code}", a.loginPage},
		{"POST " + loginPath + "/{code}/sign-in", a.loginSignIn},
		{"POST " + loginPath + "/{code}/decide", a.loginDecide},
		{"GET " + authflow.CallbackPath, a.callback},
	}
}

// askCode renders the form for a code.
func (a *API) askCode(w http.ResponseWriter, code, problem string, status int) {
	a.render(w, page{Step: "login-code", Title: titleLogin, Code: sshgate.NormalUserCode(code), Error: problem, status: status})
}

// loginOf finds the sign-in with the code, or answers the request. Who guesses is
// stopped.
func (a *API) loginOf(w http.ResponseWriter, r *http.Request, code string) *authflow.WebLogin {
	addr := remoteAddr(r)
	if denied := a.cfg.Limits.Failed(addr); denied != nil {
		a.askCode(w, code, tooManyTries, http.StatusTooManyRequests)
		return nil
	}
	l := a.cfg.Web.Find(code)
	if l == nil {
		a.cfg.Limits.Failure(addr, wrongCode)
		a.askCode(w, code, "No sign-in waits for this code. It may be over; run your command again.", http.StatusNotFound)
	}
	return l
}

// loginCode takes a code that was typed.
func (a *API) loginCode(w http.ResponseWriter, r *http.Request) {
	if foreign(r) {
		a.askCode(w, "", "This form was sent from another site. Send it from here.", http.StatusForbidden)
		return
	}
	if l := a.loginOf(w, r, r.PostFormValue("code")); l != nil {
		http.Redirect(w, r, loginPath+"/"+l.Code, http.StatusSeeOther)
	}
}

// loginPage is where a sign-in's address leads. Before the visitor has signed in it
// shows the code and nothing else: where somebody wants to go, from where and with
// which key is nobody's business who merely came by the address.
func (a *API) loginPage(w http.ResponseWriter, r *http.Request) {
	typed := r.PathValue("code")
	if typed == "" {
		a.askCode(w, "", "", http.StatusOK)
		return
	}
	if v, csrf := a.visits.of(r, sshgate.NormalUserCode(typed)); v != nil {
		a.loginReview(w, r, v, csrf)
		return
	}
	if l := a.loginOf(w, r, typed); l != nil {
		a.render(w, page{Step: "login", Title: titleLogin, Code: l.Code})
	}
}

// loginSignIn sends the browser to the provider.
func (a *API) loginSignIn(w http.ResponseWriter, r *http.Request) {
	if foreign(r) {
		a.askCode(w, r.PathValue("code"), "This form was sent from another site. Send it from here.", http.StatusForbidden)
		return
	}
	l := a.loginOf(w, r, r.PathValue("code"))
	if l == nil {
		return
	}
	if denied := a.cfg.Limits.SignIn(remoteAddr(r)); denied != nil {
		a.render(w, page{Step: "login", Title: titleLogin, Code: l.Code, Error: tooManyTries, status: http.StatusTooManyRequests})
		return
	}
	if !a.isNear(w, r, l) {
		return
	}
	if problem, status := a.toProvider(w, r, &visit{code: l.Code, login: l}, l.Asker.Demands); problem != "" {
		a.render(w, page{Step: "login", Title: titleLogin, Code: l.Code, Error: problem, status: status})
	}
}

// toProvider begins a visit whose next stop is the provider, and answers the request.
// If it cannot, it says why.
//
// It answers with a page that goes on by itself, not with a redirect: browsers hold
// all redirects after a form to the page's form-action, and whereto the provider sends
// people further is not known.
func (a *API) toProvider(w http.ResponseWriter, r *http.Request, v *visit, demands authflow.Demands) (problem string, status int) {
	var err error
	if v.auth, err = a.cfg.Web.Authorize(r.Context(), demands); err != nil {
		a.cfg.Log.Warn("a sign-in on the page could not begin", "err", err)
		return asSentence(ofSignIn(err).text), http.StatusServiceUnavailable
	}
	if !a.visits.add(v) {
		return "Too many sign-ins are under way. Try again in a few minutes.", http.StatusServiceUnavailable
	}
	a.visits.setCookie(w, v, http.SameSiteLaxMode)
	a.render(w, page{Step: "going", Title: "On to your organisation's sign-in", Next: v.auth.URL})
	return "", 0
}

// callback is where the provider sends the browser back to. Only the browser that was
// sent there, by its cookie, gets anything for the code in the address, and only once.
func (a *API) callback(w http.ResponseWriter, r *http.Request) {
	answer := r.URL.Query()
	v, known := a.visits.back(r, answer.Get("state"))
	if v == nil {
		if known && a.cfg.Limits.Failed(remoteAddr(r)) == nil { // the record is nothing for anybody to fill
			a.cfg.Limits.Failure(remoteAddr(r), wrongCode)
			a.cfg.Events.Record(sshgate.Event{
				Time: a.cfg.Now(), Kind: sshgate.EventLoginPage, ClientAddr: remoteAddr(r), Reason: "an answer of the provider came from a browser that had not begun the sign-in",
			})
		}
		a.stopped(w, "This browser did not begin this sign-in, or it is over. Open the address from your own terminal again.", http.StatusForbidden)
		return
	}
	if v.login != nil && !a.isNear(w, r, v.login) {
		a.visits.remove(v)
		return
	}
	id, err := v.auth.Finish(r.Context(), answer)
	event := v.event(a.cfg.Now(), remoteAddr(r))
	if err != nil {
		event.Reason = err.Error()
		a.cfg.Events.Record(event)
		a.visits.remove(v)
		a.render(w, page{Step: "done", Title: titleNo, Text: asSentence(ofSignIn(err).text), Again: v.page(), status: http.StatusForbidden})
		return
	}
	event.Allowed = true
	a.cfg.Events.Record(event.By(id))
	if v.login == nil {
		a.machineVisitor(w, v, id)
		return
	}
	a.visits.signedIn(v, id)
	a.visits.setCookie(w, v, http.SameSiteStrictMode)
	// A page of this site must lead on: a strict cookie is not sent on the provider's
	// redirect.
	a.render(w, page{Step: "going", Title: "Signed in", Next: v.page()})
}

// machineVisitor goes on with a visitor who lets a machine in.
func (a *API) machineVisitor(w http.ResponseWriter, v *visit, id sshgate.Identity) {
	a.visits.remove(v)
	visitor := a.visitors.addSignedIn(id, v.code)
	if visitor == nil {
		a.stopped(w, "Too many sign-ins are under way. Try again in a few minutes.", http.StatusServiceUnavailable)
		return
	}
	visitor.setCookie(w)
	a.render(w, page{Step: "going", Title: "Signed in", Next: enrolPath + "/machine"})
}

// page is where the visit goes on, or begins again.
func (v *visit) page() string {
	if v.login == nil {
		return enrolPath + "?code=" + v.code
	}
	return loginPath + "/" + v.code
}

// event is what happens at the visit, for the record. The client in it is the browser.
func (v *visit) event(now time.Time, browser netip.Addr) sshgate.Event {
	e := sshgate.Event{Time: now, Kind: sshgate.EventLoginPage, ClientAddr: browser, Detail: "signed in at the provider"}
	if v.login == nil {
		e.Detail += " for the enrolment page"
		return e
	}
	return ofAsker(e, v.login.Asker)
}

func ofAsker(e sshgate.Event, asker authflow.Asker) sshgate.Event {
	e.Connection, e.Key, e.Origin, e.Login = asker.Connection, asker.Key, asker.Target.Origin, asker.Target.Login
	return e
}

func (a *API) stopped(w http.ResponseWriter, text string, status int) {
	a.render(w, page{Step: "done", Title: titleNo, Text: text, status: status})
}

// asSentence is an error's text for a page.
func asSentence(text string) string {
	return sentence(&enrolment.Refused{Sentence: text})
}

// isNear tells whether the browser may answer for the terminal, as far as their
// networks go, or answers the request.
func (a *API) isNear(w http.ResponseWriter, r *http.Request, l *authflow.WebLogin) bool {
	browser := remoteAddr(r)
	if !a.cfg.SameNetwork || sameNetwork(browser, l.Asker.Address, a.cfg.Networks) {
		return true
	}
	a.cfg.Events.Record(ofAsker(sshgate.Event{
		Time: a.cfg.Now(), Kind: sshgate.EventLoginPage, ClientAddr: browser, Detail: "refused",
		Reason: "the browser is in another network than the terminal, which connects from " + l.Asker.Address.String(),
	}, l.Asker))
	a.stopped(w, "This browser is in another network than the terminal that asks. This gateway takes sign-ins from the terminal's own network only. If you did not start it yourself, somebody may be trying to sign in as you.", http.StatusForbidden)
	return false
}

// loginReview shows who asks to a visitor who has signed in, or what came of it.
func (a *API) loginReview(w http.ResponseWriter, r *http.Request, v *visit, csrf string) {
	l := v.login
	v.mu.Lock()
	outcome, number, id := v.outcome, v.number, v.id
	v.mu.Unlock()
	switch {
	case outcome == "yes" && number != "" && l.Asking():
		a.render(w, page{Step: "number", Title: "One more step", Code: v.code, Number: number, CSRF: csrf, Person: id.String(), Refresh: pageRefresh})
	case outcome == "yes":
		if ok := l.Succeeded(); number != "" && !ok {
			a.stopped(w, "The number was not typed in the terminal in time. Nobody was signed in.", http.StatusOK)
			return
		}
		a.render(w, page{Step: "done", Title: "The terminal is signed in", Text: "It goes on by itself. You can close this page."})
	case outcome == "no":
		a.render(w, page{Step: "done", Title: titleNo, Text: "The terminal was told no. You can close this page."})
	case outcome == "report":
		a.render(w, page{Step: "done", Title: "Denied and reported", Text: "The terminal was told no, and whoever runs this gateway can see your report. Tell them yourself, too, if somebody sent you the address. You can close this page."})
	case outcome == "late" || !l.Open():
		a.stopped(w, "This came too late: the sign-in has been answered, has expired, or its terminal has gone. Nobody was signed in by this page.", http.StatusConflict)
	case a.isNear(w, r, l):
		a.render(w, page{
			Step: "confirm", Title: "Is this your terminal?", Code: v.code, CSRF: csrf, Person: id.String(),
			Login: l, Browser: remoteAddr(r), Waiting: a.cfg.Now().Sub(l.Since).Round(time.Second),
		})
	}
}

// loginDecide takes the visitor's answer.
func (a *API) loginDecide(w http.ResponseWriter, r *http.Request) {
	v, csrf := a.visits.of(r, sshgate.NormalUserCode(r.PathValue("code")))
	if v == nil || foreign(r) || !sameText(r.PostFormValue("csrf"), csrf) {
		a.stopped(w, "This form is not from a page of yours. Open the address from your terminal again.", http.StatusForbidden)
		return
	}
	if !a.isNear(w, r, v.login) {
		return
	}
	a.decide(v, r.PostFormValue("decision"), remoteAddr(r))
	http.Redirect(w, r, v.page(), http.StatusSeeOther)
}

// decide settles the sign-in by what the visitor says, which counts once; but
// somebody who sees the number may still say no.
func (a *API) decide(v *visit, decision string, browser netip.Addr) {
	v.mu.Lock()
	defer v.mu.Unlock()
	event := v.event(a.cfg.Now(), browser)
	var err error
	switch {
	case decision == "yes" && v.outcome == "":
		event.Detail, event.Allowed = "confirmed", true
		v.number, err = v.login.Confirm(v.id)
	case (decision == "no" || decision == "report") && (v.outcome == "" || v.number != ""):
		event.Detail, event.Allowed = "denied", true // they may; what it means stands in the detail
		if decision == "report" {
			event.Kind, event.Detail = sshgate.EventLoginReport, "denied, and reported as suspicious: client "+v.login.Asker.ClientText()+" at "+v.login.Asker.Address.String()
		}
		err = v.login.Deny(v.id, decision == "report")
	default:
		return
	}
	v.outcome = decision
	if err != nil {
		v.outcome, event.Allowed, event.Reason = "late", false, err.Error()
	}
	a.cfg.Events.Record(event.By(v.id))
}

// Where says where the terminal wants to go.
func (p page) Where() string {
	t := p.Login.Asker.Target
	return strings.TrimPrefix(t.String(), "+")
}

// SameAddress tells whether terminal and browser have one address.
func (p page) SameAddress() bool { return p.Browser == p.Login.Asker.Address }
