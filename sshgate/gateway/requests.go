package gateway

import (
	"errors"
	"iter"
	"sync/atomic"

	gossh "golang.org/x/crypto/ssh"
)

const (
	maxQueuedRequests     = 256
	maxQueuedRequestBytes = 512 << 10
)

var errRequestFlood = errors.New("a channel has more requests waiting for their answers than are kept")

// requestQueue holds the requests of one channel until they are answered.
//
// x/crypto hands over a channel's requests through a short Go channel, and while
// nobody takes them it reads nothing more of the whole connection: neither the
// answer that the first of them waits for, nor that the peer has left. So they
// are always taken, and whoever sends more than are kept is cut off.
type requestQueue struct {
	waiting chan *gossh.Request
	bytes   atomic.Int64
}

// queue takes the requests of one channel of the connection. The caller is one
// of the goroutines that the connection waits for.
func (c *conn) queue(requests <-chan *gossh.Request) *requestQueue {
	q := &requestQueue{waiting: make(chan *gossh.Request, maxQueuedRequests)}
	c.work.Go(func() {
		defer close(q.waiting)
		for req := range requests {
			if q.bytes.Add(int64(len(req.Payload))) > maxQueuedRequestBytes {
				c.cutOff(errRequestFlood)
				continue // until the connection has ended
			}
			select {
			case q.waiting <- req:
			default:
				c.cutOff(errRequestFlood)
			}
		}
	})
	return q
}

// all yields the requests in order until the channel is closed.
func (q *requestQueue) all() iter.Seq[*gossh.Request] {
	return func(yield func(*gossh.Request) bool) {
		for req := range q.waiting {
			q.bytes.Add(-int64(len(req.Payload)))
			if !yield(req) {
				return
			}
		}
	}
}

// discard refuses what is left.
func (q *requestQueue) discard() {
	for req := range q.all() {
		_ = req.Reply(false, nil) // fails only with the connection
	}
}

// cutOff ends the connection at once, without a word.
func (c *conn) cutOff(cause error) {
	if c.ctx.Err() == nil {
		c.log.Warn("the connection is cut off", "cause", cause)
	}
	c.close(cause)
}
