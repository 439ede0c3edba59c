package probe

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	state            *prometheus.GaugeVec
	restarts, panics *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "skydive_probe_state", Help: "1 for the state that a topology probe is in.",
		}, []string{"probe", "state"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skydive_probe_restarts_total", Help: "How often a topology probe stopped by itself and was or will be run again.",
		}, []string{"probe"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skydive_probe_panics_total", Help: "Panics of topology probes that were caught.",
		}, []string{"probe"}),
	}
	if r != nil {
		r.MustRegister(m.state, m.restarts, m.panics)
	}
	return m
}

func (m *metrics) set(probe string, old, now State) {
	if old != now {
		m.state.DeleteLabelValues(probe, string(old))
	}
	m.state.WithLabelValues(probe, string(now)).Set(1)
}
