package capture

import (
	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/flow"
)

// metrics count what all captures do; those of one capture are in the metadata of its node.
type metrics struct {
	captures         *prometheus.GaugeVec // state
	packets          prometheus.Counter
	lost             *prometheus.CounterVec // where
	evicted          prometheus.Counter
	followers        prometheus.Counter
	failures, panics prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "capture", Name: name, Help: help})
	}
	m := &metrics{
		captures: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "skydive", Subsystem: "capture", Name: "captures", Help: "Captures by state.",
		}, []string{"state"}),
		packets: counter("packets_total", "Packets that passed the filters of captures."),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "capture", Name: "lost_packets_total", Help: "Packets that captures did not see, did not understand or could not keep.",
		}, []string{"where"}),
		followers: counter("unfollowed_packets_total", "Packets that whoever followed a capture did not get because it was too slow."),
		evicted:   counter("evicted_flows_total", "Flows given up to make room in the table of a capture."),
		failures:  counter("failures_total", "How often a capture began to fail."),
		panics:    counter("panics_total", "Panics of captures that were caught."),
	}
	if reg != nil {
		reg.MustRegister(m.captures, m.packets, m.lost, m.evicted, m.followers, m.failures, m.panics)
	}
	return m
}

func (m *metrics) states(n map[State]int) {
	for _, s := range []State{Starting, Active, Waiting, Failed} {
		m.captures.WithLabelValues(string(s)).Set(float64(n[s]))
	}
}

// count adds what came between two readings.
func (m *metrics) count(was, now Counters, tableWas, tableNow flow.Counts) {
	add := func(c prometheus.Counter, n int64) {
		if n > 0 {
			c.Add(float64(n))
		}
	}
	add(m.packets, now.Received-was.Received)
	add(m.lost.WithLabelValues("ring"), now.Dropped-was.Dropped)
	add(m.lost.WithLabelValues("interface"), now.IfDropped-was.IfDropped)
	add(m.lost.WithLabelValues("malformed"), now.Malformed-was.Malformed)
	add(m.lost.WithLabelValues("export"), now.Missing-was.Missing)
	add(m.lost.WithLabelValues("template"), now.Unknown-was.Unknown)
	add(m.lost.WithLabelValues("truncated"), tableNow.Truncated-tableWas.Truncated)
	add(m.lost.WithLabelValues("fragments"), tableNow.FragmentsDropped-tableWas.FragmentsDropped)
	add(m.lost.WithLabelValues("segments"), tableNow.SegmentsDropped-tableWas.SegmentsDropped)
	add(m.lost.WithLabelValues("raw"), tableNow.RawPacketsDropped-tableWas.RawPacketsDropped)
	add(m.evicted, tableNow.Evicted-tableWas.Evicted)
}
