package station

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sshgate/sshgate/connector"
)

// The kinds of metrics.
const (
	gauge     = "gauge"
	counter   = "counter"
	histogram = "histogram"
)

// dialCodes are the codes that an agent refuses streams with. Each has a sample from
// the start, so that a rate is right from the first refusal on.
var dialCodes = []connector.Code{
	connector.CodeUnknownOrigin, connector.CodeDialRefused, connector.CodeDialTimeout, connector.CodeDialFailed,
	connector.CodeOverloaded, connector.CodeDraining, connector.CodeBadRequest,
}

// page is a page of metrics in Prometheus' text format, version 0.0.4.
type page struct {
	strings.Builder
	name string // of the family that is being written, without the prefix
}

const metricPrefix = "sshgate_connector_"

// family begins a family of metrics.
func (p *page) family(name, kind, help string) {
	p.name = metricPrefix + name
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", p.name, help, kind)
}

// labelValue escapes as the format wants it.
var labelValue = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// sample writes one value. Labels are names and values in turn.
func (p *page) sample(suffix string, value float64, labels ...string) {
	p.WriteString(p.name + suffix)
	for i := 0; i < len(labels); i += 2 {
		separator := ","
		if i == 0 {
			separator = "{"
		}
		p.WriteString(separator + labels[i] + `="` + labelValue.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		p.WriteByte('}')
	}
	p.WriteString(" " + number(value) + "\n")
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// single writes a family of one value.
func (p *page) single(name, kind, help string, value float64) {
	p.family(name, kind, help)
	p.sample("", value)
}

// exposition writes the report as metrics.
func exposition(r Report) string {
	p := &page{}
	p.family("build_info", gauge, "1, with the version of the program and of Go as labels.")
	p.sample("", 1, "version", r.Version, "go", r.Go)
	p.single("start_time_seconds", gauge, "When the connector was started, in seconds since 1970.", float64(r.Started.Unix()))
	p.single("tunnels", gauge, "Tunnels that the gateway can open connections through.", float64(r.Up()))
	p.single("tunnels_draining", gauge, "Tunnels that end with their last connection.", float64(len(r.Tunnels)-r.Up()))
	p.single("streams", gauge, "Connections to origins that are open.", float64(r.Streams))
	p.origins(r.Origins)
	p.totals(r.Totals)
	if r.Certificate.Error == "" {
		p.single("certificate_expiry_timestamp_seconds", gauge,
			"When the connector's certificate expires, in seconds since 1970.", float64(r.Certificate.NotAfter.Unix()))
	}
	return p.String()
}

func (p *page) origins(origins []connector.ServiceStatus) {
	states := make(map[connector.OriginState]int)
	for _, o := range origins {
		states[o.State]++
	}
	p.family("origins", gauge, "Services that are published, by the gateway's answer; waiting is without one.")
	for _, state := range []connector.OriginState{connector.OriginAccepted, connector.OriginRefused, connector.OriginWaiting} {
		p.sample("", float64(states[state]), "state", string(state))
	}
}

func (p *page) totals(t connector.Totals) {
	p.family("dials_total", counter, "Connections to origins that the gateway asked for, by result: ok or the code of the refusal.")
	p.sample("", float64(t.Served), "result", "ok")
	for _, code := range dialCodes {
		p.sample("", float64(t.Refused[code]), "result", string(code))
	}
	p.family("dial_duration_seconds", histogram, "How long it took to connect to origins, where that succeeded.")
	count := uint64(0)
	for i, bound := range t.Dials.Bounds {
		count += t.Dials.Counts[i]
		p.sample("_bucket", float64(count), "le", number(bound))
	}
	count += t.Dials.Counts[len(t.Dials.Bounds)]
	p.sample("_bucket", float64(count), "le", "+Inf")
	p.sample("_sum", t.Dials.Sum)
	p.sample("_count", float64(count))
	p.family("bytes_total", counter, "Bytes of connections to origins, by direction: in is to the origin.")
	p.sample("", float64(t.BytesIn), "direction", "in")
	p.sample("", float64(t.BytesOut), "direction", "out")
	p.single("tunnels_opened_total", counter, "Tunnels that were registered.", float64(t.Opened))
	p.single("tunnels_lost_total", counter, "Tunnels that ended although neither end had asked for it.", float64(t.Lost))
	p.single("connect_failures_total", counter, "Attempts to open a tunnel that failed.", float64(t.Failed))
}
