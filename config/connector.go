package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sshgate/sshgate/sshgate"
)

// Connector is the configuration of `sshgate connector`.
type Connector struct {
	// Gateway is the HOST:PORT of the gateway's tunnel. Required; the port is
	// 443 by default.
	Gateway string
	// CertificateFile and KeyFile are the client certificate and its key, PEM,
	// absolute here. Default connector.crt and connector.key beside the
	// configuration. Both must exist, the key for its owner alone. Where systemd
	// hands both over as credentials of these names, it is those.
	CertificateFile string
	KeyFile         string
	// StateDir is where renewed certificates go, absolute here. Default the state
	// directory that systemd names; empty is in place of CertificateFile and KeyFile.
	StateDir string
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

// ConnectorOrigin is a service that a connector publishes.
type ConnectorOrigin struct {
	// Name is the name that people reach it by. Required.
	Name sshgate.OriginName
	// URL is what the connector dials: ssh://HOST:PORT (22 by default),
	// tcp://HOST:PORT, rdp://HOST:PORT (3389 by default), with the port always
	// filled in, or unix:///PATH. Required.
	URL *url.URL
	// Port tells the services of a name apart: 22 for ssh, whatever is dialled;
	// for tcp and rdp by default that of the URL; for unix it must be given.
	Port uint16
}

// Endpoint is what people reach it by.
func (o ConnectorOrigin) Endpoint() sshgate.Endpoint {
	return sshgate.Endpoint{Origin: o.Name, Port: o.Port}
}

// ParseConnector reads the configuration of the connector from memory. The name
// of the file is for messages and says where relative paths start.
func ParseConnector(data []byte, file string, env func(string) string) (*Connector, error) {
	k := &Connector{Connections: 2}
	if err := parse(data, file, exampleConnector, env, k.decode); err != nil {
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
		"state_dir":        directory(&k.StateDir),
		"gateway_ca_file":  publicFile(&k.GatewayCAFile),
		"server_name":      parsed(&k.ServerName, hostname, "expected the name in the gateway's certificate"),
		"connections":      integer(&k.Connections, 1, 8),
		"origins":          list(&k.Origins, connectorOrigin),
	}, required{
		"gateway": "expected the gateway's HOST:PORT, as in gate.example.com:443",
		"origins": "expected what the connector publishes",
	})
	credentials := k.fromSystemd(c.doc.env)
	if !hasCertificate && !credentials {
		publicFile(&k.CertificateFile)(c.standIn("certificate_file", "connector.crt"))
	}
	if !hasKey && !credentials {
		secretFile(&k.KeyFile)(c.standIn("key_file", "connector.key"))
	}
	if k.Origins != nil && len(k.Origins) == 0 {
		c.doc.problemAt("origins", "is empty; expected what the connector publishes")
	}
	for i, o := range k.Origins {
		first := slices.IndexFunc(k.Origins, func(other ConnectorOrigin) bool { return other.Endpoint() == o.Endpoint() })
		if first < i && o.Name != "" && o.Port != 0 {
			c.doc.problemAt(fmt.Sprintf("origins[%d].name", i), fmt.Sprintf("%s at port %d is origins[%d] too; names or ports must differ", quote(string(o.Name)), o.Port, first))
		}
	}
}

// fromSystemd takes what systemd gives to a service (systemd.exec(5)): credentials,
// which only it and root can read, and a directory to write to. It tells whether there
// are credentials.
func (k *Connector) fromSystemd(env func(string) string) (credentials bool) {
	if dir := env("CREDENTIALS_DIRECTORY"); dir != "" {
		cert, key := filepath.Join(dir, "connector.crt"), filepath.Join(dir, "connector.key")
		any := func(string, os.FileInfo) error { return nil } // systemd sees to their modes
		if checkFile(cert, any) == nil && checkFile(key, any) == nil {
			k.CertificateFile, k.KeyFile, credentials = cert, key, true
		}
	}
	if dir, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":"); dir != "" && k.StateDir == "" {
		k.StateDir = dir
	}
	return credentials
}

func connectorOrigin(dst *ConnectorOrigin) func(cursor) {
	return func(c cursor) {
		c.object(schema{
			"name": parsed(&dst.Name, sshgate.ParseOriginName, "expected the name that people reach it by, as in web1"),
			"url":  parsed(&dst.URL, ParseOriginURL, "expected ssh://HOST:PORT, tcp://HOST:PORT, rdp://HOST:PORT or unix:///PATH"),
			"port": port(&dst.Port),
		}, required{
			"name": "expected the name that people reach it by, as in web1",
			"url":  "expected what to dial, as in ssh://127.0.0.1:22",
		})
		if dst.URL != nil && !c.doc.reported(c.path+".port") {
			dst.choosePort(c)
		}
	}
}

// choosePort fills in the port that the service is published at.
func (o *ConnectorOrigin) choosePort(c cursor) {
	switch {
	case o.URL.Scheme == "ssh" && o.Port != 0 && o.Port != sshgate.SSHPort:
		c.doc.problemAt(c.path+".port", "has no meaning for ssh, which is always published at port 22; remove it")
	case o.URL.Scheme == "ssh":
		o.Port = sshgate.SSHPort
	case o.URL.Scheme == "unix" && o.Port == 0:
		c.problem("has no port; a unix socket needs one, by which people reach it")
	case o.Port == 0:
		n, _ := strconv.ParseUint(o.URL.Port(), 10, 16) // checked with the URL
		o.Port = uint16(n)
	}
	if o.Port == sshgate.SSHPort && o.URL.Scheme != "ssh" {
		c.problem("is published at port 22, which is SSH's; write ssh://HOST:PORT, or another port")
	}
}
