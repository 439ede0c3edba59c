package pubsub

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what all publishers and subscribers of a process do. The label "endpoint" is the request path.
type Metrics struct {
	messages *prometheus.CounterVec // endpoint, result: graph | other | invalid
	refused  *prometheus.CounterVec // endpoint
	events   *prometheus.CounterVec // endpoint
	resyncs  *prometheus.CounterVec // endpoint
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "pubsub", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		messages: counter("received_messages_total", "Messages received: of the Graph namespace, of others, or dropped because they could not be read.", "endpoint", "result"),
		refused:  counter("refused_elements_total", "Received nodes and edges that the graph did not take.", "endpoint"),
		events:   counter("events_total", "Graph events sent to subscribers.", "endpoint"),
		resyncs:  counter("resyncs_total", "Times that a subscriber fell too far behind and was told the difference.", "endpoint"),
	}
	if reg != nil {
		reg.MustRegister(m.messages, m.refused, m.events, m.resyncs)
	}
	return m
}
