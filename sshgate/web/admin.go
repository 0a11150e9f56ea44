package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultCheckTimeout bounds a readiness check that sets no timeout.
const DefaultCheckTimeout = 2 * time.Second

// Check is one thing that must be well for the gateway to be ready, unless it only
// warns.
type Check struct {
	Name string
	// Warns says that the gateway is ready all the same when the check fails: only
	// the detail tells.
	Warns bool
	// Probe returns what is wrong. It should return when ctx ends; one that
	// does not counts as failed and is not started again until it has.
	Probe   func(ctx context.Context) error
	Timeout time.Duration // default DefaultCheckTimeout
}

// AdminConfig is what NewAdmin needs.
type AdminConfig struct {
	Checks  []Check
	Metrics http.Handler // serves /metrics; nil: not found
}

// NewAdmin returns the handler for operators, to be served on a listener of its
// own that the public does not reach (ServeAdmin): it asks nobody who they are.
//
//	/healthz  200 "ok" while the process is alive
//	/readyz   200 "ok" when all checks pass that do not only warn, otherwise 503
//	          and the names of those that do not; with ?verbose, or Accept: application/json,
//	          every check with its time and error as JSON
//	/metrics  the metrics
func NewAdmin(cfg AdminConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /readyz", newReadiness(cfg.Checks))
	if cfg.Metrics != nil {
		mux.Handle("GET /metrics", cfg.Metrics)
	}
	return mux
}

// ServeAdmin serves the handler over plain HTTP until ctx ends, then lets
// requests under way finish for up to five seconds and returns nil. It closes
// the listener.
func ServeAdmin(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: httpHeaderTimeout,
		ReadTimeout:       httpHeaderTimeout,
		WriteTimeout:      time.Minute,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    httpMaxHeader,
	}
	var shutdown sync.WaitGroup
	shutdown.Add(1)
	undo := context.AfterFunc(ctx, func() {
		defer shutdown.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	if undo() { // Serve failed by itself
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	shutdown.Wait()
	return nil
}

// readiness runs the checks.
type readiness struct{ checks []*check }

func newReadiness(checks []Check) *readiness {
	r := &readiness{}
	for _, c := range checks {
		if c.Timeout <= 0 {
			c.Timeout = DefaultCheckTimeout
		}
		r.checks = append(r.checks, &check{Check: c, free: make(chan struct{}, 1)})
	}
	return r
}

// report is the JSON answer of /readyz.
type report struct {
	Ready  bool     `json:"ready"`
	Checks []result `json:"checks"`
}

// result is how one check went.
type result struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Warning bool    `json:"warning,omitempty"` // not OK, and ready all the same
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// failed tells whether the gateway is not ready for it.
func (r result) failed() bool { return !r.OK && !r.Warning }

func (rd *readiness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	report := rd.run(r.Context())
	status := http.StatusOK
	if !report.Ready {
		status = http.StatusServiceUnavailable
	}
	if wantsDetail(r) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(report) // fails only with the client's connection
		return
	}
	if report.Ready {
		writeText(w, status, "ok")
		return
	}
	var failed []string
	for _, result := range report.Checks {
		if result.failed() {
			failed = append(failed, result.Name)
		}
	}
	writeText(w, status, "not ready: "+strings.Join(failed, ", "))
}

// run runs all checks at once.
func (rd *readiness) run(ctx context.Context) report {
	results := make([]result, len(rd.checks))
	var wg sync.WaitGroup
	for i, c := range rd.checks {
		wg.Go(func() { results[i] = c.run(ctx) })
	}
	wg.Wait()
	return report{Ready: !slices.ContainsFunc(results, result.failed), Checks: results}
}

// check is a Check that runs at most once at a time.
type check struct {
	Check
	free chan struct{} // holds a value while the probe runs
}

var errStillRunning = errors.New("the check before has not ended")

func (c *check) run(ctx context.Context) result {
	start := time.Now()
	err := c.probe(ctx)
	r := result{Name: c.Name, OK: err == nil, Warning: err != nil && c.Warns, Seconds: time.Since(start).Seconds()}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (c *check) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	select {
	case c.free <- struct{}{}:
	case <-ctx.Done():
		return errStillRunning
	}
	ended := make(chan error, 1)
	go func() { // outlives this call only when the probe ignores its context
		defer func() { <-c.free }()
		ended <- c.Probe(ctx)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func wantsDetail(r *http.Request) bool {
	return r.URL.Query().Has("verbose") || strings.Contains(r.Header.Get("Accept"), "application/json")
}

// writeText answers with one line of text.
func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // fails only with the client's connection
}
