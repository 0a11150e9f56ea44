package e2e

import (
	"net"
	"net/http"
)

// place is where the programs of a stack run: beside the tests, or in a network of
// their own.
type place interface {
	// command returns the command line that runs this one there.
	command(args ...string) []string
	// listen opens a port there.
	listen(address string) (net.Listener, error)
	// browser makes requests from there.
	browser() *http.Client
}

// here is beside the tests.
type here struct{}

func (here) command(args ...string) []string             { return args }
func (here) listen(address string) (net.Listener, error) { return net.Listen("tcp", address) }
func (here) browser() *http.Client                       { return http.DefaultClient }
