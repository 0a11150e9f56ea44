// Package packaging has what an installation of sshgate consists of besides its
// programs.
package packaging

import _ "embed"

// ConnectorUnit is the systemd unit of `sshgate connector run`, for a program in
// /usr/bin and a configuration in /etc/sshgate.
//
//go:embed sshgate-connector.service
var ConnectorUnit string

// GatewayUnit is the systemd unit of `sshgated serve`.
//
//go:embed sshgated.service
var GatewayUnit string
