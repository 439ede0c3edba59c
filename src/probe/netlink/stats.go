package netlink

import (
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/field"
)

const sizeofIfStatsMsg = 12 // struct if_stats_msg of linux/if_link.h

// counterNames are the fields of struct rtnl_link_stats64 in their order.
var counterNames = [...]string{
	"RxPackets", "TxPackets", "RxBytes", "TxBytes", "RxErrors", "TxErrors", "RxDropped", "TxDropped", "Multicast", "Collisions",
	"RxLengthErrors", "RxOverErrors", "RxCrcErrors", "RxFrameErrors", "RxFifoErrors", "RxMissedErrors",
	"TxAbortedErrors", "TxCarrierErrors", "TxFifoErrors", "TxHeartbeatErrors", "TxWindowErrors", "RxCompressed", "TxCompressed",
}

type values [len(counterNames)]int64

// counters are those of an interface, and what they grew by.
type counters struct {
	known        bool
	at           time.Time // when they were read last
	last         values
	total, delta field.Object
	pass         uint32 // generation that saw them
}

// stats takes in the counters of an interface.
func (m *mirror) stats(ns *namespace, b []byte, dumped bool) {
	if len(b) < sizeofIfStatsMsg || !dumped {
		return
	}
	l := ns.links[int(int32(order.Uint32(b[4:])))]
	if l == nil {
		ns.unknownLinks = true
		return
	}
	l.counters.pass = ns.generation
	for kind, v := range attributes(b[sizeofIfStatsMsg:]) {
		if kind != unix.IFLA_STATS_LINK_64 {
			continue
		}
		var now values
		for i := range now {
			if len(v) >= 8*(i+1) {
				now[i] = int64(u64(v[8*i:]))
			}
		}
		if l.counters.read(now, time.Now()) {
			m.touch(l, partPlain)
		}
	}
}

// read takes in new values and tells whether there is something new to show. Nothing is, while all are zero or stay as they were.
func (c *counters) read(now values, at time.Time) bool {
	before, since := c.last, c.at
	first := !c.known
	c.known, c.last, c.at = true, now, at
	if now == before {
		return false
	}
	c.total = now.object("Last", at.UnixMilli())
	if first {
		return true
	}
	var grown values
	for i := range now {
		if grown[i] = now[i] - before[i]; grown[i] < 0 {
			grown[i] = now[i] // the driver started from zero
		}
	}
	c.delta = grown.object("Start", since.UnixMilli(), "Last", at.UnixMilli())
	return true
}

// object leaves out what is zero.
func (v values) object(times ...any) field.Object {
	pairs := times
	for i, n := range v {
		if n != 0 {
			pairs = append(pairs, counterNames[i], n)
		}
	}
	return field.Make(pairs...)
}

// checkLinks compares the interfaces that have counters with those that are known. They differ only when an event was lost without
// a trace, which a new look puts right.
func (m *mirror) checkLinks(ns *namespace) {
	differ := ns.unknownLinks
	ns.unknownLinks = false
	for _, l := range ns.links {
		differ = differ || l.counters.pass != ns.generation && l.seen != ns.generation
	}
	if differ {
		m.enqueue(ns, dump{what: dumpLinks})
	}
}
