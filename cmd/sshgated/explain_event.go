package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/sshgate/sshgate/config"
	"github.com/sshgate/sshgate/sshgate"
)

// loggedDecision is what explain reads of a decision in the log.
type loggedDecision struct {
	Time     time.Time            `json:"time"`
	Kind     string               `json:"kind"`
	Request  sshgate.RequestID    `json:"request"`
	Issuer   string               `json:"issuer"`
	Subject  string               `json:"subject"`
	Identity string               `json:"identity"`
	Who      sshgate.IdentityKind `json:"identity_kind"`
	Client   string               `json:"client"`
	Key      string               `json:"key"`
	Origin   string               `json:"origin"`
	Login    string               `json:"login"`
	Channel  sshgate.Channel      `json:"channel"`
	Activity sshgate.ActivityKind `json:"activity"`
	Detail   string               `json:"detail"`

	Allowed     bool   `json:"allowed"`
	Application string `json:"application"`
	Rule        string `json:"rule"`
	Reason      string `json:"reason"`
}

const maxLogLine = 1 << 20 // bytes; longer ones are none of ours

// explainEvent explains a decision of the log with the present policy.
func explainEvent(cmd *cobra.Command, cfg *config.Gateway, q question, id sshgate.RequestID, path string, asJSON bool) error {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("opening the log: %w", err)
		}
		defer f.Close()
		in = f
	}
	event, err := findDecision(in, id)
	if err != nil {
		return err
	}
	r, err := event.request()
	if err != nil {
		return err
	}
	note := ""
	if len(q.groups)+len(q.claims) == 0 {
		if known, err := rememberedIdentity(cmd.Context(), cfg, event); err == nil {
			r.Identity = known
		} else if event.Who != sshgate.ServiceToken {
			note = fmt.Sprintf("groups and claims of that sign-in are not known (%v); name them with --group and --claim", err)
		}
	}
	if err := q.apply(&r); err != nil {
		return usageError{err}
	}
	e := explanationOf(r, cfg.Policy().Explain(r))
	e.Note = note
	then := thenJSON{Allowed: event.Allowed, Application: event.Application, Rule: event.Rule, Reason: event.Reason, Time: event.Time}
	then.Differs = event.Allowed != (e.Result == "allow") || event.Application != e.Application || event.Rule != e.Rule
	e.Then = &then
	return printExplanation(cmd, e, asJSON)
}

// findDecision reads lines of JSON until one is the decision. Lines that are no
// JSON are passed over.
func findDecision(in io.Reader, id sshgate.RequestID) (loggedDecision, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLogLine)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), string(id)) {
			continue
		}
		var event loggedDecision
		err := json.Unmarshal(lines.Bytes(), &event)
		if err == nil && event.Kind == string(sshgate.EventDecision) && event.Request == id {
			return event, nil
		}
	}
	if err := lines.Err(); err != nil {
		return loggedDecision{}, fmt.Errorf("reading the log: %w", err)
	}
	return loggedDecision{}, fmt.Errorf("the log has no decision with the id %s; it must be the gateway's, as JSON lines (--log-format json)", id)
}

// request returns the request that the event is about, as far as the log has it.
func (e loggedDecision) request() (sshgate.Request, error) {
	r := sshgate.Request{Channel: e.Channel, Time: e.Time, Target: sshgate.Target{Login: sshgate.Login(e.Login)}}
	r.Identity = sshgate.Identity{Kind: e.Who, Issuer: e.Issuer, Subject: e.Subject, SignedInAt: e.Time}
	switch e.Who {
	case sshgate.ServiceToken:
		r.Identity.Name = strings.TrimPrefix(e.Identity, "service-token:")
	case sshgate.Workload:
		r.Identity.Name = strings.TrimSuffix(strings.TrimPrefix(e.Identity, "workload:"), " ("+e.Subject+")")
	default:
		if e.Identity != e.Subject && strings.Contains(e.Identity, "@") && !strings.HasPrefix(e.Identity, e.Subject+" (") {
			r.Identity.Email, r.Identity.EmailVerified = e.Identity, true
		}
	}
	origin, err := sshgate.ParseOriginName(e.Origin)
	if err != nil {
		return r, fmt.Errorf("the event %s names no origin: %w", e.Request, err)
	}
	r.Target.Origin = origin
	if e.Client != "" {
		if r.ClientAddr, err = netip.ParseAddr(e.Client); err != nil {
			return r, fmt.Errorf("the event %s has the client %q, which is no address", e.Request, e.Client)
		}
	}
	switch e.Channel {
	case sshgate.ChannelTCP:
		_, port, _ := net.SplitHostPort(e.Detail) // a port that is none is denied
		n, _ := strconv.ParseUint(port, 10, 16)
		r.Port = uint16(n)
	case sshgate.ChannelEndToEnd:
	default:
		r.Activity = sshgate.NewActivity(e.Channel, e.Activity, e.Detail)
	}
	return r, nil
}

// rememberedIdentity returns the identity of the sign-in that the gateway remembers
// for the event's key, where it is the same person's.
func rememberedIdentity(ctx context.Context, cfg *config.Gateway, e loggedDecision) (sshgate.Identity, error) {
	if e.Key == "" {
		return sshgate.Identity{}, errors.New("it was made without a key")
	}
	db, err := existingStore(ctx, cfg)
	if err != nil {
		return sshgate.Identity{}, err
	}
	defer db.Close()
	login, err := db.KeyLogin(ctx, e.Key)
	if err != nil {
		return sshgate.Identity{}, fmt.Errorf("the gateway does not remember the key: %w", err)
	}
	if login.Identity.Issuer != e.Issuer || login.Identity.Subject != e.Subject {
		return sshgate.Identity{}, errors.New("the key is somebody else's now")
	}
	return login.Identity, nil
}
