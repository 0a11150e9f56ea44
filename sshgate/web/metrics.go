package web

import (
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sshgate/sshgate/sshgate"
)

// Gauges are numbers that others keep, read whenever the metrics are asked for.
// They must be quick and safe for concurrent use. A nil one is left out.
type Gauges struct {
	Tunnels       func() int    // connectors' connections
	Origins       func() int    // services that they publish
	Streams       func() int    // connections to origins inside the tunnels
	Connections   func() int    // SSH clients
	PendingLogins func() int    // sign-ins that wait for somebody
	AuditFailures func() uint64 // audit events lost since the start
}

// MetricsConfig is what NewMetrics needs.
type MetricsConfig struct {
	Version string // of the program
	Gauges  Gauges
	Log     *slog.Logger // told when metrics cannot be gathered; default: nobody
}

// Metrics turns audit events into Prometheus metrics. It is an audit.Sink, and
// needs every event. No label takes a value from a client, so their number is
// bounded.
type Metrics struct {
	registry *prometheus.Registry
	log      *slog.Logger

	loginsStarted   prometheus.Counter
	logins          *prometheus.CounterVec
	decisions       *prometheus.CounterVec
	hostKeys        *prometheus.CounterVec
	sessionsActive  prometheus.Gauge
	sessions        *prometheus.CounterVec
	sessionBytes    *prometheus.CounterVec
	sessionDuration prometheus.Histogram
	configReloads   *prometheus.CounterVec
	configLoaded    prometheus.Gauge
	configValid     prometheus.Gauge
}

// NewMetrics returns metrics in a registry of their own, with those of the Go
// runtime and the process.
func NewMetrics(cfg MetricsConfig) *Metrics {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		log:      cfg.Log,
		loginsStarted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sshgate_logins_started_total", Help: "Sign-ins that were offered to clients."}),
		logins: counter("sshgate_logins_total",
			"Clients that authenticated or failed to, by result: success (a sign-in), key (one remembered by its key) or failure.", "result"),
		decisions: counter("sshgate_decisions_total",
			"Answers of the policy, by whether they allowed and by channel.", "allowed", "channel"),
		hostKeys: counter("sshgate_host_keys_total",
			"Host keys of origins, by whether they were pinned (true) or refused (false).", "allowed"),
		sessionsActive: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sshgate_sessions_active", Help: "Channels to origins that are open."}),
		sessions: counter("sshgate_sessions_total",
			"Channels to origins that were opened, by channel.", "channel"),
		sessionBytes: counter("sshgate_session_bytes_total",
			"Bytes of ended channels, by direction: in is from client to origin.", "direction"),
		sessionDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sshgate_session_duration_seconds", Help: "How long channels to origins were open.",
			Buckets: []float64{.1, .5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600},
		}),
	}
	m.addConfig()
	m.registry.MustRegister(
		m.loginsStarted, m.logins, m.decisions, m.hostKeys,
		m.sessionsActive, m.sessions, m.sessionBytes, m.sessionDuration,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.registerBuildInfo(cfg.Version)
	m.registerGauges(cfg.Gauges)
	return m
}

func (m *Metrics) registerBuildInfo(version string) {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sshgate_build_info", Help: "1, with the version of the program and of Go as labels.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	info.Set(1)
	m.registry.MustRegister(info)
}

func (m *Metrics) registerGauges(g Gauges) {
	for _, gauge := range []struct {
		name, help string
		read       func() int
	}{
		{"sshgate_tunnels", "Connections of connectors.", g.Tunnels},
		{"sshgate_origins", "Services of origins that connectors publish.", g.Origins},
		{"sshgate_tunnel_streams", "Connections to origins inside the tunnels.", g.Streams},
		{"sshgate_connections", "Connections of SSH clients.", g.Connections},
		{"sshgate_logins_pending", "Sign-ins that wait for somebody.", g.PendingLogins},
	} {
		if gauge.read != nil {
			m.registry.MustRegister(prometheus.NewGaugeFunc(
				prometheus.GaugeOpts{Name: gauge.name, Help: gauge.help},
				func() float64 { return float64(gauge.read()) }))
		}
	}
	if g.AuditFailures != nil {
		m.registry.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "sshgate_audit_failures_total", Help: "Audit events that a sink did not get."},
			func() float64 { return float64(g.AuditFailures()) }))
	}
}

// addConfig adds what is said of the configuration. Both results are there from the
// start, or a first failure could not be told from the counter's beginning.
func (m *Metrics) addConfig() {
	m.configReloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sshgate_config_reloads_total", Help: "Readings of the configuration while running, by result: success or failure."}, []string{"result"})
	m.configLoaded = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sshgate_config_last_reload_success_timestamp_seconds", Help: "When the configuration in force was read, in seconds since 1970."})
	m.configValid = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sshgate_config_valid", Help: "1 when the configuration on disk could be used when it was last read, otherwise 0."})
	m.registry.MustRegister(m.configReloads, m.configLoaded, m.configValid)
	m.configReloads.WithLabelValues("success")
	m.configReloads.WithLabelValues("failure")
}

// ConfigLoaded says that the configuration in force was read at that time, for the
// first time or again.
func (m *Metrics) ConfigLoaded(at time.Time, again bool) {
	m.configValid.Set(1)
	m.configLoaded.Set(float64(at.UnixMilli()) / 1000)
	if again {
		m.configReloads.WithLabelValues("success").Inc()
	}
}

// ConfigRefused says that the configuration on disk cannot be used, and the one
// before stays in force.
func (m *Metrics) ConfigRefused() {
	m.configValid.Set(0)
	m.configReloads.WithLabelValues("failure").Inc()
}

// Write counts the event. It never fails.
func (m *Metrics) Write(e sshgate.Event) error {
	switch e.Kind {
	case sshgate.EventLoginStart:
		m.loginsStarted.Inc()
	case sshgate.EventLoginSuccess:
		m.logins.WithLabelValues("success").Inc()
	case sshgate.EventLoginKey:
		m.logins.WithLabelValues("key").Inc()
	case sshgate.EventLoginFailure:
		m.logins.WithLabelValues("failure").Inc()
	case sshgate.EventDecision:
		m.decisions.WithLabelValues(strconv.FormatBool(e.Allowed), channelLabel(e.Channel)).Inc()
	case sshgate.EventHostKey:
		m.hostKeys.WithLabelValues(strconv.FormatBool(e.Allowed)).Inc()
	case sshgate.EventSessionStart:
		m.sessionsActive.Inc()
		m.sessions.WithLabelValues(channelLabel(e.Channel)).Inc()
	case sshgate.EventSessionEnd:
		m.sessionsActive.Dec()
		m.sessionBytes.WithLabelValues("in").Add(float64(max(e.BytesIn, 0)))
		m.sessionBytes.WithLabelValues("out").Add(float64(max(e.BytesOut, 0)))
		m.sessionDuration.Observe(max(e.Duration.Seconds(), 0))
	}
	return nil
}

// channelLabel keeps what is no known channel from becoming a label.
func channelLabel(c sshgate.Channel) string {
	switch c {
	case sshgate.ChannelSession, sshgate.ChannelForward, sshgate.ChannelUnix, sshgate.ChannelListen,
		sshgate.ChannelEndToEnd, sshgate.ChannelTCP, sshgate.ChannelAgent, sshgate.ChannelX11:
		return string(c)
	}
	return "other"
}

// Handler serves the metrics in the format that the client asks for, see
// https://prometheus.io/docs/instrumenting/exposition_formats/.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 8,
	})
}
