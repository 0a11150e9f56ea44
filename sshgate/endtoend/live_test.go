package endtoend

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sshgate/sshgate/sshgate"
	"github.com/sshgate/sshgate/sshgate/live"
)

// TestPassageEndsWithThePolicy: what is no longer allowed is cut off on both sides,
// and the record says why.
func TestPassageEndsWithThePolicy(t *testing.T) {
	ours, service := pair(t)
	w := &world{conn: ours, pinned: true}
	b := newBroker(t, w)
	var policy atomic.Pointer[sshgate.Policy]
	policy.Store(b.cfg.Policy())
	register, err := live.New(live.Config{
		Policy: policy.Load, Credentials: nothingKept{}, Events: w, Now: b.cfg.Now,
		Check: func(context.Context, sshgate.Credential) (time.Time, error) {
			return time.Time{}, errors.New("not asked")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Policy, b.cfg.Live = policy.Load, register
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { register.Run(ctx) })
	defer running.Wait()
	defer cancel()

	who := somebody(0)
	who.Since = b.Moment()
	p, denial := b.Open(t.Context(), who, "a.lab", 5432)
	if denial != nil {
		t.Fatal(denial)
	}
	client, near := pair(t)
	ended := make(chan error, 1)
	go func() { ended <- p.Carry(t.Context(), near) }()
	for _, end := range []io.ReadWriter{client, service} { // it carries
		if _, err := end.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []io.ReadWriter{client, service} {
		if _, err := end.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	register.PolicyChanged() // which has not
	register.StateChanged()
	begin := time.Now()
	policy.Store(&sshgate.Policy{})
	register.PolicyChanged()
	var ending *live.Ending
	if err := <-ended; !errors.As(err, &ending) || ending.Sentence != "the access policy has changed" {
		t.Errorf("it ended with %v", err)
	}
	for _, end := range []io.Reader{client, service} {
		if n, err := io.Copy(io.Discard, end); n != 0 {
			t.Errorf("%d bytes came after the end, %v", n, err)
		}
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %s", took)
	}
	if register.Open() != 0 || b.Passages() != 0 {
		t.Errorf("%d held, %d passages", register.Open(), b.Passages())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.events[len(w.events)-2:]
	if last[0].Kind != sshgate.EventDecision || last[0].Allowed || last[1].Kind != sshgate.EventSessionEnd ||
		last[0].Request != p.ID || last[0].Reason != last[1].Reason || last[0].Channel != sshgate.ChannelTCP || last[0].Origin != "a.lab" {
		t.Errorf("events %+v", last)
	}
}

// nothingKept knows no credential.
type nothingKept struct{}

func (nothingKept) Credentials(context.Context) (map[sshgate.Credential]time.Time, error) {
	return nil, nil
}
