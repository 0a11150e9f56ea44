// Package devidp is a small OpenID Connect provider for trying sshgate out and
// for tests: users with passwords in memory, the device flow (RFC 8628) with
// its pages, and authorization code with PKCE (RFC 7636).
//
// Make one with [New] and serve it at its issuer URL; it is an [http.Handler]
// and starts no goroutine. Everything that it stores expires and is bounded.
//
// It is no provider for a company: no second factor, no account recovery, no
// audit. Its protocol side is github.com/zitadel/oidc, from which it passes on
// no more endpoints than these flows need.
package devidp
