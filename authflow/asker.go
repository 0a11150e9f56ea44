package authflow

import (
	"net/netip"
	"strings"

	"github.com/sshgate/sshgate/sshgate"
)

// Asker is what wants somebody to sign in, for that person to recognise. It decides
// nothing.
type Asker struct {
	// Connection names it in the record.
	Connection sshgate.ConnectionID
	Address    netip.Addr
	// Client is what the program calls itself, as sent.
	Client string
	// Key is the fingerprint of the key that it has proven, "" where it has none.
	Key string
	// Target is where it wants to go; zero where that is nowhere yet.
	Target sshgate.Target
	// Demands are what the provider is asked for; the device flow knows none.
	Demands Demands
}

const maxClient = 80 // bytes of Asker.Client that are shown

// ClientText is Client as it can be shown, without the version of the SSH protocol.
func (a Asker) ClientText() string {
	return printable(strings.TrimPrefix(a.Client, "SSH-2.0-"), maxClient)
}
