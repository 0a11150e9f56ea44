package gateway

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	gossh "golang.org/x/crypto/ssh"
)

// HostKeyPins keeps the host keys that origins are known by.
type HostKeyPins interface {
	HostKeys(ctx context.Context, origin sshgate.OriginName) ([]sshgate.HostKeyPin, error)
}

// hostKeyError says that an origin's host key is not one to go on with.
type hostKeyError struct {
	changed bool // keys are pinned and this is none of them
	text    string
}

func (e *hostKeyError) Error() string { return e.text }

// knownKeys are the host keys of one origin.
type knownKeys []gossh.PublicKey

func parsePins(pins []sshgate.HostKeyPin) (knownKeys, error) {
	if len(pins) == 0 {
		return nil, &hostKeyError{text: "no host key of the origin is pinned"}
	}
	var keys knownKeys
	for _, pin := range pins {
		key, _, _, _, err := gossh.ParseAuthorizedKey([]byte(pin.Key))
		if err != nil {
			return nil, fmt.Errorf("the pinned host key of %s cannot be read: %w", pin.Origin, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// check is a gossh.HostKeyCallback.
func (known knownKeys) check(_ string, _ net.Addr, key gossh.PublicKey) error {
	for _, k := range known {
		if subtle.ConstantTimeCompare(k.Marshal(), key.Marshal()) == 1 {
			return nil
		}
	}
	return &hostKeyError{changed: true, text: fmt.Sprintf("the origin shows the host key %s %s, which is not pinned", key.Type(), gossh.FingerprintSHA256(key))}
}

// algorithms returns the host key algorithms to offer: those of the keys that
// are known. A server with several keys would otherwise choose one that is not.
func (known knownKeys) algorithms() []string {
	var algos []string
	for _, k := range known {
		if k.Type() == gossh.KeyAlgoRSA {
			algos = append(algos, gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256)
		} else {
			algos = append(algos, k.Type())
		}
	}
	return algos
}

// HostKeyStore is where pins are kept.
type HostKeyStore interface {
	HostKeyPins
	// PinHostKeys pins what of the report agrees with the pins that hold, and
	// returns those that hold afterwards, in one step.
	PinHostKeys(ctx context.Context, origin sshgate.OriginName, report []sshgate.HostKeyPin) ([]sshgate.HostKeyPin, error)
	// ClaimOrigin gives the origin to the connector unless another has it, and
	// returns whose it is then.
	ClaimOrigin(ctx context.Context, origin sshgate.OriginName, connector string, at time.Time) (owner string, err error)
}

// Registrar decides whether a connector may publish an origin with the host
// keys that it reports. The first connector that publishes an origin has it, and
// its first report of host keys pins them: later ones must agree.
type Registrar struct {
	Store  HostKeyStore
	Events Recorder
	Now    func() time.Time
}

// Admit is a connector.HubConfig's Admit. It refuses with a *connector.Refusal.
func (r *Registrar) Admit(ctx context.Context, reg connector.Registration) error {
	owner, err := r.Store.ClaimOrigin(ctx, reg.Origin, reg.Connector, r.Now())
	switch {
	case err != nil:
		return fmt.Errorf("looking up whose %s is: %w", reg.Origin, err)
	case owner != reg.Connector:
		return &connector.Refusal{Code: connector.CodeTaken, Reason: fmt.Sprintf(
			"it belongs to the connector %s; an administrator can change that on the gateway, with: sshgated connector release %s", owner, reg.Origin)}
	}
	if reg.Port != sshgate.SSHPort || len(reg.HostKeys) == 0 {
		return nil // no SSH server, or one that is down; its pins, if any, still hold
	}
	before, err := r.Store.HostKeys(ctx, reg.Origin)
	if err != nil {
		return fmt.Errorf("looking up the host keys of %s: %w", reg.Origin, err)
	}
	if len(before) > 0 && len(missing(reg.HostKeys, before)) == 0 {
		return nil
	}
	now := r.Now()
	report := make([]sshgate.HostKeyPin, len(reg.HostKeys))
	for i, key := range reg.HostKeys {
		report[i] = sshgate.HostKeyPin{Origin: reg.Origin, Key: key, Connector: reg.Connector, PinnedAt: now}
	}
	pinned, err := r.Store.PinHostKeys(ctx, reg.Origin, report)
	if err != nil {
		return fmt.Errorf("pinning the host keys of %s: %w", reg.Origin, err)
	}
	if strangers := missing(reg.HostKeys, pinned); len(strangers) > 0 {
		reason := fmt.Sprintf("the host key has changed; if that was intended, run \"sshgated hostkeys forget %s\" on the gateway (now %s; pinned %s)",
			reg.Origin, fingerprints(strangers), fingerprints(keysOf(pinned)))
		r.record(reg, false, reason)
		return &connector.Refusal{Code: connector.CodeHostKeyChanged, Reason: reason}
	}
	if fresh := missing(keysOf(pinned), before); len(fresh) > 0 {
		r.record(reg, true, "pinned "+fingerprints(fresh))
	}
	return nil
}

func (r *Registrar) record(reg connector.Registration, allowed bool, reason string) {
	r.Events.Record(sshgate.Event{
		Time:       r.Now(),
		Kind:       sshgate.EventHostKey,
		Identity:   "connector " + reg.Connector,
		ClientAddr: reg.RemoteAddr.Addr(),
		Origin:     reg.Origin,
		Allowed:    allowed,
		Reason:     reason,
	})
}

func keysOf(pins []sshgate.HostKeyPin) []string {
	keys := make([]string, len(pins))
	for i, pin := range pins {
		keys[i] = pin.Key
	}
	return keys
}

// missing returns the keys that are not among pins.
func missing(keys []string, pins []sshgate.HostKeyPin) []string {
	pinned := keysOf(pins)
	var strangers []string
	for _, key := range keys {
		if !slices.Contains(pinned, key) {
			strangers = append(strangers, key)
		}
	}
	return strangers
}

// fingerprints names keys for people.
func fingerprints(keys []string) string {
	names := make([]string, len(keys))
	for i, line := range keys {
		key, _, _, _, err := gossh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			names[i] = "an unreadable key"
			continue
		}
		names[i] = key.Type() + " " + gossh.FingerprintSHA256(key)
	}
	return strings.Join(names, ", ")
}
