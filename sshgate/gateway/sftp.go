package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/sshgate/sshgate/sshgate"
)

// The packets of SFTP version 3, draft-ietf-secsh-filexfer-02 section 3.
const (
	sftpInit     = 1
	sftpVersion  = 2
	sftpOpen     = 3
	sftpClose    = 4
	sftpRead     = 5
	sftpWrite    = 6
	sftpLstat    = 7
	sftpFstat    = 8
	sftpSetstat  = 9
	sftpFsetstat = 10
	sftpOpendir  = 11
	sftpReaddir  = 12
	sftpRemove   = 13
	sftpMkdir    = 14
	sftpRmdir    = 15
	sftpRealpath = 16
	sftpStat     = 17
	sftpRename   = 18
	sftpReadlink = 19
	sftpSymlink  = 20
	sftpStatus   = 101
	sftpExtended = 200
)

// The flags of an open, section 6.3, and the codes of a status, section 7.
const (
	flagRead  = 0x01
	flagWrite = 0x02
	flagsAll  = 0x3f // with append, creat, trunc and excl

	statusDenied      = 3
	statusBadMessage  = 5
	statusUnsupported = 8
)

// maxSFTPPacket is the largest packet that OpenSSH takes, without its length.
const maxSFTPPacket = 256 << 10

// onlyVersion is the version that the filter can read, and so the only one that is
// spoken through it.
const onlyVersion = 3

var errNotSFTP = errors.New("what is sent is not SFTP version 3")

// way is which way files must be allowed to go for a packet to pass.
type way int

const (
	unknownWay way = iota
	neither        // asks for names and attributes, which both ways need
	reads
	writes
	both
)

// sftpTypes says what the packets of a client need, but for open and extended.
// Somebody who may only write needs realpath and stat to name the file that they
// write; to list folders is to read.
var sftpTypes = map[byte]way{
	sftpClose: neither, sftpLstat: neither, sftpFstat: neither, sftpRealpath: neither, sftpStat: neither,
	sftpRead: reads, sftpOpendir: reads, sftpReaddir: reads, sftpReadlink: reads,
	sftpWrite: writes, sftpSetstat: writes, sftpFsetstat: writes, sftpRemove: writes, sftpMkdir: writes,
	sftpRmdir: writes, sftpRename: writes, sftpSymlink: writes,
}

// sftpExtensions are those of OpenSSH's PROTOCOL file, section 4.
var sftpExtensions = map[string]way{
	"limits@openssh.com": neither, "expand-path@openssh.com": neither, "home-directory": neither,
	"statvfs@openssh.com": neither, "fstatvfs@openssh.com": neither,
	"users-groups-by-id@openssh.com": reads,
	"posix-rename@openssh.com":       writes, "hardlink@openssh.com": writes, "lsetstat@openssh.com": writes, "fsync@openssh.com": writes,
	"copy-data": both,
}

// sftpFilter stands in an SFTP session in which files may not go both ways. It
// answers in the origin's place what is not allowed, so that the origin never sees
// it, and passes everything else on as it is.
type sftpFilter struct {
	files sshgate.Transfer
	// refused is told of every packet that is refused, and which way it was for.
	refused func(write bool)

	client   sync.Mutex // held while a packet is written to the client
	toClient io.Writer
}

// fromClient passes on the client's packets until they end, which is no error
// between two of them.
func (f *sftpFilter) fromClient(origin io.Writer, client io.Reader, n *atomic.Int64) error {
	var buf []byte
	for first := true; ; first = false {
		packet, err := readPacket(client, &buf)
		if err != nil {
			return ended(err)
		}
		n.Add(int64(len(packet)))
		if first {
			if packet, err = versionThree(packet); err != nil {
				return err
			}
		} else if status, write, err := f.judge(packet[4:]); err != nil {
			return err
		} else if status != 0 {
			if f.refused != nil {
				f.refused(write)
			}
			if err := f.answer(packet[5:9], status); err != nil {
				return err
			}
			continue
		}
		if _, err := origin.Write(packet); err != nil {
			return err
		}
	}
}

// fromOrigin passes on the origin's packets, between which the filter's own may
// stand.
func (f *sftpFilter) fromOrigin(origin io.Reader, n *atomic.Int64) error {
	var buf []byte
	for first := true; ; first = false {
		packet, err := readPacket(origin, &buf)
		if err != nil {
			return ended(err)
		}
		if first && (len(packet) < 9 || packet[4] != sftpVersion || binary.BigEndian.Uint32(packet[5:]) != onlyVersion) {
			return errNotSFTP
		}
		if err := f.write(packet); err != nil {
			return err
		}
		n.Add(int64(len(packet)))
	}
}

