package gateway

import (
	"context"
	"io"
	"sync"

	gossh "golang.org/x/crypto/ssh"
)

// input is what a client types, for one reader after another. What a reader asked
// for and did not wait for, or did not need, is there for the next.
type input struct {
	conn *conn
	from io.Reader

	mu      sync.Mutex // guards what follows
	kept    []byte
	err     error         // that comes after kept
	pending chan struct{} // closed when the read under way has ended; nil where none is
}

// Read waits until there is something, or ctx is done.
func (in *input) Read(ctx context.Context, p []byte) (int, error) {
	for {
		in.mu.Lock()
		if len(in.kept) > 0 || in.err != nil {
			n := copy(p, in.kept)
			in.kept = in.kept[n:]
			err := in.err
			in.mu.Unlock()
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if in.pending == nil {
			done := make(chan struct{})
			if !in.conn.enter() {
				in.mu.Unlock()
				return 0, io.EOF
			}
			in.pending = done
			go in.fetch(done)
		}
		pending := in.pending
		in.mu.Unlock()
		select {
		case <-pending:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (in *input) fetch(done chan<- struct{}) {
	defer in.conn.work.Done()
	chunk := make([]byte, 1024)
	n, err := in.from.Read(chunk)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kept, in.err, in.pending = append(in.kept, chunk[:n]...), err, nil
	close(done)
}

// unread gives back what was read and not needed.
func (in *input) unread(b []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kept = append(append([]byte{}, b...), in.kept...)
}

// rejoined is a channel of which some was read already: its data comes out of in
// first.
type rejoined struct {
	gossh.Channel
	in *input
}

func (r rejoined) Read(p []byte) (int, error) {
	r.in.mu.Lock()
	direct := len(r.in.kept) == 0 && r.in.err == nil && r.in.pending == nil
	r.in.mu.Unlock()
	if direct {
		return r.Channel.Read(p)
	}
	return r.in.Read(context.Background(), p)
}
