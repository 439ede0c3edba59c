package flow

import "encoding/binary"

// Packet is a frame as it was captured.
type Packet struct {
	Data   []byte // what was kept of it
	Length int    // on the wire
	Time   int64  // ns since the epoch
}

// FirstLayer is what a frame of the capture begins with.
type FirstLayer uint8

// All first layers.
const (
	FirstEthernet FirstLayer = iota
	FirstRawIP               // IPv4 or IPv6, as its first nibble says
	FirstIPv4
	FirstIPv6
	FirstLinuxSLL // what the pcap of a pseudo-interface has; not shown in LayersPath
)

const (
	maxLevels = 8  // encapsulations followed; what is deeper stays part of the last
	maxTags   = 16 // VLAN tags followed; five fit into Link.ID
)

// header is what the bytes at an offset are.
type header uint8

const (
	headerNone header = iota
	headerEthernet
	headerType // by Ethernet type
	headerLLC
	headerIPv4
	headerIPv6
	headerIP    // by first nibble
	headerProto // by IP protocol
	headerMPLS
	headerSLL
	headerERSPAN
	headerPPP
)

// Layers of LayersPath that are decoded here; their names are in names.go. A path is a number of 5 bits per layer, the last one lowest.
const (
	layerNone = iota
	layerEthernet
	layerDot1Q
	layerARP
	layerIPv4
	layerIPv6
	layerTCP
	layerUDP
	layerSCTP
	layerICMPv4
	layerICMPv6
	layerICMPv6Echo
	layerVXLAN
	layerGeneve
	layerGRE
	layerMPLS
	layerFragment
	layerHopByHop
	layerRouting
	layerDestination
	layerFragment6
	layerAH
	layerLLC
	layerSNAP
	layerPPPoE
	layerPPP
	layerERSPAN
	layerEtherIP
	layerESP
	layerBits = 5
	layerMax  = 12 // names a path holds
)

// What is wrong with a frame.
type defect uint8

const (
	whole     defect = iota
	truncated        // a header is cut off, as the capture kept only part of the frame
	malformed        // a header contradicts itself or the length of the frame
)

// What a record shows of a level; kept in the flags of the entry.
const (
	shownLink uint32 = 1 << iota
	shownNet4
	shownNet6
	shownTCP
	shownUDP
	shownSCTP
	shownICMP4
	shownICMP6
	shownMask      = 1<<iota - 1
	shownTransport = shownTCP | shownUDP | shownSCTP
)

// level is one encapsulation level of a packet.
type level struct {
	key
	hash         uint64
	path         uint64
	time         int64 // ns
	packets      int64 // that it stands for
	bytes        int64
	shown        uint32
	off          int32 // of its first header in the frame
	end          int32 // of what it carries, in the captured frame
	l4           int32 // of the transport header; 0: none
	payload      int32 // of TCP, on the wire
	ipSize       int32 // of what follows the IPv4 header, on the wire
	rest         int32 // of the header that has to be named by name; 0: none
	rawOff       int32 // of what a raw packet shows
	rawType      uint16
	sport, dport uint16
	restID       uint16 // Ethernet type, IP protocol or UDP port
	fragOff      uint16 // in bytes / 8
	ipID         uint16
	restKind     header
	swap         bool // the packet goes from the second end of the key to the first
	outer        bool // carries another level
	more         bool // fragments follow
	fragment     bool // is one
	tcp          uint8
	ttl          uint8
	echo         uint8
	seq          uint16 // of an echo
	split        bool   // ends in GRE or MPLS: hashed with the endpoints of the next level
	defect       defect
}

func (l *level) add(layer uint64) {
	if l.path>>(layerBits*(layerMax-1)) == 0 {
		l.path = l.path<<layerBits | layer
	}
}

// raw sets where raw packets of the level begin, and their LINKTYPE.
func (l *level) raw(off int, linkType uint16) {
	if l.rawType == 0 {
		l.rawOff, l.rawType = int32(off), linkType
	}
}

// unknown marks the header at off as one whose name, and those of what follows, has to be looked up when a flow begins.
func (l *level) unknown(kind header, id uint16, off int) header {
	if l.rest == 0 && off > 0 {
		l.rest, l.restKind, l.restID = int32(off), kind, id
	}
	return headerNone
}

// short marks a header that is not all there.
func (l *level) short(p *Packet) header {
	l.defect = malformed
	if p.Length > len(p.Data) {
		l.defect = truncated
	}
	return headerNone
}

func (l *level) bad() header {
	l.defect = malformed
	return headerNone
}

// decode splits a frame into the levels of its encapsulations and gives their number. It allocates nothing and accepts everything.
func (t *Table) decode(p *Packet, first FirstLayer, levels *[maxLevels]level) int {
	h, id, off := headerEthernet, uint16(0), 0
	switch first {
	case FirstRawIP:
		h = headerIP
	case FirstIPv4:
		h = headerIPv4
	case FirstIPv6:
		h = headerIPv6
	case FirstLinuxSLL:
		h = headerSLL
	}
	n := 0
	for h != headerNone && n < maxLevels {
		if n > 0 && !begins(p.Data, h, off) {
			break
		}
		l := &levels[n]
		*l = level{time: p.Time, off: int32(off), packets: 1, bytes: int64(max(p.Length-off, 0))}
		h, id, off = t.level(p, l, h, id, off)
		n++
	}
	for i := n - 1; i >= 0; i-- {
		l := &levels[i]
		l.outer = i < n-1
		if l.outer && l.split {
			l.inherit(&levels[i+1])
		}
		t.finish(l)
	}
	return n
}

