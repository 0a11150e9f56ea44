package e2e

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// tab is a tab of a real Chromium.
type tab struct {
	context.Context
	t *testing.T
}

func (c tab) run(actions ...chromedp.Action) {
	c.t.Helper()
	if err := chromedp.Run(c, actions...); err != nil {
		var text, at string
		_ = chromedp.Run(c, chromedp.Location(&at), chromedp.Text("body", &text, chromedp.ByQuery)) // as far as it goes
		c.t.Fatalf("%v; the page %s says:\n%s", err, at, text)
	}
}

// pictures takes the page as it is, and on a phone in dark mode, where it must fit.
func (c tab) pictures(name string) {
	c.t.Helper()
	picture(c.t, c, name)
	c.run(dark("dark"), chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	picture(c.t, c, name+"-dark-phone")
	var wide bool
	c.run(chromedp.Evaluate("document.documentElement.scrollWidth > window.innerWidth", &wide))
	if wide {
		c.t.Errorf("the page %s is wider than a phone", name)
	}
	c.run(dark("light"), chromedp.EmulateViewport(900, 1100))
}

func dark(scheme string) chromedp.Action {
	return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}})
}

// focus returns the text of the element that has it.
func (c tab) focus() (text string) {
	c.t.Helper()
	c.run(chromedp.Evaluate("document.activeElement.innerText", &text))
	return text
}

// signInAtProvider goes from the gateway's first page to the one that asks, by
// keyboard alone.
func (c tab) signInAtProvider(address string) {
	c.t.Helper()
	c.run(chromedp.Navigate(address), chromedp.WaitVisible(".code", chromedp.ByQuery))
	if got := c.focus(); got != "Sign in" {
		c.t.Errorf("the focus is on %q", got)
	}
	c.run(chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible("#password", chromedp.ByQuery),
		chromedp.SendKeys("#email", alice, chromedp.ByQuery), chromedp.SendKeys("#password", password+"\r", chromedp.ByQuery),
		chromedp.WaitVisible("dl", chromedp.ByQuery))
}

func TestWebLoginInABrowser(t *testing.T) {
	t.Parallel()
	need(t, "chromium")
	s := newWebStack(t, "  confirm_code: true\n", nil)
	c := tab{browser(t), t}
	begin := func() (*terminal, string) {
		term := inTerminal(t, s.newClient(t).ssh("gate", "echo hello"))
		return term, term.find(t, loginURL)
	}

	term, address := begin()
	c.run(chromedp.Navigate(strings.TrimSuffix(address, address[len(address)-10:])), chromedp.WaitVisible("#code", chromedp.ByQuery))
	c.pictures("login-code")
	c.run(chromedp.SendKeys("#code", "bcdf ghjk\r", chromedp.ByQuery), chromedp.WaitVisible("#error", chromedp.ByQuery))
	c.pictures("login-wrong-code")
	c.run(chromedp.Navigate(address), chromedp.WaitVisible(".code", chromedp.ByQuery))
	c.pictures("login")
	c.signInAtProvider(address)
	c.pictures("login-confirm")
	var order []string
	for range 3 {
		c.run(chromedp.KeyEvent(kb.Tab))
		order = append(order, c.focus())
	}
	if got := strings.Join(order, "|"); got != "Yes, it is mine: sign it in|Deny|Deny and report: I did not start this" {
		t.Errorf("the keyboard goes to %s", got)
	}
	var number string
	c.run(chromedp.Click(`button[value="yes"]`, chromedp.ByQuery), chromedp.WaitVisible(".number", chromedp.ByQuery), chromedp.Text(".number", &number, chromedp.ByQuery))
	c.pictures("login-number")
	term.find(t, regexp.MustCompile("Number on the page: "))
	term.send(number + "\r")
	c.run(chromedp.WaitVisible(`//h1[contains(., "is signed in")]`)) // the page goes on by itself
	c.pictures("login-done")
	if code := term.end(); code != 0 || !strings.Contains(term.String(), "hello") {
		t.Errorf("exit %d:\n%s", code, term)
	}

	term, address = begin()
	c.signInAtProvider(address)
	c.run(chromedp.Click(`button[value="report"]`, chromedp.ByQuery), chromedp.WaitVisible(`//h1[contains(., "reported")]`))
	c.pictures("login-reported")
	if code := term.end(); code != 255 {
		t.Errorf("exit %d:\n%s", code, term)
	}

	// The terminal leaves while the page is open.
	term, address = begin()
	c.signInAtProvider(address)
	term.send("\x03")
	term.end()
	c.run(chromedp.Click(`button[value="yes"]`, chromedp.ByQuery), chromedp.WaitVisible(`//p[contains(., "too late")]`))
	c.pictures("login-late")
}

// TestWebLoginLinkInABrowser: what a browser of somebody else's gets for the link of a
// callback that is not its own.
func TestWebLoginLinkInABrowser(t *testing.T) {
	t.Parallel()
	need(t, "chromium")
	s := newWebStack(t, "  same_network: true\n", nil)
	c := tab{browser(t), t}
	far := s.newClient(t).ssh("-b", "127.0.7.1", "gate", "true")
	address, wait := sshAt(t, far)
	c.run(chromedp.Navigate(address), chromedp.Click("button", chromedp.ByQuery), chromedp.WaitVisible(`//p[contains(., "another network")]`))
	c.pictures("login-network")
	base := address[:strings.Index(address, "/login/")]
	c.run(chromedp.Navigate(base+"/oauth/callback?code=x&state=y"), chromedp.WaitVisible(`//p[contains(., "did not begin")]`))
	c.pictures("login-stranger")
	_ = far.Process.Kill()
	wait()
}
