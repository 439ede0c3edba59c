package neutron

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests         *prometheus.CounterVec
	matched, unknown prometheus.Gauge
	omitted          prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skydive_neutron_requests_total", Help: "Requests to Keystone (tokens, projects) and Neutron, each page counted.",
		}, []string{"resource", "result"}),
		matched: prometheus.NewGauge(prometheus.GaugeOpts{Name: "skydive_neutron_matched_nodes", Help: "Nodes that a port, network or router was found for."}),
		unknown: prometheus.NewGauge(prometheus.GaugeOpts{Name: "skydive_neutron_unknown_nodes", Help: "Nodes that Neutron shows nothing for, though they look as if it had made them."}),
		omitted: prometheus.NewCounter(prometheus.CounterOpts{Name: "skydive_neutron_omitted_nodes_total", Help: "Nodes that were not looked at because there are too many."}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.matched, m.unknown, m.omitted)
	}
	return m
}

func (m *metrics) count(resource string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.requests.WithLabelValues(resource, result).Inc()
}