func (f *sftpFilter) write(packet []byte) error {
	f.client.Lock()
	defer f.client.Unlock()
	_, err := f.toClient.Write(packet)
	return err
}

// answer sends the client a status for the request with this id.
func (f *sftpFilter) answer(id []byte, status uint32) error {
	text := "the access policy does not allow this"
	if status != statusDenied {
		text = "this is not carried"
	}
	packet := make([]byte, 4, 64)
	packet = append(packet, sftpStatus)
	packet = append(packet, id...)
	packet = binary.BigEndian.AppendUint32(packet, status)
	packet = binary.BigEndian.AppendUint32(packet, uint32(len(text)))
	packet = append(packet, text...)
	packet = binary.BigEndian.AppendUint32(packet, 0) // no language
	binary.BigEndian.PutUint32(packet, uint32(len(packet)-4))
	return f.write(packet)
}

// judge returns the status that refuses a packet of the client, 0 where it may
// pass, and whether it was to write. An error is for what cannot be answered.
func (f *sftpFilter) judge(packet []byte) (status uint32, write bool, err error) {
	if len(packet) < 5 {
		return 0, false, errNotSFTP
	}
	kind, body := packet[0], packet[5:]
	needs := sftpTypes[kind]
	switch kind {
	case sftpInit:
		return 0, false, errNotSFTP // it has no id to answer to, and comes once
	case sftpOpen:
		if needs, err = openNeeds(body); err != nil {
			return statusBadMessage, true, nil
		}
	case sftpExtended:
		name, _, err := sftpString(body)
		if err != nil {
			return statusBadMessage, true, nil
		}
		needs = sftpExtensions[string(name)]
	}
	switch needs {
	case unknownWay:
		return statusUnsupported, true, nil
	case reads:
		return f.unless(f.files.Read), false, nil
	case writes:
		return f.unless(f.files.Write), true, nil
	case both:
		return f.unless(f.files.Read && f.files.Write), true, nil
	}
	return 0, false, nil
}

func (f *sftpFilter) unless(allowed bool) uint32 {
	if allowed {
		return 0
	}
	return statusDenied
}

// openNeeds reads the body of an open. An open with neither the flag to read nor
// the one to write reads, which is what servers make of it.
func openNeeds(body []byte) (way, error) {
	_, rest, err := sftpString(body)
	if err != nil || len(rest) < 8 { // the flags, and those of the attributes
		return unknownWay, errNotSFTP
	}
	flags := binary.BigEndian.Uint32(rest)
	switch {
	case flags&^flagsAll != 0:
		return unknownWay, nil
	case flags&^flagRead == 0:
		return reads, nil
	case flags&flagRead != 0 || flags&flagWrite == 0:
		return both, nil // it changes something and reads
	}
	return writes, nil
}

// sftpString reads a string, section 3.
func sftpString(b []byte) (text, rest []byte, err error) {
	if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
		return nil, nil, errNotSFTP
	}
	n := binary.BigEndian.Uint32(b)
	return b[4 : 4+n], b[4+n:], nil
}

// versionThree reads a client's first packet and returns what the origin gets in
// its place: without that, a client and a server could agree on a version whose
// packets mean something else.
func versionThree(packet []byte) ([]byte, error) {
	if len(packet) < 9 || packet[4] != sftpInit || binary.BigEndian.Uint32(packet[5:]) < onlyVersion {
		return nil, errNotSFTP
	}
	return []byte{0, 0, 0, 5, sftpInit, 0, 0, 0, onlyVersion}, nil
}

// readPacket reads a packet with its length into buf, which it lets grow as far as
// a packet may.
func readPacket(r io.Reader, buf *[]byte) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxSFTPPacket {
		return nil, fmt.Errorf("%w: a packet of %d bytes", errNotSFTP, n)
	}
	if cap(*buf) < int(n)+4 {
		*buf = make([]byte, max(int(n)+4, copyBuffer))
	}
	packet := (*buf)[:n+4]
	copy(packet, length[:])
	if _, err := io.ReadFull(r, packet[4:]); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return packet, nil
}

// copyBuffer is the least that a filter reads into.
const copyBuffer = 34 << 10

// ended makes of an end between two packets what endtoend.Copy makes of it.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
