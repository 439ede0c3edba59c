package ovsdb

import (
	"time"

	"skydive/src/field"
	"skydive/src/ovs"
)

// statistics are the keys of the column of that name that are shown, and what they are called here.
var statistics = [...]struct{ key, name string }{
	{"collisions", "Collisions"},
	{"rx_bytes", "RxBytes"},
	{"rx_crc_err", "RxCrcErrors"},
	{"rx_dropped", "RxDropped"},
	{"rx_errors", "RxErrors"},
	{"rx_frame_err", "RxFrameErrors"},
	{"rx_missed_errors", "RxMissedErrors"},
	{"rx_over_err", "RxOverErrors"},
	{"rx_packets", "RxPackets"},
	{"tx_bytes", "TxBytes"},
	{"tx_dropped", "TxDropped"},
	{"tx_errors", "TxErrors"},
	{"tx_packets", "TxPackets"},
}

type values [len(statistics)]int64

// counters of an interface.
type counters struct {
	last         values
	at           time.Time // of last; zero: there are none yet
	total, delta field.Object
}

// read takes in the statistics of a row. Nothing is shown anew when they are as before.
func (c *counters) read(row ovs.Row, at time.Time) {
	var now values
	for i, s := range statistics {
		now[i], _ = row.MapInt("statistics", s.key)
	}
	before, since := c.last, c.at
	if now == before {
		return
	}
	c.last, c.at = now, at
	c.total = now.object("Last", at.UnixMilli())
	if since.IsZero() {
		return
	}
	var grown values
	for i := range now {
		if grown[i] = now[i] - before[i]; grown[i] < 0 {
			grown[i] = now[i] // it started from zero
		}
	}
	c.delta = grown.object("Start", since.UnixMilli(), "Last", at.UnixMilli())
}

// object leaves out what is zero.
func (v values) object(times ...any) field.Object {
	all := times
	for i, n := range v {
		if n != 0 {
			all = append(all, statistics[i].name, n)
		}
	}
	return field.Make(all...)
}
