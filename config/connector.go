package config

import (
	"net"
	"net/url"

	"github.com/sshgate/sshgate/sshgate"
)

// Connector is the configuration of `sshgate connector`.
type Connector struct {
	// Gateway is the HOST:PORT of the gateway's tunnel. Required; the port is
	// 443 by default.
	Gateway string
	// CertificateFile and KeyFile are the client certificate and its key, PEM,
	// absolute here. Default connector.crt and connector.key beside the
	// configuration. Both must exist, the key for its owner alone.
	CertificateFile string
	KeyFile         string
	// GatewayCAFile holds the CA that signs the gateway's certificate, PEM,
	// absolute here. Empty, the default, means the system's CAs.
	GatewayCAFile string
	// ServerName is the name that the gateway's certificate must have. Default
	// the host of Gateway.
	ServerName string
	// Connections is how many the connector keeps open. Default 2, from 1 to 8.
	Connections int
	// Origins is what the connector publishes, at least one.
	Origins []ConnectorOrigin
}

// ConnectorOrigin is an origin that a connector publishes.
type ConnectorOrigin struct {
	// Name is the name that people reach it by. Required.
	Name sshgate.OriginName
	// URL is what the connector dials: ssh://HOST:PORT, the port always filled
	// in (22 by default). Required.
	URL *url.URL
}

// ParseConnector reads the configuration of the connector from memory. The name
// of the file is for messages and says where relative paths start.
func ParseConnector(data []byte, file string, env func(string) string) (*Connector, error) {
	k := &Connector{Connections: 2}
	if err := parse(data, file, env, k.decode); err != nil {
		return nil, err
	}
	if k.ServerName == "" {
		k.ServerName, _, _ = net.SplitHostPort(k.Gateway) // parsed before
	}
	return k, nil
}

func (k *Connector) decode(c cursor) {
	hasCertificate, hasKey := false, false
	c.object(schema{
		"gateway":          parsed(&k.Gateway, dialAddress("443"), "expected HOST:PORT, as in gate.example.com:443"),
		"certificate_file": noted(&hasCertificate, publicFile(&k.CertificateFile)),
		"key_file":         noted(&hasKey, secretFile(&k.KeyFile)),
		"gateway_ca_file":  publicFile(&k.GatewayCAFile),
		"server_name":      parsed(&k.ServerName, hostname, "expected the name in the gateway's certificate"),
		"connections":      integer(&k.Connections, 1, 8),
		"origins":          list(&k.Origins, connectorOrigin),
	}, required{
		"gateway": "expected the gateway's HOST:PORT, as in gate.example.com:443",
		"origins": "expected what the connector publishes",
	})
	if !hasCertificate {
		publicFile(&k.CertificateFile)(c.standIn("certificate_file", "connector.crt"))
	}
	if !hasKey {
		secretFile(&k.KeyFile)(c.standIn("key_file", "connector.key"))
	}
	if k.Origins != nil && len(k.Origins) == 0 {
		c.doc.problemAt("origins", "is empty; expected what the connector publishes")
	}
	checkNames(c, k.Origins, func(o ConnectorOrigin) sshgate.OriginName { return o.Name })
}

func connectorOrigin(dst *ConnectorOrigin) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"name": parsed(&dst.Name, sshgate.ParseOriginName, "expected the name that people reach it by, as in web1"),
			"url":  parsed(&dst.URL, originURL, "expected ssh://HOST:PORT, as in ssh://127.0.0.1:22"),
		}, required{
			"name": "expected the name that people reach it by, as in web1",
			"url":  "expected what to dial, as in ssh://127.0.0.1:22",
		})
	}
}
