// Package connector is the tunnel between a gateway and the origins that only
// ever dial out. Agent is the origin's end: it keeps connections to a gateway
// and serves what is dialled through them. Hub is the gateway's end: Serve takes
// a connector's connection, Dial reaches an origin through one. CA issues the
// certificates that the two know each other by. SPEC.md has the wire format.
//
// The agent dials nothing but the gateway and the addresses in its own
// configuration. The hub lets a connector publish nothing but the names in its
// certificate, and then only what HubConfig.Admit agrees to.
package connector
