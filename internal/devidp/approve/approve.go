// Package approve answers a device login at the embedded provider (package
// devidp) as a person with a browser would: it opens the link, fills in the
// forms, keeps the cookies. It is for tests and demonstrations.
package approve

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// maxSteps is how many pages a login may take.
const maxSteps = 8

// Approve signs in and allows the login. client reaches the provider; nil is
// http.DefaultClient. Its cookies are left alone: every call is a new browser.
func Approve(ctx context.Context, client *http.Client, verificationURIComplete, email, password string) error {
	return answer(ctx, client, verificationURIComplete, email, password, "allow", "/done/allowed")
}

// Deny signs in and denies the login.
func Deny(ctx context.Context, client *http.Client, verificationURIComplete, email, password string) error {
	return answer(ctx, client, verificationURIComplete, email, password, "deny", "/done/denied")
}

func answer(ctx context.Context, client *http.Client, uri, email, password, decision, done string) error {
	browser := NewBrowser(client)
	page, err := browser.Get(ctx, uri)
	for range maxSteps {
		if err != nil {
			return err
		}
		if strings.HasSuffix(page.URL.Path, done) {
			return nil
		}
		if page.Status != http.StatusOK {
			return fmt.Errorf("%s answered %d: %s", page.URL, page.Status, page.Alert)
		}
		form, values := fill(page, email, password, decision)
		if form == nil {
			return fmt.Errorf("%s has no form to answer", page.URL)
		}
		page, err = browser.Submit(ctx, page, form, values)
	}
	return fmt.Errorf("not done after %d pages", maxSteps)
}

// fill chooses the form to answer on a page, and what to put into it.
func fill(page *Page, email, password, decision string) (*Form, url.Values) {
	for i := range page.Forms {
		form := &page.Forms[i]
		switch {
		case form.Fields.Has("user_code"):
			return form, nil
		case form.Fields.Has("password"):
			return form, url.Values{"email": {email}, "password": {password}}
		case form.HasButton("decision", decision):
			return form, url.Values{"decision": {decision}}
		}
	}
	return nil, nil
}
