package devidp

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// device is a device login (RFC 8628).
type device struct {
	clientID string
	userCode string // in normal form, see normalCode
	scopes   []string
	expires  time.Time
	interval time.Duration // grows when the client asks too often
	polledAt time.Time     // zero before the first poll

	answer     answer
	subject    string // of the person who allowed it
	signedInAt time.Time
}

// answer is what the person said.
type answer int

const (
	unanswered answer = iota
	allowed
	denied
)

// slowDownStep is what slow_down adds to the interval, RFC 8628 section 3.5.
const slowDownStep = 5 * time.Second

// normalCode returns a user code as it is stored: the letters alone, in upper
// case (RFC 8628 section 6.1). People leave out hyphens, and add spaces.
func normalCode(code string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(op.CharSetBase20, r) {
			return r
		}
		return -1
	}, strings.ToUpper(code))
}

// shownCode is a code in normal form as a terminal shows it.
func shownCode(code string) string {
	half := op.UserCodeBase20.DashInterval
	if len(code) <= half {
		return code
	}
	return code[:half] + "-" + code[half:]
}

// StoreDeviceAuthorization implements op.DeviceAuthorizationStorage.
func (s *storage) StoreDeviceAuthorization(_ context.Context, clientID, deviceCode, userCode string, expires time.Time, scopes []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune()
	if len(s.devices) >= maxEntries {
		return errFull
	}
	code := normalCode(userCode)
	if s.deviceByCode(code) != nil {
		return op.ErrDuplicateUserCode
	}
	s.devices[deviceCode] = &device{
		clientID: clientID,
		userCode: code,
		scopes:   scopes,
		expires:  s.now().Add(time.Until(expires)), // the library's clock is not ours
		interval: s.pollInterval,
	}
	return nil
}

// GetDeviceAuthorizatonState implements op.DeviceAuthorizationStorage (the
// spelling is the library's). It is reached only when poll let the client
// through, and hands out an allowed login once: a device code is good for one
// token.
func (s *storage) GetDeviceAuthorizatonState(_ context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[deviceCode]
	if !ok || d.clientID != clientID || d.answer != allowed {
		return nil, errors.New("no such device login")
	}
	delete(s.devices, deviceCode)
	return &op.DeviceAuthorizationState{
		ClientID: d.clientID,
		Scopes:   d.scopes,
		Expires:  d.expires,
		Done:     true,
		Subject:  d.subject,
		AMR:      []string{"pwd"},
		AuthTime: d.signedInAt,
	}, nil
}

// poll returns the error to answer a poll with (RFC 8628 section 3.5), or nil
// when there is a token to be had.
func (s *storage) poll(clientID, deviceCode string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	d, ok := s.devices[deviceCode]
	if !ok || d.clientID != clientID {
		return oidc.ErrInvalidGrant().WithDescription("unknown device code")
	}
	early := !d.polledAt.IsZero() && now.Sub(d.polledAt) < d.interval-jitter
	d.polledAt = now
	switch {
	case d.answer == denied:
		delete(s.devices, deviceCode)
		return oidc.ErrAccessDenied()
	case !now.Before(d.expires):
		return oidc.ErrExpiredDeviceCode()
	case early:
		d.interval += slowDownStep
		return oidc.ErrSlowDown()
	case d.answer == unanswered:
		return oidc.ErrAuthorizationPending()
	}
	return nil
}

// jitter is how much early a poll may be: timers and networks are not exact.
const jitter = 200 * time.Millisecond

// deviceByCode finds the login that waits for a person with this code in normal
// form, or nil. The caller holds s.mu.
func (s *storage) deviceByCode(code string) *device {
	now := s.now()
	for _, d := range s.devices {
		if d.userCode == code && d.answer == unanswered && now.Before(d.expires) {
			return d
		}
	}
	return nil
}

// waiting tells whether a login waits for a person with this code.
func (s *storage) waiting(code string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deviceByCode(code) != nil
}

// decide records what the person said. It is false when no login waits any more.
func (s *storage) decide(code, subject string, signedInAt time.Time, said answer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.deviceByCode(code)
	if d == nil {
		return false
	}
	d.answer, d.subject, d.signedInAt = said, subject, signedInAt
	return true
}
