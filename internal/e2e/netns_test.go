//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// netns is a network of its own: a network namespace without a name, which is gone
// with the last process that uses it, whatever happens to the tests.
type netns struct{ file *os.File }

// needNetns skips the test where this machine cannot have networks of its own: they
// take the rights of root, and a kernel with TUN devices.
func needNetns(t *testing.T) {
	t.Helper()
	need(t, "ip", "nsenter")
	_, err := os.Stat(tunDevice)
	switch {
	case os.Geteuid() != 0:
		t.Skip("impossible here: only root can make networks")
	case errors.Is(err, os.ErrNotExist):
		t.Skip("impossible here: there is no " + tunDevice)
	}
	n, err := openNetns()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("impossible here: making a network: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.file.Close()
}

func newNetns(t testing.TB) *netns {
	t.Helper()
	n, err := openNetns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.file.Close() })
	n.ip(t, "link", "set", "lo", "up")
	return n
}

func openNetns() (n *netns, err error) {
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			var file *os.File
			file, err = os.Open("/proc/thread-self/ns/net")
			n = &netns{file}
		}
	})
	return n, err
}

// onThread runs f on a thread that ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: what f does to the thread cannot be undone
		f()
	}()
	<-done
}

// within runs f inside. Sockets that it opens stay there.
func (n *netns) within(f func() error) (err error) {
	onThread(func() {
		if err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err == nil {
			err = f()
		}
	})
	return err
}

func (n *netns) command(args ...string) []string {
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.file.Fd()), "--"}, args...)
}

func (n *netns) listen(address string) (l net.Listener, err error) {
	err = n.within(func() error {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

func (n *netns) browser() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = n.within(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
}

// ip runs the program of that name inside.
func (n *netns) ip(t testing.TB, args ...string) {
	t.Helper()
	args = n.command(append([]string{"ip"}, args...)...)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

const (
	tunDevice = "/dev/net/tun"
	tunName   = "net0" // of the device in each network
)

// tun returns the other end of a new network device: what the network sends can be
// read from it, packet by packet, and what is written to it arrives there.
func (n *netns) tun(t testing.TB) *os.File {
	t.Helper()
	var fd int
	err := n.within(func() (err error) {
		if fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(tunName)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil {
		t.Fatalf("making a network device: %v", err)
	}
	return os.NewFile(uintptr(fd), tunDevice) // for the runtime's poller, being non-blocking
}
