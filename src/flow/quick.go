package flow

import (
	"encoding/binary"
	"math/bits"
)

// quick is what counting a packet needs that is on one level, has TCP or UDP, and belongs to a flow that is known: nearly every packet.
type quick struct {
	key   // its parent is never set
	hash  uint64
	bytes uint32
	tcp   uint8
	swap  uint8 // 1: from the second end of the key to the first
	ok    bool  // false: it needs decode
}

// quick decodes what most frames are; anything unusual is left to decode, with which it agrees.
func (t *Table) quick(p *Packet, q *quick) {
	q.ok = false
	data := p.Data
	if len(data) < 14+20+8 || t.first != FirstEthernet {
		return
	}
	to, from := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[6:])
	vlan := uint64(0)
	ip := data[14:]
	switch uint16(from) {
	case 0x0800, 0x86dd:
		q.vlan = 0
	case 0x8100, 0x88a8:
		vlan = uint64(binary.BigEndian.Uint16(ip) & 0xfff)
		typ := binary.BigEndian.Uint16(ip[2:])
		ip = ip[4:]
		if typ == 0x8100 {
			vlan |= uint64(binary.BigEndian.Uint16(ip)&0xfff) << 12
			typ = binary.BigEndian.Uint16(ip[2:])
			ip = ip[4:]
		}
		from = from&^0xffff | uint64(typ)
		q.vlan = vlan
	default:
		return
	}
	var proto byte
	var size int // of the transport header and what follows, on the wire
	var l4 []byte
	meta := uint64(metaLink)
	if uint16(from) == 0x0800 {
		if len(ip) < 28 {
			return
		}
		if ip[0] != 0x45 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return
		}
		size = int(binary.BigEndian.Uint16(ip[2:])) - 20
		proto = ip[9]
		q.a = binary.BigEndian.Uint64(ip[12:])
		meta |= metaNet4
		l4 = ip[20:]
	} else {
		if uint16(from) != 0x86dd || len(ip) < 48 || ip[0]>>4 != 6 {
			return
		}
		size = int(binary.BigEndian.Uint16(ip[4:]))
		proto = ip[6]
		q.a, q.b = binary.BigEndian.Uint64(ip[8:]), binary.BigEndian.Uint64(ip[16:])
		q.c, q.d = binary.BigEndian.Uint64(ip[24:]), binary.BigEndian.Uint64(ip[32:])
		meta |= metaNet6
		l4 = ip[40:]
	}
	ports := binary.BigEndian.Uint32(l4)
	switch proto {
	case 6:
		if len(l4) < 20 || size < 20 || l4[12] < 5<<4 {
			return
		}
		q.tcp = l4[13]
		meta |= 6<<metaProtoShift | portsTCP<<metaPortsShift
	case 17:
		if size < 8 {
			return
		}
		if n := binary.BigEndian.Uint16(l4[4:]); n < 8 && n != 0 {
			return
		}
		switch port := uint16(ports); port {
		case 4789, 8472, 6081:
			return
		default:
			if len(t.mplsPorts) > 0 && t.isMPLSPort(port) {
				return
			}
		}
		q.tcp = 0
		meta |= 17<<metaProtoShift | portsUDP<<metaPortsShift
	default:
		return
	}
	q.m0, q.m1 = from&^0xffff|uint64(ports>>16), to&^0xffff|uint64(uint16(ports))
	q.meta = meta
	q.bytes = uint32(p.Length)
	switch {
	case t.l3:
		q.meta &^= metaLink
		fallthrough
	case (q.m0^q.m1)>>16 == 0:
		q.swap = 0
		if q.orient() {
			q.swap = 1
		}
	default:
		// As orient does, without a branch: directions alternate.
		_, less := bits.Sub64(q.m1, q.m0, 0)
		x := (q.m0 ^ q.m1) & -less
		q.m0 ^= x
		q.m1 ^= x
		q.swap = uint8(less)
		if meta&metaNet4 != 0 {
			q.a = bits.RotateLeft64(q.a, int(less<<5))
		} else {
			x, y := (q.a^q.c)&-less, (q.b^q.d)&-less
			q.a ^= x
			q.c ^= x
			q.b ^= y
			q.d ^= y
		}
	}
	q.hash = q.key.hash(&t.seed)
	q.ok = true
}
