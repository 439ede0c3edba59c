package disk

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counter counts for Prometheus and for Status.
type counter struct{ n atomic.Int64 }

func (c *counter) add(n int64) { c.n.Add(n) }
func (c *counter) get() int64  { return c.n.Load() }

type metrics struct {
	flows, droppedFlows, revisions, counters, resyncs, damaged, forgotten counter
}

// newMetrics registers the metrics of an archive with reg; nil leaves them unregistered.
func newMetrics(a *Archive, reg prometheus.Registerer) *metrics {
	m := new(metrics)
	if reg == nil {
		return m
	}
	for _, c := range []struct {
		name, help string
		of         *counter
	}{
		{"flow_records_total", "Reports of flows that were archived.", &m.flows},
		{"dropped_flow_records_total", "Reports of flows that were not archived.", &m.droppedFlows},
		{"revisions_total", "Revisions of nodes and edges that were archived.", &m.revisions},
		{"counter_records_total", "Counters of nodes that were archived.", &m.counters},
		{"resyncs_total", "Times that commits were missed and the graph was compared with the archive.", &m.resyncs},
		{"damaged_records_total", "Records and files that could not be read.", &m.damaged},
		{"forgotten_hours_total", "Hours that were deleted by age or size.", &m.forgotten},
	} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "archive", Name: c.name, Help: c.help,
		}, func() float64 { return float64(c.of.get()) }))
	}
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "skydive", Subsystem: "archive", Name: "bytes", Help: "Size of the archive on disk.",
		}, func() float64 { return float64(a.bytes()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "skydive", Subsystem: "archive", Name: "writing", Help: "1 while the archive is written, 0 while it is stopped.",
		}, func() float64 {
			if s, _ := a.current(); s == Running {
				return 1
			}
			return 0
		}),
	)
	return m
}
