package flow

import "net/netip"

// record is a Flow with room for all that it points to.
type record struct {
	flow      Flow
	link, net Layer
	transport Transport
	icmp      ICMP
	last      Metric
	tcp       TCPMetric
	ip        IPMetric
	unsure    bool // the filter of a search has to be tried on it
}

// records are made under the lock of a table and given away without it.
type records struct {
	r []record
	n int
}

func (r *records) next() *record {
	if r.n == len(r.r) {
		r.r = append(r.r, record{})
	}
	r.n++
	return &r.r[r.n-1]
}

// yield gives the records away; false: enough.
func (r *records) yield(yield func(*record) bool) bool {
	for i := range r.r[:r.n] {
		if !yield(&r.r[i]) {
			return false
		}
	}
	r.n = 0
	return true
}

// record makes the public record of an entry.
func (t *Table) record(e *hot, n uint32, r *record) {
	c := t.cold(n)
	var room [320]byte
	s := text{b: room[:0]}
	first, second := e.m0>>16, e.m1>>16
	var ends [2]netip.Addr
	switch {
	case e.flags&shownNet4 != 0:
		ends = [2]netip.Addr{ip4(uint32(e.a >> 32)), ip4(uint32(e.a))}
	case e.flags&shownNet6 != 0:
		ends = [2]netip.Addr{ip6(e.a, e.b), ip6(e.c, e.d)}
	}
	if e.flags&aSecond != 0 {
		first, second = second, first
		ends[0], ends[1] = ends[1], ends[0]
	}
	uuid, tracking, l3 := s.id(c.uuid), s.id(c.tracking), s.id(c.l3)
	var parent, macA, macB, ipA, ipB span
	if e.parent != 0 {
		parent = s.id(e.parent)
	}
	if e.flags&shownLink != 0 {
		macA, macB = s.mac(first), s.mac(second)
	}
	if ends[0].IsValid() {
		ipA, ipB = s.ip(ends[0]), s.ip(ends[1])
	}
	all := string(s.b) // the only allocation: all strings share it

	f := &r.flow
	*f = Flow{
		UUID: uuid.of(all), TrackingID: tracking.of(all), L3TrackingID: l3.of(all), ParentUUID: parent.of(all),
		LayersPath: t.names.paths[e.path], Application: t.names.apps[e.app].name, NodeTID: t.at(e.place()).tid, CaptureID: t.o.CaptureID,
		Start: c.start, Last: e.last / ms, FinishType: FinishType(e.flags >> finishBit & 3), Metric: e.metric(c),
	}
	if e.flags&shownLink != 0 {
		r.link = Layer{Protocol: Ethernet, A: macA.of(all), B: macB.of(all), ID: int64(e.vlan)}
		f.Link = &r.link
	}
	if e.flags&(shownNet4|shownNet6) != 0 {
		r.net = Layer{Protocol: IPv4, A: ipA.of(all), B: ipB.of(all)}
		if e.flags&shownNet6 != 0 {
			r.net.Protocol = IPv6
		}
		if e.meta&metaICMP == 0 {
			r.net.ID = int64(uint32(e.meta))
		}
		f.Network = &r.net
	}
	if e.flags&shownTransport != 0 {
		r.transport = Transport{Protocol: TCP, A: int64(c.portA), B: int64(c.portB)}
		switch {
		case e.flags&shownUDP != 0:
			r.transport.Protocol = UDP
		case e.flags&shownSCTP != 0:
			r.transport.Protocol = SCTP
		}
		f.Transport = &r.transport
	}
	if e.flags&(shownICMP4|shownICMP6) != 0 {
		id := uint32(e.meta)
		r.icmp = ICMP{Type: ICMPType(id >> 24), Code: id >> 16 & 0xff, ID: id & 0xffff}
		f.ICMP = &r.icmp
	}
	if e.flags&updated != 0 {
		r.last = t.update(e, c)
		f.LastUpdateMetric = &r.last
	}
	if e.extra != 0 {
		t.extra(e.extra).record(r)
	}
	if e.flags&withIP != 0 {
		if r.ip = (IPMetric{}); e.extra != 0 {
			r.ip = t.extra(e.extra).ip
		}
		f.IPMetric = &r.ip
	}
}

// metric is what was counted since the flow began.
func (e *hot) metric(c *cold) Metric {
	ab, ba := &e.ends[0], &e.ends[1]
	if e.flags&aSecond != 0 {
		ab, ba = ba, ab
	}
	return Metric{ABPackets: int64(ab.packets), ABBytes: int64(ab.bytes), BAPackets: int64(ba.packets), BABytes: int64(ba.bytes),
		Start: c.start, Last: e.last / ms, RTT: c.rtt}
}

// update is what was counted in the last report interval of a flow that is updated.
func (t *Table) update(e *hot, c *cold) Metric {
	m := Metric{Start: max(t.prevUpdate, c.start), Last: max(t.lastUpdate, c.start)}
	if e.flags&reported == 0 {
		return m
	}
	ab, ba := 0, 1
	if e.flags&aSecond != 0 {
		ab, ba = 1, 0
	}
	m.ABPackets, m.ABBytes = int64(c.deltaPackets[ab]), int64(c.deltaBytes[ab])
	m.BAPackets, m.BABytes = int64(c.deltaPackets[ba]), int64(c.deltaBytes[ba])
	m.RTT = c.rtt
	return m
}

// text collects the strings of a record.
type text struct{ b []byte }

type span struct{ from, to int }

func (s span) of(all string) string { return all[s.from:s.to] }

func (s *text) id(id uint64) span {
	from := len(s.b)
	s.b = hexID(s.b, id)
	return span{from, len(s.b)}
}

func (s *text) mac(mac uint64) span {
	const digits = "0123456789abcdef"
	from := len(s.b)
	for shift := 40; shift >= 0; shift -= 8 {
		s.b = append(s.b, digits[mac>>(shift+4)&15], digits[mac>>shift&15], ':')
	}
	s.b = s.b[:len(s.b)-1]
	return span{from, len(s.b)}
}

func (s *text) ip(ip netip.Addr) span {
	from := len(s.b)
	s.b = ip.AppendTo(s.b)
	return span{from, len(s.b)}
}

func ip4(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

func ip6(hi, lo uint64) netip.Addr {
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
	}
	return netip.AddrFrom16(b)
}
