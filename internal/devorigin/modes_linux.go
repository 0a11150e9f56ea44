package devorigin

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Terminal modes, RFC 4254 section 8, and IUTF8, RFC 8160.
var (
	controlChars = map[byte]int{
		1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF,
		6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP,
		12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
	}
	inputFlags = map[byte]uint32{
		30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR,
		35: unix.IGNCR, 36: unix.ICRNL, 37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY,
		40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
	}
	localFlags = map[byte]uint32{
		50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE,
		55: unix.ECHOK, 56: unix.ECHONL, 57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN,
		60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
	}
	outputFlags = map[byte]uint32{
		70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET,
	}
	controlFlags = map[byte]uint32{92: unix.PARENB, 93: unix.PARODD}
)

// ttyOpEnd ends the list. Opcodes from firstReserved on have no arguments that
// are known, so that the list cannot be read further.
const (
	ttyOpEnd      = 0
	firstReserved = 160
	noChar        = 255 // a control character that is switched off
)

// applyModes sets the modes of the terminal fd as the client's encoded list says
// and leaves those it does not name. Speeds are ignored: there is no line.
func applyModes(fd int, modes string) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	for list := []byte(modes); len(list) >= 5 && list[0] != ttyOpEnd && list[0] < firstReserved; list = list[5:] {
		applyMode(t, list[0], binary.BigEndian.Uint32(list[1:]))
	}
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func applyMode(t *unix.Termios, op byte, value uint32) {
	if i, ok := controlChars[op]; ok {
		t.Cc[i] = byte(value)
		if value == noChar {
			t.Cc[i] = 0 // _POSIX_VDISABLE on Linux
		}
		return
	}
	switch op {
	case 90: // CS7
		if value != 0 {
			t.Cflag = t.Cflag&^unix.CSIZE | unix.CS7
		}
		return
	case 91: // CS8
		if value != 0 {
			t.Cflag = t.Cflag&^unix.CSIZE | unix.CS8
		}
		return
	}
	for _, group := range []struct {
		flags map[byte]uint32
		word  *uint32
	}{
		{inputFlags, &t.Iflag}, {localFlags, &t.Lflag}, {outputFlags, &t.Oflag}, {controlFlags, &t.Cflag},
	} {
		if flag, ok := group.flags[op]; ok && value != 0 {
			*group.word |= flag
		} else if ok {
			*group.word &^= flag
		}
	}
}
