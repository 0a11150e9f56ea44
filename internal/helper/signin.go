package helper

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/cli/browser"
	"github.com/mdp/qrterminal/v3"
)

// signIn returns a token of a sign-in, which processes that need one at the same
// time share: one asks, the others wait. bad is a token that is no longer good.
func (a *Access) signIn(ctx context.Context, hostname, bad string) (Token, error) {
	if a.opts.NoLogin {
		return Token{}, &Problem{Kind: SignIn, Text: "not signed in at " + a.Gateway.Address, Next: "run: sshgate access login --gateway " + a.Gateway.Address}
	}
	l, err := openLock(filepath.Join(a.Place.dir, lockFile))
	if err != nil {
		return Token{}, &Problem{Kind: Usage, Text: "the configuration directory cannot be used", Err: err, Next: "set SSHGATE_CONFIG_DIR to one that can"}
	}
	defer l.unlock()
	if !l.try() {
		if err := a.waitForOther(ctx, l); err != nil {
			return Token{}, err
		}
	}
	if t := a.Place.Token(); t.good(a.now()) && t.Value != bad {
		return t, nil // another process has signed in meanwhile
	}
	t, err := a.askForSignIn(ctx, hostname)
	if err != nil {
		return Token{}, err
	}
	if err := a.Place.Keep(t); err != nil {
		fmt.Fprintf(a.opts.Stderr, "sshgate: the sign-in could not be kept, the next command asks again: %v\n", err)
	}
	return t, nil
}

// promptNote is what a sign-in shows, in a file for those who wait for it.
type promptNote struct {
	URL  string `json:"url"`
	Code string `json:"code"`
}

