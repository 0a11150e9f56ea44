package connector

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sshgate/sshgate/sshgate"
)

// ALPN is the protocol name that both ends negotiate in TLS (RFC 7301).
const ALPN = "sshgate-tunnel/1"

// protocolVersion is what a connector states when it registers.
const protocolVersion = 1

// MaxOrigins is how many services one connector can publish. It keeps a
// registration with all host keys below maxControlFrame.
const MaxOrigins = 100

// Limits of the wire format, in bytes; SPEC.md gives them to other
// implementations.
const (
	maxControlFrame = 256 << 10
	maxHeaderFrame  = 16 << 10
	maxHostKey      = 1500 // one line; an RSA key of 8192 bits has 1,416
	maxHostKeys     = 8    // of one origin
	maxReason       = 512
	maxIdentity     = 512
	maxInstance     = 32
)

// Code says why something was refused, for programs.
type Code string

// The refusal codes of protocol version 1.
const (
	CodeUnknownOrigin  Code = "unknown_origin"   // the connector does not have that origin
	CodeDialRefused    Code = "dial_refused"     // the origin's port is closed
	CodeDialTimeout    Code = "dial_timeout"     // the origin, or its connector, did not answer in time
	CodeDialFailed     Code = "dial_failed"      // the origin cannot be reached for another reason
	CodeOverloaded     Code = "overloaded"       // a limit on streams or tunnels is reached
	CodeDraining       Code = "draining"         // that end is about to stop
	CodeBadRequest     Code = "bad_request"      // the message breaks the protocol
	CodeHostKeyChanged Code = "host_key_changed" // the origin's host key is not the pinned one
	CodeNotPermitted   Code = "not_permitted"    // the connector may not publish that name
	CodeVersion        Code = "version"          // the protocol version is not spoken
	CodeTaken          Code = "taken"            // the name belongs to another connector
	CodeUnavailable    Code = "unavailable"      // the gateway cannot decide right now; ask again
)

// Refusal is an answer of no, with its reason. Reason is a sentence for people
// and printable ASCII; it holds no secret and no address of the origin's network.
type Refusal struct {
	Code   Code
	Reason string
}

// Error returns the reason and the code.
func (r *Refusal) Error() string { return fmt.Sprintf("%s (%s)", r.Reason, r.Code) }

// The types of control messages.
const (
	typeRegister   = "register"
	typeRegistered = "registered"
	typeRefused    = "refused"
	typeDrain      = "drain"
	typeAbort      = "abort"
	typeAlive      = "alive"
)

// registerMessage is the connector's list of all that it publishes.
type registerMessage struct {
	Type     string       `json:"type"`
	Version  int          `json:"version"`
	Software string       `json:"software,omitempty"`
	Instance string       `json:"instance,omitempty"`
	Origins  []wireOrigin `json:"origins"`
}

// wireOrigin is one service of an origin.
type wireOrigin struct {
	Name     string   `json:"name"`
	Port     uint16   `json:"port,omitempty"` // 0 is 22, SSH
	HostKeys []string `json:"host_keys"`
}

// registeredMessage is the gateway's answer to a registration.
type registeredMessage struct {
	Type     string        `json:"type"`
	Tunnel   string        `json:"tunnel"`
	Accepted []string      `json:"accepted"`
	Refused  []wireRefusal `json:"refused"`
}

// label is what stands for the service in an answer: its name as it was written,
// with the port where that is not SSH's.
func (o wireOrigin) label() string {
	if o.port() == sshgate.SSHPort {
		return o.Name
	}
	return o.Name + ":" + strconv.Itoa(int(o.Port))
}

func (o wireOrigin) port() uint16 { return cmp.Or(o.Port, sshgate.SSHPort) }

type wireRefusal struct {
	Name   string `json:"name"`
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
}

// refusedMessage refuses the tunnel as a whole.
type refusedMessage struct {
	Type   string `json:"type"`
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
}

// drainMessage asks the connector to open another tunnel in place of this one.
type drainMessage struct {
	Type   string `json:"type"`
	Reason string `json:"reason"`
}

// abortMessage says that the gateway is done with a stream, in both directions.
type abortMessage struct {
	Type   string `json:"type"`
	Stream uint32 `json:"stream"`
}

