package helper

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/crypto/ssh"
)

// KeyFile returns where the key for the certificates of a host and a login is. The
// names may be ssh_config's tokens %h and %r. The certificate is beside it.
func (p *Place) KeyFile(host, login string) string {
	if login == "" {
		login = "default"
	}
	return filepath.Join(p.dir, "keys", host+"-"+login)
}

// CertificateFile is what ssh looks for beside a key.
func CertificateFile(keyFile string) string { return keyFile + "-cert.pub" }

// Certificate makes sure that there is a certificate for the host and the login
// that is good for a while, and returns its file. The key is made once.
func (a *Access) Certificate(ctx context.Context, host, login string) (string, error) {
	endpoint, err := sshgate.ParseEndpoint(host)
	if err != nil {
		return "", usage("--hostname: %v", err)
	}
	if login != "" {
		if _, err := sshgate.ParseLogin(login); err != nil {
			return "", usage("--login: %v", err)
		}
	}
	file := a.Place.KeyFile(string(endpoint.Origin), login)
	l, err := openLock(file + ".lock")
	if err != nil {
		return "", err
	}
	defer l.unlock()
	if err := l.wait(); err != nil { // held while a request is made
		return "", err
	}
	key, err := openClientKey(file)
	if err != nil {
		return "", err
	}
	if certificateGood(CertificateFile(file), key, a.now()) {
		return CertificateFile(file), nil
	}
	var got struct {
		Certificate string `json:"certificate"`
	}
	err = a.Call(ctx, http.MethodPost, "/api/v1/certificate", map[string]string{
		"public_key": strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), "hostname": endpoint.String(), "login": login,
	}, &got)
	if err != nil {
		return "", err
	}
	if cert, err := parseCertificate([]byte(got.Certificate)); err != nil || string(cert.Key.Marshal()) != string(key.Marshal()) {
		return "", &Problem{Kind: Broken, Text: "the gateway sent a certificate that is none for this key"}
	}
	return CertificateFile(file), writeFile(CertificateFile(file), []byte(got.Certificate+"\n"))
}

// openClientKey returns the public key of the file, which it makes.
func openClientKey(file string) (ssh.PublicKey, error) {
	data, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = newClientKey(file)
	}
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, &Problem{Kind: Usage, Text: "the key " + file + " cannot be read", Err: err, Next: "remove it; a new one is made"}
	}
	return signer.PublicKey(), nil
}

func newClientKey(file string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "sshgate")
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(block)
	return data, writeFile(file, data)
}

func parseCertificate(line []byte) (*ssh.Certificate, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("it is no certificate")
	}
	return cert, nil
}

// certificateGood tells that the file has a certificate of the key of whose life a
// fifth is left.
func certificateGood(file string, key ssh.PublicKey, now time.Time) bool {
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	cert, err := parseCertificate(data)
	if err != nil || string(cert.Key.Marshal()) != string(key.Marshal()) {
		return false
	}
	after, before := time.Unix(int64(cert.ValidAfter), 0), time.Unix(int64(cert.ValidBefore), 0)
	return now.After(after) && before.Sub(now) > before.Sub(after)/5
}
