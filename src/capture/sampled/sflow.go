package sampled

import (
	"encoding/binary"
	"net/netip"

	"skydive/src/flow"
)

// Formats of sFlow version 5, of enterprise 0.
const (
	flowSample = iota + 1
	counterSample
	expandedFlowSample
	expandedCounterSample
)

// Formats of flow records.
const (
	rawHeader = iota + 1
	sampledEthernet
	sampledIPv4
	sampledIPv6
)

// Protocols of raw headers.
const (
	headerEthernet = 1
	headerIPv4     = 11
	headerIPv6     = 12
)

// reader takes XDR apart (RFC 4506). Beyond the end everything is zero, and bad tells.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint32() uint32 {
	if len(r.b) < 4 {
		r.b, r.bad = nil, true
		return 0
	}
	v := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

// opaque takes n bytes and what fills them up to a multiple of four.
func (r *reader) opaque(n uint32) []byte {
	if uint64(n) > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[min(int(n+3)&^3, len(r.b)):]
	return v
}

// structure takes one that says its own length.
func (r *reader) structure() (format uint32, in reader) {
	format = r.uint32()
	in.b = r.opaque(r.uint32())
	return format, in
}

func (r *reader) address() netip.Addr {
	switch r.uint32() {
	case 1:
		if b := r.opaque(4); len(b) == 4 {
			return netip.AddrFrom4([4]byte(b))
		}
	case 2:
		if b := r.opaque(16); len(b) == 16 {
			return netip.AddrFrom16([16]byte(b)).Unmap()
		}
	}
	return netip.Addr{} // an agent need not know its address
}

// sflow takes a datagram.
func (s *Source) sflow(d *datagram) {
	r := reader{b: d.data}
	if r.uint32() != 5 {
		s.malformed.Add(1)
		return
	}
	agent := r.address()
	part, number, uptime, samples := r.uint32(), r.uint32(), r.uint32(), r.uint32()
	if r.bad {
		s.malformed.Add(1)
		return
	}
	e := s.of(d, stream{from: d.from, agent: agent, version: 5, part: part})
	if e == nil {
		return
	}
	e.clock(uptime)
	s.sequence(e, number, 1)
	for ; samples > 0 && !r.bad; samples-- {
		format, in := r.structure()
		switch format {
		case flowSample, expandedFlowSample:
			s.flowSample(e, &in, format == expandedFlowSample)
		case counterSample, expandedCounterSample:
			s.counterSample(e, &in, format == expandedCounterSample)
		}
		r.bad = r.bad || in.bad
	}
	if r.bad {
		s.malformed.Add(1)
	}
}

// chosen is what is said of a sampled packet besides what it is.
type chosen struct {
	sample  flow.Sample
	counted bool // not to be left out, since the exporter tells of the packet twice
}

// flowSample takes one packet.
func (s *Source) flowSample(e *exporter, r *reader, expanded bool) {
	r.uint32() // its number
	kind, source := uint32(0), r.uint32()
	if expanded {
		kind, source = source, r.uint32()
	} else {
		kind, source = source>>24, source&0xffffff
	}
	rate := r.uint32()
	r.uint32() // packets that might have been chosen
	dropped := r.uint32()
	in, out := r.iface(expanded), r.iface(expanded)
	records := r.uint32()
	if r.bad {
		return
	}
	s.poolDropped(e, kind<<24^source, dropped)
	c := chosen{sample: flow.Sample{Rate: rate}}
	c.sample.Place, c.sample.Back, c.counted = s.places(e, in, out, kind == 0 && source == out && source != in && source != 0)
	var ethernet, ip reader
	var ipFormat uint32
	for ; records > 0 && !r.bad; records-- {
		format, record := r.structure()
		switch format {
		case rawHeader:
			s.rawHeader(e, &record, &c)
			r.bad = r.bad || record.bad
			return // the others say the same in other words
		case sampledEthernet:
			ethernet = record
		case sampledIPv4, sampledIPv6:
			ip, ipFormat = record, format
		}
	}
	if c.counted && !r.bad && (ethernet.b != nil || ip.b != nil) {
		r.bad = !s.sampledFields(&ethernet, &ip, ipFormat, &c)
	}
}

