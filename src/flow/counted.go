package flow

import (
	"encoding/binary"
	"math"
)

// Record is what an exporter has counted of one direction of a flow, or of both.
type Record struct {
	Version          uint8    // of IP: 4 or 6; 0: not known, or not IP
	Src, Dst         [16]byte // addresses; of IPv4 the first four bytes
	Proto            uint8    // of IP
	SrcPort, DstPort uint16   // of TCP, UDP and SCTP
	ICMPType         uint8
	ICMPCode         uint8
	TCPFlags         uint8 // of all packets together

	Linked         bool // MAC addresses are known
	SrcMAC, DstMAC [6]byte
	EtherType      uint16
	Tags           uint8  // VLAN tags that frames have
	VLAN           uint64 // 12 bits each, outermost lowest

	Packets, Bytes         int64 // from Src to Dst
	BackPackets, BackBytes int64
	Frames                 bool  // bytes are those of frames; else from the IP header on
	Total                  bool  // counted since the flow began, rather than since the last record
	Start, Last            int64 // ns since the epoch
	Finish                 FinishType

	Place, Back Place // see Sample
}

// Records counts what exporters have counted, and tell at now (ns since the epoch). Two records of opposite directions make one flow, whose A is the
// one that began first as far as that is told before the flow is reported. Without MAC addresses flows have no link layer, as packets of tunnels
// have none; what records do not have – the identifier of an echo, the VNI of a tunnel – is missing in identifiers, too.
func (t *Table) Records(batch []Record, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range batch {
		t.record1(&batch[i], now)
	}
}

func (t *Table) record1(r *Record, now int64) {
	t.counts.Packets++
	l := &t.levels[0]
	r.level(l)
	if l.path == 0 && l.rest == 0 {
		t.counts.Malformed++
		return
	}
	t.finish(l)
	t.settle(l, r.Place, r.Back)
	e, n := t.lookup(&l.key, l.hash)
	counted := e != nil
	if e == nil {
		l.packets, l.bytes = 0, 0
		if e, n = t.begin(&Packet{}, l); e == nil {
			return
		}
	}
	c := t.cold(n)
	if counted && e.flags&(updated|exported) == exported && l.time/ms < c.start {
		// The other direction was told of first, but began later.
		c.start, c.portA, c.portB = l.time/ms, l.sport, l.dport
		c.uuid = l.ids(c.start, t.at(l.place())).uuid
		e.flags = e.flags&^aSecond | when(l.swap, aSecond)
	}
	header := int64(0)
	if r.Linked && !r.Frames {
		header = 14 + 4*int64(r.Tags)
	}
	t.tally(e, l.swap, r, r.Packets, r.Bytes+header*r.Packets)
	t.tally(e, !l.swap, r, r.BackPackets, r.BackBytes+header*r.BackPackets)
	e.last = max(e.last, r.Last)
	e.flags |= exported
	c.asked = now
	finish := r.Finish
	switch {
	case r.TCPFlags&tcpRST != 0 && r.Proto == 6:
		finish = TCPRst
	case r.TCPFlags&tcpFIN != 0 && r.Proto == 6:
		finish = TCPFin
	}
	if finish > FinishType(e.flags>>finishBit&3) {
		e.flags = e.flags&^(3<<finishBit) | uint32(finish)<<finishBit
	}
	if t.o.ExtraTCPMetric && l.shown&shownTCP != 0 {
		t.connection(r, l, e)
	}
}

// tally counts one direction.
func (t *Table) tally(e *hot, swap bool, r *Record, packets, bytes int64) {
	c := &e.ends[0]
	if swap {
		c = &e.ends[1]
	}
	packets, bytes = max(packets, 0), max(bytes, 0)
	if r.Total && packets >= int64(c.packets) && bytes >= int64(c.bytes) {
		packets, bytes = packets-int64(c.packets), bytes-int64(c.bytes)
	}
	if packets != 0 || bytes != 0 {
		// What nobody can have counted must not make counters wrap.
		e.add(swap, min(packets, math.MaxInt64-int64(c.packets)), min(bytes, math.MaxInt64-int64(c.bytes)))
	}
}

