package approve

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
)

const maxPage = 1 << 20 // bytes

// Browser reads pages and sends their forms, with cookies, without JavaScript.
type Browser struct{ client *http.Client }

// Page is a page that a Browser is on.
type Page struct {
	URL    *url.URL // after redirects
	Status int
	Alert  string // the text of its role="alert", or ""
	Text   string // all of it
	Links  []string
	Forms  []Form
}

// Form is a form of a page.
type Form struct {
	Action  string // as it stands there
	Fields  url.Values
	Buttons []Button
}

// Button is a submit button with a name.
type Button struct{ Name, Value string }

// HasButton tells whether the form has this submit button.
func (f *Form) HasButton(name, value string) bool {
	return slices.Contains(f.Buttons, Button{name, value})
}

// NewBrowser returns a browser without cookies that uses the client's
// transport; nil is http.DefaultClient.
func NewBrowser(client *http.Client) *Browser {
	if client == nil {
		client = http.DefaultClient
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // never: it has no options to be wrong
	}
	return NewBrowserWith(&http.Client{Transport: client.Transport, Timeout: client.Timeout, Jar: jar})
}

// NewBrowserWith returns a browser that is the client, whose cookies it has.
func NewBrowserWith(client *http.Client) *Browser { return &Browser{client: client} }

// Get opens a URL.
func (b *Browser) Get(ctx context.Context, uri string) (*Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("open the page: %w", err)
	}
	return b.do(req)
}

// Submit sends a form of a page by POST: what its fields hold, and values on
// top, to which a button that is pressed belongs.
func (b *Browser) Submit(ctx context.Context, page *Page, form *Form, values url.Values) (*Page, error) {
	target, err := page.URL.Parse(form.Action)
	if err != nil {
		return nil, fmt.Errorf("the form's action %q: %w", form.Action, err)
	}
	all := url.Values{}
	for _, some := range []url.Values{form.Fields, values} {
		for name, value := range some {
			all[name] = value
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(all.Encode()))
	if err != nil {
		return nil, fmt.Errorf("send the form: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req)
}

func (b *Browser) do(req *http.Request) (*Page, error) {
	res, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", res.Request.URL, err)
	}
	page := &Page{URL: res.Request.URL, Status: res.StatusCode}
	page.parse(body)
	return page, nil
}

// parse collects forms. HTML as simple as this reads as lenient XML; what does
// not ends the page, and the caller misses its form.
func (p *Page) parse(body []byte) {
	decoder := xml.NewDecoder(bytes.NewReader(body))
	decoder.Strict = false
	decoder.AutoClose = xml.HTMLAutoClose
	decoder.Entity = xml.HTMLEntity
	var form *Form
	var inAlert bool
	for {
		token, err := decoder.Token()
		if err != nil {
			return
		}
		switch element := token.(type) {
		case xml.StartElement:
			if element.Name.Local == "form" {
				p.Forms = append(p.Forms, Form{Action: attr(element, "action"), Fields: url.Values{}})
				form = &p.Forms[len(p.Forms)-1]
			} else if form != nil {
				form.add(element)
			}
			if element.Name.Local == "a" {
				p.Links = append(p.Links, attr(element, "href"))
			}
			inAlert = inAlert || attr(element, "role") == "alert"
		case xml.CharData:
			p.Text += string(element)
			if inAlert {
				p.Alert += string(element)
			}
		case xml.EndElement:
			if element.Name.Local == "form" {
				form = nil
			}
			inAlert = false
		}
	}
}

// add takes in a form's input or button.
func (f *Form) add(element xml.StartElement) {
	name, value := attr(element, "name"), attr(element, "value")
	switch {
	case name == "":
	case element.Name.Local == "button" || attr(element, "type") == "submit":
		f.Buttons = append(f.Buttons, Button{name, value})
	case element.Name.Local == "input":
		f.Fields.Add(name, value)
	}
}

func attr(element xml.StartElement, name string) string {
	for _, a := range element.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