type aliveMessage struct {
	Type string `json:"type"`
}

// dialHeader begins each data stream.
type dialHeader struct {
	RequestID     string `json:"request_id"`
	ConnectionID  string `json:"connection_id"`
	Origin        string `json:"origin"`
	Port          uint16 `json:"port,omitempty"` // 0 is 22, SSH
	Identity      string `json:"identity"`
	Login         string `json:"login"`
	ClientAddress string `json:"client_address"`
}

func (h dialHeader) label() string { return wireOrigin{Name: h.Origin, Port: h.Port}.label() }

// dialReply answers a dialHeader.
type dialReply struct {
	OK     bool   `json:"ok"`
	Code   Code   `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}

const lengthSize = 4

var errFrameSize = errors.New("the frame's length is out of range")

// writeFrame writes v as one frame of at most limit bytes, in a single Write.
func writeFrame(w io.Writer, v any, limit int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	if len(body) > limit {
		return fmt.Errorf("encoding a frame of %d bytes: %w", len(body), errFrameSize)
	}
	frame := make([]byte, lengthSize, lengthSize+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	return nil
}

// readFrame reads one frame of at most limit bytes and returns the JSON object
// in it. It reads nothing beyond the frame. An end before the first byte is
// io.EOF, a later one io.ErrUnexpectedEOF.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var prefix [lengthSize]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(prefix[:])
	if size < uint32(len("{}")) || size > uint32(limit) {
		return nil, fmt.Errorf("reading a frame of %d bytes: %w", size, errFrameSize)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if body[0] != '{' {
		return nil, errors.New("reading a frame: not a JSON object")
	}
	return body, nil
}

// readControl reads one control message into the type that belongs to it. An
// unknown message is returned as nil, to be ignored.
func readControl(r io.Reader) (any, error) {
	body, err := readFrame(r, maxControlFrame)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(body, &kind); err != nil {
		return nil, fmt.Errorf("reading a control message: %w", err)
	}
	var msg any
	switch kind.Type {
	case "":
		return nil, errors.New("reading a control message: it has no type")
	case typeRegister:
		msg = new(registerMessage)
	case typeRegistered:
		msg = new(registeredMessage)
	case typeRefused:
		msg = new(refusedMessage)
	case typeDrain:
		msg = new(drainMessage)
	case typeAbort:
		msg = new(abortMessage)
	default: // typeAlive too: to have arrived is all that it is for
		return nil, nil
	}
	if err := json.Unmarshal(body, msg); err != nil {
		return nil, fmt.Errorf("reading a %s message: %w", kind.Type, err)
	}
	return msg, nil
}

// readHeader reads the header of a data stream.
func readHeader(r io.Reader) (dialHeader, error) {
	var h dialHeader
	body, err := readFrame(r, maxHeaderFrame)
	if err != nil {
		return h, fmt.Errorf("reading the stream's header: %w", err)
	}
	if err := json.Unmarshal(body, &h); err != nil {
		return h, fmt.Errorf("reading the stream's header: %w", err)
	}
	return h, nil
}

// readReply reads the answer to a stream's header and returns the refusal in
// it, which is nil when the answer is ok.
func readReply(r io.Reader) (*Refusal, error) {
	body, err := readFrame(r, maxHeaderFrame)
	if err != nil {
		return nil, fmt.Errorf("reading the connector's reply: %w", err)
	}
	var reply dialReply
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("reading the connector's reply: %w", err)
	}
	if reply.OK {
		return nil, nil
	}
	return received(reply.Code, reply.Reason), nil
}

// received makes a refusal of what the other end sent, which may be anything.
func received(code Code, reason string) *Refusal {
	const longestCode = 32
	if code == "" || len(code) > longestCode || strings.Trim(string(code), "abcdefghijklmnopqrstuvwxyz_") != "" {
		code = CodeBadRequest
	}
	reason = printable(reason, maxReason)
	if reason == "" {
		reason = "no reason given"
	}
	return &Refusal{Code: code, Reason: reason}
}

// printable returns at most limit bytes of s, with anything but printable ASCII
// replaced: texts of the other end go to logs and terminals.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
