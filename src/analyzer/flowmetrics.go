package analyzer

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// flowMetrics count what comes and what becomes of it.
type flowMetrics struct {
	datagrams, frames, invalid, received, stored, told     prometheus.Counter
	lostKernel, lostRefused, lostFull, lostFeed, lostStore prometheus.Counter
	storeSeconds                                           prometheus.Histogram
}

// Reasons for which flows are lost.
const (
	lossKernel  = "kernel buffer full" // datagrams
	lossRefused = "unknown sender"     // datagrams
	lossFull    = "store queue full"
	lossFeed    = "feed queue full"
	lossStore   = "store failed"
	lossInvalid = "invalid message" // datagrams and frames
)

func newFlowMetrics(reg prometheus.Registerer, stored, told *batches) *flowMetrics {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "skydive", Subsystem: "flows", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter { return prometheus.NewCounter(opts(name, help)) }
	lost := prometheus.NewCounterVec(opts("lost_total", "Flow records lost, by reason; datagrams for the reasons kernel buffer full and unknown sender."), []string{"reason"})
	m := &flowMetrics{
		datagrams:  counter("datagrams_total", "Datagrams of agents that were taken."),
		frames:     counter("frames_total", "WebSocket messages of agents that were taken."),
		invalid:    counter("invalid_messages_total", "Datagrams and WebSocket messages that could not be read."),
		received:   counter("received_total", "Flow records received."),
		stored:     counter("stored_total", "Flow records that the store has taken."),
		told:       counter("feed_messages_total", "Messages for subscribers of flows."),
		lostKernel: lost.WithLabelValues(lossKernel), lostRefused: lost.WithLabelValues(lossRefused), lostFull: lost.WithLabelValues(lossFull),
		lostFeed: lost.WithLabelValues(lossFeed), lostStore: lost.WithLabelValues(lossStore),
		storeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "skydive", Subsystem: "flows", Name: "store_seconds", Help: "Time that the store takes for a batch.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	if reg == nil {
		return m
	}
	queued := func(consumer string, b *batches) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "skydive", Subsystem: "flows", Name: "queued", Help: "Flow records that wait for the store or for the feed.", ConstLabels: prometheus.Labels{"for": consumer},
		}, func() float64 { return float64(b.length()) })
	}
	reg.MustRegister(m.datagrams, m.frames, m.invalid, m.received, m.stored, m.told, lost, m.storeSeconds, queued("feed", told))
	if stored != nil {
		reg.MustRegister(queued("store", stored))
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

func (m *flowMetrics) fill(st *FlowsStatus) {
	st.Received, st.Stored = value(m.received), value(m.stored)
	for reason, c := range map[string]prometheus.Counter{
		lossKernel: m.lostKernel, lossRefused: m.lostRefused, lossFull: m.lostFull, lossFeed: m.lostFeed, lossStore: m.lostStore,
		lossInvalid: m.invalid,
	} {
		if n := value(c); n > 0 {
			if st.Lost == nil {
				st.Lost = make(map[string]int64)
			}
			st.Lost[reason] = n
		}
	}
}