// begins says whether what an encapsulation carries looks like what it should: there is no level of rubbish.
func begins(data []byte, h header, off int) bool {
	switch h {
	case headerIPv4, headerIPv6, headerIP, headerPPP:
		return off < len(data)
	case headerERSPAN:
		return off+8+14 <= len(data)
	}
	return off+14 <= len(data)
}

// finish completes the key.
func (t *Table) finish(l *level) {
	if l.shown&shownLink != 0 && (!t.l3 || l.meta&(metaNet4|metaNet6) == 0) {
		l.meta |= metaLink
	}
	if l.meta&(metaNet4|metaNet6) != 0 {
		l.meta &^= 0xffff << metaTypeShift
	}
	l.swap = l.orient()
	l.hash = l.key.hash(&t.seed)
}

// inherit takes the endpoints which a level does not have from what it carries. The public identifiers are computed so.
func (l *level) inherit(next *level) {
	if l.meta&(metaNet4|metaNet6) == 0 && next.meta&(metaNet4|metaNet6) != 0 {
		l.meta |= next.meta & (metaNet4 | metaNet6)
		l.a, l.b, l.c, l.d = next.a, next.b, next.c, next.d
		if next.swap {
			l.a, l.b, l.c, l.d = next.c, next.d, next.a, next.b
			if next.meta&metaNet4 != 0 {
				l.a = next.a<<32 | next.a>>32
			}
		}
	}
	if l.transport() == portsNone {
		ports := uint64(next.transport())
		if ports == portsTunnel {
			ports = portsUDP
		}
		l.meta |= ports << metaPortsShift
		l.sport, l.dport = next.sport, next.dport
		l.m0 |= uint64(next.sport)
		l.m1 |= uint64(next.dport)
	}
}

