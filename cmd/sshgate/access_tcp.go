package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/internal/helper"
	"github.com/sshgate/sshgate/sshgate"
)

// maxLocal is how many connections "access tcp" carries at a time.
const maxLocal = 256

func newAccessTCP() *cobra.Command {
	var flags accessFlags
	var service serviceFlag
	var local string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tcp",
		Short: "Open a local port that leads to a service",
		Long: `Listen on a local port and join each connection to a service of an origin: a
database, a remote desktop, anything that speaks TCP. It signs in before it listens and
goes on until it is interrupted. Listen on localhost: whoever reaches the port is you.`,
		Example: `  sshgate access tcp --hostname db1.example.com:5432 --url localhost:5432
  sshgate access tcp --hostname desk1.example.com:3389 --url localhost:0 --json`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			endpoint, err := service.parse()
			if err != nil {
				return err
			}
			address := local
			if _, after, ok := strings.Cut(address, "://"); ok { // as cloudflared users write it
				address = after
			}
			if _, _, err := net.SplitHostPort(address); err != nil {
				return usageError{fmt.Errorf("--url is %q; give HOST:PORT to listen on, as in localhost:5432", local)}
			}
			access, err := flags.find()
			if err != nil {
				return err
			}
			if _, err := access.Origin(cmd.Context(), endpoint); err != nil {
				return err
			}
			l, err := net.Listen("tcp", address)
			if err != nil {
				return usageError{fmt.Errorf("--url: %w", err)}
			}
			if err := announce(cmd.OutOrStdout(), l.Addr(), endpoint, asJSON); err != nil {
				l.Close()
				return err
			}
			return serveLocal(cmd.Context(), l, access, endpoint, cmd.ErrOrStderr())
		},
	}
	flags.add(cmd)
	service.add(cmd)
	cmd.Flags().StringVar(&local, "url", "localhost:0", "`HOST:PORT` to listen on; port 0 is any that is free")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print where it listens as a JSON object")
	return cmd
}

func announce(w io.Writer, address net.Addr, service sshgate.Endpoint, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(map[string]string{"address": address.String(), "service": service.String()})
	}
	_, err := fmt.Fprintf(w, "%s is at %s (Ctrl-C ends it)\n", service, address)
	return err
}

// serveLocal joins each connection of the listener to the service until ctx is done.
func serveLocal(ctx context.Context, l net.Listener, access *helper.Access, service sshgate.Endpoint, stderr io.Writer) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, maxLocal)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting connections: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			fmt.Fprintf(stderr, "sshgate: %d connections are open, another was refused\n", maxLocal)
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			if err := joinLocal(ctx, conn.(*net.TCPConn), access, service); err != nil && !errors.Is(err, context.Canceled) {
				fmt.Fprintf(stderr, "sshgate: %v\n", err)
			}
		})
	}
}

func joinLocal(ctx context.Context, conn *net.TCPConn, access *helper.Access, service sshgate.Endpoint) error {
	defer conn.Close()
	stream, err := access.Connect(ctx, service)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := helper.Carry(ctx, stream, conn, conn, func() { _ = conn.CloseWrite() }); err != nil { // fails where the client is gone
		_ = conn.SetLinger(0) // so that the client does not take it for an end
		return helper.CutOff(service, stream, err)
	}
	return nil
}
