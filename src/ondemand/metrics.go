package ondemand

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what one engine does; the label kind is that of its resource.
type metrics struct {
	tasks    map[State]prometheus.Gauge
	requests *prometheus.CounterVec
	queries  *prometheus.HistogramVec
	lost     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, kind string) *metrics {
	labels := prometheus.Labels{"kind": kind}
	tasks := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "skydive", Subsystem: "ondemand", Name: "tasks", Help: "Nodes on which a resource is wanted, by how far it got.", ConstLabels: labels}, []string{"state"})
	m := &metrics{
		tasks:    make(map[State]prometheus.Gauge),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "ondemand", Name: "requests_total", Help: "Requests to agents, by what came of them.", ConstLabels: labels}, []string{"request", "result"}),
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "skydive", Subsystem: "ondemand", Name: "selection_seconds", Help: "Time to find the selected nodes, in the whole graph or among those that changed.", ConstLabels: labels,
			Buckets: []float64{0.0001, 0.001, 0.01, 0.1, 1}}, []string{"among"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "ondemand", Name: "rescans_total", Help: "Times that changes of the graph came too fast, so that all of it was looked at.", ConstLabels: labels}),
	}
	for _, s := range []State{Pending, Active, Failed, Waiting, Done} {
		m.tasks[s] = tasks.WithLabelValues(string(s))
	}
	if reg != nil {
		reg.MustRegister(tasks, m.requests, m.queries, m.lost)
	}
	return m
}

func (m *metrics) asked(start bool, result string) {
	request := "stop"
	if start {
		request = "start"
	}
	m.requests.WithLabelValues(request, result).Inc()
}

func (m *metrics) selected(among string, took time.Duration) {
	m.queries.WithLabelValues(among).Observe(took.Seconds())
}
