package helper

import (
	"errors"
	"time"

	"github.com/zalando/go-keyring"
)

// Keyring keeps secrets for the user, as the desktop's does.
type Keyring interface {
	Get(name string) (string, error)
	Set(name, secret string) error
	Delete(name string) error
}

const (
	keyringService = "sshgate"
	keyringTimeout = 3 * time.Second
)

var errKeyringSlow = errors.New("the keyring does not answer")

// systemKeyring returns the system's keyring where one may run, otherwise nil.
// SSHGATE_KEYRING=off turns it off.
func systemKeyring(getenv func(string) string) Keyring {
	if getenv("SSHGATE_KEYRING") == "off" || !keyringPlausible(getenv) {
		return nil
	}
	return system{}
}

type system struct{}

func (system) Get(name string) (string, error) {
	return bounded(func() (string, error) { return keyring.Get(keyringService, name) })
}

func (system) Set(name, secret string) error {
	_, err := bounded(func() (string, error) { return "", keyring.Set(keyringService, name, secret) })
	return err
}

func (system) Delete(name string) error {
	_, err := bounded(func() (string, error) { return "", keyring.Delete(keyringService, name) })
	return err
}

// bounded gives up on a keyring that waits for its user, or for a bus that is
// gone. The call goes on and ends with the process.
func bounded(call func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := call()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-time.After(keyringTimeout):
		return "", errKeyringSlow
	}
}
