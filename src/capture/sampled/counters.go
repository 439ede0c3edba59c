package sampled

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"
	"time"

	"skydive/src/field"
)

// counter is one number of a counter record.
type counter struct {
	name  string // in metadata; "": not shown
	bytes int
	gauge bool // what is now, rather than what was so far
}

const (
	countersMax  = 48
	sourcesMax   = 1024
	sourceSilent = int64(10 * time.Minute) // an interface of which nothing is heard for so long is gone
	everyDefault = 10 * time.Second
)

// layout is how counter records of a format look, and where their counters are among all.
type layout struct {
	format   uint32
	first    int
	counters []counter
}

// Formats of counter records of which there are several parts.
const (
	interfaceCounters = 1
)

func of32(names ...string) (all []counter) {
	for _, n := range names {
		all = append(all, counter{name: n, bytes: 4})
	}
	return all
}

func gauges(bytes int, names ...string) (all []counter) {
	for _, n := range names {
		all = append(all, counter{n, bytes, true})
	}
	return all
}

func join(lists ...[]counter) (all []counter) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// layouts are the formats that are understood: of sFlow version 5, and those that Open vSwitch adds.
func layouts() []layout {
	long := func(name string) []counter { return []counter{{name: name, bytes: 8}} }
	all := []layout{
		{format: interfaceCounters, counters: join(
			long("IfInOctets"), of32("IfInUcastPkts", "IfInMulticastPkts", "IfInBroadcastPkts", "IfInDiscards", "IfInErrors", "IfInUnknownProtos"),
			long("IfOutOctets"), of32("IfOutUcastPkts", "IfOutMulticastPkts", "IfOutBroadcastPkts", "IfOutDiscards", "IfOutErrors"),
		)},
		{format: 2, counters: of32("EthAlignmentErrors", "EthFCSErrors", "EthSingleCollisionFrames", "EthMultipleCollisionFrames", "EthSQETestErrors",
			"EthDeferredTransmissions", "EthLateCollisions", "EthExcessiveCollisions", "EthInternalMacTransmitErrors", "EthCarrierSenseErrors",
			"EthFrameTooLongs", "EthInternalMacReceiveErrors", "EthSymbolErrors")},
		{format: 5, counters: join(gauges(4, ""), long("VlanOctets"), of32("VlanUcastPkts", "VlanMulticastPkts", "VlanBroadcastPkts", "VlanDiscards"))},
		{format: 2207, counters: join(of32("OvsDpNHit", "OvsDpNMissed", "OvsDpNLost", "OvsDpNMaskHit"), gauges(4, "OvsDpNFlows", "OvsDpNMasks"))},
		{format: 2203, counters: join(gauges(4, "", ""), gauges(8, "OvsAppMemUsed", "OvsAppMemMax"),
			gauges(4, "OvsAppFdOpen", "OvsAppFdMax", "OvsAppConnOpen", "OvsAppConnMax"))},
	}
	n := 0
	for i := range all {
		all[i].first = n
		n += len(all[i].counters)
	}
	return all
}

// values are what all formats can tell.
type values [countersMax]uint64

// source is one thing that counts.
type source struct {
	iface  string // the key of IfMetrics; "": no interface
	heard  int64  // ns
	boots  uint32 // of its exporter
	seen   uint64 // counters that were ever told of
	raw    values // as told last
	totals values
}

type sourceKey struct {
	address netip.Addr
	id      uint32
}

// meters are what all exporters of a source of flows have counted.
type meters struct {
	layouts []layout
	sources map[sourceKey]*source
	first   netip.Addr // exporter whose interfaces are named by number alone
	gone    values     // counted by sources that are no more
	found   values     // that was counted before we came, since the last report
	began   time.Time
	omitted int64 // samples of sources for which there was no room
	changed bool  // since the last report

	reported values
	at       time.Time // of the last report
	metrics  field.Object
}

// counterSample takes the counters of one source.
func (s *Source) counterSample(e *exporter, r *reader, expanded bool) {
	r.uint32() // its number
	id := r.uint32()
	if expanded {
		id = id<<24 ^ r.uint32()
	}
	records := r.uint32()
	if r.bad {
		return
	}
	s.counting.Lock()
	defer s.counting.Unlock()
	m := &s.meters
	x := m.source(sourceKey{e.address(), id}, s.now)
	if x == nil {
		m.omitted, m.changed = m.omitted+1, true
		return
	}
	x.heard, m.changed = s.now, true
	fresh := e.boots > x.boots
	x.boots = e.boots
	for ; records > 0 && !r.bad; records-- {
		format, record := r.structure()
		for i := range m.layouts {
			l := &m.layouts[i]
			if l.format != format {
				continue
			}
			if format == interfaceCounters {
				index := record.uint32()
				record.opaque(20) // type, speed, direction, status
				if x.iface == "" && !record.bad {
					x.iface = strconv.FormatUint(uint64(index), 10)
					if a := e.address(); a != m.first {
						x.iface = a.String() + "/" + x.iface
					}
				}
			}
			x.count(l, &record, fresh, &m.found)
			r.bad = r.bad || record.bad
		}
	}
}

