package gateway

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sshgate/sshgate/sshgate/endtoend"
	gossh "golang.org/x/crypto/ssh"
)

const (
	// exitHold is how long an exit status waits for the output before it, and
	// EOF for the exit status. Past it, a background process of the command
	// keeps the output open, or the command has closed its output and goes on.
	exitHold = 250 * time.Millisecond
	// closeHold is how long an origin may take to read what a client sent
	// before it closed the channel.
	closeHold = 10 * time.Second
)

// pipe joins a channel of the client to its counterpart at the origin, raw, and
// carries data, requests, half-closes and closes both ways.
//
// The order on the client's channel is kept: the reply to the request that
// starts a command, its output, its exit status, EOF, close. x/crypto hands each
// of these out by another queue, so a naive relay lets a close overtake a reply,
// and short commands end in nothing but EOF; or EOF overtake the exit status,
// and a client that has sent its own EOF closes at once and never hears it.
type pipe struct {
	client, origin                 gossh.Channel
	clientRequests, originRequests *requestQueue

	// early are requests that were taken off clientRequests before.
	early []*gossh.Request
	// started, where it is not nil, keeps input and output back until it is
	// closed: when a command was started, or either side has closed its channel.
	// The origin may refuse one and take the next.
	started   chan struct{}
	startOnce sync.Once
	// running is set once a command was started, and refused once one was refused;
	// only passClientRequest uses them.
	running, refused bool
	// sending decides on every request of the client before it is passed on; those
	// that it answers false to it has dealt with. answered is told of the others
	// after, with what the origin said; received of every request of the origin
	// before it is passed on.
	sending  func(req *gossh.Request) bool
	answered func(req *gossh.Request, ok bool, err error)
	received func(req *gossh.Request)
	// files is set before started is closed where what is carried is SFTP and files
	// may not go both ways. Otherwise the bytes pass unread.
	files atomic.Pointer[sftpFilter]
	// lost tells that the origin's channel ended without the origin's doing.
	lost func() bool
	// beforeClose may write to the client's channel when all else is said.
	beforeClose func()

	in, out atomic.Int64 // bytes from and to the client

	// answering is held while a request of the client is being answered: the
	// client's channel must not be closed before.
	answering sync.Mutex
}

// run returns when both channels are closed and nothing of the pipe is left.
func (p *pipe) run() {
	var all sync.WaitGroup
	inputDone := make(chan struct{})
	outputDone := make(chan struct{}) // all output is with the client
	exitDone := make(chan struct{})   // and so is the exit status, or there is none
	eofDone := make(chan struct{})    // and EOF
	all.Go(func() {
		defer close(inputDone)
		p.waitForStart() // or sshd would never close the command's input: EOF came before it
		p.copyInput()
		_ = p.origin.CloseWrite() // fails where the origin closed first
	})
	all.Go(func() {
		defer close(eofDone)
		p.copyOutput()
		close(outputDone)
		if p.started != nil {
			waitFor(exitDone, exitHold)
		}
		if p.lost == nil || !p.lost() { // after EOF there could be no last word
			_ = p.client.CloseWrite() // fails where the client closed first
		}
	})
	all.Go(func() {
		p.passClientRequests()
		p.start()
		// The client has closed its channel.
		waitFor(inputDone, closeHold)
		_ = p.origin.Close() // fails where the origin closed first
	})

	p.passOriginRequests(outputDone, exitDone)
	// The origin has closed its channel.
	p.start()
	<-eofDone
	p.answering.Lock()
	if p.beforeClose != nil {
		p.beforeClose()
	}
	_ = p.client.Close() // fails where the client closed first
	p.answering.Unlock()
	all.Wait()
}

func (p *pipe) copyOutput() {
	p.waitForStart()
	var stderr sync.WaitGroup
	stderr.Go(func() { _ = endtoend.Copy(p.client.Stderr(), p.origin.Stderr(), &p.out) })
	if files := p.files.Load(); files != nil {
		p.filtered(files.fromOrigin(p.origin, &p.out))
	} else {
		_ = endtoend.Copy(p.client, p.origin, &p.out)
	}
	stderr.Wait()
}

func (p *pipe) copyInput() {
	if files := p.files.Load(); files != nil {
		p.filtered(files.fromClient(p.origin, p.client, &p.in))
	} else {
		_ = endtoend.Copy(p.origin, p.client, &p.in)
	}
}

// filtered ends a session in which something else than SFTP is spoken.
func (p *pipe) filtered(err error) {
	if errors.Is(err, errNotSFTP) {
		tell(p.client, err.Error()+", which is all that the access policy allows here")
		_ = p.origin.Close() // fails where the origin closed first
	}
}

func (p *pipe) passClientRequests() {
	for _, req := range p.early {
		p.passClientRequest(req)
	}
	for req := range p.clientRequests.all() {
		p.passClientRequest(req)
	}
}

func (p *pipe) passClientRequest(req *gossh.Request) {
	p.answering.Lock()
	defer p.answering.Unlock()
	starts := startsCommand(req)
	if p.refused || starts && p.running {
		_ = req.Reply(false, nil) // one command a session, RFC 4254 section 6.5
		return
	}
	if p.sending != nil && !p.sending(req) {
		if starts {
			p.refused = true
			_ = p.origin.Close() // fails where the origin closed first
			p.start()
		}
		return
	}
	// Whether a command was started is for the record, whatever the client asked.
	ok, err := p.origin.SendRequest(req.Type, req.WantReply || starts, req.Payload)
	_ = req.Reply(ok && err == nil, nil) // fails only with the connection
	if p.answered != nil {
		p.answered(req, ok, err)
	}
	if starts && ok {
		p.running = true
		p.start()
	}
}

func (p *pipe) waitForStart() {
	if p.started != nil {
		<-p.started
	}
}

func (p *pipe) start() {
	if p.started != nil {
		p.startOnce.Do(func() { close(p.started) })
	}
}

// startsCommand tells the requests of RFC 4254 section 6.5.
func startsCommand(req *gossh.Request) bool {
	return req.Type == requestShell || req.Type == requestExec || req.Type == requestSubsystem
}

// passOriginRequests returns when the origin has closed its channel. It closes
// exitDone as soon as no exit status is to be waited for.
func (p *pipe) passOriginRequests(outputDone <-chan struct{}, exitDone chan<- struct{}) {
	exited := sync.OnceFunc(func() { close(exitDone) })
	defer exited()
	for req := range p.originRequests.all() {
		if p.received != nil {
			p.received(req)
		}
		exit := req.Type == requestExitStatus || req.Type == requestExitSignal
		if exit {
			waitFor(outputDone, exitHold)
		}
		ok, err := p.client.SendRequest(req.Type, req.WantReply, req.Payload)
		_ = req.Reply(ok && err == nil, nil) // fails only with the connection
		if exit {
			exited()
		}
	}
}

// waitFor waits until done is closed, at most for d.
func waitFor(done <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
