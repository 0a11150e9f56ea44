// Package e2e holds the end-to-end tests: real sshgated and sshgate processes,
// a real OpenID Connect provider, and OpenSSH, PuTTY and dropbear as people have
// them. It has no code of its own; run it with "make test".
package e2e
