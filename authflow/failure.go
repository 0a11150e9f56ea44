package authflow

import (
	"context"
	"errors"
	"strings"
)

// The codes of a Failure. Those of RFC 8628 section 3.5 keep their names.
const (
	CodeAccessDenied        = "access_denied"        // the person or the provider said no
	CodeExpired             = "expired_token"        // nobody answered in time
	CodeProviderUnreachable = "provider_unreachable" // no connection, a time-out, or a 5xx
	CodeProviderRefused     = "provider_refused"     // the provider rejects the gateway's own request
	CodeInvalidResponse     = "invalid_response"     // an answer that is not what the RFC says
	CodeInvalidToken        = "invalid_token"        // the ID token did not pass a check
	CodeNotConfigured       = "not_configured"       // the provider does not offer what is needed
	CodeCancelled           = "cancelled"            // the caller went away
	CodeTooMany             = "too_many_logins"      // the bound of Pending is reached
	CodeClosed              = "shutting_down"        // Pending is closed
	CodeTokenUnknown        = "token_unknown"        // no such token
	CodeTokenExpired        = "token_expired"        // a token that was good once
	CodeTokenRevoked        = "token_revoked"        // a token that somebody ended
	CodeSignInRevoked       = "sign_in_revoked"      // a sign-in that is no longer remembered
	CodeNoWorkload          = "no_workload"          // a good ID token that no workload takes
	CodeUnavailable         = "unavailable"          // the gateway's own state can't be read or written
)

// Failure is a sign-in that did not happen.
type Failure struct {
	// Code is one of the Code constants.
	Code string
	// Sentence is for the user: one line of printable ASCII, lower case, no
	// full stop. It quotes nothing that a provider sent, but for the issuer and
	// the audience of a job's own token.
	Sentence string
	// Err is the cause, for the log. It holds no secret; what it quotes of a
	// provider's answer is cut short and printable. It may be nil.
	Err error
}

// Error returns the text for the log. Users get Sentence.
func (f *Failure) Error() string {
	if f.Err == nil {
		return "sign-in failed: " + f.Sentence
	}
	return "sign-in failed: " + f.Sentence + ": " + f.Err.Error()
}

func (f *Failure) Unwrap() error { return f.Err }

// fail returns the failure of a code with the sentence that goes with it.
func fail(code string, err error) *Failure {
	return &Failure{Code: code, Sentence: sentences[code], Err: err}
}

var sentences = map[string]string{
	CodeAccessDenied:        "the sign-in was denied at the provider",
	CodeExpired:             "the sign-in was not completed in time",
	CodeProviderUnreachable: "the identity provider can't be reached, try again later",
	CodeProviderRefused:     "the identity provider refused the gateway's request, tell your administrator",
	CodeInvalidResponse:     "the identity provider sent an answer that can't be used, tell your administrator",
	CodeInvalidToken:        "the identity provider sent a token that can't be trusted, tell your administrator",
	CodeNotConfigured:       "the identity provider does not offer this kind of sign-in, tell your administrator",
	CodeCancelled:           "the sign-in was cancelled",
	CodeTooMany:             "too many sign-ins are waiting, try again in a few minutes",
	CodeClosed:              "the gateway is shutting down, try again in a moment",
	CodeTokenUnknown:        "the access token is not known here: it was revoked, mistyped, or is of another gateway; sign in again",
	CodeTokenExpired:        "the token has expired; get a new one",
	CodeTokenRevoked:        "the token was revoked; get a new one",
	CodeSignInRevoked:       "your sign-in was revoked",
	CodeNoWorkload:          "no workload of this gateway takes this ID token; ask whoever runs the gateway",
	CodeUnavailable:         "the gateway can't look up its state right now, try again in a moment",
}

// cancelled returns the failure for a context that ended: the failure that it
// was cancelled with, if that is its cause.
func cancelled(ctx context.Context) *Failure {
	cause := context.Cause(ctx)
	if failure, ok := errors.AsType[*Failure](cause); ok {
		return failure
	}
	return fail(CodeCancelled, cause)
}

// maxQuote is how many bytes of a provider's text are quoted in an error.
const maxQuote = 200

// printable returns s without everything that is not printable ASCII, cut to
// max bytes. Both the terminal of a user and a log are places where a provider
// could otherwise plant escape sequences.
func printable(s string, max int) string {
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < max; i++ {
		if isPrintable(s[i]) {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func isPrintable(c byte) bool { return ' ' <= c && c <= '~' }

// allPrintable tells whether s is printable ASCII throughout.
func allPrintable(s string) bool {
	for i := range len(s) {
		if !isPrintable(s[i]) {
			return false
		}
	}
	return true
}
