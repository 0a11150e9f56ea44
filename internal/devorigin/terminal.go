//go:build unix

package devorigin

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// What a terminal still holds when its program has ended is read until nothing
// comes for drainGrace, but no more than drainLimit bytes of it: the rest is from
// a job in the background.
const (
	drainGrace = 100 * time.Millisecond
	drainLimit = 256 << 10
)

// terminal is the controlling end of a pseudo-terminal.
type terminal struct{ *os.File }

// openTerminal opens a pseudo-terminal of the size and with the modes that the
// client asked for. The caller closes both ends.
func openTerminal(request *ptyRequest) (*terminal, *os.File, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	t, err := pollable(master)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a terminal: %w", err), slave.Close())
	}
	t.resize(request.Columns, request.Rows, request.Width, request.Height)
	if err := applyModes(int(slave.Fd()), request.Modes); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("set the terminal's modes: %w", err), slave.Close(), t.Close())
	}
	return t, slave, nil
}

// pollable returns the file as one that has deadlines and whose Close ends a
// Read, which a blocking file's does not. It closes f.
func pollable(f *os.File) (*terminal, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &terminal{os.NewFile(uintptr(fd), f.Name())}, nil
}

// copyTo writes what appears on the terminal to w, until nobody has the terminal
// open any more. A job in the background may keep it open, so once it is unused
// only what is left in it is read.
func (t *terminal) copyTo(w io.Writer) {
	if _, err := io.Copy(w, t); !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	buf := make([]byte, 4096)
	for left := drainLimit; left > 0; {
		if t.SetReadDeadline(time.Now().Add(drainGrace)) != nil {
			return
		}
		n, err := t.Read(buf)
		if _, writeErr := w.Write(buf[:n]); err != nil || writeErr != nil {
			return
		}
		left -= n
	}
}

// unused says that the program on the terminal has ended.
func (t *terminal) unused() {
	if t.SetReadDeadline(time.Now()) != nil {
		t.Close()
	}
}

// resize sets the size. A size that does not fit is cut; a terminal that is gone
// needs none.
func (t *terminal) resize(columns, rows, width, height uint32) {
	clamp := func(n uint32) uint16 { return uint16(min(n, math.MaxUint16)) }
	size := &unix.Winsize{Col: clamp(columns), Row: clamp(rows), Xpixel: clamp(width), Ypixel: clamp(height)}
	raw, err := t.SyscallConn() // Fd would make the file blocking again
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
}
