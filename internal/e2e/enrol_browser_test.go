package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// browser starts a real Chromium with a profile of its own. It refuses to run as
// root with its sandbox, loads nothing but pages of the test, and takes the gateway's
// certificate, which no authority has signed that it knows.
func browser(t *testing.T) context.Context {
	t.Helper()
	need(t, "chromium")
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(900, 1100))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// picture takes a screenshot of the page, and keeps it where SSHGATE_PICTURES says.
func picture(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	var png []byte
	if err := chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)); err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv("SSHGATE_PICTURES")
	if dir == "" {
		dir = t.TempDir()
	}
	file := filepath.Join(dir, name+".png")
	write(t, file, string(png))
	if n := countColours(t, file); n < 10 {
		t.Errorf("the page %s shows %d colours: it is empty, or text without its style", name, n)
	}
}

// TestEnrolInABrowser lets a machine in with Chromium, by keyboard and mouse, and in
// dark mode on a phone.
func TestEnrolInABrowser(t *testing.T) {
	t.Parallel()
	need(t, "chromium")
	s := newEnrolStack(t, "")
	c := s.newClient(t)
	address, wait := startLogin(t, s.connectorLogin(c, filepath.Join(c.home, "rack2"), "--name", "rack2"))
	ctx := browser(t)
	run := func(actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(ctx, actions...); err != nil {
			var text string
			_ = chromedp.Run(ctx, chromedp.Text("body", &text, chromedp.ByQuery)) // as far as it goes
			t.Fatalf("%v; the page says:\n%s", err, text)
		}
	}
	var code, link, focused string
	run(chromedp.Navigate(address), chromedp.Value("#code", &code, chromedp.ByQuery), chromedp.Evaluate("document.activeElement.id", &focused))
	if code == "" || !strings.HasSuffix(address, code) || focused != "code" {
		t.Errorf("the code on the page is %q, the focus on %q", code, focused)
	}
	picture(t, ctx, "enrol-code")
	run(chromedp.SendKeys("#code", "\r", chromedp.ByQuery), chromedp.WaitVisible("a.button", chromedp.ByQuery), chromedp.AttributeValue("a.button", "href", &link, nil, chromedp.ByQuery))
	picture(t, ctx, "enrol-waiting")

	// The provider's page opens in a tab of its own.
	tab, cancel := chromedp.NewContext(ctx)
	defer cancel()
	err := chromedp.Run(tab, chromedp.Navigate(link), chromedp.Submit("#user_code", chromedp.ByQuery), chromedp.WaitVisible("#password", chromedp.ByQuery),
		chromedp.SendKeys("#email", alice, chromedp.ByQuery), chromedp.SendKeys("#password", password+"\r", chromedp.ByQuery),
		chromedp.Click(`button[value="allow"]`, chromedp.ByQuery), chromedp.WaitVisible(`//p[contains(., "close this page")]`))
	if err != nil {
		t.Fatal(err)
	}
	// The first one goes on by itself.
	run(chromedp.WaitVisible("#hostnames", chromedp.ByQuery))
	picture(t, ctx, "enrol-review")
	run(chromedp.Click(`button[value="yes"]`, chromedp.ByQuery), chromedp.WaitVisible("#error", chromedp.ByQuery))
	run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}),
		chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	picture(t, ctx, "enrol-review-dark-phone")
	var wide bool
	run(chromedp.Evaluate("document.documentElement.scrollWidth > window.innerWidth", &wide))
	if wide {
		t.Error("the page is wider than a phone")
	}
	run(chromedp.SendKeys("#hostnames", "box.lab", chromedp.ByQuery), chromedp.Click(`button[value="yes"]`, chromedp.ByQuery),
		chromedp.WaitVisible(`//h1[contains(., "let in")]`))
	picture(t, ctx, "enrol-done")
	if r := wait(); r.code != 0 || !strings.Contains(r.stdout, "It may publish box.lab.") {
		t.Errorf("%+v", r)
	}
}