// level decodes from off to the end of an encapsulation level, and gives what the next one begins with.
func (t *Table) level(p *Packet, l *level, h header, id uint16, off int) (header, uint16, int) {
	data := p.Data
	l.end = int32(len(data))
	tags := 0
	for {
		end := int(l.end)
		if off > end {
			return l.short(p), 0, 0
		}
		b := data[off:end]
		if len(b) == 0 && off > 0 {
			if h != headerType {
				l.short(p)
			}
			return headerNone, 0, 0
		}
		switch h {
		case headerEthernet:
			l.raw(off, linkEthernet)
			if len(b) < 14 {
				return l.short(p), 0, 0
			}
			if l.shown&shownLink == 0 {
				l.shown |= shownLink
				l.m0 |= binary.BigEndian.Uint64(b[6:]) &^ 0xffff
				l.m1 |= binary.BigEndian.Uint64(b) &^ 0xffff
			}
			l.add(layerEthernet)
			id, off = binary.BigEndian.Uint16(b[12:]), off+14
			h = l.typeOrLength(id, off)
		case headerType:
			l.meta = l.meta&^(0xffff<<metaTypeShift) | uint64(id)<<metaTypeShift
			switch id {
			case 0x0800:
				h = headerIPv4
			case 0x86dd:
				h = headerIPv6
			case 0x8100, 0x88a8:
				if len(b) < 4 {
					return l.short(p), 0, 0
				}
				if tags == maxTags {
					return l.bad(), 0, 0
				}
				if tags < 5 {
					l.vlan |= uint64(binary.BigEndian.Uint16(b)&0xfff) << (12 * tags)
				}
				tags++
				l.add(layerDot1Q)
				id, off = binary.BigEndian.Uint16(b[2:]), off+4
				h = l.typeOrLength(id, off)
			case 0x0806:
				if len(b) < 8 || len(b) < 8+2*int(b[4])+2*int(b[5]) {
					return l.short(p), 0, 0
				}
				l.add(layerARP)
				return headerNone, 0, 0
			case 0x8847, 0x8848:
				h = headerMPLS
			case 0x6558:
				h = headerEthernet
			case 0x8864:
				if len(b) < 8 {
					return l.short(p), 0, 0
				}
				if b[1] != 0 {
					return l.unknown(headerType, id, off), 0, 0
				}
				l.add(layerPPPoE)
				h, off = headerPPP, off+6
			default:
				return l.unknown(headerType, id, off), 0, 0
			}
		case headerLLC:
			if len(b) < 3 {
				return l.short(p), 0, 0
			}
			l.meta = l.meta&^(0xffff<<metaTypeShift) | uint64(b[0])<<metaTypeShift
			if len(b) < 8 || b[0]&0xfe != 0xaa || b[1]&0xfe != 0xaa || b[2]&3 != 3 {
				return l.unknown(headerLLC, 0, off), 0, 0
			}
			l.add(layerLLC)
			l.add(layerSNAP)
			id, off, h = binary.BigEndian.Uint16(b[6:]), off+8, headerType
		case headerPPP:
			if len(b) >= 2 && b[0] == 0xff && b[1] == 3 {
				b, off = b[2:], off+2
			}
			if len(b) < 2 {
				return l.short(p), 0, 0
			}
			l.add(layerPPP)
			n := 2
			id = binary.BigEndian.Uint16(b)
			if b[0]&1 != 0 {
				id, n = uint16(b[0]), 1
			}
			switch id {
			case 0x21:
				h = headerIPv4
			case 0x57:
				h = headerIPv6
			case 0x281, 0x283:
				h = headerMPLS
			default:
				return headerNone, 0, 0
			}
			off += n
		case headerSLL:
			if len(b) < 16 {
				return l.short(p), 0, 0
			}
			id, off, h = binary.BigEndian.Uint16(b[14:]), off+16, headerType
		case headerERSPAN:
			if len(b) < 8 {
				return l.short(p), 0, 0
			}
			l.add(layerERSPAN)
			off, h = off+8, headerEthernet
		case headerIP:
			switch {
			case len(b) > 0 && b[0]>>4 == 4:
				h = headerIPv4
			case len(b) > 0 && b[0]>>4 == 6:
				h = headerIPv6
			default:
				return l.bad(), 0, 0
			}
		case headerIPv4:
			l.add(layerIPv4)
			l.raw(off, linkIPv4)
			if len(b) < 20 {
				return l.short(p), 0, 0
			}
			ihl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
			if b[0]>>4 != 4 || ihl < 20 || total < ihl && total != 0 {
				return l.bad(), 0, 0
			}
			if l.meta&(metaNet4|metaNet6) == 0 {
				l.meta |= metaNet4
				l.shown |= shownNet4
				l.a = binary.BigEndian.Uint64(b[12:])
				l.ttl = b[8]
			}
			l.meta = l.meta&^(0xff<<metaProtoShift) | uint64(b[9])<<metaProtoShift
			if len(b) < ihl {
				return l.short(p), 0, 0
			}
			// A total length of 0 is that of a segment larger than the field can say.
			if total == 0 {
				total = p.Length - off
			}
			l.payload = int32(total - ihl)
			l.ipSize = l.payload
			if off+total < end {
				l.end = int32(off + total)
			}
			id = uint16(b[9])
			if ff := binary.BigEndian.Uint16(b[6:]); ff&0x3fff != 0 && !l.fragment {
				l.fragment, l.more, l.fragOff, l.ipID = true, ff&0x2000 != 0, ff&0x1fff, binary.BigEndian.Uint16(b[4:])
				if int(l.end) > off+ihl {
					l.add(layerFragment)
				}
				if !t.defrag || l.fragOff != 0 {
					l.meta |= metaFragment
					return headerNone, 0, 0
				}
			}
			off, h = off+ihl, headerProto
		case headerIPv6:
			l.add(layerIPv6)
			l.raw(off, linkIPv6)
			if len(b) < 40 {
				return l.short(p), 0, 0
			}
			if b[0]>>4 != 6 {
				return l.bad(), 0, 0
			}
			if l.meta&(metaNet4|metaNet6) == 0 {
				l.meta |= metaNet6
				l.shown |= shownNet6
				l.a, l.b = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
				l.c, l.d = binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])
				l.ttl = b[7]
			}
			id = uint16(b[6])
			l.meta = l.meta&^(0xff<<metaProtoShift) | uint64(b[6])<<metaProtoShift
			n := int(binary.BigEndian.Uint16(b[4:]))
			if n == 0 { // a jumbogram, or a segment larger than the field can say
				n = p.Length - off - 40
			}
			l.payload = int32(n)
			if off+40+n < end {
				l.end = int32(off + 40 + n)
			}
			off, h = off+40, headerProto
		case headerProto:
			var next bool
			if h, id, off, next = t.proto(p, l, b, id, off); !next {
				return h, id, off
			}
		case headerMPLS:
			return l.labels(p, b, off)
		default:
			return headerNone, 0, 0
		}
	}
}

// typeOrLength says what the field after the MAC addresses, or after a VLAN tag, announces at off: an Ethernet type, or the length of an
// IEEE 802.3 frame.
func (l *level) typeOrLength(id uint16, off int) header {
	if id >= 0x600 {
		return headerType
	}
	l.end = min(l.end, int32(off)+int32(id))
	return headerLLC
}

// labels decodes an MPLS label stack, which ends a level. What is under it has to be guessed.
func (l *level) labels(p *Packet, b []byte, off int) (header, uint16, int) {
	for bottom := false; !bottom; b, off = b[4:], off+4 {
		if len(b) < 4 {
			return l.short(p), 0, 0
		}
		l.add(layerMPLS)
		bottom = b[2]&1 != 0
	}
	l.split = true
	if len(b) > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6) {
		return headerIP, 0, off
	}
	return headerEthernet, 0, off
}
