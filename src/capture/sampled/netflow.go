package sampled

import (
	"encoding/binary"
	"math"
	"time"

	"skydive/src/flow"
)

// Versions of export protocols.
const (
	netflow5 = 5
	netflow9 = 9
	ipfix    = 10
)

// Identifiers of the sets of IPFIX. Those of NetFlow version 9 are two less.
const (
	setTemplates = 2
	setOptions   = 3
	setData      = 256
)

const (
	header5  = 24
	record5  = 48
	header9  = 20
	headerX  = 16
	skewMax  = int64(5 * time.Second) // clocks that differ more are not believed; version 9 and IPFIX tell the time of export in seconds
	samplers = 256                    // of an exporter
)

// sampling is what options say of how packets were chosen.
type sampling struct {
	rate     uint64 // of those that say no more
	rated    bool   // some interfaces have a rate of their own
	samplers map[uint64]uint64
	boot     int64 // ns: when the exporter started; 0: not said
}

// export is what holds for all records of a datagram.
type export struct {
	e      *exporter
	at     int64  // ns, by the clock of the exporter
	uptime uint32 // ms
	timed  bool   // uptime is known
	shift  int64  // ns, from its clock to ours
}

// netflow takes a datagram.
func (s *Source) netflow(d *datagram) {
	ok := false
	if len(d.data) >= 2 {
		switch binary.BigEndian.Uint16(d.data) {
		case netflow5:
			ok = s.version5(d)
		case netflow9, ipfix:
			ok = s.templated(d)
		}
	}
	if !ok {
		s.malformed.Add(1)
	}
}

// exported begins with the header of a datagram.
func (s *Source) exported(e *exporter, at int64) export {
	x := export{e: e, at: at}
	if skew := s.now - at; skew > skewMax || skew < -skewMax {
		x.shift = skew
	}
	return x
}

// when turns a time in ms since the exporter started into one of its clock.
func (x *export) when(then uint32) int64 { return x.at - int64(int32(x.uptime-then))*1e6 }

// version5 takes a datagram of NetFlow version 5.
func (s *Source) version5(d *datagram) (ok bool) {
	b := d.data
	if len(b) < header5 {
		return false
	}
	count, uptime := int(binary.BigEndian.Uint16(b[2:])), binary.BigEndian.Uint32(b[4:])
	at := int64(binary.BigEndian.Uint32(b[8:]))*1e9 + int64(binary.BigEndian.Uint32(b[12:])%1e9)
	number := binary.BigEndian.Uint32(b[16:])
	rate := int64(max(binary.BigEndian.Uint16(b[22:])&0x3fff, 1))
	if count == 0 || len(b) < header5+count*record5 {
		return false
	}
	e := s.of(d, stream{from: d.from, version: netflow5, part: uint32(binary.BigEndian.Uint16(b[20:]))})
	if e == nil {
		return true
	}
	e.clock(uptime)
	s.sequence(e, number, uint32(count))
	x := s.exported(e, at)
	x.uptime, x.timed = uptime, true
	for b = b[header5:]; count > 0; count, b = count-1, b[record5:] {
		r := s.record()
		r.Version, r.Proto, r.TCPFlags = 4, b[38], b[37]
		copy(r.Src[:4], b)
		copy(r.Dst[:4], b[4:])
		r.SrcPort, r.DstPort = binary.BigEndian.Uint16(b[32:]), binary.BigEndian.Uint16(b[34:])
		r.ICMPType, r.ICMPCode = b[34], b[35]
		r.Packets, r.Bytes = int64(binary.BigEndian.Uint32(b[16:]))*rate, int64(binary.BigEndian.Uint32(b[20:]))*rate
		if s.options.Whole {
			r.Bytes -= 14 * r.Packets
		}
		r.Start, r.Last = x.when(binary.BigEndian.Uint32(b[24:])), x.when(binary.BigEndian.Uint32(b[28:]))
		s.finish(&x, r, uint32(binary.BigEndian.Uint16(b[12:])), uint32(binary.BigEndian.Uint16(b[14:])), false)
	}
	return true
}