// iface is the number of an interface; 0: none, or several.
func (r *reader) iface(expanded bool) uint32 {
	format, value := uint32(0), r.uint32()
	if expanded {
		format, value = value, r.uint32()
	} else {
		format, value = value>>30, value&0x3fffffff
	}
	if format != 0 || value == 0x3fffffff || value == 0xffffffff { // the last are those of the device itself
		return 0
	}
	return value
}

// poolDropped counts samples that the exporter had no time for.
func (s *Source) poolDropped(e *exporter, id, dropped uint32) {
	p := e.pools[id]
	if p == nil {
		if len(e.pools) >= portsMax || s.exporters.ports >= portsAll {
			return
		}
		if e.pools == nil {
			e.pools = make(map[uint32]*pool)
		}
		e.pools[id] = &pool{dropped}
		s.exporters.ports++
		return
	}
	if lost := int32(dropped - p.dropped); lost > 0 {
		s.lost.Add(int64(lost))
	}
	p.dropped = dropped
}

// rawHeader takes the beginning of a packet.
func (s *Source) rawHeader(e *exporter, r *reader, c *chosen) {
	protocol, length, stripped := r.uint32(), r.uint32(), r.uint32()
	header := r.opaque(r.uint32())
	if r.bad || !c.counted || len(header) == 0 {
		return
	}
	switch protocol {
	case headerEthernet:
		c.sample.First = flow.FirstEthernet
	case headerIPv4, headerIPv6:
		c.sample.First = flow.FirstRawIP
	default:
		s.malformed.Add(1)
		return
	}
	// The length includes what was stripped, the frame check sequence at least; but some exporters leave that out, which a packet shows that has more.
	size := max(int(min(max(int64(length)-int64(stripped), 0), 1<<20)), len(header))
	if c.sample.First == flow.FirstEthernet {
		size = max(size, min(frameLength(header), int(min(length, 1<<20))))
	}
	p := &s.packet
	*p = flow.Packet{Data: header, Length: size, Time: s.now}
	if f := s.request.Filter; f != nil {
		data := header
		if c.sample.First == flow.FirstRawIP {
			s.frame = appendLink(s.frame[:0], header)
			data = s.frame
		}
		if !f.Match(data, p.Length+len(data)-len(header)) {
			s.filtered.Add(1)
			return
		}
	}
	s.received.Add(1)
	s.request.Intake.Sampled(p, c.sample)
}

// frameLength is how long the headers say that a frame is, at least.
func frameLength(b []byte) int {
	off := 12
	for len(b) >= off+4 && (binary.BigEndian.Uint16(b[off:]) == 0x8100 || binary.BigEndian.Uint16(b[off:]) == 0x88a8) {
		off += 4
	}
	if len(b) < off+8 {
		return 0
	}
	switch binary.BigEndian.Uint16(b[off:]) {
	case 0x0800:
		return off + 2 + int(binary.BigEndian.Uint16(b[off+4:]))
	case 0x86dd:
		return off + 2 + 40 + int(binary.BigEndian.Uint16(b[off+6:]))
	}
	return 0
}

// sampledFields counts a packet of which there are only fields; false: they are cut short.
func (s *Source) sampledFields(ethernet, ip *reader, ipFormat uint32, c *chosen) bool {
	r := s.record()
	rate := int64(max(c.sample.Rate, 1))
	r.Packets, r.Start, r.Last, r.Place, r.Back = rate, s.now, s.now, c.sample.Place, c.sample.Back
	if ethernet.b != nil {
		r.Bytes, r.Frames = int64(ethernet.uint32())*rate, true
		copy(r.SrcMAC[:], ethernet.opaque(6))
		copy(r.DstMAC[:], ethernet.opaque(6))
		r.EtherType, r.Linked = uint16(ethernet.uint32()), true
	}
	if ip.b != nil {
		length := ip.uint32()
		if !r.Frames {
			r.Bytes = int64(length) * rate
		}
		r.Version, r.Proto = 4, uint8(ip.uint32())
		n := uint32(4)
		if ipFormat == sampledIPv6 {
			r.Version, n = 6, 16
		}
		copy(r.Src[:], ip.opaque(n))
		copy(r.Dst[:], ip.opaque(n))
		r.SrcPort, r.DstPort = uint16(ip.uint32()), uint16(ip.uint32())
		flags := uint8(ip.uint32())
		if rate == 1 {
			r.TCPFlags = flags
		}
	}
	if ethernet.bad || ip.bad {
		return false
	}
	s.count(r)
	return true
}