// waitForOther waits until the process that signs in is done, or gone.
func (a *Access) waitForOther(ctx context.Context, l *lock) error {
	var p promptNote
	text := "sshgate: waiting for the sign-in of another sshgate"
	if data, err := readFile(filepath.Join(a.Place.dir, promptFile)); err == nil && json.Unmarshal(data, &p) == nil && p.URL != "" {
		text += ": " + printable(p.URL)
	}
	fmt.Fprintln(a.opts.Stderr, text)
	taken := make(chan error, 1)
	go func() { taken <- l.wait() }() // ends with the lock's file, or the process
	select {
	case err := <-taken:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// deviceAnswer is RFC 8628 section 3.2.
type deviceAnswer struct {
	DeviceCode              string `json:"device_code"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete"`
	ExpiresIn               int    `json:"expires_in"`
	Interval                int    `json:"interval"`
}

func (d deviceAnswer) url() string {
	if d.VerificationURIComplete != "" {
		return d.VerificationURIComplete
	}
	return d.VerificationURI
}

// askForSignIn shows a person where to sign in and waits until somebody has.
func (a *Access) askForSignIn(ctx context.Context, hostname string) (Token, error) {
	var d deviceAnswer
	form := url.Values{"client_id": {clientID}}
	if hostname != "" {
		form.Set("hostname", hostname)
	}
	if err := a.Gateway.Ask(ctx, http.MethodPost, "/oauth/device_authorization", Credential{}, form, &d); err != nil {
		return Token{}, err
	}
	if u, err := url.Parse(d.url()); err != nil || u.Scheme != "https" && u.Scheme != "http" || d.DeviceCode == "" {
		return Token{}, &Problem{Kind: Unreachable, Text: a.Gateway.Address + " sent a sign-in that cannot be used"}
	}
	file := filepath.Join(a.Place.dir, promptFile)
	if data, err := json.Marshal(promptNote{URL: d.url(), Code: d.UserCode}); err == nil {
		_ = writeFile(file, data) // a help for others, no more
		defer os.Remove(file)
	}
	a.show(d)
	t, err := a.poll(ctx, d)
	if err != nil {
		return Token{}, err
	}
	fmt.Fprintf(a.opts.Stderr, "sshgate: signed in as %s until %s\n", t.Identity, t.ExpiresAt.Local().Format("Mon 15:04"))
	return t, nil
}

// show writes where to sign in.
func (a *Access) show(d deviceAnswer) {
	what := "and enter this code"
	if d.VerificationURIComplete != "" {
		what = "and check that the page shows this code"
	}
	Show(a.opts.Stderr, a.opts.Getenv, Prompt{
		Intro: "To sign in at " + a.Gateway.host() + ", open this address in a browser:",
		URL:   d.url(), CodeText: what, Code: d.UserCode, QR: a.opts.QR, NoBrowser: a.opts.NoBrowser,
	})
}

// Prompt is what a person has to see who shall open a page.
type Prompt struct {
	Intro     string // a line, with a colon at its end
	URL       string
	CodeText  string // what the code is for
	Code      string
	QR        bool // draw the address, too
	NoBrowser bool
}

// Show writes where to go, and opens a browser where there is one.
func Show(w io.Writer, getenv func(string) string, p Prompt) {
	address := printable(p.URL)
	fmt.Fprintf(w, "\n%s\n\n    %s\n\n%s:  %s\n\n", p.Intro, address, p.CodeText, printable(p.Code))
	if p.QR {
		fmt.Fprint(w, qr(address), "\n")
	}
	if !p.NoBrowser && hasBrowser(getenv) {
		browser.Stdout, browser.Stderr = io.Discard, io.Discard
		_ = browser.OpenURL(address) // the address is on the screen, too
	}
	fmt.Fprintln(w, "Waiting for you ... (Ctrl-C gives up)")
}

// hasBrowser tells whether a browser would open before the user's eyes.
func hasBrowser(getenv func(string) string) bool {
	if getenv("SSH_CONNECTION") != "" {
		return false
	}
	return runtime.GOOS != "linux" || getenv("DISPLAY") != "" || getenv("WAYLAND_DISPLAY") != ""
}

// qr draws the address in ASCII alone: what is shown underneath ssh is escaped
// otherwise.
func qr(text string) string {
	var b bytes.Buffer
	qrterminal.GenerateWithConfig(text, qrterminal.Config{
		Level: qrterminal.L, Writer: &b, BlackChar: "  ", WhiteChar: "##", QuietZone: 2,
	})
	return b.String()
}

// poll asks for the token until the sign-in has ended (RFC 8628 section 3.4).
func (a *Access) poll(ctx context.Context, d deviceAnswer) (Token, error) {
	interval := time.Duration(max(d.Interval, 1)) * time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(max(d.ExpiresIn, 60))*time.Second+answerTimeout, errTooLate)
	defer cancel()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	form := url.Values{"grant_type": {grantDevice}, "client_id": {clientID}, "device_code": {d.DeviceCode}}
	var typed <-chan string // of the number that the page shows, while it is asked for
	for {
		select {
		case <-timer.C:
		case number := <-typed:
			typed = nil
			form.Set("confirmation", number)
			continue
		case <-ctx.Done():
			return Token{}, context.Cause(ctx)
		}
		var got tokenAnswer
		err := a.Gateway.Ask(ctx, http.MethodPost, "/oauth/token", Credential{}, form, &got)
		var p *Problem
		switch {
		case err == nil:
			return got.token(a.now()), nil
		case !errors.As(err, &p):
			return Token{}, err
		case p.Code == "slow_down":
			interval += 5 * time.Second
		case p.Code == "authorization_pending", p.Kind == Unreachable:
			// The gateway may be restarting: the sign-in is lost only when it says so.
		case p.Code == "confirmation_required":
			if typed == nil {
				if typed, err = a.askNumber(form.Has("confirmation")); err != nil {
					return Token{}, err
				}
			}
			form.Del("confirmation")
		case p.Code == "invalid_grant":
			return Token{}, &Problem{Kind: SignIn, Text: "the sign-in was lost, the gateway was restarted perhaps", Next: "try again"}
		default:
			p.Kind = SignIn
			return Token{}, p
		}
		timer.Reset(interval)
	}
}

// maxTyped bounds what is read of a line, in bytes.
const maxTyped = 100

// askNumber asks for the number that the page shows. It asks the terminal rather than
// standard input, which underneath ssh is something else. again says that the last one
// was wrong.
func (a *Access) askNumber(again bool) (<-chan string, error) {
	open := a.opts.Terminal
	if open == nil {
		open = openTerminal
	}
	terminal, err := open()
	if err != nil {
		return nil, &Problem{Kind: SignIn, Text: "the number that the page shows must be typed in, and there is no terminal", Err: err, Next: "run in a terminal: sshgate access login --gateway " + a.Gateway.Address}
	}
	if again {
		fmt.Fprintln(a.opts.Stderr, "That is not the number.")
	}
	fmt.Fprint(a.opts.Stderr, "Number on the page: ")
	typed := make(chan string, 1)
	go func() { // ends with the line, or the process: a read of a terminal cannot be called off
		defer terminal.Close()
		line, _ := bufio.NewReader(io.LimitReader(terminal, maxTyped)).ReadString('\n') // an error leaves an answer that is wrong
		if line = strings.TrimSpace(line); line == "" {
			line = "-"
		}
		typed <- line
	}()
	return typed, nil
}

func openTerminal() (io.ReadCloser, error) {
	if runtime.GOOS == "windows" {
		return os.OpenFile("CONIN$", os.O_RDWR, 0)
	}
	return os.Open("/dev/tty")
}

var errTooLate = &Problem{Kind: SignIn, Text: "the sign-in was not completed in time", Next: "try again"}