// finish completes a record and counts it.
func (s *Source) finish(x *export, r *flow.Record, in, out uint32, leaving bool) {
	r.Last = min(r.Last+x.shift, s.now)
	r.Start = min(r.Start+x.shift, r.Last)
	var counted bool
	if r.Place, r.Back, counted = s.places(x.e, in, out, leaving); !counted {
		return
	}
	s.count(r)
}

// templated takes a datagram of NetFlow version 9 or IPFIX.
func (s *Source) templated(d *datagram) (ok bool) {
	b := d.data
	version := binary.BigEndian.Uint16(b)
	header := header9
	if version == ipfix {
		header = headerX
	}
	if len(b) < header {
		return false
	}
	var number, uptime, part uint32
	var at int64
	if version == ipfix {
		length := int(binary.BigEndian.Uint16(b[2:]))
		if length < header || length > len(b) {
			return false
		}
		b = b[:length]
		at, number, part = int64(binary.BigEndian.Uint32(b[4:]))*1e9, binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	} else {
		uptime, at = binary.BigEndian.Uint32(b[4:]), int64(binary.BigEndian.Uint32(b[8:]))*1e9
		number, part = binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	}
	e := s.of(d, stream{from: d.from, version: version, part: part})
	if e == nil {
		return true
	}
	if version == netflow9 && e.clock(uptime) {
		s.withdraw(e, setTemplates) // identifiers may mean others now
		s.withdraw(e, setOptions)
	}
	x := s.exported(e, at)
	x.uptime, x.timed = uptime, version == netflow9
	records, known, ok := s.sets(&x, b[header:])
	if version == netflow9 {
		s.sequence(e, number, 1)
		return ok
	}
	s.sequence(e, number, uint32(records))
	if !known || !ok {
		e.known = false // what is due next cannot be told
	}
	return ok
}

// sets takes the sets of a datagram, and tells how many records they have, and whether that is sure.
func (s *Source) sets(x *export, b []byte) (records int, known, ok bool) {
	known = true
	for len(b) >= 4 {
		id, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if length < 4 || length > len(b) {
			return records, known, false
		}
		set := b[4:length]
		b = b[length:]
		if x.e.version == netflow9 && id < 2 {
			id += setTemplates
		}
		switch {
		case id == setTemplates || id == setOptions:
			if !s.define(x.e, set, id == setOptions) {
				return records, known, false
			}
		case id >= setData:
			t := s.template(x.e, id)
			if t == nil {
				s.unknown.Add(1)
				known = false
				continue
			}
			records += s.data(x, t, set)
		}
	}
	return records, known, len(b) == 0 || x.e.version == netflow9
}

// data takes the records of a set.
func (s *Source) data(x *export, t *template, b []byte) (records int) {
	for len(b) > 0 {
		g := &s.gathered
		*g = gathered{record: s.record()}
		var ok bool
		if b, ok = t.next(g, b, x.at); !ok {
			break
		}
		records++
		if g.has(bootTime) {
			x.e.boot = int64(g.boot&(1<<43-1)) * 1e6
		}
		if t.options {
			s.option(x.e, g)
		} else {
			s.counted(x, g)
		}
	}
	return records
}

// option takes what an exporter says of itself.
func (s *Source) option(e *exporter, g *gathered) {
	rate := min(g.rate(), math.MaxUint32)
	switch {
	case rate == 0:
	case g.has(inputIf):
		s.port(e, g.in).rate, e.rated = rate, true
	case g.has(sampler):
		if e.samplers == nil {
			e.samplers = make(map[uint64]uint64)
		}
		if _, ok := e.samplers[g.sampler]; ok || len(e.samplers) < samplers {
			e.samplers[g.sampler] = rate
		}
	default:
		e.rate = rate
	}
}

