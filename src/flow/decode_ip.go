package flow

import "encoding/binary"

// proto decodes one header by its IP protocol. With next, the level goes on with what it gives; otherwise that is the next level.
func (t *Table) proto(p *Packet, l *level, b []byte, id uint16, off int) (_ header, _ uint16, _ int, next bool) {
	l.meta = l.meta&^(0xff<<metaProtoShift) | uint64(id&0xff)<<metaProtoShift
	switch id {
	case 6:
		l.add(layerTCP)
		if len(b) < 20 {
			l.meta |= portsLostTCP << metaPortsShift
			return l.short(p), 0, 0, false
		}
		l.ports(portsTCP, shownTCP, b, off)
		l.tcp = b[13]
		if b[12]>>4 < 5 {
			return l.bad(), 0, 0, false
		}
		l.payload -= int32(b[12]>>4) * 4
		return headerNone, 0, 0, false
	case 17:
		l.add(layerUDP)
		if len(b) < 8 {
			l.meta |= portsLostUDP << metaPortsShift
			return l.short(p), 0, 0, false
		}
		l.ports(portsUDP, shownUDP, b, off)
		if n := int(binary.BigEndian.Uint16(b[4:])); n >= 8 && n < len(b) {
			l.end = int32(off + n)
		} else if n != 0 && n < 8 {
			return l.bad(), 0, 0, false
		}
		h, id, off := t.udp(p, l, off+8)
		return h, id, off, false
	case 132:
		l.add(layerSCTP)
		if len(b) < 12 {
			l.meta |= portsLostSCTP << metaPortsShift
			return l.short(p), 0, 0, false
		}
		l.ports(portsSCTP, shownSCTP, b, off)
		if len(b) > 12 {
			l.unknown(headerProto, 132, off)
		}
		return headerNone, 0, 0, false
	case 1:
		if len(b) < 8 {
			return l.short(p), 0, 0, false
		}
		l.add(layerICMPv4)
		typ := icmp4Type(b[0])
		l.icmp(shownICMP4, typ, b[1], binary.BigEndian.Uint16(b[4:]))
		l.seq = binary.BigEndian.Uint16(b[6:])
		switch b[0] {
		case 8:
			l.echo = echoRequest
		case 0:
			l.echo = echoReply
		}
		return headerNone, 0, 0, false
	case 58:
		if len(b) < 4 {
			return l.short(p), 0, 0, false
		}
		l.add(layerICMPv6)
		typ := icmp6Type(b[0])
		if typ == Echo {
			if len(b) < 8 {
				return l.short(p), 0, 0, false
			}
			l.add(layerICMPv6Echo)
			l.icmp(shownICMP6, typ, 0, binary.BigEndian.Uint16(b[4:]))
			l.echo, l.seq = b[0]-127, binary.BigEndian.Uint16(b[6:])
			return headerNone, 0, 0, false
		}
		l.icmp(shownICMP6, typ, b[1], 0)
		l.unknown(headerProto, 58, off)
		return headerNone, 0, 0, false
	case 0, 43, 60:
		if len(b) < 8 || len(b) < 8+8*int(b[1]) {
			return l.short(p), 0, 0, false
		}
		l.add(map6(id))
		return l.skip(b, off, 8+8*int(b[1]))
	case 51:
		if len(b) < 12 || len(b) < 8+4*int(b[1]) || b[1] == 0 {
			return l.short(p), 0, 0, false
		}
		l.add(layerAH)
		return l.skip(b, off, 8+4*int(b[1]))
	case 44:
		if len(b) < 8 {
			return l.short(p), 0, 0, false
		}
		l.add(layerFragment6)
		if len(b) > 8 {
			l.add(layerFragment)
		}
		l.meta = l.meta&^(0xff<<metaProtoShift) | uint64(b[0])<<metaProtoShift | metaFragment
		return headerNone, 0, 0, false
	case 4:
		return headerIPv4, 0, off, true
	case 41:
		return headerIPv6, 0, off, true
	case 47:
		h, id, off := l.gre(p, b, off)
		return h, id, off, false
	case 97:
		if len(b) < 2 {
			return l.short(p), 0, 0, false
		}
		l.add(layerEtherIP)
		return headerEthernet, 0, off + 2, true
	case 137:
		return headerMPLS, 0, off, true
	case 50:
		if len(b) < 8 {
			return l.short(p), 0, 0, false
		}
		l.add(layerESP)
		return headerNone, 0, 0, false
	case 59:
		return headerNone, 0, 0, false
	}
	return l.unknown(headerProto, id, off), 0, 0, false
}

// skip goes over an extension header of n bytes.
func (l *level) skip(b []byte, off, n int) (header, uint16, int, bool) {
	l.payload -= int32(n)
	return headerProto, uint16(b[0]), off + n, true
}

func map6(proto uint16) uint64 {
	switch proto {
	case 0:
		return layerHopByHop
	case 43:
		return layerRouting
	}
	return layerDestination
}

func (l *level) ports(kind uint64, shown uint32, b []byte, off int) {
	l.sport, l.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	l.m0 |= uint64(l.sport)
	l.m1 |= uint64(l.dport)
	l.meta |= kind << metaPortsShift
	l.shown |= shown
	l.l4 = int32(off)
}