// source finds a source; nil: there are too many.
func (m *meters) source(key sourceKey, now int64) *source {
	x := m.sources[key]
	if x != nil || len(m.sources) >= sourcesMax {
		return x
	}
	if m.sources == nil {
		m.sources, m.layouts, m.first, m.began = make(map[sourceKey]*source), layouts(), key.address, time.Unix(0, now)
	}
	x = new(source)
	m.sources[key] = x
	return x
}

// count takes a record; fresh: counters have begun anew; found gets what was counted before we came.
func (x *source) count(l *layout, r *reader, fresh bool, found *values) {
	for i, c := range l.counters {
		b := r.opaque(uint32(c.bytes))
		if r.bad {
			return
		}
		at := l.first + i
		now, unknown := uint64(0), uint64(math.MaxUint32)
		if c.bytes == 8 {
			now, unknown = binary.BigEndian.Uint64(b), math.MaxUint64
		} else {
			now = uint64(binary.BigEndian.Uint32(b))
		}
		before, known := x.raw[at], x.seen>>at&1 != 0
		x.raw[at] = now
		x.seen |= 1 << at
		switch {
		case c.gauge && now == unknown: // the masks of a switch in user space
			x.totals[at] = 0
		case c.gauge:
			x.totals[at] = now
		case now == unknown:
			x.raw[at] = before
			if !known {
				x.seen &^= 1 << at
			}
		case !known:
			x.totals[at] = now
			found[at] += now
		case fresh:
			x.totals[at] += now
		default:
			x.totals[at] += increase(before, now, c.bytes)
		}
	}
}

// increase is what a counter has counted, which may have wrapped, or begun anew.
func increase(before, now uint64, bytes int) uint64 {
	if now >= before {
		return now - before
	}
	if d := uint64(uint32(now - before)); bytes == 4 && d < 1<<31 {
		return d
	}
	if d := now - before; bytes == 8 && d < 1<<40 {
		return d
	}
	return now
}

// Metrics implements capture.Meter: the counters of all interfaces, their sum and, as far as sFlow tells, what it has grown by since the last
// report. Gauges are as they are.
func (s *Source) Metrics() (string, field.Object) {
	s.counting.Lock()
	defer s.counting.Unlock()
	m := &s.meters
	every := everyDefault
	if p := s.request.Capture.PollingInterval; p > 0 {
		every = time.Duration(p) * time.Second
	}
	if now := time.Now(); m.changed && now.Sub(m.at) >= every {
		m.report(now)
	}
	return "SFlow", m.metrics
}

func (m *meters) report(now time.Time) {
	sum := m.gone
	var interfaces []any
	named := make(map[string]bool)
	for key, x := range m.sources {
		if now.UnixNano()-x.heard > sourceSilent {
			m.leave(x, &sum)
			delete(m.sources, key)
			continue
		}
		for i, v := range x.totals {
			sum[i] += v
		}
		if x.iface != "" && !named[x.iface] {
			named[x.iface] = true
			var pairs []any
			for i, c := range m.layouts[0].counters {
				pairs = appendNumber(pairs, c.name, x.totals[i])
			}
			interfaces = append(interfaces, x.iface, field.Make(pairs...))
		}
	}
	since := m.at
	if since.IsZero() {
		since = m.began
	}
	for i, v := range m.found {
		m.reported[i] += v
	}
	m.found = values{}
	metric := []any{"Start", m.began.UnixMilli(), "Last", now.UnixMilli()}
	update := []any{"Start", since.UnixMilli(), "Last", now.UnixMilli()}
	for _, l := range m.layouts {
		for i, c := range l.counters {
			if c.name == "" {
				continue
			}
			at := l.first + i
			metric = appendNumber(metric, c.name, sum[at])
			if c.gauge {
				update = appendNumber(update, c.name, sum[at])
			} else {
				update = appendNumber(update, c.name, sum[at]-m.reported[at])
			}
		}
	}
	m.reported, m.at, m.changed = sum, now, false
	omitted := []any(nil)
	if m.omitted > 0 {
		omitted = []any{"Omitted", m.omitted}
	}
	m.metrics = field.Make(append(omitted, "IfMetrics", field.Make(interfaces...), "Metric", field.Make(metric...), "LastUpdateMetric", field.Make(update...))...)
}

// leave keeps what a source has counted.
func (m *meters) leave(x *source, sum *values) {
	for _, l := range m.layouts {
		for i, c := range l.counters {
			if !c.gauge {
				m.gone[l.first+i] += x.totals[l.first+i]
				sum[l.first+i] += x.totals[l.first+i]
			}
		}
	}
}

func appendNumber(pairs []any, name string, v uint64) []any {
	if v == 0 {
		return pairs
	}
	return append(pairs, name, int64(min(v, math.MaxInt64)))
}
