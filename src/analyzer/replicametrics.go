package analyzer

import "github.com/prometheus/client_golang/prometheus"

// replicaMetrics count what goes between analyzers.
type replicaMetrics struct {
	sent, received, refused, invalid, repairs, repaired, lostCommits, lostPending, rivals prometheus.Counter
}

func newReplicaMetrics(reg prometheus.Registerer, r *Replicas) *replicaMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "replication", Name: name, Help: help})
	}
	m := &replicaMetrics{
		sent:        counter("sent_changes_total", "Changes sent to other analyzers, one by one."),
		received:    counter("received_changes_total", "Changes and elements received from other analyzers."),
		refused:     counter("refused_changes_total", "Changes of other analyzers that the graph did not take."),
		invalid:     counter("invalid_messages_total", "Messages of other analyzers that could not be read."),
		repairs:     counter("repairs_total", "Times that what an analyzer has of an origin was found to differ, and was made equal."),
		repaired:    counter("repaired_elements_total", "Elements added, replaced or deleted by repairs."),
		lostCommits: counter("overflows_total", "Times that commits came faster than they were followed, and the graph was compared instead."),
		lostPending: counter("lost_requests_total", "Changes for an analyzer that was away that were given up, because too many waited."),
	}
	m.rivals = counter("rivals_total", "Times that two agents of the same host_id were found at two analyzers.")
	if reg == nil {
		return m
	}
	gauge := func(name, help string, value func(replicaCounts) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "skydive", Subsystem: "replication", Name: name, Help: help}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return float64(value(r.told))
		})
	}
	reg.MustRegister(m.sent, m.received, m.refused, m.invalid, m.repairs, m.repaired, m.lostCommits, m.lostPending, m.rivals,
		gauge("parked_edges", "Edges that wait for one of their nodes.", func(c replicaCounts) int { return c.Parked }),
		gauge("tombstones", "Deleted elements that are remembered.", func(c replicaCounts) int { return c.Tombstones }),
		gauge("pending_changes", "Changes that wait for an analyzer that is away.", func(c replicaCounts) int { return c.Pending }))
	return m
}
