//go:build !linux

package ctl

import (
	"errors"
	"net"
)

// peer cannot tell, so nobody is let in.
func peer(*net.UnixConn) (uid, pid int, err error) {
	return 0, 0, errors.New("local commands are for Linux alone")
}
