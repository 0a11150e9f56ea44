// Package sshgate is the vocabulary of the gateway: who asks (Identity), for
// what (Target), what the rules say (Policy, Decision), what happened (Event)
// and why not (Denied).
//
// Start with ParseTarget, which reads what a client typed, and Policy.Decide,
// which answers it. The package imports the standard library alone and does no
// I/O: it never dials, never reads a clock that was not handed to it, and never
// logs.
package sshgate
