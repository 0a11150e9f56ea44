// Package station shows a running connector to those on its machine: HTTP over a unix
// socket, for `sshgate connector status`, health checks and Prometheus. Listen opens
// the socket, Serve answers on it, Get asks.
//
// It only tells. Nothing can be changed through it, and nothing that it says is a
// secret, but names and addresses of the origins' network are in it.
package station

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sshgate/sshgate/connector"
	"github.com/sshgate/sshgate/sshgate"
	"golang.org/x/net/netutil"
)

// The limits of Serve.
const (
	maxConnections = 32
	maxHeader      = 8 << 10 // bytes
	readTimeout    = 5 * time.Second
	writeTimeout   = 30 * time.Second
	stopTimeout    = 2 * time.Second // for answers under way at the end
)

// Config is what Serve needs.
type Config struct {
	// Status is the agent's. It is called for each answer. Required.
	Status func() connector.Status
	// Certificate reads the connector's certificate. It is called for each answer.
	// Required.
	Certificate func() Certificate
	// Version is the program's, Proxy the way to the gateway, both for people.
	Version string
	Proxy   string
	// Lines are the last of the log. Required.
	Lines *Lines
	// Log gets what goes wrong with requests. Required.
	Log *slog.Logger
}

// State is a connector's in one word.
type State string

// The states of a connector.
const (
	Connected  State = "connected"
	Connecting State = "connecting" // without a tunnel
	Stopping   State = "stopping"   // open connections may finish
)

// StateOf returns the state that the status stands for.
func StateOf(s connector.Status) State {
	switch {
	case s.Stopping:
		return Stopping
	case s.Connected():
		return Connected
	}
	return Connecting
}

// Report is the JSON of /status.
type Report struct {
	Version     string      `json:"version"`
	Go          string      `json:"go"`
	PID         int         `json:"pid"`
	Started     time.Time   `json:"started"`
	Time        time.Time   `json:"time"` // of this report
	State       State       `json:"state"`
	Proxy       string      `json:"proxy,omitempty"` // without its user and password
	Certificate Certificate `json:"certificate"`
	connector.Status
}

// server answers requests.
type server struct {
	Config
	started time.Time
}

// Serve answers requests until ctx ends, and returns nil once all it started has
// ended. It closes the listener.
//
//	/status            a Report, JSON
//	/healthz           200 "ok" while the process is alive
//	/readyz            200 "ok" while the gateway can reach origins through it, otherwise
//	                   503 and why; with ?verbose, or Accept: application/json, more
//	/metrics           the metrics in Prometheus' text format
//	/debug/goroutines  the stacks of all goroutines
//	/debug/log         the last lines of the log, JSON, one record each
func Serve(ctx context.Context, l net.Listener, cfg Config) error {
	s := &server{Config: cfg, started: time.Now()}
	var conns sync.WaitGroup
	server := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		// Shutdown and Close do not wait for the goroutines of connections.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
	server.SetKeepAlivesEnabled(false) // an idle connection would use up one of the few
	var shutdown sync.WaitGroup
	shutdown.Add(1)
	undo := context.AfterFunc(ctx, func() {
		defer shutdown.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	err := server.Serve(netutil.LimitListener(l, maxConnections))
	if undo() { // Serve failed by itself
		server.Close()
		conns.Wait()
		return fmt.Errorf("serving the status: %w", err)
	}
	shutdown.Wait()
	conns.Wait()
	return nil
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, s.report())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, exposition(s.report())) // fails only with the client's connection
	})
	mux.HandleFunc("GET /debug/goroutines", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, stacks())
	})
	mux.HandleFunc("GET /debug/log", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, s.Lines.String())
	})
	return mux
}

func (s *server) report() Report {
	status := s.Status()
	return Report{
		Version: s.Version, Go: runtime.Version(), PID: os.Getpid(), Started: s.started, Time: time.Now(),
		State: StateOf(status), Proxy: s.Proxy, Certificate: s.Certificate(), Status: status,
	}
}

// readiness is the JSON answer of /readyz, in the form of the gateway's. Ready is what
// the check "tunnel" says; the others are for people.
type readiness struct {
	Ready  bool    `json:"ready"`
	Checks []check `json:"checks"`
}

type check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	report := s.report()
	problem := Problem(report)
	code := http.StatusOK
	if problem != "" {
		code = http.StatusServiceUnavailable
	}
	if !r.URL.Query().Has("verbose") && !strings.Contains(r.Header.Get("Accept"), "application/json") {
		if problem == "" {
			writeText(w, code, "ok\n")
		} else {
			writeText(w, code, "not ready: "+problem+"\n")
		}
		return
	}
	answer := readiness{Ready: problem == "", Checks: []check{{Name: "tunnel", OK: problem == "", Error: problem}}}
	answer.add("certificate", report.Certificate.Problem(report.Time))
	for _, o := range report.Origins {
		name := sshgate.Endpoint{Origin: o.Name, Port: o.Port}.Short()
		switch {
		case o.State == connector.OriginWaiting:
			answer.add("origin "+name, "the gateway has not answered yet")
		case o.State == connector.OriginRefused:
			answer.add("origin "+name, fmt.Sprintf("the gateway refuses it: %s (%s); %s", o.Reason, o.Code, o.Advice))
		case o.Scan != nil:
			answer.add("origin "+name, o.Scan.Error)
		default:
			answer.add("origin "+name, "")
		}
	}
	writeJSON(w, code, answer)
}

func (r *readiness) add(name, problem string) {
	r.Checks = append(r.Checks, check{Name: name, OK: problem == "", Error: problem})
}

// Problem says in a sentence why the gateway cannot reach origins through the
// connector; it is empty when it can.
func Problem(r Report) string {
	switch {
	case r.State == Connected:
		return ""
	case r.State == Stopping:
		return "the connector is about to stop"
	}
	for _, down := range r.Down {
		if down.Error != "" {
			return "no tunnel to " + r.Gateway + ": " + down.Error
		}
	}
	return "the first tunnel to " + r.Gateway + " is not up yet"
}

// stacks returns the stacks of all goroutines, without the arguments of calls: those
// could be parts of a key.
func stacks() string {
	const most = 32 << 20
	buf := make([]byte, 256<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) && len(buf) < most {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	var text strings.Builder
	for line := range strings.Lines(string(buf[:n])) {
		call := !strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "goroutine ") && !strings.HasPrefix(line, "created by ")
		if open := strings.LastIndexByte(line, '('); call && open >= 0 {
			line = line[:open] + "(...)\n"
		}
		text.WriteString(line)
	}
	return text.String()
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // fails only with the client's connection
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only with the client's connection
}
