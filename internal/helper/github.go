package helper

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// githubToken asks the runner of GitHub Actions for the job's ID token:
// https://docs.github.com/actions, "OpenID Connect".
func githubToken(ctx context.Context, getenv func(string) string, audience string) (string, error) {
	address, secret := getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || secret == "" {
		return "", &Problem{Kind: Usage, Text: "this job may not have an ID token", Next: "add to the workflow: permissions: id-token: write"}
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", usage("ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	query := u.Query()
	query.Set("audience", audience)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := (&http.Client{Timeout: answerTimeout}).Do(req)
	if err != nil {
		return "", &Problem{Kind: SignIn, Text: "the runner gives no ID token", Err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var got struct{ Value string }
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(data, &got)
	}
	if err != nil || got.Value == "" {
		return "", &Problem{Kind: SignIn, Text: fmt.Sprintf("the runner gives no ID token: it answered %s", printable(resp.Status)), Err: err}
	}
	return got.Value, nil
}