// counted takes the record of a flow.
func (s *Source) counted(x *export, g *gathered) {
	if g.leaving && s.options.Entering {
		return
	}
	e := x.e
	rate := min(g.rate(), math.MaxUint32)
	if rate == 0 && g.has(sampler) {
		rate = e.samplers[g.sampler]
	}
	if rate == 0 && e.rated {
		if p := e.ports[g.in]; p != nil {
			rate = p.rate
		}
	}
	if rate == 0 {
		rate = max(e.rate, 1)
	}
	r := g.record
	r.Packets, r.Bytes = g.amounts(r, g.have, &g.counts[0], rate)
	if g.haveBack != 0 {
		r.BackPackets, r.BackBytes = g.amounts(r, g.haveBack, &g.counts[1], rate)
	}
	if r.Packets|r.Bytes|r.BackPackets|r.BackBytes == 0 {
		return // of something else than packets
	}
	r.Linked = g.has(sourceMAC) && (g.has(targetMAC) || g.has(leavingMAC))
	switch {
	case r.EtherType == 0 && r.Version == 4:
		r.EtherType = 0x0800
	case r.EtherType == 0 && r.Version == 6:
		r.EtherType = 0x86dd
	case r.Version == 0 || r.EtherType != 0x0800 && r.EtherType != 0x86dd:
		r.Version = 0
	}
	if r.Proto == 1 && r.ICMPType|r.ICMPCode == 0 || r.Proto == 58 && r.ICMPType|r.ICMPCode == 0 {
		r.ICMPType, r.ICMPCode = uint8(r.DstPort>>8), uint8(r.DstPort) // as in version 5
	}
	if r.Proto == 6 && g.ended {
		r.Finish = flow.TCPFin
	}
	if g.reversed {
		reverse(r)
	}
	g.times(x, r)
	s.finish(x, r, g.in, g.out, g.leaving)
}

// amounts are packets and bytes of one direction.
func (g *gathered) amounts(r *flow.Record, have uint64, counts *[6]uint64, rate uint64) (n, bytes int64) {
	has := func(x element) bool { return have>>x&1 != 0 }
	value := func(x element) int64 { return int64(min(counts[x-octets], math.MaxInt64/max(rate, 1)) * rate) }
	delta, total := octets, octetsTotal
	if has(frameOctets) || has(frameOctetsTotal) && !has(octets) && !has(octetsTotal) {
		delta, total, r.Frames = frameOctets, frameOctetsTotal, true
	}
	if has(packets) || has(delta) {
		n, bytes = value(packets), value(delta)
	} else {
		n, bytes, r.Total = value(packetsTotal), value(total), true
	}
	if !r.Frames && g.header >= 14 {
		r.Frames = true
		bytes += n * int64(g.header)
	}
	return n, bytes
}

// reverse exchanges the ends.
func reverse(r *flow.Record) {
	r.Src, r.Dst, r.SrcPort, r.DstPort, r.SrcMAC, r.DstMAC = r.Dst, r.Src, r.DstPort, r.SrcPort, r.DstMAC, r.SrcMAC
	r.Packets, r.Bytes, r.BackPackets, r.BackBytes = r.BackPackets, r.BackBytes, r.Packets, r.Bytes
}

// times tells when the first and the last packet passed.
func (g *gathered) times(x *export, r *flow.Record) {
	r.Start, r.Last = g.start, g.end
	if !x.timed && x.e.boot != 0 {
		x.uptime, x.timed = uint32((x.at-x.e.boot)/1e6), true
	}
	if x.timed && g.has(startUptime) && r.Start == 0 {
		r.Start = x.when(g.uptime[0])
	}
	if x.timed && g.has(endUptime) && r.Last == 0 {
		r.Last = x.when(g.uptime[1])
	}
	switch {
	case r.Start == 0 && r.Last == 0:
		r.Last = x.at
		r.Start = r.Last - g.lasted
	case r.Start == 0:
		r.Start = r.Last - g.lasted
	case r.Last == 0:
		r.Last = r.Start + g.lasted
	}
}