func (l *level) icmp(shown uint32, typ ICMPType, code byte, id uint16) {
	l.shown |= shown
	l.meta |= metaICMP | uint64(typ)<<24 | uint64(code)<<16 | uint64(id)
}

// tunnel makes the ports of an outer UDP header those of a tunnel.
func (l *level) tunnel(layer uint64, id uint32) {
	l.add(layer)
	l.m0 = l.m0&^0xffff | uint64(l.dport)
	l.meta = l.meta&^(7<<metaPortsShift) | portsTunnel<<metaPortsShift | uint64(id)
}

// udp finds tunnels, and the protocols that have to be named by port.
func (t *Table) udp(p *Packet, l *level, off int) (header, uint16, int) {
	b := p.Data[off:max(int(l.end), off)]
	switch l.dport {
	case 4789, 8472:
		if len(b) < 8 {
			break
		}
		l.tunnel(layerVXLAN, binary.BigEndian.Uint32(b[4:])>>8)
		return headerEthernet, 0, off + 8
	case 6081:
		if len(b) < 8 || len(b) < 8+4*int(b[0]&63) {
			break
		}
		l.tunnel(layerGeneve, binary.BigEndian.Uint32(b[4:])>>8)
		h, id := carried(binary.BigEndian.Uint16(b[2:]))
		return h, id, off + 8 + 4*int(b[0]&63)
	default:
		if len(t.mplsPorts) > 0 && len(b) >= 4 && t.isMPLSPort(l.dport) {
			return l.labels(p, b, off)
		}
	}
	if len(b) > 0 {
		if port := namedPort(l.dport); port != 0 {
			l.unknown(headerNone, port, off)
		} else if port := namedPort(l.sport); port != 0 {
			l.unknown(headerNone, port, off)
		}
	}
	return headerNone, 0, 0
}

func (t *Table) isMPLSPort(port uint16) bool {
	for _, p := range t.mplsPorts {
		if p == port {
			return true
		}
	}
	return false
}

// carried is what follows a header that names its payload by Ethernet type.
func carried(id uint16) (header, uint16) {
	switch id {
	case 0x0800:
		return headerIPv4, 0
	case 0x86dd:
		return headerIPv6, 0
	case 0x6558:
		return headerEthernet, 0
	case 0x8847, 0x8848:
		return headerMPLS, 0
	case 0x880b:
		return headerPPP, 0
	case 0x88be:
		return headerERSPAN, 0
	}
	return headerNone, 0
}

func (l *level) gre(p *Packet, b []byte, off int) (header, uint16, int) {
	if len(b) < 4 {
		return l.short(p), 0, 0
	}
	n := 4
	if b[0]&0xc0 != 0 {
		n += 4
	}
	var id uint32
	if b[0]&0x20 != 0 {
		if len(b) < n+4 {
			return l.short(p), 0, 0
		}
		id = binary.BigEndian.Uint32(b[n:])
		n += 4
	}
	if b[0]&0x10 != 0 {
		n += 4
	}
	for b[0]&0x40 != 0 {
		if len(b) < n+4 {
			return l.short(p), 0, 0
		}
		size := int(b[n+3])
		last := size == 0 && b[n] == 0 && b[n+1] == 0
		n += 4 + size
		if last {
			break
		}
	}
	if b[1]&0x80 != 0 {
		n += 4
	}
	if len(b) < n {
		return l.short(p), 0, 0
	}
	l.add(layerGRE)
	l.meta |= uint64(id)
	l.split = true
	h, next := carried(binary.BigEndian.Uint16(b[2:]))
	if h == headerMPLS { // part of this level
		return l.labels(p, b[n:], off+n)
	}
	// ERSPAN without a sequence number is type I, which has no header of its own.
	if h == headerERSPAN && b[0]&0x10 == 0 {
		h = headerEthernet
	}
	return h, next, off + n
}

func icmp4Type(t byte) ICMPType {
	switch t {
	case 0, 8:
		return Echo
	case 3:
		return DestinationUnreachable
	case 4:
		return SourceQuench
	case 5:
		return Redirect
	case 9, 10:
		return Router
	case 11:
		return TimeExceeded
	case 12:
		return ParameterProblem
	case 13, 14:
		return Timestamp
	case 15, 16:
		return Info
	case 17, 18:
		return AddressMask
	}
	return ICMPUnknown
}

func icmp6Type(t byte) ICMPType {
	switch t {
	case 1:
		return DestinationUnreachable
	case 2:
		return PacketTooBig
	case 3:
		return TimeExceeded
	case 4:
		return ParameterProblem
	case 128, 129:
		return Echo
	case 133, 134:
		return Router
	case 135, 136:
		return Neighbor
	case 137:
		return Redirect
	}
	return ICMPUnknown
}

// namedPort gives the port if gopacket knows a UDP protocol by it.
func namedPort(port uint16) uint16 {
	switch port {
	case 53, 67, 68, 123, 546, 547, 623, 1812, 2152, 3784, 5060, 6343:
		return port
	}
	return 0
}
