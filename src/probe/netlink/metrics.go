package netlink

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	overruns, resyncs, malformed, omitted prometheus.Counter
	namespaces, links                     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "skydive_netlink_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "skydive_netlink_" + name, Help: help})
	}
	m := &metrics{
		overruns:   counter("overruns_total", "Receive queues of netlink sockets that overflowed; a resync follows."),
		resyncs:    counter("resyncs_total", "Namespaces that were read anew because events were lost."),
		malformed:  counter("malformed_total", "Netlink messages that could not be read."),
		omitted:    counter("omitted_total", "Routes and neighbours left out because an interface has too many."),
		namespaces: gauge("namespaces", "Network namespaces that are followed."),
		links:      gauge("interfaces", "Interfaces that are followed."),
	}
	if r != nil {
		r.MustRegister(m.overruns, m.resyncs, m.malformed, m.omitted, m.namespaces, m.links)
	}
	return m
}
