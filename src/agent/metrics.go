package agent

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	events, syncs, lost, ignored, invalid prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "skydive", Subsystem: "agent", Name: name, Help: help})
	}
	m := &metrics{
		events:  counter("events_total", "Changes of the graph sent to the master analyzer."),
		syncs:   counter("syncs_total", "Times that the whole graph was sent to a master analyzer."),
		lost:    counter("resyncs_total", "Times that changes came too fast, so that the whole graph was sent instead."),
		ignored: counter("ignored_messages_total", "Messages of analyzers that ask nothing that this agent knows."),
		invalid: counter("invalid_messages_total", "Messages of analyzers that could not be read."),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.syncs, m.lost, m.ignored, m.invalid)
	}
	return m
}
