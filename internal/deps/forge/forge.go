//go:build tools

// Package forge pins the git server that the end-to-end tests run, in a module of
// its own: nothing of it is linked into sshgate.
package forge

import _ "github.com/charmbracelet/soft-serve/cmd/soft"
