package sshgate

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
)

// RequestID names one request to the gateway, in what the user reads, in the
// log and at the origin, so that the three can be brought together.
type RequestID string

// ConnectionID names one client connection; its sessions share it.
type ConnectionID string

// ServiceTokenID names one service token.
type ServiceTokenID string

// ServiceTokenPrefix begins every ServiceTokenID, and no service token's name.
const ServiceTokenPrefix = "st-"

// JoinTokenID names one join token.
type JoinTokenID string

// NewJoinTokenID returns a fresh random identifier, such as "jt-5k2m9q4xha".
func NewJoinTokenID() JoinTokenID { return JoinTokenID("jt-" + randomID()) }

// NewRequestID returns a fresh random identifier, such as "r-5k2m9q4xha".
func NewRequestID() RequestID { return RequestID("r-" + randomID()) }

// NewConnectionID returns a fresh random identifier, such as "c-5k2m9q4xha".
func NewConnectionID() ConnectionID { return ConnectionID("c-" + randomID()) }

// NewServiceTokenID returns a fresh random identifier, such as "st-5k2m9q4xha".
func NewServiceTokenID() ServiceTokenID { return ServiceTokenID(ServiceTokenPrefix + randomID()) }

// idEncoding leaves out what people misread aloud or on paper: 0, 1, l, o.
var idEncoding = base32.NewEncoding("23456789abcdefghijkmnpqrstuvwxyz").WithPadding(base32.NoPadding)

// randomID returns 50 random bits as ten characters.
func randomID() string {
	var b [7]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return strings.ToLower(idEncoding.EncodeToString(b[:]))[:10]
}
