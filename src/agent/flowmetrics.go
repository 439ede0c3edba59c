package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// flowMetrics count records; the label reason says why some were lost.
type flowMetrics struct {
	queued, sent, sentMessages, repeated, errors, lostStats prometheus.Counter
	lostFull, lostLarge, lostStop                           prometheus.Counter
}

// Reasons for which records are lost.
const (
	reasonFull  = "queue full"
	reasonLarge = "too large"
	reasonStop  = "agent stopped"
)

func newFlowMetrics(reg prometheus.Registerer, length func() (flows, bytes int)) *flowMetrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "skydive", Subsystem: "agent_flow", Name: name, Help: help}
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts(name, help)), func() float64 { return float64(value()) })
	}
	lost := prometheus.NewCounterVec(opts("lost_records_total", "Flow records that no analyzer got, by reason."), []string{"reason"})
	m := &flowMetrics{
		queued:       prometheus.NewCounter(opts("records_total", "Flow records that captures handed over and that found room in the queue.")),
		sent:         prometheus.NewCounter(opts("sent_records_total", "Flow records sent, repetitions included.")),
		sentMessages: prometheus.NewCounter(opts("sent_messages_total", "Messages (datagrams or WebSocket frames) sent, those with capture counters included.")),
		repeated:     prometheus.NewCounter(opts("repeated_records_total", "Flow records queued once more because the connection broke just after they were sent.")),
		errors:       prometheus.NewCounter(opts("send_errors_total", "Attempts to send that failed; what was to be sent waits.")),
		lostStats:    prometheus.NewCounter(opts("lost_counters_total", "Counters of captures that found no room in the queue.")),
		lostFull:     lost.WithLabelValues(reasonFull),
		lostLarge:    lost.WithLabelValues(reasonLarge),
		lostStop:     lost.WithLabelValues(reasonStop),
	}
	if reg != nil {
		reg.MustRegister(m.queued, m.sent, m.sentMessages, m.repeated, m.errors, m.lostStats, lost,
			gauge("queued_records", "Flow records that wait to be sent.", func() int { n, _ := length(); return n }),
			gauge("queue_bytes", "Memory of the flow records that wait to be sent.", func() int { _, n := length(); return n }))
	}
	return m
}

func value(c prometheus.Counter) int64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return int64(m.GetCounter().GetValue())
}

func (m *flowMetrics) fill(st *FlowSenderStatus) {
	st.Sent, st.Repeated = value(m.sent), value(m.repeated)
	for reason, c := range map[string]prometheus.Counter{reasonFull: m.lostFull, reasonLarge: m.lostLarge, reasonStop: m.lostStop} {
		if n := value(c); n > 0 {
			if st.Lost == nil {
				st.Lost = make(map[string]int64)
			}
			st.Lost[reason] = n
		}
	}
}
