package ws

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what all endpoints and clients of a process do. The label
// "endpoint" is the request path, "side" is server or client.
type Metrics struct {
	connections                          *prometheus.GaugeVec
	messages, bytes                      *prometheus.CounterVec // + direction in|out
	evictions, dropped, panics, timeouts *prometheus.CounterVec
	refusals                             *prometheus.CounterVec // endpoint, reason
	dialFailures                         *prometheus.CounterVec // endpoint
}

// NewMetrics registers the metrics with reg; nil leaves them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "ws", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "skydive", Subsystem: "ws", Name: "connections", Help: "Open WebSocket connections.",
		}, []string{"endpoint", "side"}),
		messages:     counter("messages_total", "WebSocket messages sent and received.", "endpoint", "side", "direction"),
		bytes:        counter("bytes_total", "Payload bytes of messages sent and received.", "endpoint", "side", "direction"),
		evictions:    counter("evictions_total", "Connections closed because the peer did not keep up.", "endpoint", "side"),
		dropped:      counter("dropped_messages_total", "Queued messages lost because their connection ended.", "endpoint", "side"),
		panics:       counter("handler_panics_total", "Panics while handling a message.", "endpoint", "side"),
		timeouts:     counter("timeouts_total", "Connections dropped for a missing pong or a stuck write.", "endpoint", "side"),
		refusals:     counter("handshake_refusals_total", "Upgrade requests refused.", "endpoint", "reason"),
		dialFailures: counter("dial_failures_total", "Failed connection attempts of clients.", "endpoint"),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.messages, m.bytes, m.evictions, m.dropped, m.panics, m.timeouts, m.refusals, m.dialFailures)
	}
	return m
}

// connMetrics are the counters of one endpoint and side, resolved once.
type connMetrics struct {
	connections                                                                      prometheus.Gauge
	messagesIn, messagesOut, bytesIn, bytesOut, evictions, dropped, panics, timeouts prometheus.Counter
}

func (m *Metrics) forConn(endpoint, side string) *connMetrics {
	return &connMetrics{
		connections: m.connections.WithLabelValues(endpoint, side),
		messagesIn:  m.messages.WithLabelValues(endpoint, side, "in"),
		messagesOut: m.messages.WithLabelValues(endpoint, side, "out"),
		bytesIn:     m.bytes.WithLabelValues(endpoint, side, "in"),
		bytesOut:    m.bytes.WithLabelValues(endpoint, side, "out"),
		evictions:   m.evictions.WithLabelValues(endpoint, side),
		dropped:     m.dropped.WithLabelValues(endpoint, side),
		panics:      m.panics.WithLabelValues(endpoint, side),
		timeouts:    m.timeouts.WithLabelValues(endpoint, side),
	}
}
