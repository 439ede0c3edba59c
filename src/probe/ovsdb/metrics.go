package ovsdb

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connected, unplaced prometheus.Gauge
	reconnects, batches prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "skydive_ovsdb_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "skydive_ovsdb_" + name, Help: help})
	}
	m := &metrics{
		connected:  gauge("connected", "1 while there is a connection to the database of Open vSwitch."),
		unplaced:   gauge("unplaced_interfaces", "Interfaces that the kernel should have but that are in no namespace that can be seen."),
		reconnects: counter("reconnects_total", "Connections to the database of Open vSwitch that were lost and made again."),
		batches:    counter("transactions_total", "Transactions of the database of Open vSwitch that were taken in."),
	}
	if r != nil {
		r.MustRegister(m.connected, m.unplaced, m.reconnects, m.batches)
	}
	return m
}