// connection notes when a TCP connection was set up and ended, as far as its record tells.
func (t *Table) connection(r *Record, l *level, e *hot) {
	if e.extra == 0 {
		t.extend(e)
	}
	x := t.extra(e.extra)
	if x.tcp == nil {
		x.tcp = new(tcpState)
	}
	m := &x.tcp.metric
	syn, fin, rst := &m.ABSynStart, &m.ABFinStart, &m.ABRstStart
	if l.swap != (e.flags&aSecond != 0) {
		syn, fin, rst = &m.BASynStart, &m.BAFinStart, &m.BARstStart
	}
	for _, mark := range [...]struct {
		flag uint8
		at   *int64
		time int64
	}{{tcpSYN, syn, r.Start}, {tcpFIN, fin, r.Last}, {tcpRST, rst, r.Last}} {
		if r.TCPFlags&mark.flag != 0 && *mark.at == 0 {
			*mark.at = mark.time / ms
		}
	}
}

// level makes the level that a packet of the flow would have.
func (r *Record) level(l *level) {
	*l = level{time: r.Start}
	if r.Linked {
		l.shown |= shownLink
		l.m0 = uint64(binary.BigEndian.Uint32(r.SrcMAC[:]))<<32 | uint64(binary.BigEndian.Uint16(r.SrcMAC[4:]))<<16
		l.m1 = uint64(binary.BigEndian.Uint32(r.DstMAC[:]))<<32 | uint64(binary.BigEndian.Uint16(r.DstMAC[4:]))<<16
		l.add(layerEthernet)
		for range min(r.Tags, 5) {
			l.add(layerDot1Q)
		}
		l.vlan = r.VLAN
	}
	switch r.Version {
	case 4:
		l.add(layerIPv4)
		l.meta, l.shown = metaNet4, l.shown|shownNet4
		l.a = uint64(binary.BigEndian.Uint32(r.Src[:]))<<32 | uint64(binary.BigEndian.Uint32(r.Dst[:]))
	case 6:
		l.add(layerIPv6)
		l.meta, l.shown = metaNet6, l.shown|shownNet6
		l.a, l.b = binary.BigEndian.Uint64(r.Src[:]), binary.BigEndian.Uint64(r.Src[8:])
		l.c, l.d = binary.BigEndian.Uint64(r.Dst[:]), binary.BigEndian.Uint64(r.Dst[8:])
	default:
		if !r.Linked {
			return
		}
		l.meta = uint64(r.EtherType) << metaTypeShift
		if r.EtherType == 0x0806 {
			l.add(layerARP)
		} else {
			l.nameless(headerType, r.EtherType)
		}
		return
	}
	l.meta |= uint64(r.Proto) << metaProtoShift
	switch r.Proto {
	case 6:
		r.ports(l, layerTCP, portsTCP, shownTCP)
	case 17:
		r.ports(l, layerUDP, portsUDP, shownUDP)
	case 132:
		r.ports(l, layerSCTP, portsSCTP, shownSCTP)
	case 1:
		l.add(layerICMPv4)
		l.icmp(shownICMP4, icmp4Type(r.ICMPType), r.ICMPCode, 0)
	case 58:
		l.add(layerICMPv6)
		typ := icmp6Type(r.ICMPType)
		if typ == Echo {
			l.add(layerICMPv6Echo)
			l.icmp(shownICMP6, typ, 0, 0)
		} else {
			l.icmp(shownICMP6, typ, r.ICMPCode, 0)
		}
	case 47:
		l.add(layerGRE)
	case 50:
		l.add(layerESP)
	case 51:
		l.add(layerAH)
	case 97:
		l.add(layerEtherIP)
	default:
		l.nameless(headerProto, uint16(r.Proto))
	}
}

func (r *Record) ports(l *level, layer, kind uint64, shown uint32) {
	l.add(layer)
	l.sport, l.dport = r.SrcPort, r.DstPort
	l.m0 |= uint64(r.SrcPort)
	l.m1 |= uint64(r.DstPort)
	l.meta |= kind << metaPortsShift
	l.shown |= shown
}

// nameless marks a header as one whose name has to be looked up, without there being any bytes of it.
func (l *level) nameless(kind header, id uint16) {
	l.rest, l.restKind, l.restID = -1, kind, id
}
